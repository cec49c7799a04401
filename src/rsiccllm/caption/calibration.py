"""Calibration: from what speaks for a caption to the chance that it is right.

Platt scaling (Platt 1999) of the log odds of each clue: confidence = sigmoid(sum of slope * logit(clue) + intercept).
The clues are those of `rsiccllm.caption.result.Caption.clues`: the text's probability, what the change map says for it,
and of several answers their agreement. A few numbers, so some hundred rows fit them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rsiccllm.errors import InputError
from rsiccllm.files import read_json, write_json

FILE = "calibration.json"
FILE_OF_SEVERAL = "calibration_several.json"
"""Of captions that are the best of several answers; how many, the file says."""

SCHEMA = "rsiccllm.calibration.v2"
MOST = 32
"""Answers that a caption may be the best of."""

BINS = 10
COVERAGES = (0.25, 0.5, 0.75, 1.0)

Row = tuple[float, bool]
"""A caption: the chance that it is right, 0..1, and whether it was."""

Clued = tuple[tuple[float, ...], bool]
"""A caption: its clues, each 0..1, the raw probability first, and whether it was right."""


@dataclass(frozen=True)
class Calibration:
    """slopes, intercept: of the log odds of the clues, in their order. answers: how many a caption is the best of."""

    slopes: tuple[float, ...]
    intercept: float
    answers: int = 1

    def confidence(self, clues: Sequence[float]) -> float:
        """The chance that a caption with these clues is right, 0..1. Raises InputError for another number of clues."""
        if len(clues) != len(self.slopes):
            raise InputError(
                f"calibration: made for {len(self.slopes)} clues and the model gives {len(clues)}; another model's?"
            )
        return float(_sigmoid(_logit(np.array(clues)) @ np.array(self.slopes) + self.intercept))


def fit(rows: Sequence[Clued]) -> Calibration:
    """Maximum likelihood with Platt's smoothed targets, by Newton's method.

    Raises InputError with fewer than 20 rows, or where all are right or all wrong: there is then nothing to learn.
    """
    clues, right = np.array([row[0] for row in rows], dtype=np.float64), np.array([row[1] for row in rows], dtype=bool)
    if not ((clues >= 0) & (clues <= 1)).all():
        raise InputError("calibration: expected rows of (clues in 0..1, right or wrong)")
    wins, losses = int(right.sum()), int((~right).sum())
    if len(rows) < 20 or not wins or not losses:
        raise InputError(
            f"calibration: {len(rows)} rows, {wins} right; expected at least 20 with some right and some wrong"
        )
    target = np.where(right, (wins + 1) / (wins + 2), 1 / (losses + 2))
    inputs = np.concatenate([_logit(clues), np.ones((len(rows), 1))], 1)  # [rows, clues + 1]
    weights = np.zeros(inputs.shape[1])
    for _ in range(100):
        chance = _sigmoid(inputs @ weights)
        gradient = inputs.T @ (chance - target)
        # A little of a ridge: rows that all share one probability leave the slope open.
        hessian = (inputs * (chance * (1 - chance))[:, None]).T @ inputs + 1e-6 * np.eye(len(weights))
        step = np.linalg.solve(hessian, gradient)
        # Far from the optimum a full step of Newton's may overshoot.
        weights -= step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < 1e-9:
            break
    return Calibration(tuple(float(weight) for weight in weights[:-1]), float(weights[-1]))


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
    folder: Path, rows: Sequence[Clued], held_out: Sequence[Clued], right: str, note: str = "", answers: int = 1
) -> tuple[Calibration, list[str]]:
    """Fit on `rows`, measure on `held_out`, write calibration.json (of several answers: calibration_several.json)
    beside the weights in `folder`.

    right: in words, when a caption counted as right. note: where the rows come from. answers: how many each caption was
    the best of. Returns the calibration and lines to print: calibration error and risk by coverage, raw and calibrated.
    Raises InputError as `fit` does.
    """
    calibration = replace(fit(rows), answers=answers)
    measured, lines = measure(calibration, held_out)
    write_json(
        folder / (FILE if answers == 1 else FILE_OF_SEVERAL),
        {
            "schema": SCHEMA,
            "answers": answers,
            "slopes": list(calibration.slopes),
            "intercept": calibration.intercept,
            "right": right,
            "note": note,
            "rows": len(rows),
            "held_out": {"rows": len(held_out), **measured},
        },
    )
    return calibration, lines


def measure(calibration: Calibration, held_out: Sequence[Clued]) -> tuple[dict[str, Any], list[str]]:
    """How far the raw probability and the calibrated confidence of rows that nothing was fitted to are to be believed:
    calibration error and risk by coverage of each, and lines to print. Raises InputError without rows."""
    if not held_out:
        raise InputError("calibration: no held-out rows, expected at least one")
    raw = [(clues[0], good) for clues, good in held_out]
    calibrated = [(calibration.confidence(clues), good) for clues, good in held_out]
    measured: dict[str, Any] = {}
    lines = [f"{'on ' + str(len(held_out)) + ' held-out rows':24} error  " + "  ".join(
        f"risk at {100 * share:.0f} %" for share in COVERAGES)]  # fmt: skip
    for name, table in (("raw probability", raw), ("calibrated confidence", calibrated)):
        error, risk = calibration_error(table), risk_coverage(table)
        measured[name] = {"calibration_error": error, "risk": {f"{share:g}": value for share, value in risk.items()}}
        lines.append(f"{name:24} {error:.3f}  " + "  ".join(f"{value:12.3f}"[-12:] for value in risk.values()))
    return measured, lines


def load_calibration(folder: Path, name: str = FILE) -> Calibration | None:
    """The calibration beside a model's weights, None where there is none. Raises InputError for a broken file.

    name: FILE, or FILE_OF_SEVERAL.
    """
    path = folder / name
    if not path.exists():
        return None
    held = read_json(path)
    if not isinstance(held, dict) or held.get("schema") != SCHEMA:
        raise InputError(f"{path}: not a calibration; expected the schema {SCHEMA}")
    slopes = held.get("slopes")
    if not isinstance(slopes, list) or not slopes:
        raise InputError(f"{path}: field 'slopes': expected a list of numbers, got {slopes!r}")
    *clues, intercept = (_number(path, name, value) for name, value in [
        *(("slopes", value) for value in slopes), ("intercept", held.get("intercept"))])  # fmt: skip
    answers = held.get("answers", 1)
    if not isinstance(answers, int) or not (answers == 1 if name == FILE else 2 <= answers <= MOST):
        raise InputError(f"{path}: field 'answers': expected {1 if name == FILE else f'2 to {MOST}'}, got {answers!r}")
    return Calibration(tuple(clues), intercept, answers)


def _number(path: Path, name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not -1e300 < value < 1e300:
        raise InputError(f"{path}: field '{name}': expected a number, got {value!r}")
    return float(value)


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
