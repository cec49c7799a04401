"""Calibration held against hand-worked numbers, known coefficients, and a general optimiser."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rsiccllm.caption.calibration import (
    FILE_OF_SEVERAL,
    Calibration,
    Clued,
    calibration_error,
    fit,
    load_calibration,
    risk_coverage,
    write_calibration,
)
from rsiccllm.errors import InputError


def drawn(slope: float, intercept: float, count: int, seed: int = 0) -> list[Clued]:
    rng = np.random.default_rng(seed)
    raw = rng.uniform(0.05, 0.99, count)
    chance = 1 / (1 + np.exp(-(slope * np.log(raw / (1 - raw)) + intercept)))
    return [((float(p),), bool(good)) for p, good in zip(raw, rng.random(count) < chance, strict=True)]


def test_known_coefficients_are_found_again() -> None:
    found = fit(drawn(0.7, -1.2, 40_000))
    assert found.slopes == pytest.approx((0.7,), abs=0.03)
    assert found.intercept == pytest.approx(-1.2, abs=0.03)


def test_a_second_clue_is_weighed_beside_the_first_and_orders_what_the_first_cannot() -> None:
    rng = np.random.default_rng(3)
    clues = rng.uniform(0.05, 0.95, (40_000, 2))
    odds = np.log(clues / (1 - clues)) @ [0.2, 1.1] - 0.4
    right = rng.random(len(clues)) < 1 / (1 + np.exp(-odds))
    found = fit([((float(a), float(b)), bool(good)) for (a, b), good in zip(clues, right, strict=True)])
    assert [*found.slopes, found.intercept] == pytest.approx([0.2, 1.1, -0.4], abs=0.04)
    assert found.confidence([0.5, 0.9]) > found.confidence([0.9, 0.5])


def test_the_fit_is_the_optimum_of_platts_likelihood() -> None:
    optimize = pytest.importorskip("scipy.optimize")
    rows = drawn(1.5, 0.4, 60, seed=4)
    raw = np.array([row[0][0] for row in rows])
    right = np.array([row[1] for row in rows])
    target = np.where(right, (right.sum() + 1) / (right.sum() + 2), 1 / ((~right).sum() + 2))
    odds = np.log(raw / (1 - raw))

    def loss(weights: np.ndarray) -> float:
        z = weights[0] * odds + weights[1]
        return float((np.logaddexp(0, z) - target * z).sum())

    best = optimize.minimize(loss, np.zeros(2), tol=1e-12).x
    found = fit(rows)
    assert [*found.slopes, found.intercept] == pytest.approx(best, abs=1e-3)


def test_error_and_risk_by_hand() -> None:
    # Ten bins of two: in each the mean is 0.8 and one of the two is right, so each is 0.3 off.
    assert calibration_error([(0.8, True), (0.8, False)] * 10) == pytest.approx(0.3)
    assert calibration_error([(1.0, True)] * 5 + [(0.0, False)] * 5) == 0
    # Two bins: (0.9, 0.7: one right -> |0.5 - 0.8|), (0.4, 0.2: none -> 0.3); weighted 0.3.
    assert calibration_error([(0.9, True), (0.7, False), (0.4, False), (0.2, False)], bins=2) == pytest.approx(0.3)
    risk = risk_coverage([(0.9, True), (0.8, True), (0.6, False), (0.1, False)])
    assert risk == {0.25: 0, 0.5: 0, 0.75: pytest.approx(1 / 3), 1.0: 0.5}
    # Equal probabilities: whichever of them come first must not matter.
    assert risk_coverage([(0.5, True), (0.5, False), (0.5, True), (0.5, False)])[0.25] == 0.5


def test_what_is_written_is_what_is_applied_and_error_falls(tmp_path: Path) -> None:
    assert load_calibration(tmp_path) is None
    rows, held_out = drawn(0.6, -1.5, 2000, seed=1), drawn(0.6, -1.5, 2000, seed=2)
    made, lines = write_calibration(tmp_path, rows, held_out, "every fact is right", "drawn")
    assert load_calibration(tmp_path) == made
    assert len(lines) == 3
    before, after = (float(line.split()[2]) for line in lines[1:])
    assert after < 0.03 < 0.2 < before
    # The order of captions is kept, so the risk by coverage is the same.
    assert lines[1].split()[3:] == lines[2].split()[3:]
    assert load_calibration(tmp_path, FILE_OF_SEVERAL) is None
    of_several, _ = write_calibration(tmp_path, rows, held_out, "every fact is right", "drawn", answers=18)
    assert load_calibration(tmp_path, FILE_OF_SEVERAL) == of_several
    assert load_calibration(tmp_path) == made
    assert (of_several.answers, made.answers) == (18, 1)


def test_confidence_is_in_range_at_the_ends() -> None:
    for raw in (0.0, 1.0, 1e-30):
        assert 0 <= Calibration((40.0,), -3.0).confidence([raw]) <= 1


def test_what_cannot_be_fitted_or_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="30 rows, 30 right"):
        fit([((0.9,), True)] * 30)
    with pytest.raises(InputError, match="2 clues and the model gives 1"):
        Calibration((1.0, 1.0), 0.0).confidence([0.5])
    with pytest.raises(InputError, match=r"clues in 0\.\.1"):
        fit([((1.9,), True), ((0.1,), False)] * 30)
    for text, message in (
        ("[]", "not a calibration"),
        ('{"schema": "rsiccllm.calibration.v1", "slope": 1, "intercept": 0}', "not a calibration"),
        ('{"schema": "rsiccllm.calibration.v2", "slope": 1, "intercept": 0}', "field 'slopes'"),
        ('{"schema": "rsiccllm.calibration.v2", "slopes": ["1"], "intercept": 0}', "field 'slopes'"),
        ('{"schema": "rsiccllm.calibration.v2", "slopes": [1], "intercept": NaN}', "field 'intercept'"),
    ):
        (tmp_path / "calibration.json").write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=message):
            load_calibration(tmp_path)
    fits = '{"schema": "rsiccllm.calibration.v2", "slopes": [1], "intercept": 0, "answers": %s}'
    for name, answers, expected in (
        ("calibration.json", "18", "1"),
        (FILE_OF_SEVERAL, "1", "2 to 32"),
        (FILE_OF_SEVERAL, '"9"', "2 to 32"),
        (FILE_OF_SEVERAL, "33", "2 to 32"),
    ):
        (tmp_path / name).write_text(fits % answers, encoding="utf-8")
        with pytest.raises(InputError, match=f"field 'answers': expected {expected}, got {answers}".replace('"', "'")):
            load_calibration(tmp_path, name)
