"""Tiles of a grid with overlap, which of them need no caption, and their change maps merged into one raster."""

from __future__ import annotations

import base64
import zlib
from typing import NamedTuple

import cv2
import numpy as np

from rsiccllm.geo.grid import Patch

EMPTY = 0.02
"""Share of pixels with data, under which a tile is empty: nobody looks at it, and where no other tile covers it the map
has no data."""
CELL = 8
"""Pixels a side of the means by which two dates are compared cheaply."""
STILL = 6.0
"""Grey levels, of 255: where no cell of any colour differs by more, once light is matched, nothing changed."""

CLOUD_LIGHT, CLOUD_COLOUR, CLOUD_TEXTURE = 190.0, 25.0, 14.0
"""Grey levels: a cell is like cloud where its darkest colour is at least so bright, its colours lie no further apart,
and its pixels no further from their mean."""
CLOUD_SIDE = 30.0
"""Metres: patches of such cells that hold no square of this side are taken for roofs, snow or sand."""


class Tile(NamedTuple):
    """A window of the grid by its left upper corner and size, pixels."""

    left: int
    top: int
    width: int
    height: int

    @property
    def id(self) -> str:
        return f"{self.top}_{self.left}"


def starts(length: int, size: int, overlap: int) -> list[int]:
    """Where tiles of `size` begin that cover `length` and overlap by at least `overlap`; the last one ends with it."""
    if length <= size:
        return [0]
    step = size - overlap
    return [*range(0, length - size, step), length - size]


def is_empty(patch: Patch) -> bool:
    """Whether there is too little data to tell anything from: next to none, or no cell with more than half of it."""
    return bool(patch.valid.mean() < EMPTY) or not (_shares(patch.valid) > 0.5).any()


def _shares(valid: np.ndarray) -> np.ndarray:
    """The share of each cell that has data, [rows, cols] in 0..1."""
    size = (max(1, valid.shape[1] // CELL), max(1, valid.shape[0] // CELL))
    return np.asarray(cv2.resize(valid.astype(np.float32), size, interpolation=cv2.INTER_AREA))


def is_still(patch: Patch) -> bool:
    """Whether the dates are the same but for light: cheap, and sure rather than keen."""
    share = _shares(patch.valid)
    size = share.shape[::-1]
    means = [
        cv2.resize(image.astype(np.float32), size, interpolation=cv2.INTER_AREA) / np.maximum(share, 1e-6)[..., None]
        for image in (patch.before, patch.after)
    ]
    first, second = (mean[share > 0.5] for mean in means)  # [cells, 3]
    if not len(first):
        return True
    # Both ways round: what is new on even ground is most of the contrast there is, and would be shrunk to the other's.
    return _alike(first, second) and _alike(second, first)


def _alike(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether `second`, with the light and contrast of `first`, is `first`. [cells, 3] both."""
    matched = (second - second.mean(0)) * (first.std(0) + 1e-3) / (second.std(0) + 1e-3) + first.mean(0)
    return bool(np.abs(matched - first).max() <= STILL)


def cloud_share(image: np.ndarray, valid: np.ndarray, pixel: float) -> float:
    """How much of an image looks like cloud, 0..1 of the pixels with data: bright, white, smooth and large.

    Cheap and rough: a wide white roof is taken for one, a thin veil and a shadow are not. image: [height, width, 3]
    uint8; valid: [height, width] bool; pixel: metres a side.
    """
    rows, cols = image.shape[0] // CELL, image.shape[1] // CELL
    if not rows or not cols:
        return 0.0
    part = np.s_[: rows * CELL, : cols * CELL]
    colours = cv2.resize(image[part], (cols, rows), interpolation=cv2.INTER_AREA).astype(np.float32)  # [rows, cols, 3]
    seen = cv2.resize(valid[part].astype(np.float32), (cols, rows), interpolation=cv2.INTER_AREA) > 0.5
    like = seen & (colours.min(2) >= CLOUD_LIGHT) & (colours.max(2) - colours.min(2) <= CLOUD_COLOUR)
    if not like.any():
        return 0.0
    cells = image[part].mean(2).reshape(rows, CELL, cols, CELL)
    like &= cells.std((1, 3)) <= CLOUD_TEXTURE
    side = min(max(2, round(CLOUD_SIDE / (CELL * pixel))), rows, cols)
    large = cv2.morphologyEx(like.astype(np.uint8), cv2.MORPH_OPEN, np.ones((side, side), np.uint8))
    return float(large.sum() / max(1, seen.sum()))


def pack_cells(cells: np.ndarray) -> str:
    """A grid [rows, cols] of uint8 as a line of text."""
    data = np.array(cells.shape, np.uint16).tobytes() + cells.tobytes()
    return base64.b64encode(zlib.compress(data)).decode("ascii")


def unpack_cells(text: str) -> np.ndarray:
    """The grid of `pack_cells`."""
    data = zlib.decompress(base64.b64decode(text))
    rows, cols = np.frombuffer(data[:4], np.uint16)
    return np.frombuffer(data[4:], np.uint8).reshape(rows, cols)


def pack_map(change_map: np.ndarray) -> str:
    """A map [rows, cols] in 0..1 as a line of text, to 1/255."""
    return pack_cells(np.rint(255 * change_map).astype(np.uint8))


def unpack_map(text: str) -> np.ndarray:
    """The map of `pack_map`, [rows, cols] float32 in 0..1."""
    return unpack_cells(text).astype(np.float32) / 255


class Strip:
    """Maps of tiles blended where they overlap, within a band of columns, a row of tiles at a time.

    left, width: the band, pixels of the grid. size: of a tile. Add the tiles of a row that reach into the band, then
    `flush` up to where the next row begins.
    """

    def __init__(self, left: int, width: int, size: int) -> None:
        self._left, self._width = left, width
        self._sum = np.zeros((size, width), np.float32)
        self._weight = np.zeros((size, width), np.float32)

    def add(self, tile: Tile, change_map: np.ndarray) -> None:
        """change_map: [rows, cols] of cells in 0..1, fitted to the tile. A tile weighs most at its middle."""
        fitted = cv2.resize(change_map, (tile.width, tile.height), interpolation=cv2.INTER_LINEAR)
        weight = np.minimum.outer(_ramp(tile.height), _ramp(tile.width))
        begin = max(tile.left - self._left, 0)
        end = min(tile.left + tile.width - self._left, self._width)
        own = np.s_[:, begin + self._left - tile.left : end + self._left - tile.left]
        part = np.s_[: tile.height, begin:end]
        self._sum[part] += (weight * fitted)[own]
        self._weight[part] += weight[own]

    def flush(self, rows: int) -> np.ndarray:
        """The first `rows` rows, [rows, width] in 0..1, NaN where no tile was added, which are then let go."""
        weight = self._weight[:rows]
        done = np.where(weight > 0, self._sum[:rows] / np.maximum(weight, 1e-6), np.nan)
        for held in (self._sum, self._weight):
            held[: len(held) - rows] = held[rows:].copy()
            held[len(held) - rows :] = 0
        return done


def _ramp(length: int) -> np.ndarray:
    """Up from the edges to the middle, over 0 everywhere."""
    place = np.arange(length, dtype=np.float32) + 0.5
    return np.minimum(place, length - place) / (length / 2)
