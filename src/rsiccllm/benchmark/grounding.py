"""Where a model saw change, against the masks: IoU of its change map, and whether its highest point hits.

Only pairs whose mask marks something are scored: a mask may be empty although something changed that it does not mark
(LEVIR-CD's know buildings alone). Beside each score stands what a map without knowledge would get.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from rsiccllm.benchmark.bootstrap import Interval, Part, bootstrap_all, mean_part
from rsiccllm.errors import InputError
from rsiccllm.files import inside
from rsiccllm.pairs import open_image
from rsiccllm.records import ImagePair
from rsiccllm.sources.base import Source

THRESHOLD = 0.5
"""A cell of the map counts as changed from here on."""


class Overlap(NamedTuple):
    """Pixels in both, and in either."""

    both: int
    either: int

    @property
    def iou(self) -> float:
        """Intersection over union, 0..1; 1 where both are empty."""
        return self.both / self.either if self.either else 1.0


def overlap(change_map: np.ndarray, mask: np.ndarray, threshold: float = THRESHOLD) -> Overlap:
    """change_map: [height, width] in 0..1; mask: [height, width] bool. Raises InputError for other shapes."""
    _same_shape(change_map, mask)
    seen = change_map >= threshold
    return Overlap(int((seen & mask).sum()), int((seen | mask).sum()))


def points_at(change_map: np.ndarray, mask: np.ndarray) -> float:
    """The pointing game (Zhang et al. 2018): 1 where the highest value lies in the mask, else 0; no tolerance.

    Where several pixels share the highest value, the share of them that lies in the mask: what one of them drawn at
    random would hit. A map that is the same everywhere so gets the mask's area and not a lucky 1.
    """
    _same_shape(change_map, mask)
    return float(mask[change_map == change_map.max()].mean())


@dataclass(frozen=True)
class Grounding:
    """Scores x 100 over the pairs with a mask that marks something; `ids` names them, in order.

    iou: of the pixels of all pairs together, as change detection counts. mean_iou: mean over pairs, where small changes
    weigh as much as large ones. pointing: pairs whose highest point lies in the mask. area: share of all pixels that
    the masks mark: the `iou` of a map that is 1 everywhere. mean_area: the mean of that share over pairs: what pointing
    at random hits.
    overlaps: [pairs, 2] of `Overlap`; points: [pairs]; areas: [pairs, 2] pixels marked, and all pixels.
    """

    ids: tuple[str, ...]
    threshold: float
    overlaps: np.ndarray = field(repr=False)
    points: np.ndarray = field(repr=False)
    areas: np.ndarray = field(repr=False)

    def parts(self) -> dict[str, Part]:
        """Every score by name, as a function of sums over pairs."""
        singles = self.overlaps[:, 0] / self.overlaps[:, 1]
        return {
            "iou": Part(self.overlaps.astype(np.float64), lambda sums: 100 * sums[..., 0] / sums[..., 1]),
            "mean_iou": mean_part(100 * singles),
            "pointing": mean_part(100 * self.points),
            "area": Part(self.areas.astype(np.float64), lambda sums: 100 * sums[..., 0] / sums[..., 1]),
            "mean_area": mean_part(100 * self.areas[:, 0] / self.areas[:, 1]),
        }

    def intervals(self, draws: int = 1000, seed: int = 0) -> dict[str, Interval]:
        """The scores with their 95 % intervals over pairs."""
        return bootstrap_all(self.parts(), draws, seed)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        found = self.intervals()
        return {
            "pairs": len(self.ids),
            "threshold": self.threshold,
            **{name: interval.value for name, interval in found.items()},
            "interval_95": {name: [interval.low, interval.high] for name, interval in found.items()},
        }


def score_maps(
    maps: Mapping[str, np.ndarray], masks: Mapping[str, np.ndarray], threshold: float = THRESHOLD
) -> Grounding | None:
    """Score change maps against masks, both by pair id; None where no mask marks anything.

    maps: [height, width] in 0..1, of any size; they are fitted (bilinear) to the mask's. masks: [height, width] bool.
    """
    ids = tuple(name for name, mask in masks.items() if name in maps and mask.any())
    if not ids:
        return None
    fitted = {name: _fitted(maps[name], masks[name].shape) for name in ids}
    return Grounding(
        ids=ids,
        threshold=threshold,
        overlaps=np.array([overlap(fitted[name], masks[name], threshold) for name in ids]),
        points=np.array([points_at(fitted[name], masks[name]) for name in ids]),
        areas=np.array([[masks[name].sum(), masks[name].size] for name in ids]),
    )


def read_map(root: Path, path: str) -> np.ndarray:
    """A change map that `bench run` stored as a grey PNG, 0 (no change) to 255, as [height, width] in 0..1."""
    return np.asarray(open_image(inside(root, path)).convert("L"), np.float32) / 255


def ground(
    source: Source, pairs: Iterable[ImagePair], maps: Mapping[str, str], root: Path, threshold: float = THRESHOLD
) -> Grounding | None:
    """Score stored maps of a source's pairs: maps gives, by pair id, a path relative to `root`.

    None where no pair has both a map and a mask that marks something. Raises InputError for a map that is not there.
    """
    chosen = [pair for pair in pairs if pair.mask is not None and pair.id in maps]
    masks = {pair.id: mask for pair in chosen if (mask := source.open(pair).mask) is not None}
    return score_maps({name: read_map(root, maps[name]) for name in masks}, masks, threshold)


def _fitted(change_map: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if change_map.shape == shape:
        return change_map
    image = Image.fromarray(change_map.astype(np.float32))
    return np.asarray(image.resize((shape[1], shape[0]), Image.Resampling.BILINEAR))


def _same_shape(change_map: np.ndarray, mask: np.ndarray) -> None:
    if change_map.shape != mask.shape or change_map.ndim != 2 or not change_map.size:
        raise InputError(f"change map {change_map.shape} and mask {mask.shape}: expected equal [height, width]")
