"""The network side of asking: attempts, waiting, rates and the budget, in an event loop beside the caller's work."""

from __future__ import annotations

import asyncio
import queue
import random
import threading
from collections.abc import Iterator
from typing import Any

import httpx2

from rsiccllm.endpoint.key import Key
from rsiccllm.endpoint.ledger import Ledger
from rsiccllm.endpoint.settings import Endpoint
from rsiccllm.endpoint.wire import Fault, answer_line, refusal, retry_after
from rsiccllm.errors import InputError

GIVE_UP = 32
"""Requests given up one after another, with no answer between them, after which the whole run stops."""

Done = tuple[str, Fault | None, int]
"""The digest of a request, what it was given up for (None: answered), and how often it was sent."""


class Run:
    """The network side of one `ask_all`: an event loop in a thread of its own, so that the caller's work and the
    waiting go on side by side."""

    def __init__(self, endpoint: Endpoint, ledger: Ledger, key: Key) -> None:
        self._endpoint, self._ledger, self._key = endpoint, ledger, key
        self._done: queue.SimpleQueue[Done | BaseException] = queue.SimpleQueue()
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
        self._http = httpx2.AsyncClient(headers=key.headers, limits=limits, timeout=timeout)
        self._thread = threading.Thread(target=self._loop.run_forever, name="endpoint", daemon=True)
        self._thread.start()

    def start(self, id_: str, body: bytes, estimate: tuple[int, int]) -> None:
        """Begin to ask. The outcome comes through `finished`."""
        self._loop.call_soon_threadsafe(self._spawn, id_, body, estimate)

    def _spawn(self, id_: str, body: bytes, estimate: tuple[int, int]) -> None:
        task = self._loop.create_task(self._work(id_, body, estimate))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def finished(self, wait: bool) -> Iterator[Done]:
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

    async def _ask(self, id_: str, body: bytes, estimate: tuple[int, int]) -> tuple[Fault | None, int]:
        """Send one request until it is answered or given up; (what it was given up for, how often it was sent)."""
        sent = tried = told_to_wait = 0
        while True:
            async with self._slots:
                if not await self._set_aside(id_, estimate):
                    return Fault("budget", "the budget does not reach for this request"), sent
                try:
                    await self._turn()
                    self._ledger.record({"sent": id_})
                    self._unsent.discard(id_)
                    sent += 1
                    self._ledger.record({"id": id_, **await self._send(body, estimate)})
                    self._good, self._answered = self._loop.time(), True
                    return None, sent
                except Fault as caught:
                    fault = caught
                    self._ledger.record({"fault": id_, "reason": fault.reason})
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
            kept = [self._ledger.likely(one) for one in (estimate, *self._aside.values())]
            prompt, completion = (sum(part) for part in zip(*kept, strict=True))
            if self._ledger.affords(len(self._unsent) + 1, prompt, completion):
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
        """One attempt: an answer's line for the journal, without its id. Raises Fault; InputError to stop the run."""
        try:
            async with asyncio.timeout(self._endpoint.timeout):
                async with self._http.stream("POST", self._endpoint.url, content=body) as response:
                    if response.status_code != 200:
                        data = await self._read(response, 65536, whole=False)
                        wait = retry_after(response.headers)
                        raise refusal(self._endpoint, response.status_code, data, wait, self._answered, self._key.line)
                    data = await self._read(response, self._endpoint.max_answer_bytes, whole=True)
        except (TimeoutError, httpx2.TimeoutException):
            raise Fault("timeout", f"no whole answer within {self._endpoint.timeout:g} s") from None
        except httpx2.HTTPError as error:
            raise Fault("connection", self._key.line(f"{type(error).__name__}: {error}")) from None
        return answer_line(data, estimate, self._key.clean)

    async def _read(self, response: httpx2.Response, limit: int, whole: bool) -> bytes:
        """The body, at most `limit` bytes of it; more is a fault if it must be whole."""
        if response.headers.get("content-encoding", "identity") != "identity":
            raise Fault("broken body", "compressed, though that was not asked for")
        data = bytearray()
        async for chunk in response.aiter_raw():
            data += chunk
            if len(data) > limit:
                if whole:
                    raise Fault("too large", f"an answer of more than {limit:,} bytes", again=False)
                break
        return bytes(data[:limit])
