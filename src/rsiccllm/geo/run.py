"""`rsiccllm map`: from two rasters to polygons, a change raster and a summary; stopped, it goes on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from rasterio.features import rasterize
from rasterio.transform import rowcol

from rsiccllm.caption.captioner import model_name
from rsiccllm.errors import InputError
from rsiccllm.facts import parse
from rsiccllm.files import only_run, read_json, write_json
from rsiccllm.geo.grid import Grid
from rsiccllm.geo.merge import write_change
from rsiccllm.geo.notes import cover_of, date_of, notes_of, sensor_of
from rsiccllm.geo.polygons import UNNAMED, Polygon, polygons_of, write_geojson, write_geopackage
from rsiccllm.geo.style import write_raster_style, write_vector_style
from rsiccllm.geo.tiles import Tile, starts, unpack_cells
from rsiccllm.geo.vrt import check_vrt
from rsiccllm.geo.work import Job, groups_of, work
from rsiccllm.journal import Journal
from rsiccllm.model.checkpoint import weights_digest
from rsiccllm.model.difference import FACTS
from rsiccllm.progress import track


@dataclass(frozen=True)
class MapSettings:
    """tile, overlap: pixels. smallest: square metres of a polygon. bands: see Grid. dates: of the two rasters, as they
    are to stand in the results; None takes what the rasters' metadata say. register: correct the shift left between the
    dates. workers, ray: see `work`. batch_size: tiles that are read and captioned together."""

    tile: int = 256
    overlap: int = 64
    smallest: float = 20.0
    bands: tuple[int, int, int] | None = None
    dates: tuple[str, str] | None = None
    register: bool = True
    workers: int = 1
    ray: str | None = None
    batch_size: int = 16

    def __post_init__(self) -> None:
        if self.tile < 56 or not 0 <= self.overlap <= self.tile // 2:
            raise InputError("--tile: expected at least 56; --overlap: expected 0 to half of it")
        for date in self.dates or ():
            try:
                datetime.fromisoformat(date)
            except ValueError:
                raise InputError(f"--dates: '{date}'; expected a date as 2023-06-01") from None


def map_rasters(before: Path, after: Path, out: Path, model: str | None, settings: MapSettings) -> dict[str, Any]:
    """Write what was found to `out` and return the summary.

    change.tif (a COG), changes.geojson, changes.gpkg, a QGIS style beside each, and summary.json. tiles.jsonl there is
    the journal: called again after a stop, only what is missing is captioned. Files are the same bytes however many
    workers made them. Raises InputError for rasters that cannot be used, and for an `out` that other rasters, models or
    settings began.
    """
    name = model_name(model)
    with Grid(before, after, settings.bands, settings.register, trusted=True) as grid, only_run(out):
        _claim(out, _stamp(before, after, name, grid, settings))
        _caption_tiles(Job(before.absolute(), after.absolute(), _everywhere(name), settings.bands, grid.fit), grid, out,
                       settings)  # fmt: skip
        lines = {line["id"]: line for line in _without_maps(out / "tiles.jsonl")}
        mask = out / ".mask.tif"
        try:
            write_change(grid, out / "tiles.jsonl", settings.tile, settings.overlap, out / "change.tif", mask)
            found = sorted(polygons_of(mask, grid.crs, settings.smallest), key=lambda polygon: -polygon.area)
        finally:
            mask.unlink(missing_ok=True)
        dates = settings.dates or (date_of(grid.sources[0]), date_of(grid.sources[1]))
        rows = [_row(polygon, grid, lines, settings, dates) for polygon in found]
        write_geojson(out / "changes.geojson", found, rows, grid.crs)
        newest = datetime.fromtimestamp(max(path.stat().st_mtime for path in (before, after)), UTC)
        write_geopackage(out / "changes.gpkg", found, rows, grid.crs, newest.strftime("%Y-%m-%dT%H:%M:%S.000Z"))
        write_vector_style(out / "changes.qml", (row["class"] for row in rows))
        write_raster_style(out / "change.qml")
        summary = _summary(grid, found, rows, list(lines.values()), settings, dates)
    write_json(out / "summary.json", summary)
    return summary


def _everywhere(name: str) -> str:
    """A model's folder by its full path, for workers that stand elsewhere; a hub name as it is."""
    return str(Path(name).absolute()) if Path(name).exists() else name


def _caption_tiles(job: Job, grid: Grid, out: Path, settings: MapSettings) -> None:
    """Bring the journal to where it holds a line for every tile, in order.

    A group that a stop cut in two is done again as a whole, for the model's numbers depend on who is in a batch with
    whom, in their last digits.
    """
    with_journal = Journal(out / "tiles.jsonl", sync_every=5.0, sealed=True)
    try:
        known = {line["id"] for line in with_journal.read()}
        groups = list(groups_of(grid.width, grid.height, settings.tile, settings.overlap, settings.batch_size))
        left = [group for group in groups if any(tile.id not in known for tile in group)]
        if left:
            total = sum(map(len, groups))
            new = (line for lines in work(job, left, settings.workers, settings.ray) for line in lines
                   if line["id"] not in known)  # fmt: skip
            for line in track(new, "captioning tiles", total, len(known)):
                with_journal.append(line)
    finally:
        with_journal.close()


