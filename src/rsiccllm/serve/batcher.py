"""Requests that arrive together go through the model together.

Two threads: one makes tokens and pixels of a request (so one pair at most is held at full size, whatever arrives), one
runs the model over those that wait. Both work for the event loop, which alone touches the queue.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from rsiccllm.caption.captioner import Captioner
from rsiccllm.model.generate import Answer, Drawn, Encoded


class Kind(NamedTuple):
    """What requests must share to go through the model together. sampled: (choices, temperature, top_p), or None."""

    max_tokens: int
    sampled: tuple[int, float, float] | None


@dataclass(eq=False)
class Waiting:
    """A request in the queue. tell: called in the event loop with each new token, where it wants to hear them."""

    prompt: Encoded
    kind: Kind
    seed: int
    done: asyncio.Future[Answer | list[Drawn]]
    tell: Callable[[int], None] | None = None


@dataclass(eq=False)
class Batcher:
    """Start `run` as a task; `ask` queues a request and waits for its answer.

    batch: requests that go through the model together. gather: seconds that the first waits for others; as long as more
    are `coming` (are there and being made ready), up to `patience` seconds: of clients that answer a batch by asking
    again all together, a batch of the first one alone would keep all others waiting. seen: called with the size of each
    batch.
    """

    captioner: Captioner
    batch: int
    gather: float
    patience: float = 0.2
    coming: Callable[[], int] = lambda: 0
    seen: Callable[[int], None] = lambda size: None
    _queue: deque[Waiting] = field(default_factory=deque)
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)
    _model: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "model"))

    @property
    def waiting(self) -> int:
        return len(self._queue)

    async def ask(
        self, prompt: Encoded, kind: Kind, seed: int, tell: Callable[[int], None] | None = None
    ) -> Answer | list[Drawn]:
        """The answer, or with kind.sampled the sampled ones. Cancelled, it leaves the queue."""
        done: asyncio.Future[Answer | list[Drawn]] = asyncio.get_running_loop().create_future()
        self._queue.append(Waiting(prompt, kind, seed, done, tell))
        self._arrived.set()
        return await done

    async def run(self) -> None:
        """Answer what is queued, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            self._arrived.clear()
            if not self._queue:
                await self._arrived.wait()
            await self._gather()
            chosen = self._next()
            if not chosen:
                continue
            self.seen(len(chosen))
            try:
                answers = await loop.run_in_executor(self._model, self._answer, loop, chosen)
            except Exception as error:  # it is for those who asked; the server goes on
                for one in chosen:
                    if not one.done.done():
                        one.done.set_exception(error)
                continue
            for one, answer in zip(chosen, answers, strict=True):
                if not one.done.done():
                    one.done.set_result(answer)

    async def _gather(self) -> None:
        """Wait for others to go with the first."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self.patience
        if len(self._queue) < self.batch:
            await asyncio.sleep(self.gather)
        while len(self._queue) < self.batch and self.coming() and loop.time() < end:
            self._arrived.clear()
            with suppress(TimeoutError):  # one that is refused is coming no more, and never arrives
                async with asyncio.timeout(self.gather):
                    await self._arrived.wait()

    def _next(self) -> list[Waiting]:
        """The first that waits and those of its kind, in order of arrival; whoever has left is dropped."""
        left = [one for one in self._queue if not one.done.done()]
        chosen = [one for one in left if one.kind == left[0].kind][: self.batch]
        taken = set(map(id, chosen))
        self._queue = deque(one for one in left if id(one) not in taken)
        return chosen

    def _answer(self, loop: asyncio.AbstractEventLoop, chosen: list[Waiting]) -> Sequence[Answer | list[Drawn]]:
        kind = chosen[0].kind
        prompts = [one.prompt for one in chosen]
        if kind.sampled is not None:
            choices, temperature, top_p = kind.sampled
            seeds = [one.seed for one in chosen]
            return self.captioner.draw(prompts, seeds, choices, kind.max_tokens, temperature, top_p)
        listeners = [(row, one.tell) for row, one in enumerate(chosen) if one.tell is not None]

        def hear(tokens: list[int]) -> None:
            for row, tell in listeners:
                loop.call_soon_threadsafe(tell, tokens[row])

        return self.captioner.answer_encoded(prompts, kind.max_tokens, hear if listeners else None)

    def close(self) -> None:
        self._model.shutdown(wait=False, cancel_futures=True)
