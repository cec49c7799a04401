from __future__ import annotations

import random

import pytest

from rsiccllm.agreement import agreement

# Four observers, twelve units: the worked example of Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011),
# section E; nominal 0.743, ordinal 0.815, interval 0.849 are the figures it arrives at.
EXAMPLE = {
    "A": [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
    "B": [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
    "C": [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
    "D": [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
}


@pytest.mark.parametrize(("level", "alpha"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_the_published_example(level: str, alpha: float) -> None:
    ratings = {r: {str(i): v for i, v in enumerate(row) if v is not None} for r, row in EXAMPLE.items()}
    found = agreement(ratings, level)  # type: ignore[arg-type]
    assert found.alpha == pytest.approx(alpha, abs=5e-4)
    assert (found.items, found.raters) == (11, 4)


def test_by_hand() -> None:
    # Units (a, a), (a, b), (b, b), (b, b): of 8 values 3 are a. Observed disagreement 2/8; expected
    # 2 * 3 * 5 / (8 * 7).
    ratings = {"x": {"1": "a", "2": "a", "3": "b", "4": "b"}, "y": {"1": "a", "2": "b", "3": "b", "4": "b"}}
    found = agreement(ratings)
    assert found.alpha == pytest.approx(1 - (2 / 8) / (30 / 56))
    assert found.same == 0.75
    assert str(found) == "Krippendorff's alpha 0.533, 75.0 % equal, 4 items, 2 raters"


def test_intervals_count_as_they_are_and_not_as_places_in_order() -> None:
    # Units (1, 1), (10, 10), (1, 2): observed 1/3; expected over the 15 pairs of 1, 1, 1, 2, 10, 10:
    # (3 * 1 + 6 * 81 + 2 * 64) / 15 = 617 / 15.
    found = agreement({"x": {"1": 1, "2": 10, "3": 1}, "y": {"1": 1, "2": 10, "3": 2}}, "interval")
    assert found.alpha == pytest.approx(1 - 5 / 617)


@pytest.mark.parametrize("skill", [0.0, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("reviewers", [2, 4])
def test_simulated_reviewers_of_known_agreement(skill: float, reviewers: int) -> None:
    """Each knows the truth with probability `skill` and guesses among three else, so two of them agree beyond chance
    where both know: alpha is skill squared. A third of the ratings is missing."""
    dice = random.Random(7)
    truth = {str(item): dice.choice(["accept", "edit", "reject"]) for item in range(4000)}
    ratings = {
        f"r{n}": {
            item: value if dice.random() < skill else dice.choice(["accept", "edit", "reject"])
            for item, value in truth.items()
            if dice.random() > 1 / 3
        }
        for n in range(reviewers)
    }
    found = agreement(ratings)
    assert found.alpha == pytest.approx(skill**2, abs=0.05)
    assert found.same == pytest.approx(skill**2 + (1 - skill**2) / 3, abs=0.04)


def test_where_it_is_not_defined() -> None:
    assert agreement({}).alpha is None
    alone = agreement({"a": {"1": "x"}, "b": {"2": "x"}})
    assert (alone.alpha, alone.same, alone.items, alone.raters) == (None, None, 0, 2)
    assert str(alone) == "no item has two ratings"
    one = agreement({"a": {"1": "x", "2": "y"}, "b": {"1": "x"}, "c": {}})
    assert (one.alpha, one.same, one.items, one.raters) == (None, 1.0, 1, 2)
    assert str(one) == "Krippendorff's alpha not defined (one value alone), 100.0 % equal, 1 items, 2 raters"
