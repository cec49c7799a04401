"""Familiarity: how like the images of a pair are to those that the model was trained on.

A model that has learnt from one kind of imagery answers about any other as surely, and is more often wrong. What the
map's own encoder makes of an image as a whole (`rsiccllm.model.difference.look_of`) tells the kinds apart: the squared
Mahalanobis distance to the looks of images as in training (Lee et al. 2018, on hidden layers in general).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from rsiccllm.errors import InputError
from rsiccllm.files import atomic_write

FILE = "familiarity.safetensors"

SHRINK = 0.1
"""Added to the covariance of looks scaled to a spread of 1: directions that training never went are not all equal."""

NAMES = ("mean", "spread", "inverse", "usual")


@dataclass(frozen=True)
class Familiarity:
    """mean, spread: of each number of a look, [numbers]. inverse: of the shrunk covariance of looks so scaled,
    [numbers, numbers]. usual: the median of the distances of pairs as in training, of the stranger date of each."""

    mean: np.ndarray
    spread: np.ndarray
    inverse: np.ndarray
    usual: float

    def distance(self, look: np.ndarray) -> float:
        """The squared distance of the stranger of a pair's two dates, [2, numbers]."""
        scaled = (look.astype(np.float64) - self.mean) / self.spread
        return float(np.einsum("di,ij,dj->d", scaled, self.inverse, scaled).max())

    def of(self, look: np.ndarray) -> float:
        """0..1: a half for a pair as usual in training, a fifth at four times the distance, towards 0 beyond."""
        return self.usual / (self.usual + self.distance(look))


def fit(looks: Sequence[np.ndarray]) -> Familiarity:
    """From the looks [2, numbers] of pairs as in training.

    Every other pair gives mean and covariance, the rest the usual distance: near their own mean all are at home.
    Raises InputError with fewer than 20 pairs.
    """
    if len(looks) < 20:
        raise InputError(f"familiarity: {len(looks)} pairs, expected at least 20")
    images = np.concatenate(looks[::2]).astype(np.float64)
    mean, spread = images.mean(0), images.std(0) + 1e-6
    scaled = (images - mean) / spread
    inverse = np.linalg.inv(np.cov(scaled.T) + SHRINK * np.eye(len(mean)))
    bare = Familiarity(mean, spread, inverse, 1.0)
    return Familiarity(mean, spread, inverse, float(np.median([bare.distance(look) for look in looks[1::2]])))


def write_familiarity(folder: Path, found: Familiarity) -> None:
    """Write it beside the weights in `folder`."""
    held = {name: np.atleast_1d(np.float32(getattr(found, name))) for name in NAMES}
    with atomic_write(folder / FILE, "wb") as handle:
        handle.write(save(held))


def load_familiarity(folder: Path) -> Familiarity | None:
    """What lies beside a model's weights, None where there is none. Raises InputError for a broken file."""
    path = folder / FILE
    if not path.exists():
        return None
    try:
        held = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not readable ({error}); expected what `write_familiarity` wrote") from None
    size = held["mean"].shape if "mean" in held else (0,)
    shapes = {"mean": size, "spread": size, "inverse": size * 2, "usual": (1,)}
    for name in NAMES:
        if name not in held or held[name].shape != shapes[name] or not np.isfinite(held[name]).all():
            raise InputError(f"{path}: field '{name}': expected finite numbers of shape {list(shapes[name])}")
    if not (held["spread"] > 0).all() or held["usual"][0] <= 0:
        raise InputError(f"{path}: fields 'spread' and 'usual': expected numbers over 0")
    return Familiarity(held["mean"], held["spread"], held["inverse"], float(held["usual"][0]))
