"""A scene of known change as GeoTIFFs, for the tests of maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rasterio
from rasterio.transform import from_origin

SIDE = 400
ORIGIN = (400_000.0, 5_000_000.0)  # UTM zone 33N, half a metre a pixel
SQUARE = (120, 200, 40, 60)  # left, top, width, height, pixels: 20 x 30 m


def scene() -> tuple[np.ndarray, np.ndarray]:
    """Two dates, [3, SIDE, SIDE] uint8: textured ground, and a bright square on the second."""
    rng = np.random.default_rng(0)
    ground = cv2.GaussianBlur(rng.normal(0, 1, (SIDE, SIDE)).astype(np.float32), (0, 0), 3)
    ground = 90 + 25 * ground / ground.std()
    before = np.clip(np.stack([ground, ground + 5, ground - 5]), 1, 250).astype(np.uint8)
    after = before.copy()
    left, top, width, height = SQUARE
    after[:, top : top + height, left : left + width] = 235
    return before, after


def write(path: Path, data: np.ndarray, side: float = 0.5, crs: str | None = "EPSG:32633", **more: Any) -> Path:
    """A GeoTIFF of [bands, height, width]."""
    profile = {"driver": "GTiff", "count": data.shape[0], "height": data.shape[1], "width": data.shape[2],
               "dtype": data.dtype, "crs": crs, "transform": from_origin(*ORIGIN, side, side), **more}  # fmt: skip
    with rasterio.open(path, "w", **profile) as raster:
        raster.write(data)
    return path
