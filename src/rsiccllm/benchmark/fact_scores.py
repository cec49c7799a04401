"""What a caption gets right, beyond words: whether there is a change, and object, direction, verb, quantity, place.

Captions are read by `rsiccllm.facts.parse`. Facts are scored over the pairs that changed, micro-averaged: the values
a caption states (say, the objects {building, road}) against those that any reference of the pair states (the union),
those that more than half of its references state (the consensus), or the facts planted in a rendered scene. The union
is the fair measure of precision (what any person saw is there), the consensus that of recall (what most people found
worth saying). Each F1 stands beside what the same captions would get if dealt out at random among the changed pairs: a
constant caption agrees with many references and gains exactly 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from rsiccllm.benchmark.bootstrap import Interval, Part, Statistic, bootstrap_all
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


FLAG = ("accuracy", "balanced_accuracy", "hallucination", "misses", "unclear")


@dataclass(frozen=True)
class ChangeFlag:
    """How well captions say whether there is a change, x 100; None where there is no pair to count it on.

    balanced_accuracy: mean of the accuracies on changed and on unchanged pairs. hallucination: share of unchanged
    pairs said to have changed. misses: share of changed pairs not said to have changed. unclear: share of all captions
    that say neither; they are wrong on either kind of pair.
    counts: [pairs, 5] of 0 or 1: changed, changed and said so, unchanged and said so, unchanged but said to have
    changed, says neither; for intervals and paired tests.
    """

    accuracy: float
    balanced_accuracy: float | None
    hallucination: float | None
    misses: float | None
    unclear: float
    counts: np.ndarray = field(repr=False)

    def parts(self) -> dict[str, Part]:
        """Each of the five by name, as a function of sums over pairs."""
        return {
            name: Part(self.counts.astype(np.float64), _flag_statistic(name, len(self.counts)))
            for name in FLAG
            if vars(self)[name] is not None
        }

    @cached_property
    def interval_95(self) -> dict[str, Interval]:
        """95 % intervals of the scores that are defined, by name."""
        return bootstrap_all(self.parts())

    def to_dict(self) -> dict[str, Any]:
        """For JSON, with 95 % intervals."""
        intervals = {name: [found.low, found.high] for name, found in self.interval_95.items()}
        return {**{name: vars(self)[name] for name in FLAG}, "interval_95": intervals}


def change_flag(said: Sequence[bool | None], changed: Sequence[bool]) -> ChangeFlag:
    """Score what captions say of whether there is a change (None: neither) against the truth, one entry a pair."""
    counts = np.array(
        [
            [true, true and told is True, not true and told is False, not true and told is True, told is None]
            for told, true in zip(said, changed, strict=True)
        ],
        dtype=np.int64,
    ).reshape(len(said), 5)
    sums = counts.sum(axis=0).astype(np.float64)
    found = {name: float(_flag_statistic(name, len(counts))(sums)) for name in FLAG}
    defined = {name: None if np.isnan(value) else value for name, value in found.items()}
    return ChangeFlag(counts=counts, **defined)  # type: ignore[arg-type]  # two of the five are always defined


def _flag_statistic(name: str, pairs: int) -> Statistic:
    def statistic(sums: np.ndarray) -> np.ndarray:
        changed, hits, rests, invented, unclear = np.moveaxis(np.asarray(sums, dtype=np.float64), -1, 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            unchanged = pairs - changed
            return (
                100
                * {
                    "accuracy": (hits + rests) / pairs,
                    "balanced_accuracy": (hits / changed + rests / unchanged) / 2,
                    "hallucination": invented / unchanged,
                    "misses": (changed - hits) / changed,
                    "unclear": unclear / pairs,
                }[name]
            )

    return statistic


@dataclass(frozen=True)
class Value:
    """One value of one kind (say, object "road"), x 100, and the numbers behind it.

    true: changed pairs of which it is true. stated: captions that state it. shuffled: the F1 of the same captions dealt
    at random.
    """

    true: int
    stated: int
    precision: float | None
    recall: float | None
    f1: float | None
    shuffled: float | None

    @property
    def gain(self) -> float | None:
        """F1 minus `shuffled`."""
        return None if self.f1 is None or self.shuffled is None else self.f1 - self.shuffled


@dataclass(frozen=True)
class FactScore:
    """Scores of one kind of fact, x 100. None where nothing was stated (precision) or nothing was to be stated.

    shuffled: the F1 expected of the same captions dealt at random among the changed pairs (exact, nothing is drawn).
    values: the same for each value by itself, the ones most often true first.
    counts: [changed pairs, 3] values right, values stated, values in the truth; for intervals and paired tests.
    """

    precision: float | None
    recall: float | None
    f1: float | None
    shuffled: float | None
    values: dict[str, Value] = field(repr=False)
    counts: np.ndarray = field(repr=False)

    @property
    def gain(self) -> float | None:
        """F1 minus `shuffled`: what the captions owe to the pair they were given for."""
        return None if self.f1 is None or self.shuffled is None else self.f1 - self.shuffled

    def parts(self) -> dict[str, Part]:
        """precision, recall and f1, as functions of sums over the changed pairs; those that are defined."""
        counts = self.counts.astype(np.float64)
        every = {"precision": precision_of_sums, "recall": recall_of_sums, "f1": f1_of_sums}
        return {name: Part(counts, statistic) for name, statistic in every.items() if vars(self)[name] is not None}

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """95 % intervals over the changed pairs of the scores that are defined, by name."""
        return bootstrap_all(self.parts())

    @property
    def interval_95(self) -> Interval | None:
        """The interval of F1; None where it is not defined."""
        return self.intervals.get("f1")

    def to_dict(self) -> dict[str, Any]:
        """For JSON, with the gain and the intervals; `interval_95` is that of F1."""
        found = self.interval_95
        return {
            **{name: vars(self)[name] for name in ("precision", "recall", "f1", "shuffled")},
            "gain": self.gain,
            "interval_95": None if found is None else [found.low, found.high],
            "intervals_95": {name: [interval.low, interval.high] for name, interval in self.intervals.items()},
            "values": {name: {**vars(value), "gain": value.gain} for name, value in self.values.items()},
        }


@dataclass(frozen=True)
class FactScores:
    """Change flag over all pairs; facts by kind over the changed ones.

    references: against the union of what the references state. consensus: against what more than half of a pair's
    references state. planted: against planted facts, None without them. All are {} where no pair changed.
    """

    flag: ChangeFlag
    references: dict[str, FactScore]
    consensus: dict[str, FactScore]
    planted: dict[str, FactScore] | None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""

        def every(scores: dict[str, FactScore] | None) -> dict[str, Any] | None:
            return None if scores is None else {kind: found.to_dict() for kind, found in scores.items()}

        return {
            "change_flag": self.flag.to_dict(),
            "references": every(self.references),
            "consensus": every(self.consensus),
            "planted": every(self.planted),
        }


def fact_scores(
    predictions: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    changed: Mapping[str, bool],
    planted: Mapping[str, Sequence[Fact]] | None = None,
) -> FactScores:
    """Score what one caption a pair states. All arguments are by pair id, over the ids of `references`."""
    said = {name: _parse(predictions[name]) for name in references}
    flag = change_flag([said[name].changed for name in references], [changed[name] for name in references])
    moved = [name for name in references if changed[name]]
    stated = [said[name].facts for name in moved]
    told = [[_parse(text).facts for text in references[name]] for name in moved]
    return FactScores(
        flag,
        references=_by_kind(stated, told, union),
        consensus=_by_kind(stated, told, consensus),
        planted=None if planted is None else facts_against(stated, [planted[name] for name in moved]),
    )


def facts_against(stated: Sequence[Sequence[Fact]], truth: Sequence[Sequence[Fact]]) -> dict[str, FactScore]:
    """Facts stated against facts that are true, by kind; one entry of each a pair. {} for no pairs."""
    return _by_kind(stated, [[facts] for facts in truth], union)


def union(sets: Sequence[set[Hashable]]) -> set[Hashable]:
    """What any of the sets holds."""
    return set().union(*sets)


def consensus(sets: Sequence[set[Hashable]]) -> set[Hashable]:
    """What more than half of the sets hold: three of five people, both of two."""
    counts = Counter(value for values in sets for value in values)
    return {value for value, count in counts.items() if 2 * count > len(sets)}


def f1_of_sums(sums: np.ndarray) -> np.ndarray:
    """F1 x 100 from sums of `FactScore.counts`, [..., 3] -> [...]; nan where nothing was to be stated."""
    right, stated, true = np.moveaxis(np.asarray(sums, dtype=np.float64), -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(true > 0, 200 * right / (stated + true), np.nan)


def precision_of_sums(sums: np.ndarray) -> np.ndarray:
    """Precision x 100, [..., 3] -> [...]; nan where nothing was stated."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(sums[..., 1] > 0, 100 * sums[..., 0] / sums[..., 1], np.nan)


