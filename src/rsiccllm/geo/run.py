"""`rsiccllm map`: from two rasters to polygons, a change raster and a summary; stopped, it goes on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from PIL import Image
from rasterio.transform import rowcol
from rasterio.windows import Window

from rsiccllm.caption.captioner import LONGEST, Captioner, model_name
from rsiccllm.caption.result import THRESHOLD
from rsiccllm.errors import InputError
from rsiccllm.facts import parse
from rsiccllm.files import read_json, write_json
from rsiccllm.geo.grid import Grid, Patch
from rsiccllm.geo.polygons import Polygon, polygons_of, write_geojson, write_geopackage
from rsiccllm.geo.tiles import Strip, Tile, is_empty, is_still, pack_map, starts, tiles_of, unpack_map
from rsiccllm.journal import Journal
from rsiccllm.model.checkpoint import weights_digest
from rsiccllm.pairs import OpenedPair
from rsiccllm.progress import track
from rsiccllm.rsici.prompts import PROMPTS

FINE, COARSE = 0.2, 1.5
"""Metres a pixel that the usual training sets have (LEVIR, SYSU-CD, WHU: 0.2 to 0.5), with room above."""


@dataclass(frozen=True)
class MapSettings:
    """tile, overlap: pixels. smallest: square metres of a polygon. bands: see Grid. dates: of the two rasters, as they
    are to stand in the results. register: correct the shift left between the dates."""

    tile: int = 256
    overlap: int = 64
    smallest: float = 20.0
    bands: tuple[int, int, int] | None = None
    dates: tuple[str, str] | None = None
    register: bool = True
    batch_size: int = 16

    def __post_init__(self) -> None:
        if self.tile < 56 or not 0 <= self.overlap <= self.tile // 2:
            raise InputError("--tile: expected at least 56; --overlap: expected 0 to half of it")


def map_rasters(before: Path, after: Path, out: Path, model: str | None, settings: MapSettings) -> dict[str, Any]:
    """Write change.tif (a COG), changes.geojson, changes.gpkg and summary.json to `out`; returns the summary.

    tiles.jsonl there is the journal: called again after a stop, only what is missing is captioned. Raises InputError
    for rasters that cannot be used, and for an `out` that other rasters, models or settings began.
    """
    name = model_name(model)
    with Grid(before, after, settings.bands, settings.register) as grid:
        _claim(out, _stamp(before, after, name, grid, settings))
        journal = Journal(out / "tiles.jsonl", sync_every=5.0)
        try:
            known = {line["id"] for line in journal.read()}
            tiles = list(tiles_of(grid.width, grid.height, settings.tile, settings.overlap))
            left = [tile for tile in tiles if tile.id not in known]
            if left:
                captioner = Captioner.load(name)
                done = _answered(captioner, grid, left, settings.batch_size)
                for line in track(done, "captioning tiles", len(tiles), len(tiles) - len(left)):
                    journal.append(line)
        finally:
            journal.close()
        lines = {line["id"]: line for line in _without_maps(out / "tiles.jsonl")}
        _write_raster(grid, out, settings)
        try:
            polygons = sorted(
                polygons_of(out / ".mask.tif", grid.crs, settings.smallest), key=lambda polygon: -polygon.area
            )
        finally:
            (out / ".mask.tif").unlink(missing_ok=True)
        rows = [_row(polygon, grid, lines, settings) for polygon in polygons]
        write_geojson(out / "changes.geojson", polygons, rows, grid.crs)
        write_geopackage(out / "changes.gpkg", polygons, rows, grid.crs)
        summary = _summary(grid, polygons, rows, list(lines.values()), settings)
    write_json(out / "summary.json", summary)
    return summary


def _stamp(before: Path, after: Path, name: str, grid: Grid, settings: MapSettings) -> dict[str, Any]:
    """All that shapes a tile's caption; the rest may change between two calls."""
    files = {side: {"path": str(path), "bytes": path.stat().st_size} for side, path in
             (("before", before), ("after", after))}  # fmt: skip
    return {
        "schema": "rsiccllm.map.v1",
        "model": weights_digest(name),
        **files,
        "grid": {"crs": grid.crs.to_string(), "transform": list(grid.transform)[:6], "width": grid.width,
                 "height": grid.height},
        "tile": settings.tile,
        "overlap": settings.overlap,
        "bands": grid.bands,
        "register": settings.register,
    }  # fmt: skip


