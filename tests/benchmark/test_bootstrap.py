"""Intervals and paired differences."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from rsiccllm.benchmark.bootstrap import (
    Interval,
    Part,
    _coins,
    _interval,
    bootstrap,
    bootstrap_all,
    holm,
    mean_part,
    paired_difference,
    randomisation_test,
    ratio_part,
)
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


def test_the_ends_are_the_percentiles_of_the_draws() -> None:
    found = _interval(400.0, np.random.default_rng(0).permutation(np.arange(1001.0)))
    assert found == Interval(400.0, 25.0, 975.0)
    assert found.half == 475
    assert _interval(1.0, np.array([np.nan, 2.0, np.nan])) == Interval(1.0, 2.0, 2.0)


def test_a_thousand_draws_of_the_same_seed_where_nothing_is_said() -> None:
    values = np.random.default_rng(5).normal(size=(40, 2))
    first, second = values.T
    assert bootstrap(first) == bootstrap(first, draws=1000, seed=0)
    assert paired_difference(first, second) == paired_difference(first, second, draws=1000, seed=0)
    assert bootstrap_all({"a": mean_part(first)}) == bootstrap_all({"a": mean_part(first)}, 1000, 0)


def test_sums_are_of_double_precision() -> None:
    small = np.full(3, 0.1, np.float32)
    assert mean_part(small).parts.dtype == ratio_part(small[:, None], f1_of_sums).parts.dtype == np.float64


def test_as_many_coins_are_thrown_as_asked_for() -> None:
    blocks = list(_coins(3, 1200, 0))
    assert [block.shape for block in blocks] == [(500, 3), (500, 3), (200, 3)]
    assert np.unique(np.concatenate(blocks)).tolist() == [0, 1]


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


def test_randomisation_test_equals_the_exact_one() -> None:
    first, second = np.array([5.0, 4, 7, 6, 8, 3, 9, 6]), np.array([4.0, 4, 5, 7, 5, 2, 6, 5])
    # every one of the 2^8 ways to let pairs change places
    gaps = first - second
    signs = np.array(list(itertools.product([1, -1], repeat=8)))
    exact = float((np.abs((signs * gaps).mean(1)) >= abs(gaps.mean()) - 1e-12).mean())
    found = randomisation_test(mean_part(first), mean_part(second), draws=20000)
    assert found.p == pytest.approx(exact, abs=0.006)
    assert found.spread == pytest.approx((signs * gaps).mean(1).std(), rel=0.02)
    assert randomisation_test(mean_part(first), mean_part(first)).p == 1


def test_randomisation_test_of_equals_is_rarely_significant() -> None:
    random = np.random.default_rng(0)
    hard = random.normal(0, 3, 80)
    p = [
        randomisation_test(
            mean_part(hard + random.normal(0, 1, 80)), mean_part(hard + random.normal(0, 1, 80)), draws=400, seed=seed
        ).p
        for seed in range(200)
    ]
    assert 0.01 <= np.mean(np.array(p) < 0.05) <= 0.10
    better = randomisation_test(mean_part(hard + 1), mean_part(hard + random.normal(0, 1, 80)), draws=2000)
    assert better.p < 0.01


def test_ratio_scores_are_tested_on_sums() -> None:
    right = np.tile([[1, 1, 1], [1, 2, 1], [0, 1, 2]], (30, 1))
    wrong = np.tile([[0, 1, 1], [1, 2, 1], [0, 1, 2]], (30, 1))
    found = randomisation_test(Part(right.astype(float), f1_of_sums), Part(wrong.astype(float), f1_of_sums))
    assert found.p == pytest.approx(1 / 10001)
    with pytest.raises(InputError, match="3 and 2 pairs"):
        randomisation_test(mean_part(np.zeros(3)), mean_part(np.zeros(2)))


def test_a_difference_that_is_not_defined_is_not_tested() -> None:
    nothing = Part(np.zeros((3, 3)), f1_of_sums)
    assert np.isnan(randomisation_test(nothing, nothing)).all()


def test_holm_by_hand() -> None:
    # sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1: 0.04, 0.06, 0.06, 0.06 (never falling)
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    corrected = holm([0.01, float("nan"), 0.04])
    assert corrected[0] == pytest.approx(0.02)
    assert np.isnan(corrected[1])
    assert holm([]) == []


def test_one_draw_serves_all_scores() -> None:
    values = np.random.default_rng(4).normal(size=(50, 2))
    both = bootstrap_all({"a": mean_part(values[:, 0]), "b": mean_part(values[:, 1])}, draws=100)
    for column, name in enumerate("ab"):
        alone = bootstrap(values[:, column], draws=100)
        assert vars(both[name]) == pytest.approx(vars(alone))
    assert bootstrap_all({}) == {}