def recall_of_sums(sums: np.ndarray) -> np.ndarray:
    """Recall x 100, [..., 3] -> [...]; nan where nothing was to be stated."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(sums[..., 2] > 0, 100 * sums[..., 0] / sums[..., 2], np.nan)


def _by_kind(
    stated: Sequence[Sequence[Fact]],
    told: Sequence[Sequence[Sequence[Fact]]],
    join: Callable[[Sequence[set[Hashable]]], set[Hashable]],
) -> dict[str, FactScore]:
    """stated: facts of each changed pair's caption. told: of each changed pair, the facts of each reference."""
    if not stated:
        return {}
    return {
        kind: _score(
            [_values(facts, kind) for facts in stated],
            [join([_values(facts, kind) for facts in people]) for people in told],
        )
        for kind in KINDS
    }


def _values(facts: Sequence[Fact], kind: str) -> set[Hashable]:
    return {KINDS[kind](fact) for fact in facts} - {None}


def _score(stated: Sequence[set[Hashable]], truth: Sequence[set[Hashable]]) -> FactScore:
    counts = np.array(
        [[len(ours & theirs), len(ours), len(theirs)] for ours, theirs in zip(stated, truth, strict=True)]
    )
    right, said, true = (int(total) for total in counts.sum(axis=0))
    ours = Counter(value for values in stated for value in values)
    theirs = Counter(value for values in truth for value in values)
    both = Counter(value for mine, others in zip(stated, truth, strict=True) for value in mine & others)
    # Dealt at random, a value stated in s of n captions meets one that is true of t of n pairs s * t / n times.
    met = sum(number * theirs[value] for value, number in ours.items()) / len(counts)
    return FactScore(
        precision=_share(right, said),
        recall=_share(right, true),
        f1=_share(2 * right, said + true) if true else None,
        shuffled=_share(2 * met, said + true) if true else None,
        values={
            _name(value): _value(both[value], ours[value], theirs[value], len(counts))
            for value in sorted(ours.keys() | theirs.keys(), key=lambda value: (-theirs[value], _name(value)))
        },
        counts=counts,
    )


def _value(right: int, stated: int, true: int, pairs: int) -> Value:
    return Value(
        true=true,
        stated=stated,
        precision=_share(right, stated),
        recall=_share(right, true),
        f1=_share(2 * right, stated + true) if true else None,
        shuffled=_share(2 * stated * true / pairs, stated + true) if true else None,
    )


def _name(value: Hashable) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _share(part: float, whole: float) -> float | None:
    return 100 * part / whole if whole else None
