"""Intervals and paired differences."""

from __future__ import annotations

import numpy as np
import pytest

from rsiccllm.benchmark.bootstrap import bootstrap, paired_difference
from rsiccllm.benchmark.fact_scores import f1_of_sums
from rsiccllm.errors import InputError


def test_interval_of_a_mean_is_that_of_theory() -> None:
    values = np.random.default_rng(1).normal(10, 3, 900)
    found = bootstrap(values, draws=2000)
    assert found.value == pytest.approx(values.mean())
    half = 1.96 * values.std() / np.sqrt(900)
    assert found.low == pytest.approx(values.mean() - half, abs=0.03)
    assert found.high == pytest.approx(values.mean() + half, abs=0.03)
    assert bootstrap(values, draws=2000) == found
    assert bootstrap(values, draws=2000, seed=1) != found


def test_the_interval_covers_in_95_of_100() -> None:
    random = np.random.default_rng(0)
    samples = [bootstrap(random.random(60), draws=300) for _ in range(300)]
    covered = sum(found.low <= 0.5 <= found.high for found in samples)
    assert 0.90 < covered / 300 < 0.98


def test_ratio_of_sums_and_undefined_draws() -> None:
    counts = np.array([[1, 2, 1], [0, 1, 2], [0, 0, 0], [0, 0, 0]])  # right, stated, true
    found = bootstrap(counts, f1_of_sums)
    assert found.value == pytest.approx(200 * 1 / (3 + 3))
    # a draw of the last two pairs alone has no F1 and is left out
    assert (found.low, found.high) == (0, pytest.approx(200 / 3))
    nothing = bootstrap(np.zeros((3, 3)), f1_of_sums)
    assert np.isnan([nothing.value, nothing.low, nothing.high]).all()


def test_paired_difference_cancels_what_both_share() -> None:
    random = np.random.default_rng(2)
    hard = random.normal(50, 20, 400)
    first, second = hard + random.normal(1, 0.5, 400), hard
    found = paired_difference(first, second)
    assert found.value == pytest.approx((first - second).mean())
    assert 0.9 < found.low < found.value < found.high < 1.1
    same = paired_difference(hard, hard)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    alone = bootstrap(first)
    assert alone.high - alone.low > 10 * (found.high - found.low)


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(InputError, match="no pairs"):
        bootstrap(np.zeros((0, 3)), f1_of_sums)
    with pytest.raises(InputError, match="3 and 2 pairs"):
        paired_difference(np.zeros(3), np.zeros(2))