def _claim(out: Path, stamp: dict[str, Any]) -> None:
    path = out / "settings.json"
    stamp = json.loads(json.dumps(stamp))
    if not path.exists():
        write_json(path, stamp)
        return
    held = read_json(path)
    field = next((key for key in stamp if not isinstance(held, dict) or held.get(key) != stamp[key]), None)
    if field is not None:
        raise InputError(f"{out}: was begun with another {field}; choose another --out")


def _answered(captioner: Captioner, grid: Grid, tiles: list[Tile], batch_size: int) -> Iterator[dict[str, Any]]:
    """A line for each tile: empty, still, or captioned."""
    source = iter(tiles)
    while chunk := list(islice(source, batch_size)):
        states: dict[str, str] = {}
        asked: dict[str, Any] = {}
        for tile in chunk:
            row, columns = grid.read_row(tile.top, tile.height), np.s_[:, tile.left : tile.left + tile.width]
            patch = Patch(*(part[columns] for part in row))
            states[tile.id] = "empty" if is_empty(patch) else "still" if is_still(patch) else "captioned"
            if states[tile.id] == "captioned":
                pair = OpenedPair(Image.fromarray(patch.before), Image.fromarray(patch.after), None)
                asked[tile.id] = captioner.encode(pair, PROMPTS["caption"])
        answers = captioner.answer_encoded(list(asked.values()), LONGEST["caption"]) if asked else []
        said = dict(zip(asked, answers, strict=True))
        for tile in chunk:
            line: dict[str, Any] = {"id": tile.id, "state": states[tile.id]}
            if tile.id in said:
                answer = said[tile.id]
                if answer.change_map is None:
                    raise InputError("this model has no change map, without which nothing can be drawn")
                found = captioner.finish(answer, (tile.width, tile.height))
                line |= {"caption": found.caption, "probability": found.probability, "confidence": found.confidence,
                         "map": pack_map(answer.change_map.numpy())}  # fmt: skip
            yield line


