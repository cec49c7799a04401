"""What people say of captions, 1 to 5, and how far judges agree with them and among themselves."""

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

RATINGS = "ratings.jsonl"
"""The file that `bench rate` writes."""

Key = tuple[str, str]
"""One caption: the pair's id, the model's name."""

Scores = dict[Key, dict[str, int]]
"""Scores by dimension."""


class PersonRating(BaseModel):
    """One line of a file of people's ratings: who says what of which model's caption of which pair.

    caption: the text that was rated; where it is given and the caption is another one by now, the line does not stand.
    at: when; of several lines with it on one caption the last stands.
    """

    model_config = ConfigDict(extra="ignore")

    rater: str = Field(min_length=1)
    pair: str
    model: str
    object: int = Field(ge=1, le=5)
    direction: int = Field(ge=1, le=5)
    verb: int = Field(ge=1, le=5)
    magnitude: int = Field(ge=1, le=5)
    caption: str | None = None
    at: str | None = None

    def scores(self) -> dict[str, int]:
        """Scores by dimension."""
        return {name: getattr(self, name) for name in DIMENSIONS}


def read_people(path: Path, said: Mapping[Key, str]) -> tuple[dict[str, Scores], int]:
    """People's ratings from JSON Lines of `PersonRating`, by rater, and how many lines do not stand.

    said: the captions that there are to rate. Raises InputError naming file, line and field, for two ratings of one
    caption by one person that do not say which is the later one, and where lines are there and none of them stands.
    """
    found: dict[str, Scores] = {}
    lines = read_jsonl(path, PersonRating)
    passed = 0
    for line in lines:
        key = (line.pair, line.model)
        if key not in said or line.caption not in {None, said[key]}:
            passed += 1
            continue
        own = found.setdefault(line.rater, {})
        if key in own and line.at is None:
            raise InputError(f"{path}: '{line.rater}' rates '{line.model}' on '{line.pair}' twice")
        own[key] = line.scores()
    if lines and not found:
        first = f"'{lines[0].model}' on '{lines[0].pair}'"
        raise InputError(f"{path}: none of its {len(lines)} ratings is of a caption of these results (first: {first})")
    return found, passed


def agreements(
    judges: Mapping[str, Mapping[Key, Rating | None]], people: Mapping[str, Scores]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Krippendorff's alpha (ordinal) by dimension: among the judges, among people, and of each judge with the people.

    The people that a judge is held against are their median where several rate one caption. {} for what has no two
    raters.
    """
    rated: dict[str, Scores] = {
        name: {key: rating.scores() for key, rating in own.items() if rating is not None}
        for name, own in judges.items()
    }
    groups: dict[str, Mapping[str, Any]] = {}
    if len(rated) > 1:
        groups["judges"] = rated
    if len(people) > 1:
        groups["people"] = people
    if people:
        every = {key for own in people.values() for key in own}
        together = {
            key: {
                name: float(np.median([own[key][name] for own in people.values() if key in own])) for name in DIMENSIONS
            }
            for key in every
        }
        groups |= {f"{name} and people": {name: own, "people": together} for name, own in rated.items()}
    return {
        title: {name: asdict(agreement(_of(raters, name), "ordinal")) for name in DIMENSIONS}
        for title, raters in groups.items()
    }


def agreement_lines(found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """What `agreements` returned, a line a group."""
    return [
        f"agreement, {title}: "
        + ", ".join(f"{name} {shown_alpha(one['alpha'])}" for name, one in dimensions.items())
        + f" (Krippendorff's alpha, ordinal; {max(one['items'] for one in dimensions.values())} captions)"
        for title, dimensions in found.items()
    ]


def shown_alpha(alpha: float | None) -> str:
    """An alpha as it is printed; a dash where it is not defined."""
    return "–" if alpha is None else f"{alpha:.2f}"


def _of(raters: Mapping[str, Mapping[Key, Mapping[str, float]]], dimension: str) -> dict[str, dict[str, float]]:
    return {
        rater: {f"{pair}|{model}": scores[dimension] for (pair, model), scores in own.items()}
        for rater, own in raters.items()
    }
