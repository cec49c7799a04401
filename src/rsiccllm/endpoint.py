"""A client for any OpenAI-compatible chat endpoint: a stream of requests in, a stream of replies or failures out.

    endpoint = Endpoint("http://127.0.0.1:8000/v1", "Qwen/Qwen2.5-VL-72B-Instruct")
    with Client(endpoint, Path("runs/judge/answers.jsonl")) as client:
        for outcome in client.ask_all(requests):
            ...

An answer received in full stands in the journal before it is handed out, under a digest of what was asked, and is never
asked for again: not by a second run, and not after kill -9. The wire format is the one of OpenAI's chat completions
(POST {base_url}/chat/completions), which vLLM, SGLang, DashScope, `transformers serve` and others speak.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import math
import os
import queue
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import cv2
import httpx2
import numpy as np
import PIL.Image

from rsiccllm.errors import InputError
from rsiccllm.journal import Journal

DEFAULT_ANSWER_TOKENS = 1024
"""What an answer is taken to cost, for a budget, where the request sets no `max_tokens`."""

GIVE_UP = 32
"""Requests given up one after another, with no answer between them, after which the whole run stops."""


@dataclass(frozen=True)
class Endpoint:
    """Where to ask and how hard to try.

    Args:
        base_url: up to and without `/chat/completions`, such as "http://127.0.0.1:8000/v1".
        model: the name the endpoint knows it by. It is part of what identifies a request; `base_url` is not, so the
            answers stay valid when a server moves to another port.
        key_variable: the environment variable that holds the key. The key goes into the request's header and nowhere
            else; where the variable is not set, none is sent (local servers need none).
        concurrency: requests in flight at most.
        timeout: seconds for one whole answer, first byte to last.
        attempts: how often one request is sent before it is given up. Being told to wait (429) is no attempt.
        patience: seconds of nothing but 429 after which a request is given up.
        requests_per_minute: sent at most, evenly spaced; None: as fast as `concurrency` allows.
        max_answer_bytes: of the whole body; a longer one is cut off and refused.
        backoff: seconds of the first wait after a fault; doubled each time up to `max_backoff`, with full jitter.
        price_in, price_out: money for a million prompt and completion tokens, 0 where unknown.
    """

    base_url: str
    model: str
    key_variable: str = "OPENAI_API_KEY"
    concurrency: int = 8
    timeout: float = 120.0
    attempts: int = 6
    patience: float = 600.0
    requests_per_minute: float | None = None
    max_answer_bytes: int = 1_000_000
    backoff: float = 1.0
    max_backoff: float = 60.0
    price_in: float = 0.0
    price_out: float = 0.0

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.base_url)
            host, secret = parts.hostname, parts.username or parts.password
        except ValueError:
            raise InputError("--base-url: not a URL; expected http(s)://HOST[:PORT]/v1") from None
        if secret is not None:
            raise InputError(f"--base-url: holds a user or password; put the key into ${self.key_variable} instead")
        if parts.scheme not in {"http", "https"} or not host or parts.query or parts.fragment:
            raise InputError(f"--base-url: '{self.base_url}'; expected http(s)://HOST[:PORT]/v1")
        if not self.model.strip():
            raise InputError("--model: empty; expected the name the endpoint knows the model by")
        for name, low in (("concurrency", 1), ("attempts", 1), ("max_answer_bytes", 1)):
            if getattr(self, name) < low:
                raise InputError(f"{name}: {getattr(self, name)}; expected at least {low}")
        for name in ("timeout", "patience", "backoff", "max_backoff", "price_in", "price_out"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0) or (name == "timeout" and value == 0):
                raise InputError(f"{name}: {value}; expected a number above 0 (or 0, except for the timeout)")
        if self.requests_per_minute is not None and not self.requests_per_minute > 0:
            raise InputError(f"requests_per_minute: {self.requests_per_minute}; expected a number above 0")

    @property
    def url(self) -> str:
        """Where requests are posted."""
        return self.base_url.rstrip("/") + "/chat/completions"

    def cost(self, prompt_tokens: float, completion_tokens: float) -> float:
        """Money for so many tokens."""
        return (prompt_tokens * self.price_in + completion_tokens * self.price_out) / 1e6


@dataclass(frozen=True)
class Budget:
    """Upper bounds on the whole job, all runs on one journal together. None: no bound.

    requests: sent, every attempt counted. tokens: prompt and completion. money: by the endpoint's prices. Before a
    request is sent its likely cost is set aside; where that would pass a bound, those in flight finish, and every
    request that is left comes back as a failure of reason "budget".
    """

    requests: int | None = None
    tokens: int | None = None
    money: float | None = None


@dataclass(frozen=True, eq=False)
class Request:
    """One question.

    Args:
        messages: as the chat API takes them; `text_part` and `image_part` make the parts of a content list.
        settings: temperature, max_tokens, seed and the like, sent as they are.
        sample: counts up where one question is to be answered several times. Part of the identity, not sent.
        tag: the caller's own, to know the reply by. Neither sent nor part of the identity.
    """

    messages: Sequence[Mapping[str, Any]]
    settings: Mapping[str, Any] = field(default_factory=dict)
    sample: int = 0
    tag: Any = None

    def body(self, model: str) -> bytes:
        """What is sent. Raises TypeError where messages or settings are not JSON."""
        content = {"model": model, "messages": self.messages, **self.settings}
        return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8")


@dataclass(frozen=True, eq=False)
class Reply:
    """An answer received in full. id: the digest of what was asked. finish: "stop", "length" (cut off by max_tokens),
    "refusal" (the text is the endpoint's refusal) or what else the endpoint says. Token counts are None where it does
    not say them. reused: taken from the journal, not asked for in this run."""

    request: Request
    id: str
    text: str
    finish: str
    prompt_tokens: int | None
    completion_tokens: int | None
    reused: bool


@dataclass(frozen=True, eq=False)
class NoReply:
    """A request given up. reason: one of "timeout", "connection", "rate limit", "server error", "refused" (a 4xx),
    "broken body", "empty", "too large", "budget". detail: one line. attempts: how often it was sent in this run."""

    request: Request
    id: str
    reason: str
    detail: str
    attempts: int


@dataclass
class Usage:
    """What the job has used, all runs on one journal together, unless said otherwise.

    sent: requests, every attempt. answered: answers received in full. reused: answers taken from the journal, in this
    run. repeated: requests sent again because a run ended with them in flight. unreported: answers without token
    counts; theirs are estimated. money: by the endpoint's prices. faults: attempts that failed, by reason.
    given_up: requests that were given up, by reason, in this run.
    """

    sent: int = 0
    answered: int = 0
    reused: int = 0
    repeated: int = 0
    unreported: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    money: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    given_up: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        tokens = f"{self.prompt_tokens:,} + {self.completion_tokens:,} tokens"
        parts = [f"{self.answered:,} answers", f"{self.sent:,} requests", tokens]
        if self.money:
            parts.append(f"{self.money:.2f} money units")
        for name, value in (("reused", self.reused), ("repeated", self.repeated), ("unreported", self.unreported)):
            if value:
                parts.append(f"{value:,} {name}")
        for title, counts in (("failed attempts", self.faults), ("given up", self.given_up)):
            if counts:
                parts.append(f"{title}: " + ", ".join(f"{number:,} {name}" for name, number in sorted(counts.items())))
        return "; ".join(parts)


def text_part(text: str) -> dict[str, Any]:
    """Text as one part of a message's content."""
    return {"type": "text", "text": text}


def image_part(image: PIL.Image.Image | str, max_side: int | None = None) -> dict[str, Any]:
    """An image as one part of a message: a lossless data URI (or the data URI given), no side over `max_side`."""
    return {"type": "image_url", "image_url": {"url": image if isinstance(image, str) else _png_uri(image, max_side)}}


def _png_uri(image: PIL.Image.Image, max_side: int | None) -> str:
    if max_side is not None and max(image.size) > max_side:
        image = image.copy()
        image.thumbnail((max_side, max_side), PIL.Image.Resampling.LANCZOS)
    # Packed lightly and by OpenCV, much faster than `page.image_uri`: it is what keeps 64 requests in flight fed.
    pixels = np.asarray(image.convert("RGB"))[:, :, ::-1]
    quick = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
    data = cv2.imencode(".png", pixels, quick)[1].tobytes()
    return f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}"


