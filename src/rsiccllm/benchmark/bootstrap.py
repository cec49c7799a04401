"""Confidence intervals by the percentile bootstrap over image pairs (Efron 1979; for captions: Koehn 2004).

Every score here is a function of sums over pairs (of n-gram counts, of METEOR's counts, of true positives, or of one
value a pair), so a draw is one row of weights times one table. CIDEr-D's idf stays that of the whole set scored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rsiccllm.errors import InputError

# [..., k] sums over pairs -> [...] score
Statistic = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Interval:
    """A score on all pairs and the 2.5 and 97.5 percentiles of its draws, in the unit of the score."""

    value: float
    low: float
    high: float


def bootstrap(parts: np.ndarray, statistic: Statistic | None = None, draws: int = 1000, seed: int = 0) -> Interval:
    """95 % interval of `statistic` of the sums of `parts`, or of their mean where no statistic is given.

    parts: [pairs, k], what each pair adds to the sums, or [pairs] for a mean. Draws in which the statistic is not
    defined (nan) are left out. Raises InputError for no pairs.
    """
    parts, statistic = _prepare(parts, statistic)
    return _interval(statistic(parts.sum(axis=0)), statistic(_draw(parts, draws, seed)))


def paired_difference(
    first: np.ndarray, second: np.ndarray, statistic: Statistic | None = None, draws: int = 1000, seed: int = 0
) -> Interval:
    """95 % interval of score(first) - score(second) for two outputs on the same pairs in the same order.

    Both are computed on the same draws, so what is hard for both cancels. Shapes and errors as in `bootstrap`.
    """
    if first.shape != second.shape:
        raise InputError(f"paired difference: {len(first)} and {len(second)} pairs, expected the same pairs")
    first, statistic = _prepare(first, statistic)
    second, _ = _prepare(second, statistic)
    both = np.concatenate([first, second], axis=1)  # [pairs, 2k]
    split = first.shape[1]

    def difference(sums: np.ndarray) -> np.ndarray:
        return statistic(sums[..., :split]) - statistic(sums[..., split:])

    return _interval(difference(both.sum(axis=0)), difference(_draw(both, draws, seed)))


def _prepare(parts: np.ndarray, statistic: Statistic | None) -> tuple[np.ndarray, Statistic]:
    pairs = len(parts)
    if pairs == 0:
        raise InputError("bootstrap: there are no pairs")
    parts = np.asarray(parts, dtype=np.float64).reshape(pairs, -1)
    return parts, statistic or (lambda sums: sums[..., 0] / pairs)


def _draw(parts: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Sums over `draws` samples of the pairs with replacement, [draws, k]."""
    random = np.random.default_rng(seed)
    pairs = len(parts)
    samples = (np.bincount(random.integers(pairs, size=pairs), minlength=pairs) for _ in range(draws))
    return np.stack([weights @ parts for weights in samples])


def _interval(value: np.ndarray, drawn: np.ndarray) -> Interval:
    if not np.isfinite(drawn).any():
        return Interval(float(value), float("nan"), float("nan"))
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return Interval(float(value), float(low), float(high))
