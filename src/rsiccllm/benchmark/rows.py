"""One row of a table: a set of captions, its scores and what they state. Trivial rows come with every set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rsiccllm.benchmark.baselines import CHANGE, NO_CHANGE, PERSON, Baseline, baselines
from rsiccllm.benchmark.copied import Copied, count_copied
from rsiccllm.benchmark.fact_scores import FactScores, fact_scores
from rsiccllm.benchmark.grounding import Grounding
from rsiccllm.benchmark.predictions import match
from rsiccllm.benchmark.scores import Job, Scores, score_jobs
from rsiccllm.benchmark.tokenise import Tokenisation
from rsiccllm.facts import Fact


@dataclass(frozen=True)
class Row:
    """baseline: no model made it; legend: what it is, for those. facts: None where change flags are unknown.

    copied: captions that are training captions word for word; None where no training captions are known.
    grounding: the system's change maps against the masks; None where it has none, or there are no masks.
    """

    name: str
    baseline: bool
    scores: Scores
    facts: FactScores | None
    legend: str = ""
    copied: Copied | None = None
    grounding: Grounding | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name,
            "baseline": self.baseline,
            "legend": self.legend,
            "scores": self.scores.to_dict(),
            "facts": None if self.facts is None else self.facts.to_dict(),
            "copied": None if self.copied is None else self.copied.to_dict(),
            "grounding": None if self.grounding is None else self.grounding.to_dict(),
        }


def score_rows(
    systems: Mapping[str, Mapping[str, str]],
    references: Mapping[str, Sequence[str]],
    changed: Mapping[str, bool] | None,
    planted: Mapping[str, Sequence[Fact]] | None = None,
    no_change: str = NO_CHANGE,
    change: str = CHANGE,
    tokenisation: Tokenisation = "word",
    meteor: bool | None = None,
    sbs: str | None = None,
    looked: Sequence[Baseline] = (),
    training: frozenset[str] | None = None,
    grounding: Mapping[str, Grounding] | None = None,
) -> list[Row]:
    """The rows of a table: every system (name -> captions by pair id), then the trivial ones.

    references, changed, planted: by pair id; `changed` None where it is not known of every pair.
    no_change, change: the trivial rows' sentences. looked: rows of `image_baselines`. training: `training_captions`.
    grounding: by system.
    Raises InputError where a system's ids are not the references'.
    """
    for name, predictions in systems.items():
        match(predictions, references, name)
    given = [Baseline(name, "", Job(predictions, references)) for name, predictions in systems.items()]
    without = baselines(references, changed, no_change, change)
    # a person comes last: the ceiling below the floors
    every = [*given, *sorted([*without, *looked], key=lambda entry: entry.name == PERSON)]
    scored = score_jobs([entry.job for entry in every], changed, tokenisation, meteor, sbs)
    return [
        Row(
            name=entry.name,
            baseline=place >= len(given),
            scores=scores,
            facts=None
            if changed is None
            else fact_scores(entry.job.predictions, entry.job.references, changed, planted),
            legend=entry.legend,
            copied=None if training is None else count_copied(entry.job.predictions, training, changed),
            grounding=(grounding or {}).get(entry.name) if place < len(given) else None,
        )
        for place, (entry, scores) in enumerate(zip(every, scored, strict=True))
    ]
