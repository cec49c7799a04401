"""Random decisions that come out the same on every machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


class Dice:
    """Decisions from one PCG64 stream named by whole numbers.

    Only `Generator.random` is used: it is the top bits of the raw stream, so no numpy release or compiler can move it.
    """

    def __init__(self, *names: int) -> None:
        self._generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(names)))

    def unit(self) -> float:
        """A number in [0, 1)."""
        return float(self._generator.random())

    def uniform(self, low: float, high: float) -> float:
        """A number in [low, high)."""
        return low + (high - low) * self.unit()

    def units(self, *shape: int) -> np.ndarray:
        """An array of the given shape, float64 in [0, 1)."""
        return self._generator.random(shape)

    def integer(self, low: int, high: int) -> int:
        """A whole number from low to high, both included."""
        return low + int(self.unit() * (high - low + 1))

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self.unit() < probability

    def sign(self) -> float:
        """Minus one or one."""
        return -1.0 if self.unit() < 0.5 else 1.0

    def pick(self, options: Sequence[T]) -> T:
        """One of the options, all equally likely."""
        return options[int(self.unit() * len(options))]

    def weigh(self, options: Sequence[tuple[T, float]]) -> T:
        """One of the (option, weight) pairs' options."""
        left = self.unit() * sum(weight for _, weight in options)
        for option, weight in options:
            left -= weight
            if left < 0:
                return option
        return options[-1][0]

    def shuffled(self, options: Sequence[T]) -> list[T]:
        """The options in random order."""
        order = np.argsort(self.units(len(options)), kind="stable")
        return [options[i] for i in order]