def _stamp(before: Path, after: Path, name: str, grid: Grid, settings: MapSettings) -> dict[str, Any]:
    """All that shapes a tile's caption; the rest may change between two calls."""
    files = {}
    for side, path, source in zip(("before", "after"), (before, after), grid.sources, strict=True):
        # What lies beside a raster (.tfw, .aux.xml) says where it is and what its pixels mean.
        beside = [file for name in source.files if (file := Path(name)).is_file()]
        read = {path, *beside, *(check_vrt(path) if path.suffix.lower() == ".vrt" else ())}
        held = [file.stat() for file in sorted(read)]
        files[side] = {"path": str(path), "bytes": sum(one.st_size for one in held),
                       "written": max(one.st_mtime_ns for one in held), "crs": source.crs.to_string(),
                       "transform": list(source.transform)[:6]}  # fmt: skip
    return {
        "schema": "rsiccllm.map.v3",
        "model": weights_digest(name),
        **files,
        "grid": {"crs": grid.crs.to_string(), "transform": list(grid.transform)[:6], "width": grid.width,
                 "height": grid.height},
        "tile": settings.tile,
        "overlap": settings.overlap,
        "bands": grid.bands,
        "register": settings.register,
        "batch": settings.batch_size,
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


def _without_maps(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as handle:
        for data in handle:
            line = json.loads(data)
            line.pop("map", None)
            yield line


def _row(polygon: Polygon, grid: Grid, lines: dict[str, dict[str, Any]], settings: MapSettings,
         dates: tuple[str | None, str | None]) -> dict[str, Any]:  # fmt: skip
    """A polygon's fields. What is said of it is what the tile says in whose middle it lies most nearly.

    Its class is what the tile's map sees in it, for a caption names what changed in the whole tile; without such a map,
    the first that the caption names.
    """
    point = polygon.shape.representative_point()
    row, column = rowcol(grid.transform, point.x, point.y)
    tile = _nearest(column, row, grid, settings)
    line = lines[tile.id]
    facts = parse(line["caption"]).facts if "caption" in line else []
    kind = _kind(polygon, tile, line, grid) or (facts and f"{facts[0].object} {facts[0].direction}") or UNNAMED
    return {
        "caption": line.get("caption"),
        "class": kind,
        "confidence": line.get("confidence"),
        "probability": line.get("probability"),
        "facts": json.dumps([fact.model_dump() for fact in facts]),
        "area_m2": round(polygon.area, 1),
        "before": dates[0],
        "after": dates[1],
    }


def _kind(polygon: Polygon, tile: Tile, line: dict[str, Any], grid: Grid) -> str | None:
    """The fact, such as "building appear", that most of a polygon's cells show in a tile; None where none is known."""
    if "what" not in line:
        return None
    what = unpack_cells(line["what"])
    rows, cols = what.shape
    cell = Affine.scale(tile.width / cols, tile.height / rows)
    cells = grid.transform @ Affine.translation(tile.left, tile.top) @ cell
    inside = rasterize([polygon.shape], what.shape, transform=cells, all_touched=True) > 0
    return " ".join(FACTS[np.bincount(what[inside]).argmax()]) if inside.any() else None


def _nearest(column: float, row: float, grid: Grid, settings: MapSettings) -> Tile:
    def pick(place: float, length: int) -> int:
        half = min(settings.tile, length) / 2
        return min(starts(length, settings.tile, settings.overlap), key=lambda begin: abs(begin + half - place))

    return Tile(pick(column, grid.width), pick(row, grid.height), min(settings.tile, grid.width),
                min(settings.tile, grid.height))  # fmt: skip


def _summary(grid: Grid, polygons: list[Polygon], rows: list[dict[str, Any]], lines: list[dict[str, Any]],
             settings: MapSettings, dates: tuple[str | None, str | None]) -> dict[str, Any]:  # fmt: skip
    states = Counter(line["state"] for line in lines)
    total = sum(polygon.area for polygon in polygons)
    kinds: Counter[str] = Counter(row["class"] for row in rows)
    areas: Counter[str] = Counter()
    for row in rows:
        areas[row["class"]] += row["area_m2"]
    cover = cover_of(lines)
    when = f"Between {dates[0]} and {dates[1]}" if all(dates) else "Between the two dates"
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
        "dates": list(dates),
        "sensors": [sensor_of(source) for source in grid.sources],
        "cover": cover,
        "shift_pixels": grid.shift._asdict(),
        "warnings": notes_of(grid, cover, dates),
    }
