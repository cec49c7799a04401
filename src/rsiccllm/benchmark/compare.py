"""Paired tests between systems, corrected for their number, and what size of difference so many pairs can show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from rsiccllm.benchmark.baselines import FLAG
from rsiccllm.benchmark.bootstrap import Interval, Part, bootstrap, holm, randomisation_test
from rsiccllm.benchmark.rows import Row

# What is tested: a choice of scores that say different things. Every further one makes the correction harder.
OVERALL = ("bleu_4", "meteor", "rouge_l", "cider_d", "s_m", "sbs")
KINDS = ("object", "direction", "verb", "quantity", "place")

# Normal quantiles: two-sided test at 0.05, power 0.8.
DETECTABLE = 1.959964 + 0.841621


DRAWS_A_TEST = 40
"""Draws for each test of a family, at least: the smallest corrected p is then 0.025."""

SHOWN = 0.005
"""A difference that is printed as 0.00 is none, p = 1: without a common n-gram pycocoevalcap's BLEU is not 0 but some
1e-6 that tells outputs of different lengths apart, every time."""


@dataclass(frozen=True)
class Comparison:
    """One score of two systems on the same pairs.

    difference: first minus second with its 95 % bootstrap interval. p: two-sided, by approximate randomisation.
    p_holm: corrected for all comparisons made together. detectable: the smallest true difference that such a test would
    find in 80 % of samples of this size.
    """

    first: str
    second: str
    score: str
    pairs: int
    difference: Interval
    p: float
    p_holm: float
    detectable: float

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        found = self.difference
        return {**vars(self), "difference": found.value, "interval_95": [found.low, found.high]}


def compare_rows(rows: Sequence[Row], draws: int = 10000, seed: int = 0) -> list[Comparison]:
    """Every two systems of a table, and every system with the row of the true flag, on every score both have.

    The p values of all are corrected as one family (Holm). A p is never under 1 / (draws + 1), so a large family takes
    more draws than `draws`: else its smallest p, times their number, would never come under 0.05.
    """
    systems = [row for row in rows if not row.baseline]
    trivial = [row for row in rows if row.baseline and row.name == FLAG]
    pairs = [*combinations(systems, 2), *((row, other) for row in systems for other in trivial)]
    tests = [(first, second, *shared) for first, second in pairs for shared in _shared(first, second)]
    draws = max(draws, DRAWS_A_TEST * len(tests))
    found = [
        (first.name, second.name, name, *_compared(ours, theirs, draws, seed))
        for first, second, name, ours, theirs in tests
    ]
    corrected = holm([p for *_, p, _ in found])
    return [
        Comparison(first, second, name, count, difference, p, p_holm, DETECTABLE * spread)
        for (first, second, name, count, difference, p, spread), p_holm in zip(found, corrected, strict=True)
        if np.isfinite(p)
    ]


def size_note(rows: Sequence[Row]) -> str:
    """One line on what a split of this size can show, from the widest interval of S*m (or the mean of three)."""
    segments = rows[0].scores.segments
    count = len(segments.ids)
    name = "s_m" if segments.meteor is not None else "mean_without_meteor"
    half = max(row.scores.segments.interval_95[name].half for row in rows)
    label = "S*m" if name == "s_m" else "the mean of three"
    line = f"sample size: {count} pairs know {label} to ±{half:.1f} (the widest row); half of that needs {4 * count}"
    return line + ("; under 200 pairs the intervals themselves are rough" if count < 200 else "")


def _shared(first: Row, second: Row) -> Iterator[tuple[str, Part, Part]]:
    """The scores that both rows have, over pairs in the same order."""
    if first.scores.segments.ids == second.scores.segments.ids:
        ours, theirs = first.scores.segments.parts(), second.scores.segments.parts()
        yield from ((name, ours[name], theirs[name]) for name in OVERALL if name in ours and name in theirs)
    mine, others = first.facts, second.facts
    if mine is None or others is None:
        return
    both = mine.flag.balanced_accuracy is not None
    name = "balanced_accuracy" if both else "accuracy"
    yield "flag, balanced" if both else "flag", mine.flag.parts()[name], others.flag.parts()[name]
    for kind in KINDS:
        if kind in mine.references:
            ours, theirs = mine.references[kind].parts(), others.references[kind].parts()
            if "f1" in ours and "f1" in theirs:
                yield f"{kind} F1", ours["f1"], theirs["f1"]


def _compared(first: Part, second: Part, draws: int, seed: int) -> tuple[int, Interval, float, float]:
    split = first.parts.shape[1]
    both = np.concatenate([first.parts, second.parts], axis=1)

    def difference(sums: np.ndarray) -> np.ndarray:
        return first.statistic(sums[..., :split]) - second.statistic(sums[..., split:])

    test = randomisation_test(first, second, draws, seed)
    found = bootstrap(both, difference, seed=seed)
    return len(both), found, 1.0 if abs(found.value) < SHOWN else test.p, test.spread
