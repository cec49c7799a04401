"""What is far from what the model has seen is said, by name; clouds, coarsely."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rasterio")
import cv2
import rasterio

from rasters import SIDE, scene, write
from rsiccllm.geo.grid import Grid
from rsiccllm.geo.notes import cover_of, date_of, notes_of, sensor_of
from rsiccllm.geo.tiles import cloud_share

CLEAR = {"nodata": 0.0, "clouds": {"before": 0.0, "after": 0.0}}


def notes(first: Path, second: Path, cover: dict[str, Any] = CLEAR, dates: Any = (None, None)) -> list[str]:
    with Grid(first, second, register=False) as grid:
        return notes_of(grid, cover, dates)


def test_a_raster_like_the_training_scenes_has_none(tmp_path: Path) -> None:
    before, after = scene()
    assert notes(write(tmp_path / "a.tif", before), write(tmp_path / "b.tif", after)) == []


def test_resolution_sensor_and_dates_are_named(tmp_path: Path) -> None:
    before, after = scene()
    paths = [write(tmp_path / name, data, 10.0) for name, data in (("a.tif", before), ("b.tif", after))]
    for path, sensor in zip(paths, ("SENTINEL-2A", "LANDSAT_8"), strict=True):
        with rasterio.open(path, "r+") as raster:
            raster.update_tags(spacecraft_name=sensor)
            raster.update_tags(ns="IMAGERY", ACQUISITIONDATETIME="2021-03-04 10:11:12")
    with rasterio.open(paths[0]) as raster:
        assert sensor_of(raster) == "SENTINEL-2A"
        assert date_of(raster) == "2021-03-04"
    said = notes(*paths, dates=("2023-06-01", "2019-05-01"))
    assert said[0].startswith("resolution: a pixel is 10.00 m (SENTINEL-2A, LANDSAT_8)")
    assert said[1].startswith("sensor: SENTINEL-2A before, LANDSAT_8 after")
    assert said[2].startswith("dates: 2019-05-01 is before 2023-06-01")
    assert len(said) == 3


def test_bands_bits_clouds_and_nodata_are_named(tmp_path: Path) -> None:
    before, after = scene()
    grey = write(tmp_path / "grey.tif", before[:1])
    four = write(tmp_path / "four.tif", np.concatenate([after, after[:1]]).astype(np.uint16) * 40, photometric="MINISBLACK")  # fmt: skip  # noqa: E501
    said = notes(grey, four, {"nodata": 0.2, "clouds": {"before": 0.0, "after": 0.3}})
    subjects = [line.split(":")[0] for line in said]
    assert subjects == ["bands", "bands", "bits", "clouds", "nodata"]
    assert "before (grey.tif) is shown grey" in said[0]
    assert "after (four.tif) has 4" in said[1]
    assert "uint8 before and uint16 after" in said[2]
    assert "30 % of after looks like cloud" in said[3]
    assert "20 % of the scene" in said[4]


def test_dates_of_other_types_are_stretched_each_by_itself(tmp_path: Path) -> None:
    before, _ = scene()
    with Grid(write(tmp_path / "a.tif", before), write(tmp_path / "b.tif", before.astype(np.uint16) * 40)) as grid:
        patch = grid.read(rasterio.windows.Window(0, 0, SIDE, SIDE))
    first, second = (date.astype(float) for date in (patch.before, patch.after))
    assert first.std() > 15
    assert second.std() > 40  # stretched, and neither black nor white
    assert np.corrcoef(first.ravel(), second.ravel())[0, 1] > 0.95


def test_a_large_smooth_white_patch_counts_as_cloud() -> None:
    ground = scene()[0].transpose(1, 2, 0)
    whole = np.ones(ground.shape[:2], bool)
    cloudy = ground.copy()
    cv2.circle(cloudy, (200, 200), 100, (240, 242, 245), -1)
    share = cloud_share(cloudy, whole, 0.5)
    assert share == pytest.approx(np.pi * 100**2 / SIDE**2, rel=0.15)
    assert cloud_share(ground, whole, 0.5) == 0
    roof = ground.copy()
    roof[100:140, 100:140] = 240  # 20 m a side
    assert cloud_share(roof, whole, 0.5) == 0
    sand = ground.copy()
    sand[100:300, 100:300] = (240, 220, 190)  # bright and large, not white
    assert cloud_share(sand, whole, 0.5) == 0
    half = whole.copy()
    half[:, 200:] = False
    assert cloud_share(cloudy, half, 0.5) == pytest.approx(share, rel=0.15)  # of the pixels with data


def test_cover_is_the_mean_over_tiles() -> None:
    lines = [{"nodata": 0.5, "clouds": [0.0, 0.2]}, {"nodata": 0.0, "clouds": [0.1, 0.4]}]
    assert cover_of(lines) == {"nodata": 0.25, "clouds": {"before": 0.05, "after": 0.3}}