def estimate_tokens(request: Request) -> tuple[int, int]:
    """(prompt, completion) tokens, roughly: four characters a token, an image as Qwen2.5-VL counts it (28 x 28 pixels a
    token, at least 4), and as much answer as the request allows."""
    prompt = 0
    for message in request.messages:
        content = message.get("content") or ""
        for part in [text_part(content)] if isinstance(content, str) else content:
            if part.get("type") == "image_url":
                prompt += _image_tokens(part["image_url"]["url"])
            else:
                prompt += math.ceil(len(part.get("text", "")) / 4)
    limit = request.settings.get("max_completion_tokens") or request.settings.get("max_tokens")
    return prompt, int(limit or DEFAULT_ANSWER_TOKENS)


def _image_tokens(uri: str) -> int:
    data = uri.partition("base64,")[2]
    try:
        width, height = PIL.Image.open(io.BytesIO(base64.b64decode(data))).size
    except (OSError, ValueError):
        return 0  # not embedded: the endpoint fetches it, and nothing is known of it
    return max(4, math.ceil(width / 28) * math.ceil(height / 28))


class Client:
    """Asks one endpoint, and remembers every answer in one journal. Use as a context manager.

    Attributes:
        usage: totals so far, those of earlier runs on this journal included.

    Raises InputError for a journal that is damaged or in use, and for a budget in money without prices.
    """

    def __init__(self, endpoint: Endpoint, journal: Path | str, budget: Budget | None = None) -> None:
        self.endpoint = endpoint
        self.budget = budget or Budget()
        if self.budget.money is not None and not (endpoint.price_in or endpoint.price_out):
            raise InputError("a budget in money needs --price-in and --price-out (for a million tokens each)")
        self._key = _key(endpoint.key_variable)
        self.usage = Usage()
        self._answers: dict[str, dict[str, Any]] = {}
        self._interrupted: set[str] = set()
        self._largest = (0, 0)
        self._journal = Journal(journal, sync_every=1.0)
        for line in self._journal.read():
            self._count(line)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the journal."""
        self._journal.close()

    def ask_all(self, requests: Iterable[Request]) -> Iterator[Reply | NoReply]:
        """Ask, and yield each outcome as it comes, in any order, one for every request.

        `requests` is read as outcomes are taken, at most twice `concurrency` ahead, in the caller's thread. Answers in
        the journal come back at once and without a request. Equal requests are asked once. Closing the iterator (or
        Ctrl-C) ends what is in flight. Raises InputError where going on makes no sense: a key or an address that the
        endpoint refuses before it has answered anything, a quota that is used up, or `GIVE_UP` failures in a row.
        """
        run = _Run(self)
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
                    if id_ in self._answers:
                        self.usage.reused += 1
                        yield _reply(request, id_, self._answers[id_], reused=True)
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

    def _outcomes(self, done: tuple[str, _Fault | None, int], asked: list[Request]) -> Iterator[Reply | NoReply]:
        id_, fault, attempts = done
        for number, request in enumerate(asked):
            if fault is None:
                yield _reply(request, id_, self._answers[id_], reused=number > 0)
            else:
                self.usage.given_up[fault.reason] += 1
                yield NoReply(request, id_, fault.reason, fault.detail, attempts)

    def record(self, line: dict[str, Any]) -> None:
        """Write one line of the journal and count it."""
        self._journal.append(line)
        self._count(line)

    def _count(self, line: dict[str, Any]) -> None:
        """Take one line of the journal into the totals: {"sent": id}, {"id": id, "text": ...} or {"fault": id}."""
        usage = self.usage
        if "sent" in line:
            usage.sent += 1
            if line["sent"] in self._interrupted:
                usage.repeated += 1
            self._interrupted.add(line["sent"])
        elif "fault" in line:
            usage.faults[line["reason"]] += 1
            self._interrupted.discard(line["fault"])
        else:
            self._answers[line["id"]] = line
            self._interrupted.discard(line["id"])
            usage.answered += 1
            usage.unreported += line["estimated"]
            prompt, completion = line["prompt_tokens"], line["completion_tokens"]
            usage.prompt_tokens += prompt
            usage.completion_tokens += completion
            usage.money += self.endpoint.cost(prompt, completion)
            self._largest = (max(self._largest[0], prompt), max(self._largest[1], completion))

    def likely(self, estimate: tuple[int, int]) -> tuple[int, int]:
        """(prompt, completion) tokens to set aside for a request: its estimate, or the largest counted so far."""
        return max(self._largest[0], estimate[0]), max(self._largest[1], estimate[1])

    def affords(self, requests: int, prompt: int, completion: int) -> bool:
        """Whether the budget allows so many requests and tokens more: what is set aside and the one that is next."""
        used, budget = self.usage, self.budget
        if budget.requests is not None and used.sent + requests > budget.requests:
            return False
        tokens = used.prompt_tokens + used.completion_tokens + prompt + completion
        if budget.tokens is not None and tokens > budget.tokens:
            return False
        return budget.money is None or used.money + self.endpoint.cost(prompt, completion) <= budget.money

    def clean(self, text: str) -> str:
        """The text without the key, should an endpoint send it back."""
        return text.replace(self._key, "[key]") if self._key else text

    @property
    def headers(self) -> dict[str, str]:
        """Of every request. The only place the key goes to."""
        fixed = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
        return {**fixed, "Authorization": f"Bearer {self._key}"} if self._key else fixed


def _key(variable: str) -> str:
    key = os.environ.get(variable, "").strip()
    if not re.fullmatch(r"[!-~]*", key):
        raise InputError(f"${variable}: holds characters that no key has (its value is not shown)")
    return key


def _reply(request: Request, id_: str, line: dict[str, Any], reused: bool) -> Reply:
    said = not line["estimated"]
    prompt, completion = line["prompt_tokens"], line["completion_tokens"]
    return Reply(
        request, id_, line["text"], line["finish"], prompt if said else None, completion if said else None, reused
    )


class _Fault(Exception):
    """One attempt that failed. again: whether another may help. wait: seconds the endpoint asks for, if it does."""

    def __init__(self, reason: str, detail: str, again: bool = True, wait: float | None = None) -> None:
        super().__init__(reason)
        self.reason, self.detail, self.again, self.wait = reason, detail, again, wait


class _Run:
    """The network side of one `ask_all`: an event loop in a thread of its own, so that the caller's work and the
    waiting go on side by side."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._endpoint = client.endpoint
        self._done: queue.SimpleQueue[tuple[str, _Fault | None, int] | BaseException] = queue.SimpleQueue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        # What only the loop's thread touches:
        self._slots = asyncio.Semaphore(self._endpoint.concurrency)
        self._freed = asyncio.Condition()
        self._aside: dict[str, tuple[int, int]] = {}  # estimates of requests that are on their way
        self._unsent: set[str] = set()  # those of them that still wait for their turn
        self._not_before = self._next_turn = 0.0
        self._good: float | None = None
        self._answered = False
        self._failed_in_a_row = 0
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=self._endpoint.concurrency)
        timeout = httpx2.Timeout(self._endpoint.timeout, connect=min(10.0, self._endpoint.timeout), pool=None)
        self._http = httpx2.AsyncClient(headers=client.headers, limits=limits, timeout=timeout)
        self._thread = threading.Thread(target=self._loop.run_forever, name="endpoint", daemon=True)
        self._thread.start()

    def start(self, id_: str, body: bytes, estimate: tuple[int, int]) -> None:
        """Begin to ask. The outcome comes through `finished`."""
        self._loop.call_soon_threadsafe(self._spawn, id_, body, estimate)

    def _spawn(self, id_: str, body: bytes, estimate: tuple[int, int]) -> None:
        task = self._loop.create_task(self._work(id_, body, estimate))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def finished(self, wait: bool) -> Iterator[tuple[str, _Fault | None, int]]:
        """What is done by now; waits for the first one if told to. Raises what ended the run."""
        try:
            while True:
                done = self._done.get(block=wait)
                wait = False
                if isinstance(done, BaseException):
                    raise done
                yield done
        except queue.Empty:
            return

    def close(self) -> None:
        """End everything in flight and the thread."""
        asyncio.run_coroutine_threadsafe(self._shut(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _shut(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._http.aclose()

    async def _work(self, id_: str, body: bytes, estimate: tuple[int, int]) -> None:
        try:
            fault, sent = await self._ask(id_, body, estimate)
            if fault is None:
                self._failed_in_a_row = 0
            elif fault.reason != "budget":
                self._failed_in_a_row += 1
            self._done.put((id_, fault, sent))
            if fault is not None and self._failed_in_a_row >= GIVE_UP:
                raise InputError(
                    f"{self._endpoint.url}: {GIVE_UP} requests in a row failed, the last with '{fault.reason}' "
                    f"({fault.detail}); stopped. The answers so far are kept"
                )
        except Exception as error:  # also a fault of ours must reach the caller, not die in this thread
            self._done.put(error)
            for task in self._tasks - {asyncio.current_task()}:
                task.cancel()

    async def _ask(self, id_: str, body: bytes, estimate: tuple[int, int]) -> tuple[_Fault | None, int]:
        """Send one request until it is answered or given up; (what it was given up for, how often it was sent)."""
        sent = tried = told_to_wait = 0
        while True:
            async with self._slots:
                if not await self._set_aside(id_, estimate):
                    return _Fault("budget", "the budget does not reach for this request"), sent
                try:
                    await self._turn()
                    self._client.record({"sent": id_})
                    self._unsent.discard(id_)
                    sent += 1
                    self._client.record({"id": id_, **await self._send(body, estimate)})
                    self._good, self._answered = self._loop.time(), True
                    return None, sent
                except _Fault as caught:
                    fault = caught
                    self._client.record({"fault": id_, "reason": fault.reason})
                finally:
                    del self._aside[id_]
                    self._unsent.discard(id_)
                    async with self._freed:
                        self._freed.notify_all()
            # The slot is free for others while this one waits.
            if fault.reason == "rate limit":
                told_to_wait += 1
                wait = fault.wait if fault.wait is not None else self._pause(told_to_wait)
                now = self._loop.time()
                self._good = now if self._good is None else self._good
                if now + wait - self._good > self._endpoint.patience:
                    return fault, sent
                self._not_before = max(self._not_before, now + wait)
                continue
            tried += 1
            if not fault.again or tried >= self._endpoint.attempts:
                return fault, sent
            await asyncio.sleep(max(self._pause(tried), fault.wait or 0.0))

    def _pause(self, number: int) -> float:
        """Seconds to wait after the `number`-th fault: exponential, with full jitter."""
        return random.uniform(0, min(self._endpoint.max_backoff, self._endpoint.backoff * 2 ** min(number - 1, 30)))

    async def _set_aside(self, id_: str, estimate: tuple[int, int]) -> bool:
        """Keep the likely cost of one request back, once what others hold allows it; False where nothing will."""
        while True:
            kept = [self._client.likely(one) for one in (estimate, *self._aside.values())]
            prompt, completion = (sum(part) for part in zip(*kept, strict=True))
            if self._client.affords(len(self._unsent) + 1, prompt, completion):
                self._aside[id_] = estimate
                self._unsent.add(id_)
                return True
            if not self._aside:
                return False
            async with self._freed:
                await self._freed.wait()

    async def _turn(self) -> None:
        """Wait until nothing stands against sending: a pause the endpoint asked for, the requests a minute."""
        while (wait := max(self._not_before, self._next_turn) - self._loop.time()) > 0:
            await asyncio.sleep(wait + random.uniform(0, min(1.0, wait / 4)) * (self._not_before > self._next_turn))
        if self._endpoint.requests_per_minute:
            gap = 60 / self._endpoint.requests_per_minute
            self._next_turn = max(self._next_turn, self._loop.time()) + gap

    async def _send(self, body: bytes, estimate: tuple[int, int]) -> dict[str, Any]:
        """One attempt: an answer's line for the journal, without its id. Raises _Fault; InputError to stop the run."""
        try:
            async with asyncio.timeout(self._endpoint.timeout):
                async with self._http.stream("POST", self._endpoint.url, content=body) as response:
                    if response.status_code != 200:
                        raise self._refusal(response, await self._read(response, 65536, whole=False))
                    data = await self._read(response, self._endpoint.max_answer_bytes, whole=True)
        except (TimeoutError, httpx2.TimeoutException):
            raise _Fault("timeout", f"no whole answer within {self._endpoint.timeout:g} s") from None
        except httpx2.HTTPError as error:
            raise _Fault("connection", self._line(f"{type(error).__name__}: {error}")) from None
        text, finish, tokens = _parse(data)
        text = self._client.clean(text)
        prompt, completion = tokens or (estimate[0], math.ceil(len(text) / 4))
        return {
            "text": text,
            "finish": finish,
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "estimated": tokens is None,
        }

    async def _read(self, response: httpx2.Response, limit: int, whole: bool) -> bytes:
        """The body, at most `limit` bytes of it; more is a fault if it must be whole."""
        if response.headers.get("content-encoding", "identity") != "identity":
            raise _Fault("broken body", "compressed, though that was not asked for")
        data = bytearray()
        async for chunk in response.aiter_raw():
            data += chunk
            if len(data) > limit:
                if whole:
                    raise _Fault("too large", f"an answer of more than {limit:,} bytes", again=False)
                break
        return bytes(data[:limit])

    def _refusal(self, response: httpx2.Response, data: bytes) -> Exception:
        """What an answer with another status than 200 means."""
        status = response.status_code
        code, said = _error(data)
        detail = self._line(f"status {status}" + (f", {said}" if said else ""))
        wait = _wait(response.headers)
        if code == "insufficient_quota" or status == 402:
            return InputError(f"{self._endpoint.url}: the quota is used up ({detail}). The answers so far are kept")
        if status == 429 or (status == 503 and wait is not None):
            return _Fault("rate limit", detail, wait=wait)
        if status >= 500 or status in {408, 409, 425}:
            return _Fault("server error", detail, wait=wait)
        if not self._answered and (status in {401, 403, 404} or 300 <= status < 400):
            hint = f"; the key is read from ${self._endpoint.key_variable}" if status in {401, 403} else ""
            return InputError(f"{self._endpoint.url}: refuses model '{self._endpoint.model}' ({detail}){hint}")
        return _Fault("refused", detail, again=False)

    def _line(self, text: str) -> str:
        return " ".join(self._client.clean(text).split())[:200]


def _parse(data: bytes) -> tuple[str, str, tuple[int, int] | None]:
    """(text, finish, tokens) of a chat completion. Raises _Fault for a body that is not one or says nothing."""
    try:
        value = json.loads(data)
        choices = value["choices"]
        if not choices:
            raise _Fault("empty", "no choices in the answer")
        message = choices[0]["message"]
        content, refusal = message.get("content"), message.get("refusal")
        if isinstance(content, list):
            content = "".join(part["text"] for part in content if part.get("type") == "text")
        finish = choices[0].get("finish_reason") or "stop"
        if not content and refusal:
            content, finish = refusal, "refusal"
        content = "" if content is None else content
        if not isinstance(content, str) or not isinstance(finish, str):
            raise TypeError
        if not content.strip():
            raise _Fault("empty", "no text in the answer")
        (content + finish).encode("utf-8")  # half a surrogate pair could not be written again
        return content, finish, _tokens(value.get("usage"))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise _Fault("broken body", f"not a chat completion ({type(error).__name__})") from None


def _tokens(usage: Any) -> tuple[int, int] | None:
    """(prompt, completion) as the endpoint counts them; None where it says nothing that can be."""
    if not isinstance(usage, dict):
        return None
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if type(prompt) is not int or type(completion) is not int:  # a bool is an int to isinstance
        return None
    return (prompt, completion) if 0 <= prompt < 10**8 and 0 <= completion < 10**8 else None


def _error(data: bytes) -> tuple[str, str]:
    """(code, message) of an error body, as far as it has them."""
    try:
        error = json.loads(data)["error"]
        if isinstance(error, str):
            return "", error
        return str(error.get("code") or error.get("type") or ""), str(error.get("message") or "")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "", data[:200].decode("utf-8", "replace")


def _wait(headers: Mapping[str, str]) -> float | None:
    """Seconds that Retry-After asks for, a number or a date (RFC 9110, 10.2.3); None where it asks for none."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
