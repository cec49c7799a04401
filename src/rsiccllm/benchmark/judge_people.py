"""How far judges agree among themselves and with people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from rsiccllm.agreement import agreement
from rsiccllm.benchmark.judge_questions import DIMENSIONS, Rating
from rsiccllm.errors import InputError
from rsiccllm.files import read_jsonl


class PersonRating(BaseModel):
    """One line of a file of people's ratings: who says what of which model's caption of which pair."""

    model_config = ConfigDict(extra="ignore")

    rater: str = Field(min_length=1)
    pair: str
    model: str
    object: int = Field(ge=1, le=5)
    direction: int = Field(ge=1, le=5)
    verb: int = Field(ge=1, le=5)
    magnitude: int = Field(ge=1, le=5)


Scores = dict[tuple[str, str], dict[str, int]]
"""By (pair id, model): scores by dimension."""


def read_people(path: Path) -> dict[str, Scores]:
    """People's ratings from JSON Lines of `PersonRating`, by rater. Raises InputError naming file, line and field."""
    found: dict[str, Scores] = {}
    for line in read_jsonl(path, PersonRating):
        own = found.setdefault(line.rater, {})
        if (line.pair, line.model) in own:
            raise InputError(f"{path}: '{line.rater}' rates '{line.model}' on '{line.pair}' twice")
        own[line.pair, line.model] = {name: getattr(line, name) for name in DIMENSIONS}
    return found


def agreements(
    judges: Mapping[str, Mapping[tuple[str, str], Rating | None]], people: Mapping[str, Scores]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Krippendorff's alpha (ordinal) by dimension: among the judges, among people, and of each judge with the people.

    The people that a judge is held against are their median where several rate one caption. {} for what has no two
    raters.
    """
    rated: dict[str, Scores] = {
        name: {key: rating.scores() for key, rating in own.items() if rating is not None}
        for name, own in judges.items()
    }
    groups: dict[str, Mapping[str, Scores]] = {}
    if len(rated) > 1:
        groups["judges"] = rated
    if len(people) > 1:
        groups["people"] = people
    if people:
        every = {key for own in people.values() for key in own}
        together: Scores = {
            key: {
                name: round(float(np.median([own[key][name] for own in people.values() if key in own])))
                for name in DIMENSIONS
            }
            for key in every
        }
        groups |= {f"{name} and people": {name: own, "people": together} for name, own in rated.items()}
    return {
        title: {name: asdict(agreement(_of(raters, name), "ordinal")) for name in DIMENSIONS}
        for title, raters in groups.items()
    }


def _of(raters: Mapping[str, Scores], dimension: str) -> dict[str, dict[str, int]]:
    return {
        rater: {f"{pair}|{model}": scores[dimension] for (pair, model), scores in own.items()}
        for rater, own in raters.items()
    }
