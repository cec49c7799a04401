"""Calibration: from the raw probability of a caption to the chance that it is right.

Platt scaling (Platt 1999) of the log odds: confidence = sigmoid(slope * logit(raw) + intercept). Two numbers, so a few
hundred rows fit them, and the order of captions by confidence stays that of the raw probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rsiccllm.errors import InputError
from rsiccllm.files import read_json, write_json

FILE = "calibration.json"
SCHEMA = "rsiccllm.calibration.v1"
BINS = 10
COVERAGES = (0.25, 0.5, 0.75, 1.0)

Row = tuple[float, bool]
"""A caption: its raw probability, 0..1, and whether it was right."""


@dataclass(frozen=True)
class Calibration:
    """slope, intercept: of the log odds of the raw probability."""

    slope: float
    intercept: float

    def confidence(self, raw: float) -> float:
        """The chance that a caption of this raw probability is right, 0..1."""
        return float(_sigmoid(self.slope * _logit(np.array(raw)) + self.intercept))


def fit(rows: Sequence[Row]) -> Calibration:
    """Maximum likelihood with Platt's smoothed targets, by Newton's method.

    Raises InputError with fewer than 20 rows, or where all are right or all wrong: there is then nothing to learn.
    """
    raw, right = _columns(rows)
    wins, losses = int(right.sum()), int((~right).sum())
    if len(rows) < 20 or not wins or not losses:
        raise InputError(
            f"calibration: {len(rows)} rows, {wins} right; expected at least 20 with some right and some wrong"
        )
    target = np.where(right, (wins + 1) / (wins + 2), 1 / (losses + 2))
    inputs = np.stack([_logit(raw), np.ones(len(raw))], 1)  # [rows, 2]
    weights = np.zeros(2)
    for _ in range(100):
        chance = _sigmoid(inputs @ weights)
        gradient = inputs.T @ (chance - target)
        # A little of a ridge: rows that all share one probability leave the slope open.
        hessian = (inputs * (chance * (1 - chance))[:, None]).T @ inputs + 1e-6 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        # Far from the optimum a full step of Newton's may overshoot.
        weights -= step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < 1e-9:
            break
    return Calibration(float(weights[0]), float(weights[1]))


def calibration_error(rows: Sequence[Row], bins: int = BINS) -> float:
    """Expected calibration error (Naeini et al. 2015), 0..1, over bins that hold equally many rows.

    The mean over bins, weighted by rows, of |share that is right - mean probability|.
    """
    chance, right = _columns(rows)
    order = np.argsort(chance, kind="stable")
    parts = np.array_split(order, min(bins, len(order)))
    return float(sum(len(part) * abs(right[part].mean() - chance[part].mean()) for part in parts) / len(order))


def risk_coverage(rows: Sequence[Row]) -> dict[float, float]:
    """Share that is wrong, 0..1, among the surest 25, 50, 75 and 100 % of the rows, by that share.

    Rows of equal probability stand for one another: a row at the edge counts by the mean of its equals.
    """
    chance, right = _columns(rows)
    wrong = (~right).astype(float)
    for value in np.unique(chance):
        wrong[chance == value] = wrong[chance == value].mean()
    surest = wrong[np.argsort(-chance, kind="stable")]
    return {share: float(surest[: max(1, round(share * len(surest)))].mean()) for share in COVERAGES}


def write_calibration(
    folder: Path, rows: Sequence[Row], held_out: Sequence[Row], right: str, note: str = ""
) -> tuple[Calibration, list[str]]:
    """Fit on `rows`, measure on `held_out`, write calibration.json beside the weights in `folder`.

    right: in words, when a caption counted as right. note: where the rows come from. Returns the calibration and lines
    to print: calibration error and risk by coverage, raw and calibrated. Raises InputError as `fit` does.
    """
    calibration = fit(rows)
    if not held_out:
        raise InputError("calibration: no held-out rows, expected at least one")
    calibrated = [(calibration.confidence(raw), good) for raw, good in held_out]
    measured: dict[str, Any] = {}
    lines = [f"{'on ' + str(len(held_out)) + ' held-out rows':24} error  " + "  ".join(
        f"risk at {100 * share:.0f} %" for share in COVERAGES)]  # fmt: skip
    for name, table in (("raw probability", held_out), ("calibrated confidence", calibrated)):
        error, risk = calibration_error(table), risk_coverage(table)
        measured[name] = {"calibration_error": error, "risk": {f"{share:g}": value for share, value in risk.items()}}
        lines.append(f"{name:24} {error:.3f}  " + "  ".join(f"{value:12.3f}"[-12:] for value in risk.values()))
    write_json(
        folder / FILE,
        {
            "schema": SCHEMA,
            "slope": calibration.slope,
            "intercept": calibration.intercept,
            "right": right,
            "note": note,
            "rows": len(rows),
            "held_out": {"rows": len(held_out), **measured},
        },
    )
    return calibration, lines


def load_calibration(folder: Path) -> Calibration | None:
    """The calibration beside a model's weights, None where there is none. Raises InputError for a broken file."""
    path = folder / FILE
    if not path.exists():
        return None
    held = read_json(path)
    if not isinstance(held, dict) or held.get("schema") != SCHEMA:
        raise InputError(f"{path}: not a calibration; expected the schema {SCHEMA}")
    numbers = []
    for name in ("slope", "intercept"):
        value = held.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not -1e300 < value < 1e300:
            raise InputError(f"{path}: field '{name}': expected a number, got {value!r}")
        numbers.append(float(value))
    return Calibration(*numbers)


def _columns(rows: Sequence[Row]) -> tuple[np.ndarray, np.ndarray]:
    chance = np.array([row[0] for row in rows], dtype=np.float64)
    if not len(rows) or not ((chance >= 0) & (chance <= 1)).all():
        raise InputError("calibration: expected rows of (probability in 0..1, right or wrong)")
    return chance, np.array([row[1] for row in rows], dtype=bool)


def _logit(chance: np.ndarray) -> np.ndarray:
    held = np.clip(chance, 1e-6, 1 - 1e-6)
    return np.log(held / (1 - held))


def _sigmoid(odds: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(odds, -500, 500)))
