"""What a caption gets right, beyond words: whether there is a change, and object, direction, verb, quantity, place.

Captions are read by `rsiccllm.facts.parse`. Facts are scored over the pairs that changed, micro-averaged: the values
a caption states (say, the objects {building, road}) against those that any reference of the pair states (their union),
or against the facts planted in a rendered scene. Each F1 stands beside what the same captions would get if dealt out
at random among the changed pairs: a constant caption agrees with many references and gains exactly 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from rsiccllm.benchmark.bootstrap import Interval, bootstrap
from rsiccllm.facts import Fact, parse

# What is compared of a fact; a None is something the caption does not state.
KINDS: dict[str, Callable[[Fact], Hashable]] = {
    "object": lambda fact: fact.object,
    "direction": lambda fact: fact.direction,
    "object_direction": lambda fact: (fact.object, fact.direction),
    "verb": lambda fact: fact.verb,
    "quantity": lambda fact: fact.quantity,
    "place": lambda fact: fact.place,
}

_parse = lru_cache(maxsize=1 << 16)(parse)  # the same sentence stands under thousands of pairs


@dataclass(frozen=True)
class ChangeFlag:
    """How well captions say whether there is a change, x 100; None where there is no pair to count it on.

    balanced_accuracy: mean of the accuracies on changed and on unchanged pairs. hallucination: share of unchanged
    pairs said to have changed. misses: share of changed pairs not said to have changed. unclear: share of all captions
    that say neither; they are wrong on either kind of pair.
    """

    accuracy: float
    balanced_accuracy: float | None
    hallucination: float | None
    misses: float | None
    unclear: float


@dataclass(frozen=True)
class FactScore:
    """Scores of one kind of fact, x 100. None where nothing was stated (precision) or nothing was to be stated.

    shuffled: the F1 expected of the same captions dealt at random among the changed pairs (exact, nothing is drawn).
    counts: [changed pairs, 3] values right, values stated, values in the truth; for `bootstrap` with `f1_of_sums`.
    """

    precision: float | None
    recall: float | None
    f1: float | None
    shuffled: float | None
    counts: np.ndarray = field(repr=False)

    @property
    def gain(self) -> float | None:
        """F1 minus `shuffled`: what the captions owe to the pair they were given for."""
        return None if self.f1 is None or self.shuffled is None else self.f1 - self.shuffled

    def interval(self, draws: int = 1000, seed: int = 0) -> Interval:
        """95 % interval of F1 over the changed pairs."""
        return bootstrap(self.counts, f1_of_sums, draws, seed)

    def to_dict(self) -> dict[str, Any]:
        """For JSON, with the gain and the interval of F1."""
        found = None if self.f1 is None else self.interval()
        return {
            **{name: value for name, value in vars(self).items() if name != "counts"},
            "gain": self.gain,
            "interval_95": None if found is None else [found.low, found.high],
        }


@dataclass(frozen=True)
class FactScores:
    """Change flag over all pairs; facts by kind over the changed ones.

    references: against the union of what the references state. planted: against planted facts, None without them.
    Both are {} where no pair changed.
    """

    flag: ChangeFlag
    references: dict[str, FactScore]
    planted: dict[str, FactScore] | None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "change_flag": vars(self.flag),
            "references": {kind: found.to_dict() for kind, found in self.references.items()},
            "planted": None
            if self.planted is None
            else {kind: found.to_dict() for kind, found in self.planted.items()},
        }


def fact_scores(
    predictions: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    changed: Mapping[str, bool],
    planted: Mapping[str, Sequence[Fact]] | None = None,
) -> FactScores:
    """Score what one caption a pair states. All arguments are by pair id, over the ids of `references`."""
    said = {name: _parse(predictions[name]) for name in references}
    on_changed = [said[name].changed for name in references if changed[name]]
    on_unchanged = [said[name].changed for name in references if not changed[name]]
    hits, rests = on_changed.count(True), on_unchanged.count(False)
    sides = [_share(hits, on_changed), _share(rests, on_unchanged)]
    flag = ChangeFlag(
        accuracy=100 * (hits + rests) / len(said),
        balanced_accuracy=None if sides[0] is None or sides[1] is None else (sides[0] + sides[1]) / 2,
        hallucination=_share(on_unchanged.count(True), on_unchanged),
        misses=_share(len(on_changed) - hits, on_changed),
        unclear=100 * (on_changed.count(None) + on_unchanged.count(None)) / len(said),
    )

    stated = [said[name].facts for name in references if changed[name]]
    union = [[fact for text in references[name] for fact in _parse(text).facts] for name in references if changed[name]]
    truth = None if planted is None else [planted[name] for name in references if changed[name]]
    return FactScores(flag, _by_kind(stated, union), None if truth is None else _by_kind(stated, truth))


def f1_of_sums(sums: np.ndarray) -> np.ndarray:
    """F1 x 100 from sums of `FactScore.counts`, [..., 3] -> [...]; nan where nothing was to be stated."""
    right, stated, true = np.moveaxis(np.asarray(sums, dtype=np.float64), -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(true > 0, 200 * right / (stated + true), np.nan)


def _by_kind(stated: Sequence[Sequence[Fact]], truth: Sequence[Sequence[Fact]]) -> dict[str, FactScore]:
    if not stated:
        return {}
    return {
        kind: _score([_values(facts, kind) for facts in stated], [_values(facts, kind) for facts in truth])
        for kind in KINDS
    }


def _values(facts: Sequence[Fact], kind: str) -> set[Hashable]:
    return {KINDS[kind](fact) for fact in facts} - {None}


def _score(stated: Sequence[set[Hashable]], truth: Sequence[set[Hashable]]) -> FactScore:
    counts = np.array(
        [[len(ours & theirs), len(ours), len(theirs)] for ours, theirs in zip(stated, truth, strict=True)]
    )
    right, said, true = (int(total) for total in counts.sum(axis=0))
    # Dealt at random, a value stated in s of n captions meets one that is true of t of n pairs s * t / n times.
    ours = Counter(value for values in stated for value in values)
    theirs = Counter(value for values in truth for value in values)
    met = sum(number * theirs[value] for value, number in ours.items()) / len(counts)
    return FactScore(
        precision=100 * right / said if said else None,
        recall=100 * right / true if true else None,
        f1=200 * right / (said + true) if true else None,
        shuffled=200 * met / (said + true) if true else None,
        counts=counts,
    )


def _share(part: int, whole: Sequence[object]) -> float | None:
    return 100 * part / len(whole) if whole else None
