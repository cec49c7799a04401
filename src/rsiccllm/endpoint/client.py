"""A stream of requests in, a stream of replies or failures out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rsiccllm.endpoint.key import Key
from rsiccllm.endpoint.ledger import Ledger, Usage
from rsiccllm.endpoint.messages import NoReply, Reply, Request, estimate_tokens
from rsiccllm.endpoint.run import Done, Run
from rsiccllm.endpoint.settings import Budget, Endpoint


class Client:
    """Asks one endpoint, and remembers every answer in one journal. Use as a context manager.

    Raises InputError for a journal that is damaged or in use, and for a budget in money without prices.
    """

    def __init__(self, endpoint: Endpoint, journal: Path | str, budget: Budget | None = None) -> None:
        self.endpoint = endpoint
        self._key = Key(endpoint.key_variable)
        self._ledger = Ledger(endpoint, journal, budget or Budget())

    @property
    def usage(self) -> Usage:
        """Totals so far, those of earlier runs on this journal included."""
        return self._ledger.usage

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the journal."""
        self._ledger.close()

    def ask_all(self, requests: Iterable[Request]) -> Iterator[Reply | NoReply]:
        """Ask, and yield each outcome as it comes, in any order, one for every request.

        `requests` is read as outcomes are taken, at most twice `concurrency` ahead, in the caller's thread. Answers in
        the journal come back at once and without a request. Equal requests are asked once. Closing the iterator (or
        Ctrl-C) ends what is in flight. Raises InputError where going on makes no sense: a key or an address that the
        endpoint refuses before it has answered anything, a quota that is used up, or `GIVE_UP` failures in a row.
        """
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
                    body = request.body(self.endpoint.model)
                    id_ = hashlib.sha256(b"%d:%b" % (request.sample, body)).hexdigest()
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
