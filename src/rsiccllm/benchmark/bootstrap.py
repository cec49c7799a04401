"""Confidence intervals by the percentile bootstrap over image pairs (Efron 1979; for captions: Koehn 2004).

Every score here is a function of sums over pairs (of n-gram counts, of METEOR's counts, of true positives, or of one
value a pair), so a draw is one row of weights times one table. The rule for the two scores that need one: CIDEr-D's
idf stays that of the whole set scored, and METEOR is computed from the summed counts of its captions, drawn again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rsiccllm.errors import InputError

# [..., k] sums over pairs -> [...] score
Statistic = Callable[[np.ndarray], np.ndarray]

RULE = "percentile bootstrap over pairs, 1,000 draws; CIDEr-D with the idf of the whole set, METEOR from summed counts"


class Part(NamedTuple):
    """What each pair adds to a score, [pairs, k], and the score of the sums, [..., k] -> [...]."""

    parts: np.ndarray
    statistic: Statistic

    def value(self) -> float:
        """The score of all pairs; nan where it is not defined."""
        return float(self.statistic(self.parts.sum(axis=0)))


def mean_part(values: np.ndarray) -> Part:
    """The mean of one value a pair, [pairs]."""
    count = len(values)
    return Part(np.asarray(values, dtype=np.float64).reshape(count, 1), lambda sums: sums[..., 0] / count)


def ratio_part(parts: np.ndarray, statistic: Statistic) -> Part:
    """A function of sums of counts, [pairs, k]."""
    return Part(np.asarray(parts, dtype=np.float64), statistic)


@dataclass(frozen=True)
class Interval:
    """A score on all pairs and the 2.5 and 97.5 percentiles of its draws, in the unit of the score."""

    value: float
    low: float
    high: float

    @property
    def half(self) -> float:
        """Half the width."""
        return (self.high - self.low) / 2


def bootstrap(parts: np.ndarray, statistic: Statistic | None = None, draws: int = 1000, seed: int = 0) -> Interval:
    """95 % interval of `statistic` of the sums of `parts`, or of their mean where no statistic is given.

    parts: [pairs, k], what each pair adds to the sums, or [pairs] for a mean. Draws in which the statistic is not
    defined (nan) are left out. Raises InputError for no pairs.
    """
    if len(parts) == 0:
        raise InputError("bootstrap: there are no pairs")
    part = mean_part(parts) if statistic is None else ratio_part(parts.reshape(len(parts), -1), statistic)
    return bootstrap_all({"": part}, draws, seed)[""]


def bootstrap_all(scores: Mapping[str, Part], draws: int = 1000, seed: int = 0) -> dict[str, Interval]:
    """`bootstrap` of several scores of the same pairs, all on the same draws."""
    if not scores:
        return {}
    table = np.concatenate([part.parts for part in scores.values()], axis=1)  # [pairs, all k]
    if len(table) == 0:
        raise InputError("bootstrap: there are no pairs")
    drawn = _draw(table, draws, seed)
    ends = np.cumsum([part.parts.shape[1] for part in scores.values()])
    return {
        name: _interval(part.value(), part.statistic(drawn[:, end - part.parts.shape[1] : end]))
        for (name, part), end in zip(scores.items(), ends, strict=True)
    }


def paired_difference(
    first: np.ndarray, second: np.ndarray, statistic: Statistic | None = None, draws: int = 1000, seed: int = 0
) -> Interval:
    """95 % interval of score(first) - score(second) for two outputs on the same pairs in the same order.

    Both are computed on the same draws, so what is hard for both cancels. Shapes and errors as in `bootstrap`.
    """
    if first.shape != second.shape:
        raise InputError(f"paired difference: {len(first)} and {len(second)} pairs, expected the same pairs")
    if len(first) == 0:
        raise InputError("bootstrap: there are no pairs")
    count = len(first)
    both = np.concatenate([first.reshape(count, -1), second.reshape(count, -1)], axis=1)  # [pairs, 2k]
    split = both.shape[1] // 2
    score = statistic or (lambda sums: sums[..., 0] / count)
    return bootstrap(both, lambda sums: score(sums[..., :split]) - score(sums[..., split:]), draws, seed)


class PairedTest(NamedTuple):
    """p: two-sided. spread: standard deviation of the difference where the two outputs are as good as each other."""

    p: float
    spread: float


def randomisation_test(first: Part, second: Part, draws: int = 10000, seed: int = 0) -> PairedTest:
    """Whether two outputs on the same pairs differ: approximate randomisation (Noreen 1989; Riezler and Maxwell 2005).

    In every draw each pair's two outputs change places or not, by a coin. p is the share of draws, the one seen
    included, whose difference is at least as large as the one seen; it is never under 1 / (draws + 1).
    """
    if first.parts.shape != second.parts.shape:
        raise InputError(f"paired test: {len(first.parts)} and {len(second.parts)} pairs, expected the same pairs")
    change = second.parts - first.parts
    ours, theirs = first.parts.sum(axis=0), second.parts.sum(axis=0)
    seen = abs(first.value() - second.value())
    if not np.isfinite(seen):
        return PairedTest(float("nan"), float("nan"))
    found = []
    for swapped in _coins(len(change), draws, seed):
        moved = swapped @ change  # [draws, k]
        found.append(first.statistic(ours + moved) - second.statistic(theirs - moved))
    differences = np.concatenate(found)
    # a little slack: sums in another order differ in the last digit
    as_large = int(np.count_nonzero(np.abs(differences) >= seen - 1e-9 * max(1.0, seen)))
    return PairedTest((as_large + 1) / (draws + 1), float(np.nanstd(differences)))


def holm(p_values: list[float]) -> list[float]:
    """p values of a family of tests, corrected so that one false alarm in the whole family stays as rare (Holm 1979).

    A test that could not be made (nan) stays nan and does not count.
    """
    order = sorted((p, place) for place, p in enumerate(p_values) if np.isfinite(p))
    corrected = [float("nan")] * len(p_values)
    largest = 0.0
    for rank, (p, place) in enumerate(order):
        largest = max(largest, min(1.0, p * (len(order) - rank)))
        corrected[place] = largest
    return corrected


def _draw(parts: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Sums over `draws` samples of the pairs with replacement, [draws, k]."""
    random = np.random.default_rng(seed)
    pairs = len(parts)
    samples = (np.bincount(random.integers(pairs, size=pairs), minlength=pairs) for _ in range(draws))
    return np.stack([weights @ parts for weights in samples])


def _coins(pairs: int, draws: int, seed: int, block: int = 500) -> Iterator[np.ndarray]:
    """0 or 1 for each pair, [up to block, pairs] at a time."""
    random = np.random.default_rng(seed)
    for start in range(0, draws, block):
        yield random.integers(2, size=(min(block, draws - start), pairs), dtype=np.int8).astype(np.float64)


def _interval(value: float, drawn: np.ndarray) -> Interval:
    if not np.isfinite(drawn).any():
        return Interval(value, float("nan"), float("nan"))
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return Interval(value, float(low), float(high))
