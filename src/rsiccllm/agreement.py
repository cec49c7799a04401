"""How far people, or judging models, agree beyond chance: Krippendorff's alpha."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import krippendorff
import numpy as np

Rating = str | int | float


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far raters agree.

    alpha: 1 perfect, 0 as by chance, below 0 worse; None where it is not defined (no item with two ratings, or one
    value alone). same: share of pairs of ratings of one item that are equal, 0..1; None without such a pair. items:
    those with at least two ratings. raters: how many rated anything.
    """

    alpha: float | None
    same: float | None
    items: int
    raters: int

    def __str__(self) -> str:
        if self.same is None:
            return "no item has two ratings"
        alpha = "not defined (one value alone)" if self.alpha is None else f"{self.alpha:.3f}"
        return f"Krippendorff's alpha {alpha}, {100 * self.same:.1f} % equal, {self.items} items, {self.raters} raters"


def agreement(
    ratings: Mapping[str, Mapping[str, Rating]], level: Literal["nominal", "ordinal", "interval"] = "nominal"
) -> Agreement:
    """Agreement of {rater: {item: rating}}; not every rater need have rated every item.

    level: "nominal" for names, "ordinal" or "interval" for numbers (a rating from 1 to 5 is ordinal). Krippendorff,
    Content Analysis, 4th ed. 2018, ch. 12; computed by the package `krippendorff`.
    """
    raters = [rater for rater, own in ratings.items() if own]
    items = sorted({item for rater in raters for item in ratings[rater]})
    values = sorted({ratings[rater][item] for rater in raters for item in ratings[rater]})
    code = {value: float(place) if level == "nominal" else float(value) for place, value in enumerate(values)}
    table = np.array([[code[ratings[r][i]] if i in ratings[r] else np.nan for i in items] for r in raters])
    pairs = [
        ratings[a][item] == ratings[b][item]
        for a, b in combinations(raters, 2)
        for item in ratings[a].keys() & ratings[b].keys()
    ]
    if not pairs:
        return Agreement(None, None, 0, len(raters))
    several = (~np.isnan(table)).sum(axis=0) >= 2
    alpha = None
    if len(np.unique(table[:, several][~np.isnan(table[:, several])])) > 1:
        alpha = float(krippendorff.alpha(reliability_data=table, level_of_measurement=level))
    return Agreement(alpha, sum(pairs) / len(pairs), int(several.sum()), len(raters))
