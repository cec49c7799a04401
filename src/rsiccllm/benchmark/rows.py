"""One row of a table: a set of captions, its scores and what they state. Trivial rows come with every set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rsiccllm.benchmark.baselines import CHANGE, NO_CHANGE, Baseline, baselines
from rsiccllm.benchmark.fact_scores import FactScores, fact_scores
from rsiccllm.benchmark.predictions import match
from rsiccllm.benchmark.scores import Job, Scores, score_jobs
from rsiccllm.benchmark.tokenise import Tokenisation
from rsiccllm.facts import Fact


@dataclass(frozen=True)
class Row:
    """baseline: computed from the references alone. facts: None where change flags are unknown."""

    name: str
    baseline: bool
    scores: Scores
    facts: FactScores | None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        facts = None if self.facts is None else self.facts.to_dict()
        return {"name": self.name, "baseline": self.baseline, "scores": self.scores.to_dict(), "facts": facts}


def score_rows(
    systems: Mapping[str, Mapping[str, str]],
    references: Mapping[str, Sequence[str]],
    changed: Mapping[str, bool] | None,
    planted: Mapping[str, Sequence[Fact]] | None = None,
    no_change: str = NO_CHANGE,
    change: str = CHANGE,
    tokenisation: Tokenisation = "word",
    meteor: bool | None = None,
) -> list[Row]:
    """The rows of a table: every system (name -> captions by pair id), then the trivial ones.

    references, changed, planted: by pair id; `changed` None where it is not known of every pair.
    no_change, change: the trivial rows' sentences. Raises InputError where a system's ids are not the references'.
    """
    for name, predictions in systems.items():
        match(predictions, references, name)
    given = [Baseline(name, Job(predictions, references)) for name, predictions in systems.items()]
    every = [*given, *baselines(references, changed, no_change, change)]
    scored = score_jobs([entry.job for entry in every], changed, tokenisation, meteor)
    return [
        Row(
            name=entry.name,
            baseline=place >= len(given),
            scores=scores,
            facts=None
            if changed is None
            else fact_scores(entry.job.predictions, entry.job.references, changed, planted),
        )
        for place, (entry, scores) in enumerate(zip(every, scored, strict=True))
    ]


def baseline_rows(
    references: Mapping[str, Sequence[str]],
    changed: Mapping[str, bool] | None,
    planted: Mapping[str, Sequence[Fact]] | None = None,
    no_change: str = NO_CHANGE,
    change: str = CHANGE,
    tokenisation: Tokenisation = "word",
    meteor: bool | None = None,
) -> list[Row]:
    """The trivial rows alone; arguments as for `score_rows`."""
    return score_rows({}, references, changed, planted, no_change, change, tokenisation, meteor)
