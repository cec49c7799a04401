"""A stream of requests in, a stream of replies or failures out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rsiccllm.endpoint.key import Key
from rsiccllm.endpoint.ledger import Ledger, Usage
from rsiccllm.endpoint.messages import NoReply, Reply, Request, estimate_tokens
from rsiccllm.endpoint.run import Done, Run
from rsiccllm.endpoint.settings import Budget, Cluster, Endpoint
from rsiccllm.endpoint.wire import Fault, answer_line, refusal
from rsiccllm.errors import InputError

if TYPE_CHECKING:
    from rsiccllm.endpoint.on_ray import RayJob

NOT_THERE = {"timeout", "connection", "rate limit", "server error"}
"""Failures that are the server's rather than the request's."""

FIRST = 3
"""Requests that may fail so, one after another, before a job on a cluster is not begun."""


class Client:
    """Asks one endpoint, and remembers every answer in one journal. Use as a context manager.

    Raises InputError for a journal that is damaged or in use, and for a budget in money without prices.
    """

    def __init__(self, endpoint: Endpoint, journal: Path | str, budget: Budget | None = None) -> None:
        self.endpoint = endpoint
        self._key = Key(endpoint.key_variable)
        self._ledger = Ledger(endpoint, journal, budget or Budget())
        self._ray = ExitStack()

    @property
    def usage(self) -> Usage:
        """Totals so far, those of earlier runs on this journal included."""
        return self._ledger.usage

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the journal, and of Ray."""
        self._ledger.close()
        self._ray.close()

    def ask_all(self, requests: Iterable[Request]) -> Iterator[Reply | NoReply]:
        """Ask, and yield each outcome as it comes, in any order, one for every request.

        `requests` is read as outcomes are taken, at most twice `concurrency` ahead, in the caller's thread. Answers in
        the journal come back at once and without a request. Equal requests are asked once. Closing the iterator (or
        Ctrl-C) ends what is in flight. Raises InputError where going on makes no sense: a key or an address that the
        endpoint refuses before it has answered anything, a quota that is used up, or `GIVE_UP` failures in a row.

        On a cluster all requests are read and put into Ray's object store before any is asked, but for the first one to
        a server, which this process asks until it is answered: a fault in key, model or address is told before workers
        start. What workers get no answer for this process asks at the end. Replies carry their requests without
        messages.
        """
        if self.endpoint.cluster is None:
            return self._ask_from_here(requests)
        return self._ask_on(self.endpoint.cluster, requests)

    def _ask_from_here(self, requests: Iterable[Request]) -> Iterator[Reply | NoReply]:
        run = Run(self.endpoint, self._ledger, self._key)
        waiting: dict[str, list[Request]] = {}
        source = iter(requests)
        more = True
        try:
            while more or waiting:
                while more and len(waiting) < 2 * self.endpoint.concurrency:
                    request = next(source, None)
                    if request is None:
                        more = False
                        break
                    id_, body = self._identified(request)
                    if id_ in self._ledger.answers:
                        self.usage.reused += 1
                        yield _reply(request, id_, self._ledger.answers[id_], reused=True)
                    elif id_ in waiting:
                        waiting[id_].append(request)
                    else:
                        waiting[id_] = [request]
                        run.start(id_, body, estimate_tokens(request))
                    # What has come meanwhile goes first: a request may take the caller long to make.
                    for done in run.finished(wait=False):
                        yield from self._outcomes(done, waiting.pop(done[0]))
                if waiting:
                    for done in run.finished(wait=True):
                        yield from self._outcomes(done, waiting.pop(done[0]))
        finally:
            run.close()

    def _ask_on(self, cluster: Cluster, requests: Iterable[Request]) -> Iterator[Reply | NoReply]:
        from rsiccllm.endpoint.on_ray import RayJob

        ledger = self._ledger
        waiting: dict[str, list[Request]] = {}
        estimates: dict[str, tuple[int, int]] = {}
        prompt = completion = failed = 0
        answered = not self.endpoint.base_url
        # Ray does not say how often it sent a request: where requests are counted it may send each but once.
        retries = 0 if ledger.counts_requests else self.endpoint.attempts - 1
        with RayJob(self.endpoint, cluster, self._key, retries, self._ray) as job:
            for request in requests:
                id_, body = self._identified(request)
                if id_ in ledger.answers:
                    self.usage.reused += 1
                    yield _reply(request, id_, ledger.answers[id_], reused=True)
                elif id_ in waiting:
                    waiting[id_].append(replace(request, messages=()))
                elif not answered:
                    for outcome in self._ask_from_here([request]):
                        answered = not (isinstance(outcome, NoReply) and outcome.reason in NOT_THERE)
                        failed += not answered
                        yield outcome
                    if failed == FIRST:
                        raise InputError(f"{self.endpoint.url}: the first {FIRST} requests failed; no job is begun")
                else:
                    estimates[id_] = estimate_tokens(request)
                    likely = ledger.likely(estimates[id_])
                    if ledger.affords(len(waiting) + 1, prompt + likely[0], completion + likely[1]):
                        prompt, completion = prompt + likely[0], completion + likely[1]
                        waiting[id_] = [replace(request, messages=())]
                        job.add(id_, body)
                    else:
                        fault = Fault("budget", "the budget does not reach for this request")
                        yield from self._outcomes((id_, fault, 0), [request])
            for id_, status, data in job.answers():
                asking = waiting.pop(id_)
                yield from self._outcomes((id_, self._take(id_, status, data, estimates.pop(id_)), 1), asking)
            if self.endpoint.base_url:
                yield from self._ask_left(job, waiting, estimates)
            for id_, asking in waiting.items():
                lost = Fault("connection", "nothing came back through Ray; its logs say why")
                self._record(id_, lost)
                yield from self._outcomes((id_, lost, 1), asking)

    def _ask_left(
        self, job: RayJob, waiting: dict[str, list[Request]], estimates: dict[str, tuple[int, int]]
    ) -> Iterator[Reply | NoReply]:
        """Ask from here what a server did not answer through Ray, with the waiting and the reasons that are usual."""
        if not waiting:
            return
        run = Run(self.endpoint, self._ledger, self._key)
        try:
            for id_, body in job.left(waiting.keys()):
                run.start(id_, body, estimates[id_])
            while waiting:
                for done in run.finished(wait=True):
                    yield from self._outcomes(done, waiting.pop(done[0]))
        finally:
            run.close()

    def _take(self, id_: str, status: int, data: bytes, estimate: tuple[int, int]) -> Fault | None:
        """Write down what came back through Ray. Raises InputError for what ends the run."""
        most = self.endpoint.max_answer_bytes
        try:
            if len(data) > most:
                raise Fault("too large", f"an answer of more than {most:,} bytes", again=False)
            if status != 200:
                raise refusal(self.endpoint, status, data, None, True, self._key.line)
            answer = answer_line(data, estimate, self._key.clean)
        except Fault as fault:
            self._record(id_, fault)
            return fault
        self._ledger.record({"sent": id_})
        self._ledger.record({"id": id_, **answer})
        return None

    def _record(self, id_: str, fault: Fault) -> None:
        self._ledger.record({"sent": id_})
        self._ledger.record({"fault": id_, "reason": fault.reason})

    def _identified(self, request: Request) -> tuple[str, bytes]:
        """(the digest of what is asked, what is sent)."""
        body = request.body(self.endpoint.model)
        return hashlib.sha256(b"%d:%b" % (request.sample, body)).hexdigest(), body

    def _outcomes(self, done: Done, asked: list[Request]) -> Iterator[Reply | NoReply]:
        id_, fault, attempts = done
        for number, request in enumerate(asked):
            if fault is None:
                yield _reply(request, id_, self._ledger.answers[id_], reused=number > 0)
            else:
                self.usage.given_up[fault.reason] += 1
                yield NoReply(request, id_, fault.reason, fault.detail, attempts)


def _reply(request: Request, id_: str, line: dict[str, Any], reused: bool) -> Reply:
    said = not line["estimated"]
    prompt, completion = line["prompt_tokens"], line["completion_tokens"]
    return Reply(
        request, id_, line["text"], line["finish"], prompt if said else None, completion if said else None, reused
    )