def _without_maps(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as handle:
        for data in handle:
            line = json.loads(data)
            line.pop("map", None)
            yield line


def _write_raster(grid: Grid, out: Path, settings: MapSettings) -> None:
    """change.tif, 0 (no change) to 254, 255 where there is no data; and .mask.tif, 1 where it reaches THRESHOLD."""
    places: dict[str, int] = {}
    with (out / "tiles.jsonl").open("rb") as journal:
        while line := journal.readline():
            places[json.loads(line)["id"]] = journal.tell() - len(line)
        profile = {
            "driver": "GTiff", "width": grid.width, "height": grid.height, "count": 1, "dtype": "uint8",
            "crs": grid.crs, "transform": grid.transform, "tiled": True, "blockxsize": 256, "blockysize": 256,
            "compress": "deflate", "BIGTIFF": "IF_SAFER",
        }  # fmt: skip
        temporary = out / ".change.tif"
        tops = starts(grid.height, settings.tile, settings.overlap)
        size = min(settings.tile, grid.height)
        strip = Strip(grid.width, size)
        with (
            rasterio.open(temporary, "w", **profile, nodata=255) as change,
            rasterio.open(out / ".mask.tif", "w", **profile) as mask,
        ):
            for number, top in enumerate(tops):
                for left in starts(grid.width, settings.tile, settings.overlap):
                    tile = Tile(left, top, min(settings.tile, grid.width), size)
                    journal.seek(places[tile.id])
                    held = json.loads(journal.readline())
                    strip.add(tile, unpack_map(held["map"]) if "map" in held else np.zeros((2, 2), np.float32))
                rows = (tops[number + 1] if number + 1 < len(tops) else grid.height) - top
                window = Window(0, top, grid.width, rows)
                seen = strip.flush(rows)
                valid = np.ones(seen.shape, bool)
                for raster in grid.rasters:
                    valid &= raster.dataset_mask(window=window) > 0
                change.write(np.where(valid, np.rint(254 * seen), 255).astype(np.uint8), 1, window=window)
                mask.write(((seen >= THRESHOLD) & valid).astype(np.uint8), 1, window=window)
    copy = out / ".cog.tif"
    rasterio.shutil.copy(temporary, copy, driver="COG", compress="deflate")
    copy.replace(out / "change.tif")
    temporary.unlink()


def _row(polygon: Polygon, grid: Grid, lines: dict[str, dict[str, Any]],
         settings: MapSettings) -> dict[str, Any]:  # fmt: skip
    """A polygon's fields. What is said of it is what the tile says in whose middle it lies most nearly."""
    point = polygon.shape.representative_point()
    row, column = rowcol(grid.transform, point.x, point.y)
    tile = _nearest(column, row, grid, settings)
    line = lines[tile.id]
    facts = parse(line["caption"]).facts if "caption" in line else []
    before, after = settings.dates or (None, None)
    return {
        "caption": line.get("caption"),
        "class": f"{facts[0].object} {facts[0].direction}" if facts else "unnamed",
        "confidence": line.get("confidence"),
        "probability": line.get("probability"),
        "facts": json.dumps([fact.model_dump() for fact in facts]),
        "area_m2": round(polygon.area, 1),
        "before": before,
        "after": after,
    }


def _nearest(column: float, row: float, grid: Grid, settings: MapSettings) -> Tile:
    def pick(place: float, length: int) -> int:
        half = min(settings.tile, length) / 2
        return min(starts(length, settings.tile, settings.overlap), key=lambda begin: abs(begin + half - place))

    return Tile(pick(column, grid.width), pick(row, grid.height), min(settings.tile, grid.width),
                min(settings.tile, grid.height))  # fmt: skip


def _summary(grid: Grid, polygons: list[Polygon], rows: list[dict[str, Any]], lines: list[dict[str, Any]],
             settings: MapSettings) -> dict[str, Any]:  # fmt: skip
    states = Counter(line["state"] for line in lines)
    total = sum(polygon.area for polygon in polygons)
    kinds: Counter[str] = Counter(row["class"] for row in rows)
    areas: Counter[str] = Counter()
    for row in rows:
        areas[row["class"]] += row["area_m2"]
    warnings = []
    if not FINE * 0.75 <= grid.pixel <= COARSE:
        warnings.append(f"a pixel is {grid.pixel:.2f} m; the model was trained on about {FINE:g} to {COARSE:g} m")
    if any(source.dtypes[0] != "uint8" for source in grid.sources):
        warnings.append("pixels of more than 8 bit were stretched; their look may differ from the training images")
    if any(len(set(bands)) < 3 for bands in grid.bands):
        warnings.append("a date has one band; the model was trained on colour")
    if grid.shift.windows and not grid.shift.applied and max(abs(grid.shift.right), abs(grid.shift.down)) >= 0.25:
        warnings.append("the dates seem shifted, but the windows disagree; nothing was corrected")
    if states["empty"]:
        warnings.append(f"{states['empty']} of {len(lines)} tiles have next to no data in one of the dates")
    when = f"Between {settings.dates[0]} and {settings.dates[1]}" if settings.dates else "Between the two dates"
    if not polygons:
        text = f"{when} no change of at least {settings.smallest:g} square metres was seen."
    else:
        parts = [f"{number} x {kind.replace('_', ' ')} ({areas[kind]:,.0f} m2)" for kind, number in kinds.most_common()]
        text = f"{when} {len(polygons)} places changed, {total:,.0f} m2 in all: {'; '.join(parts)}."
    return {
        "text": text,
        "polygons": len(polygons),
        "area_m2": round(total, 1),
        "classes": {kind: {"polygons": kinds[kind], "area_m2": round(areas[kind], 1)} for kind in kinds},
        "tiles": dict(states),
        "grid": {"crs": grid.crs.to_string(), "pixel_m": grid.pixel, "width": grid.width, "height": grid.height},
        "shift_pixels": grid.shift._asdict(),
        "warnings": warnings,
    }
