"""Two small GeoTIFFs as a pair of images, for where there is no map to make but a page to look at."""

from __future__ import annotations

from pathlib import Path

import rasterio
from PIL import Image
from rasterio.windows import Window

from rsiccllm.errors import InputError
from rsiccllm.geo.grid import Grid
from rsiccllm.geo.notes import DATES, notes_of
from rsiccllm.geo.tiles import cloud_share
from rsiccllm.pairs import OpenedPair

ENDINGS = (".tif", ".tiff")


def georeferenced(path: Path) -> bool:
    """Whether a file is a GeoTIFF with a coordinate system. Of others nothing is said here."""
    if path.suffix.lower() not in ENDINGS:
        return False
    try:
        with (
            rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"),
            rasterio.open(path, driver="GTiff") as source,
        ):
            return source.crs is not None
    except rasterio.errors.RasterioError:
        return False


def open_rasters(before: Path, after: Path, max_pixels: int) -> tuple[OpenedPair, list[str]]:
    """Both on their common grid, as `rsiccllm map` would see them, and what is to be noted of them (`notes_of`).

    The files may be anybody's: VRTs and files beside them are not read. Raises InputError as Grid does, and where they
    overlap in more than `max_pixels`.
    """
    with Grid(before, after) as grid:
        if grid.width * grid.height > max_pixels:
            raise InputError(
                f"{before} and {after}: overlap in {grid.width}x{grid.height} pixels; expected at most {max_pixels:,} "
                "(rsiccllm map takes rasters of any size)"
            )
        patch = grid.read(Window(0, 0, grid.width, grid.height))
        if not patch.valid.any():
            raise InputError(f"{before} and {after}: no pixel with data where they overlap")
        images = dict(zip(DATES, (patch.before, patch.after), strict=True))
        clouds = {date: cloud_share(image, patch.valid, grid.pixel) for date, image in images.items()}
        cover = {"nodata": 1 - float(patch.valid.mean()), "clouds": clouds}
        notes = notes_of(grid, cover, (None, None))
    return OpenedPair(Image.fromarray(patch.before), Image.fromarray(patch.after), None), notes
