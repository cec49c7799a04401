"""What a teacher is: it takes asks, in any number, and gives back answers or says why there is none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from rsiccllm.records import ImagePair
from rsiccllm.rsici.prior import Prior

MAX_ATTEMPTS = 3
"""A rejected answer is asked for again at most twice, each time with another prompt (the paper's figure)."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One question to a teacher.

    pair: its paths are relative to the folder that is being built; a teacher that looks at images is given that folder
    when it is made. task: "describe" (the long description), "caption" (a short one) or "kind" (what kind of change).
    prior: what the mask says. attempt: 0, 1 or 2. hint: for attempts 1 and 2, why the answer before was rejected, in
    words that may stand in a prompt; else empty.
    """

    pair: ImagePair
    task: str
    prior: Prior
    attempt: int = 0
    hint: str = ""

    @property
    def key(self) -> str:
        """What this ask is journaled under: unique in a build."""
        return f"{self.pair.id}/{self.task}/{self.attempt}"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an ask has no answer.

    kind: a short word that failures are counted by ("timeout", "refused", "too_long", "nothing_to_say"). final: False
    where the same ask may succeed in a later run (a network that is down, a budget that is spent): such an ask is not
    journaled and is asked again when the build is called again.
    """

    kind: str
    message: str
    final: bool = True


class Teacher(Protocol):
    """Anything that answers asks. `name` is recorded with every sample, such as "rules" or "openai:qwen-vl-max"."""

    name: str

    def answer_all(self, asks: Iterable[Ask]) -> Iterator[tuple[Ask, list[str] | Failure]]:
        """Answer every ask once, in any order; `asks` is read lazily and a bounded number is in flight.

        A list holds one or more right answers to the same question (a teacher that samples once gives one).
        """
        ...
