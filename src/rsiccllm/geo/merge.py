"""The maps of all tiles merged into one raster, in bands of columns: memory does not grow with the raster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from rasterio._err import CPLE_BaseError
from rasterio.windows import Window

from rsiccllm.caption.result import THRESHOLD
from rsiccllm.errors import InputError
from rsiccllm.geo.grid import Grid
from rsiccllm.geo.tiles import Strip, Tile, starts, unpack_map

BAND = 4096
"""Columns that are merged at once: a multiple of the blocks of 256 that the file is made of."""

NODATA = 255


def write_change(grid: Grid, journal: Path, size: int, overlap: int, change: Path, mask: Path) -> None:
    """Merge the maps in a journal of tiles.

    change: a COG, 0 (no change) to 254, NODATA where a date has no data or no tile with data was looked at. mask: a
    GeoTIFF, 1 where the map reaches THRESHOLD, else 0. size, overlap: of the tiles.
    """
    places = _places(journal)
    profile: dict[str, Any] = {
        "driver": "GTiff", "width": grid.width, "height": grid.height, "count": 1, "dtype": "uint8",
        "crs": grid.crs, "transform": grid.transform, "tiled": True, "blockxsize": 256, "blockysize": 256,
        "compress": "deflate", "BIGTIFF": "IF_SAFER",
    }  # fmt: skip
    plain, copy = change.with_name(f".{change.name}"), change.with_name(f".cog.{change.name}")
    for path in (plain, copy, mask):
        path.unlink(missing_ok=True)  # what a kill left: GDAL looks into a file that it is to write anew
    try:
        with (
            journal.open("rb") as lines,
            rasterio.open(plain, "w", **profile, nodata=NODATA) as seen,
            rasterio.open(mask, "w", **profile) as cut,
        ):
            for left in range(0, grid.width, BAND):
                width = min(BAND, grid.width - left)
                for window, values in _band(grid, lines, places, left, width, size, overlap):
                    valid = grid.valid(window) & np.isfinite(values)
                    values = np.where(valid, values, 0)
                    seen.write(np.where(valid, np.rint(254 * values), NODATA).astype(np.uint8), 1, window=window)
                    cut.write(((values >= THRESHOLD) & valid).astype(np.uint8), 1, window=window)
        rasterio.shutil.copy(plain, copy, driver="COG", compress="deflate")
        copy.replace(change)
    except (rasterio.errors.RasterioError, CPLE_BaseError) as error:
        reason = " ".join(str(error.__cause__ or error).split())[:160]
        raise InputError(f"{change}: cannot be written ({reason})") from None
    finally:
        for path in (plain, copy):
            path.unlink(missing_ok=True)


def _places(journal: Path) -> dict[str, int]:
    """Where in the journal the line of each tile begins."""
    places: dict[str, int] = {}
    with journal.open("rb") as lines:
        while line := lines.readline():
            places[json.loads(line)["id"]] = lines.tell() - len(line)
    return places


def _band(grid: Grid, lines: Any, places: dict[str, int], left: int, width: int, size: int, overlap: int) -> Any:
    """(window, blended values [rows, width]) from top to bottom of a band of columns."""
    across, down = min(size, grid.width), min(size, grid.height)
    tops = starts(grid.height, size, overlap)
    strip = Strip(left, width, down)
    for top, following in zip(tops, [*tops[1:], grid.height], strict=True):
        for begin in starts(grid.width, size, overlap):
            if begin + across <= left or begin >= left + width:
                continue
            tile = Tile(begin, top, across, down)
            lines.seek(places[tile.id])
            held = json.loads(lines.readline())
            if held["state"] != "empty":
                strip.add(tile, unpack_map(held["map"]) if "map" in held else np.zeros((2, 2), np.float32))
        yield Window(left, top, width, following - top), strip.flush(following - top)
