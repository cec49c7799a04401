"""Scores of captions of disturbed pairs: one point for each probe and strength."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from rsiccllm.benchmark.bootstrap import Interval, Part, bootstrap_all, mean_part
from rsiccllm.benchmark.fact_scores import change_flag, facts_against
from rsiccllm.benchmark.probes import PROBES, Case
from rsiccllm.benchmark.scores import score
from rsiccllm.facts import OPPOSITE, Fact, parse

SCHEMA = "rsiccllm.probes.v1"

SCORES = {
    "flag": "captions that say rightly whether there is a change, %",
    "invented": "unchanged pairs said to have changed, %",
    "object_direction_f1": "F1 of what changed and which way, changed pairs, x 100",
    "object_direction_gain": "the same minus the F1 of the captions dealt out at random",
    "place_f1": "F1 of where, changed pairs, x 100",
    "rouge_l": "ROUGE-L (pycocoevalcap, beta 1.2), words, x 100",
    "cider_d": "CIDEr-D (pycocoevalcap), words, x 100",
    "same_answer": "captions that are word for word those of the pairs as they are, %",
    "reversed": "of the changes stated of a pair as it is, those now stated the other way round, %",
}
"""What is scored at each point. A score that cannot be had there (no references fit) is absent."""


class Point(NamedTuple):
    """One probe at one strength: each score with its interval over pairs, and the gain, which has none."""

    strength: float
    scores: dict[str, Interval]
    gain: float | None


@dataclass(frozen=True)
class Probed:
    """All points by probe, each probe's first the pairs as they are (strength 0)."""

    pairs: int
    points: dict[str, list[Point]]

    def to_dict(self) -> dict[str, Any]:
        """probes.json: {"probes": {name: [{"strength", "scores", "interval_95"}, ...]}, ...}."""
        return {
            "schema": SCHEMA,
            "pairs": self.pairs,
            "scores": SCORES,
            "about": {probe.name: {"what": probe.what, "unit": probe.unit} for probe in PROBES},
            "probes": {
                name: [
                    {
                        "strength": point.strength,
                        "scores": {
                            **{key: found.value for key, found in point.scores.items()},
                            **({} if point.gain is None else {"object_direction_gain": point.gain}),
                        },
                        "interval_95": {key: [found.low, found.high] for key, found in point.scores.items()},
                    }
                    for point in points
                ]
                for name, points in self.points.items()
            },
        }


def score_point(strength: float, captions: Sequence[str], cases: Sequence[Case], plain: Sequence[str]) -> Point:
    """Score captions of disturbed cases; no image is looked at. plain: the captions of the pairs as they are."""
    read, before = [parse(text) for text in captions], [parse(text) for text in plain]
    same = np.array([new == old for new, old in zip(captions, plain, strict=True)])
    parts: dict[str, Part] = {"same_answer": mean_part(100.0 * same)}
    gain = None
    if all(case.changed is not None for case in cases):
        flag = change_flag([found.changed for found in read], [bool(case.changed) for case in cases]).parts()
        parts["flag"] = flag["accuracy"]
        if "hallucination" in flag:
            parts["invented"] = flag["hallucination"]
    known = [(found.facts, case.facts) for found, case in zip(read, cases, strict=True) if case.facts]
    if known:
        facts = facts_against([stated for stated, _ in known], [list(true) for _, true in known if true])
        gain = facts["object_direction"].gain
        for kind in ("object_direction", "place"):
            if "f1" in (found_parts := facts[kind].parts()):
                parts[f"{kind}_f1"] = found_parts["f1"]
    if all(case.references for case in cases):
        names = [str(number) for number in range(len(cases))]
        references = dict(zip(names, (list(case.references) for case in cases), strict=True))
        words = score(dict(zip(names, captions, strict=True)), references, meteor=False, sbs=False).segments.parts()
        parts |= {name: words[name] for name in ("rouge_l", "cider_d")}
    turned = [_turned_round(old.facts, new.facts) for old, new in zip(before, read, strict=True)]
    if any(total for _, total in turned):
        parts["reversed"] = Part(np.array(turned, np.float64), _share)
    return Point(strength, _intervals(parts), gain)


def _intervals(parts: Mapping[str, Part]) -> dict[str, Interval]:
    """Intervals of scores over different numbers of pairs, in the order of SCORES."""
    return {name: bootstrap_all({name: parts[name]})[name] for name in SCORES if name in parts}


def _share(sums: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return 100 * sums[..., 0] / sums[..., 1]


def _turned_round(old: Sequence[Fact], new: Sequence[Fact]) -> tuple[int, int]:
    """Of the (object, direction) stated before, how many are stated with the other direction now, and how many in all.

    Those that a caption states both ways ("a house replaces a house") do not count.
    """
    was, now = ({(fact.object, fact.direction) for fact in facts} for facts in (old, new))
    single = {(thing, way) for thing, way in was if (thing, OPPOSITE[way]) not in was}
    return sum((thing, OPPOSITE[way]) in now for thing, way in single), len(single)
