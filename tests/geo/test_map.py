"""Rasters of known change, on other grids, with other bits, shifted, stopped; what is written, read by others."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("rasterio")
pytest.importorskip("shapely")
pytest.importorskip("pyogrio")
import cv2
import rasterio
import rasterio.shutil
import shapely
from rasterio.transform import from_origin
from rasterio.warp import Resampling, reproject, transform_geom
from rasterio.windows import Window
from rio_cogeo.cogeo import cog_validate

from rasters import ORIGIN, SIDE, SQUARE, scene, write
from rsiccllm.caption.captioner import Captioner
from rsiccllm.errors import InputError
from rsiccllm.geo import work as module
from rsiccllm.geo.grid import Grid, Patch
from rsiccllm.geo.run import MapSettings, map_rasters
from rsiccllm.geo.tiles import Strip, Tile, is_empty, is_still, pack_map, starts, unpack_map
from rsiccllm.geo.work import groups_of
from rsiccllm.model.difference import FACTS
from rsiccllm.model.generate import Answer
from rsiccllm.pairs import OpenedPair


class Differ(Captioner):
    """Stands for a trained model, which a test has no time for: its map is where the images differ by much."""

    asked: int
    stop_after: int | None

    def __init__(self) -> None:
        self.calibration = self.familiarity = None
        self.asked = 0
        self.stop_after = None

    def encode(self, pair: OpenedPair, prompt: str) -> dict[str, torch.Tensor]:
        first, second = (np.asarray(image, np.float32).mean(2) for image in (pair.before, pair.after))
        return {"map": torch.from_numpy((np.abs(cv2.blur(second - first, (3, 3))) > 60).astype(np.float32))}

    def answer_encoded(self, prompts: Any, max_new_tokens: int, tell: Any = None) -> list[Answer]:
        if self.stop_after is not None and self.asked >= self.stop_after:
            raise KeyboardInterrupt
        self.asked += len(prompts)
        return [Answer("a house is built in the center", 0.9, prompt["map"], 8, True, 0.1) for prompt in prompts]


class Namer(Differ):
    """Sees a building that came where it is bright at the second date, and water that went where it is dark."""

    def encode(self, pair: OpenedPair, prompt: str) -> dict[str, torch.Tensor]:
        bright = torch.from_numpy(np.asarray(pair.after, np.float32).mean(2) > 128)
        named = torch.zeros(len(FACTS), *bright.shape, dtype=torch.float16)
        named[FACTS.index(("building", "appear"))] = bright.half()
        named[FACTS.index(("water", "disappear"))] = (~bright).half()
        return {**super().encode(pair, prompt), "named": named}

    def answer_encoded(self, prompts: Any, max_new_tokens: int, tell: Any = None) -> list[Answer]:
        answers = super().answer_encoded(prompts, max_new_tokens, tell)
        return [answer._replace(fact_maps=prompt["named"]) for answer, prompt in zip(answers, prompts, strict=True)]


@pytest.fixture
def differ(monkeypatch: pytest.MonkeyPatch) -> Differ:
    made = Differ()
    monkeypatch.setattr(module.Captioner, "load", lambda name: made)
    return made


def expected_polygon() -> Any:
    left, top, width, height = SQUARE
    x, y = ORIGIN[0] + left / 2, ORIGIN[1] - top / 2
    return shapely.box(x, y - height / 2, x + width / 2, y)


def iou(a: Any, b: Any) -> float:
    return float(a.intersection(b).area / a.union(b).area)


def test_a_known_change_is_mapped_and_other_readers_read_it(differ: Differ, tmp_path: Path, mapping_checkpoint: Path) -> None:  # fmt: skip  # noqa: E501
    before, after = scene()
    paths = write(tmp_path / "a.tif", before), write(tmp_path / "b.tif", after)
    settings = MapSettings(tile=128, overlap=32, dates=("2019-05-01", "2023-06-01"))
    summary = map_rasters(*paths, tmp_path / "out", str(mapping_checkpoint), settings)
    assert summary["polygons"] == 1
    assert summary["shift_pixels"]["applied"] is False
    assert summary["area_m2"] == pytest.approx(600, rel=0.05)
    assert summary["text"].startswith("Between 2019-05-01 and 2023-06-01 1 places changed")
    assert summary["tiles"]["still"] > summary["tiles"]["captioned"] == differ.asked
    geopandas = pytest.importorskip("geopandas")
    for name, crs in (("changes.gpkg", "EPSG:32633"), ("changes.geojson", "EPSG:4326")):
        frame = geopandas.read_file(tmp_path / "out" / name)
        assert frame.crs == crs
        (row,) = frame.to_dict("records")
        assert row["class"] == "building appear"
        assert row["caption"] == "a house is built in the center"
        assert row["probability"] == pytest.approx(0.9)
        assert str(row["before"])[:10] == "2019-05-01"
        shape = frame.to_crs("EPSG:32633").geometry[0]
        assert iou(shape, expected_polygon()) > 0.9
        assert row["area_m2"] == pytest.approx(frame.to_crs("EPSG:6933").area[0], rel=1e-3)
    with rasterio.open(tmp_path / "out" / "change.tif") as change:
        assert change.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert cog_validate(tmp_path / "out" / "change.tif", strict=True, quiet=True) == (True, [], [])
        assert change.crs == "EPSG:32633"
        data = change.read(1)
        assert data.shape == (SIDE, SIDE)
        left, top, width, height = SQUARE
        assert data[top + 5 : top + height - 5, left + 5 : left + width - 5].min() == 254
        assert data[:100].max() == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        ".lock", "change.qml", "change.tif", "changes.geojson", "changes.gpkg", "changes.qml", "settings.json",
        "summary.json", "tiles.jsonl",
    ]  # fmt: skip


def test_each_polygon_is_named_by_what_the_map_sees_in_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mapping_checkpoint: Path
) -> None:
    monkeypatch.setattr(module.Captioner, "load", lambda name: Namer())
    before, after = scene()
    before[:, 210:250, 180:230] = 230
    after[:, 210:250, 180:230] = 20  # 20 pixels beside the bright square, and in the same tile
    paths = write(tmp_path / "a.tif", before), write(tmp_path / "b.tif", after)
    summary = map_rasters(*paths, tmp_path / "out", str(mapping_checkpoint), MapSettings(tile=256, overlap=32))
    rows = json.loads((tmp_path / "out" / "changes.geojson").read_text())["features"]
    found = {row["properties"]["class"]: row["properties"]["area_m2"] for row in rows}
    assert found == {"building appear": pytest.approx(600, rel=0.1), "water disappear": pytest.approx(500, rel=0.1)}
    assert set(summary["classes"]) == set(found)


def test_another_grid_sixteen_bit_and_nodata(differ: Differ, tmp_path: Path, mapping_checkpoint: Path) -> None:
    before, after = scene()
    first = write(tmp_path / "a.tif", before.astype(np.uint16) * 40, nodata=0)
    # The second date in degrees, over a part of the first, with a corner of nodata.
    plain = after.astype(np.uint16) * 40
    plain[:, 300:, 300:] = 0
    x, y = ORIGIN
    corner = transform_geom("EPSG:32633", "EPSG:4326", {"type": "Point", "coordinates": (x + 20, y - 20)})[
        "coordinates"
    ]
    size = 5e-6
    turned = np.zeros((3, 320, 420), np.uint16)
    transform = from_origin(*corner, size, size)
    here = from_origin(*ORIGIN, 0.5, 0.5)
    reproject(plain, turned, src_transform=here, src_crs="EPSG:32633", dst_transform=transform, dst_crs="EPSG:4326",
              resampling=Resampling.bilinear, src_nodata=0, dst_nodata=0)  # fmt: skip
    second = write(tmp_path / "b.tif", turned, crs="EPSG:4326", transform=transform, nodata=0)
    summary = map_rasters(first, second, tmp_path / "out", str(mapping_checkpoint), MapSettings(tile=128, overlap=32))
    assert summary["grid"]["crs"] == "EPSG:32633"
    assert summary["grid"]["width"] < SIDE
    assert any(line.startswith("bits: uint16 was stretched") for line in summary["warnings"])
    features = json.loads((tmp_path / "out" / "changes.geojson").read_text())["features"]
    assert len(features) == 1
    shape = shapely.geometry.shape(transform_geom("EPSG:4326", "EPSG:32633", features[0]["geometry"]))
    assert iou(shape, expected_polygon()) > 0.75
    with rasterio.open(tmp_path / "out" / "change.tif") as change:
        row, column = change.index(ORIGIN[0] + 175, ORIGIN[1] - 175)  # in the corner without data
        assert change.read(1)[row, column] == 255


@pytest.mark.parametrize(("right", "down"), [(3, -2), (0, 0)])
def test_a_shift_is_found_and_taken_back(tmp_path: Path, right: int, down: int) -> None:
    before, after = scene()
    moved = np.roll(after, (down, right), (1, 2))
    with Grid(write(tmp_path / "a.tif", before), write(tmp_path / "b.tif", moved)) as grid:
        assert (grid.shift.right, grid.shift.down) == pytest.approx((right, down), abs=0.3)
        assert grid.shift.applied is bool(right)
        patch = grid.read(rasterio.windows.Window(20, 20, 90, 90))
        assert np.abs(patch.before.astype(int) - patch.after).mean() < 6
    with Grid(write(tmp_path / "a.tif", before), write(tmp_path / "b.tif", moved), register=False) as grid:
        patch = grid.read(rasterio.windows.Window(20, 20, 90, 90))
        assert bool(np.abs(patch.before.astype(int) - patch.after).mean() > 10) is bool(right)


def test_stopped_it_goes_on_and_gives_the_same(differ: Differ, tmp_path: Path, mapping_checkpoint: Path) -> None:
    before, _ = scene()
    rng = np.random.default_rng(5)
    after = before.copy()
    for left, top in rng.integers(0, SIDE - 30, (25, 2)):
        after[:, top : top + 30, left : left + 30] = 240
    paths = write(tmp_path / "a.tif", before), write(tmp_path / "b.tif", after)
    settings = MapSettings(tile=96, overlap=32, batch_size=4)
    whole = map_rasters(*paths, tmp_path / "whole", str(mapping_checkpoint), settings)
    asked = differ.asked
    assert asked > 20
    differ.asked, differ.stop_after = 0, 10
    with pytest.raises(KeyboardInterrupt):
        map_rasters(*paths, tmp_path / "parts", str(mapping_checkpoint), settings)
    first, differ.stop_after = differ.asked, None
    again = map_rasters(*paths, tmp_path / "parts", str(mapping_checkpoint), settings)
    assert again == whole
    assert 0 < first < differ.asked == asked  # nothing was asked twice
    for name in ("changes.geojson", "change.tif", "tiles.jsonl"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    with pytest.raises(InputError, match="begun with another tile"):
        map_rasters(*paths, tmp_path / "parts", str(mapping_checkpoint), MapSettings(tile=128, overlap=32))
    size = paths[1].stat().st_size
    with paths[1].open("r+b") as handle:  # another image of as many bytes at the same path
        handle.seek(size - 1)
        handle.write(b"\0")
    with pytest.raises(InputError, match="begun with another after"):
        map_rasters(*paths, tmp_path / "parts", str(mapping_checkpoint), settings)


def test_nothing_changed(differ: Differ, tmp_path: Path, mapping_checkpoint: Path) -> None:
    before, _ = scene()
    paths = write(tmp_path / "a.tif", before), write(tmp_path / "b.tif", np.clip(before * 0.8 + 20, 1, 250).astype(np.uint8))  # fmt: skip  # noqa: E501
    summary = map_rasters(*paths, tmp_path / "out", str(mapping_checkpoint), MapSettings())
    assert summary["text"] == "Between the two dates no change of at least 20 square metres was seen."
    assert differ.asked == 0
    geopandas = pytest.importorskip("geopandas")
    assert len(geopandas.read_file(tmp_path / "out" / "changes.gpkg")) == 0


def test_a_real_model_runs_over_rasters(tmp_path: Path, mapping_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip  # noqa: E501
    monkeypatch.setitem(module.LONGEST, "caption", 4)
    before, after = scene()
    paths = (
        write(tmp_path / "a.tif", before[:, 150:300, 100:250]),
        write(tmp_path / "b.tif", after[:, 150:300, 100:250]),
    )
    summary = map_rasters(*paths, tmp_path / "out", str(mapping_checkpoint), MapSettings(tile=112, overlap=28))
    assert summary["tiles"]["captioned"] >= 1
    with rasterio.open(tmp_path / "out" / "change.tif") as change:
        assert 0 < change.read(1).max() <= 254


def test_what_cannot_be_used_is_refused(tmp_path: Path) -> None:
    before, _ = scene()
    good = write(tmp_path / "a.tif", before)
    Image.fromarray(before[0]).save(tmp_path / "plain.png")
    bare = write(tmp_path / "bare.tif", before, crs=None)
    far = write(tmp_path / "far.tif", before, transform=from_origin(500_000, 5_000_000, 0.5, 0.5))
    cut = tmp_path / "cut.tif"
    cut.write_bytes(good.read_bytes()[:100])
    for other, message in (
        (tmp_path / "no.tif", "no such file"),
        (tmp_path / "plain.png", "cannot be opened as a GeoTIFF"),
        (cut, "cannot be opened as a GeoTIFF"),
        (bare, "no coordinate system"),
        (far, "overlap in 0x400 pixels"),
    ):
        with pytest.raises(InputError, match=message):
            Grid(good, other)
    named = tmp_path / "a.vrt"
    rasterio.shutil.copy(good, named, driver="VRT")
    with Grid(named, good, trusted=True) as grid:  # from the command line
        assert grid.width == SIDE
    with pytest.raises(InputError, match="cannot be opened as a GeoTIFF"):  # from a page or a server
        Grid(named, good)
    with pytest.raises(InputError, match=r"has 3 bands, --bands asks for 4,1,2"):
        Grid(good, good, (4, 1, 2))


def test_a_raster_damaged_behind_its_head_is_named(tmp_path: Path) -> None:
    before, _ = scene()
    good = write(tmp_path / "a.tif", before, compress="deflate")
    data = bytearray(good.read_bytes())
    data[len(data) // 3 : len(data) // 2] = bytes(len(data) // 2 - len(data) // 3)
    (tmp_path / "damaged.tif").write_bytes(data)
    with pytest.raises(InputError, match=r"damaged\.tif: (damaged or gone|cannot be opened)"):
        Grid(good, tmp_path / "damaged.tif").read(rasterio.windows.Window(0, 0, SIDE, SIDE))


@pytest.mark.parametrize(("length", "size", "overlap"), [(400, 128, 32), (128, 128, 32), (50, 128, 32), (129, 128, 64)])
def test_tiles_cover_the_grid(length: int, size: int, overlap: int) -> None:
    begins = starts(length, size, overlap)
    covered = np.zeros(length, int)
    for begin in begins:
        covered[begin : begin + size] += 1
    assert covered.min() >= 1
    assert begins[-1] == max(0, length - size)
    assert all(b - a <= size - overlap for a, b in pairwise(begins))


def test_blending_is_the_weighted_mean_of_the_tiles() -> None:
    width, height, size = 50, 40, 20
    rng = np.random.default_rng(0)
    tiles = [tile for group in groups_of(width, height, size, 6, 4) for tile in group]
    maps = {tile: rng.random((tile.height, tile.width)).astype(np.float32) for tile in tiles}
    total, weights = np.zeros((height, width)), np.zeros((height, width))
    for tile, seen in maps.items():
        for row in range(tile.height):
            for column in range(tile.width):
                weight = min(row + 0.5, tile.height - row - 0.5, column + 0.5, tile.width - column - 0.5)
                total[tile.top + row, tile.left + column] += weight * seen[row, column]
                weights[tile.top + row, tile.left + column] += weight
    tops = starts(height, size, 6)
    bands = []
    for left, wide in ((0, 30), (30, 20)):  # two bands of columns
        strip, parts = Strip(left, wide, size), []
        for number, top in enumerate(tops):
            for tile in tiles:
                if tile.top == top and left - size < tile.left < left + wide:
                    strip.add(tile, maps[tile])
            parts.append(strip.flush((tops[number + 1] if number + 1 < len(tops) else height) - top))
        bands.append(np.concatenate(parts))
    assert np.allclose(np.concatenate(bands, 1), total / weights, atol=1e-5)


def test_cheap_tests_and_packing() -> None:
    before, after = (date.transpose(1, 2, 0) for date in scene())
    whole = np.ones((SIDE, SIDE), bool)
    assert is_still(Patch(before, before, whole))
    assert is_still(Patch(before, np.clip(before * 0.7 + 30, 0, 255).astype(np.uint8), whole))  # light alone
    assert not is_still(Patch(before, after, whole))
    field = np.full((256, 256, 3), 120, np.uint8) + np.random.default_rng(0).integers(0, 2, (256, 256, 3), np.uint8)
    hall = field.copy()
    hall[64:192, 64:192] += 80  # most of what contrast there is
    for first, second in ((field, hall), (hall, field)):
        assert not is_still(Patch(first, second, np.ones((256, 256), bool)))
    nearly = whole.copy()
    nearly[: int(0.9 * SIDE)] = False
    assert not is_empty(Patch(before, after, nearly)), "a tenth of a tile is ground that no other tile may show"
    nearly[: int(0.99 * SIDE)] = False
    assert is_empty(Patch(before, after, nearly))
    assert not is_empty(Patch(before, after, whole))
    seen = np.random.default_rng(0).random((7, 9)).astype(np.float32)
    assert np.abs(unpack_map(pack_map(seen)) - seen).max() <= 0.5 / 255 + 1e-6
    assert Tile(3, 4, 5, 6).id == "4_3"


def test_a_change_at_the_edge_of_the_data_is_kept(differ: Differ, tmp_path: Path, mapping_checkpoint: Path) -> None:
    """A tile without data overlaps one with: it takes nothing off what is seen there, and says nothing of the rest."""
    rng = np.random.default_rng(6)
    before = rng.integers(1, 60, (3, 128, 224), np.uint8)
    before[:, :, 100:] = 0
    after = before.copy()
    after[:, 40:80, 70:100] += 150
    paths = write(tmp_path / "a.tif", before, nodata=0), write(tmp_path / "b.tif", after, nodata=0)
    summary = map_rasters(
        *paths, tmp_path / "out", str(mapping_checkpoint), MapSettings(tile=128, overlap=32, register=False)
    )
    assert summary["tiles"] == {"captioned": 1, "empty": 1}
    with rasterio.open(tmp_path / "out" / "change.tif") as change:
        seen = change.read(1)
    assert (seen[44:76, 74:98] > 200).all(), "columns 96 to 100 lie in the empty tile too"
    assert (seen[:, 100:] == 255).all()


def test_south_up_rasters_are_read_and_palettes_refused(tmp_path: Path) -> None:
    before, after = scene()
    first, second = write(tmp_path / "a.tif", before), write(tmp_path / "b.tif", after)
    upside = tmp_path / "south_up.tif"
    bottom = ORIGIN[1] - before.shape[1] / 2
    write(upside, after[:, ::-1], transform=rasterio.Affine(0.5, 0, ORIGIN[0], 0, 0.5, bottom))
    whole = Window(0, 0, before.shape[2], before.shape[1])
    with Grid(first, second, register=False) as grid, Grid(first, upside, register=False) as turned:
        assert (turned.width, turned.height) == (grid.width, grid.height)
        apart = np.abs(grid.read(whole).after.astype(int) - turned.read(whole).after)
        assert np.median(apart) <= 1
    with Grid(upside, upside, register=False) as own:
        assert own.width == before.shape[2]
    table = tmp_path / "palette.tif"
    write(table, after[:1], photometric="palette")
    with rasterio.open(table, "r+") as held:
        held.write_colormap(1, {value: (value, 0, 0, 255) for value in range(256)})
    with pytest.raises(InputError, match=r"palette\.tif: its pixels are places in a table of colours"):
        Grid(first, table)


def test_numbers_that_are_none_are_no_data(differ: Differ, tmp_path: Path, mapping_checkpoint: Path) -> None:
    before, after = (date.astype(np.float32) / 255 for date in scene())
    after[:, :100] = np.nan
    paths = write(tmp_path / "a.tif", before), write(tmp_path / "b.tif", after)
    map_rasters(*paths, tmp_path / "out", str(mapping_checkpoint), MapSettings(tile=128, overlap=32, register=False))
    with rasterio.open(tmp_path / "out" / "change.tif") as change:
        assert (change.read(1)[:100] == 255).all()
        assert (change.read(1)[100:] != 255).all()


def test_a_raster_that_was_moved_is_another(differ: Differ, tmp_path: Path, mapping_checkpoint: Path) -> None:
    """Its place stands in a file beside it, which may be mended without a touch of the raster."""
    before, after = scene()
    first = write(tmp_path / "a.tif", before)
    second = tmp_path / "b.tif"
    with rasterio.open(second, "w", driver="GTiff", width=after.shape[2], height=after.shape[1], count=3,
                       dtype="uint8", crs="EPSG:32633") as raster:  # fmt: skip
        raster.write(after)
    beside = tmp_path / "b.tfw"
    beside.write_text(f"0.5\n0\n0\n-0.5\n{ORIGIN[0] + 20.25}\n{ORIGIN[1] - 10.25}\n")
    settings = MapSettings(tile=128, overlap=32, register=False)
    map_rasters(first, second, tmp_path / "out", str(mapping_checkpoint), settings)
    beside.write_text(f"0.5\n0\n0\n-0.5\n{ORIGIN[0] + 0.25}\n{ORIGIN[1] - 0.25}\n")
    with pytest.raises(InputError, match="was begun with another after"):
        map_rasters(first, second, tmp_path / "out", str(mapping_checkpoint), settings)
