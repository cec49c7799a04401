"""Two rasters of one place on one grid, read window by window: warped, shifted into register, stretched to 8 bit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.enums import ColorInterp, Resampling
from rasterio.transform import from_origin
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds
from rasterio.windows import Window

from rsiccllm.errors import InputError
from rsiccllm.geo.vrt import check_vrt

PERCENTILES = (2.0, 98.0)
CACHE = 128
"""MiB of blocks that GDAL keeps, in each process."""
SAMPLES = 25
"""Windows in which the shift between the dates is estimated."""
AGREE = 0.75
"""Pixels, median distance of the windows' shifts from their median, from which they are not believed."""

MAX_BLOCK = 2**29
"""Bytes of one block of a raster, all bands: what is decoded at once. Usual ones have under a megabyte."""
MAX_PIXELS = 10**11
"""Of the common grid: 25,000 square kilometres at 0.5 m. The files of a raster may be tiny and its sides endless."""


class Shift(NamedTuple):
    """How far the second raster lies off the first, in pixels of the grid: right and down are positive.

    windows: how many said so. applied: whether it was corrected; it is not where too few windows agree, or it is under
    a quarter of a pixel.
    """

    right: float
    down: float
    windows: int
    applied: bool


class Fit(NamedTuple):
    """What two rasters were found to need, so that another process need not look again.

    ranges: [2, 3, 2], of each date's red, green and blue the values that become 0 and 255.
    """

    shift: Shift
    ranges: np.ndarray


class Patch(NamedTuple):
    """A window of both dates. before, after: [height, width, 3] uint8. valid: [height, width] bool: both have data."""

    before: np.ndarray
    after: np.ndarray
    valid: np.ndarray


class _Part:
    """A raster whose pixels are the grid's already, but for where it begins: read as it is, which costs far less."""

    def __init__(self, source: Any, left: int, top: int, width: int, height: int) -> None:
        self._source, self._whole = source, Window(left, top, width, height)

    def _window(self, window: Window | None) -> Window:
        if window is None:
            return self._whole
        return Window(self._whole.col_off + window.col_off, self._whole.row_off + window.row_off, window.width,
                      window.height)  # fmt: skip

    def read(self, bands: list[int], window: Window | None = None, **more: Any) -> np.ndarray:
        data: np.ndarray = self._source.read(bands, window=self._window(window), **more)
        return data

    def dataset_mask(self, window: Window | None = None, **more: Any) -> np.ndarray:
        mask: np.ndarray = self._source.dataset_mask(window=self._window(window), **more)
        return mask


class Grid:
    """The common grid of two rasters. A context manager; reads are windows, so memory does not grow with the rasters.

    Coordinate system: the first's, or where that is in degrees the UTM zone at the middle. Pixel: the coarser of the
    two, so that neither date is sharper than it is. Extent: where both have pixels.

    Args:
        bands: three bands (from 1) shown as red, green and blue; None takes those marked so, else 1 to 3, else 1 alone.
        register: estimate and correct the shift that is left between the dates.
        fit: of a grid of the same rasters; nothing is then estimated.
        trusted: the rasters are from whoever runs this: VRTs, which name other files (see `check_vrt`), and files
            beside a raster (.ovr, .tfw, .aux.xml) are read too.

    Raises InputError for what is no GeoTIFF or VRT, has no coordinate system, or does not overlap.
    """

    def __init__(
        self,
        before: Path,
        after: Path,
        bands: tuple[int, int, int] | None = None,
        register: bool = True,
        fit: Fit | None = None,
        trusted: bool = False,
    ) -> None:
        self._stack = ExitStack()
        try:
            look = "FALSE" if trusted else "EMPTY_DIR"  # whether files beside a raster are taken for a part of it
            self._stack.enter_context(rasterio.Env(GDAL_CACHEMAX=CACHE, GDAL_DISABLE_READDIR_ON_OPEN=look))
            self.paths = (before, after)
            self._trusted = trusted
            self.sources = [self._open(path) for path in self.paths]
            self.bands = [_bands(source, path, bands) for source, path in zip(self.sources, self.paths, strict=True)]
            self.crs, self.transform, self.width, self.height = self._common()
            self.shift = Shift(0.0, 0.0, 0, False) if fit is None else fit.shift
            self.rasters = [self._warp(source) for source in self.sources]
            self.ranges = self._ranges() if fit is None else fit.ranges
            if register and fit is None:
                self.shift = self._estimate()
            if self.shift.applied:
                self.rasters[1] = self._warp(self.sources[1], self.shift)
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Grid:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._stack.close()

    @property
    def fit(self) -> Fit:
        return Fit(self.shift, self.ranges)

    @property
    def pixel(self) -> float:
        """Side of a pixel in metres (the coordinate system is projected; its unit is asked)."""
        return float(self.transform.a * self.crs.linear_units_factor[1])

    def _open(self, path: Path) -> Any:
        wanted = "GeoTIFF or VRT" if self._trusted else "GeoTIFF"
        if not path.is_file():
            raise InputError(f"{path}: no such file; expected a {wanted}")
        driver = "VRT" if self._trusted and path.suffix.lower() == ".vrt" else "GTiff"
        if driver == "VRT":
            check_vrt(path)
        try:
            source = self._stack.enter_context(rasterio.open(path, driver=driver))
        except rasterio.errors.RasterioError as error:
            raise InputError(f"{path}: cannot be opened as a {wanted} ({str(error).splitlines()[0]})") from None
        if source.crs is None or source.transform.is_identity:
            raise InputError(f"{path}: has no coordinate system; expected a georeferenced raster")
        if np.dtype(source.dtypes[0]).kind not in "uif":
            raise InputError(f"{path}: pixels of type {source.dtypes[0]}; expected integers or floats")
        if ColorInterp.palette in source.colorinterp:
            raise InputError(f"{path}: its pixels are places in a table of colours; expected colours "
                             "(gdal_translate -expand rgb writes them)")  # fmt: skip
        rows, columns = max(source.block_shapes, key=math.prod)
        if rows * columns * source.count * np.dtype(source.dtypes[0]).itemsize > MAX_BLOCK:
            raise InputError(
                f"{path}: is stored in blocks of {columns}x{rows} pixels, each of which is decoded whole; expected at "
                f"most {MAX_BLOCK // 2**20} MiB a block (gdal_translate -co TILED=YES writes small ones)"
            )
        return source

    def _common(self) -> tuple[Any, Any, int, int]:
        first, second = self.sources
        crs = first.crs
        if not crs.is_projected:
            west, south, east, north = self._box(first, "EPSG:4326")
            zone = int(((west + east) / 2 + 180) // 6) % 60 + 1
            crs = rasterio.CRS.from_epsg((32600 if south + north >= 0 else 32700) + zone)
        boxes, sides = [], []
        for source in (first, second):
            box = self._box(source, crs)
            boxes.append(box)
            # Of the pixels as they are, so that a skewed or turned raster counts by its area.
            area = (box[2] - box[0]) * (box[3] - box[1]) / (source.width * source.height)
            sides.append(float(max(map(abs, source.res))) if source.crs == crs else math.sqrt(area))
        left, bottom = (max(box[i] for box in boxes) for i in (0, 1))
        right, top = (min(box[i] for box in boxes) for i in (2, 3))
        side = max(sides)
        width, height = int((right - left) / side + 1e-6), int((top - bottom) / side + 1e-6)
        if width < 28 or height < 28:
            raise InputError(
                f"{self.paths[0]} and {self.paths[1]}: overlap in {max(width, 0)}x{max(height, 0)} pixels of "
                f"{side:g}; expected at least 28x28"
            )
        if width * height > MAX_PIXELS:
            raise InputError(
                f"{self.paths[0]} and {self.paths[1]}: overlap in {width:,}x{height:,} pixels of {side:g}; expected at "
                f"most {MAX_PIXELS:,} in all (cut them into parts)"
            )
        return crs, from_origin(left, top, side, side), width, height

    def _box(self, source: Any, crs: Any) -> tuple[float, float, float, float]:
        """Left, bottom, right, top of a raster in another coordinate system."""
        west, south, east, north = source.bounds  # of a raster stored from south to north these are the other way round
        box = min(west, east), min(south, north), max(west, east), max(south, north)
        try:
            box = transform_bounds(source.crs, crs, *box, densify_pts=21)
        except (rasterio.errors.RasterioError, CPLE_BaseError, ValueError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(f"{source.name}: its coordinate system leads nowhere on the ground ({reason})") from None
        if not all(map(math.isfinite, box)):
            raise InputError(f"{source.name}: its coordinates lie outside of its coordinate system")
        return box

    def _warp(self, source: Any, shift: Shift | None = None) -> Any:
        transform = self.transform
        if shift is None and (place := self._place(source)) is not None:
            return _Part(source, *place, self.width, self.height)
        if shift is not None:
            side = transform.a
            transform = from_origin(transform.c + side * shift.right, transform.f - side * shift.down, side, side)
        coarser = self.transform.a > 1.5 * max(abs(source.transform.a), 1e-12) and source.crs == self.crs
        return self._stack.enter_context(
            WarpedVRT(
                source,
                crs=self.crs,
                transform=transform,
                width=self.width,
                height=self.height,
                resampling=Resampling.average if coarser else Resampling.bilinear,
                # Without nodata or an alpha band, what lies outside the source would read as black ground.
                add_alpha=source.nodata is None and ColorInterp.alpha not in source.colorinterp,
            )
        )

    def _place(self, source: Any) -> tuple[int, int] | None:
        """Where in a raster of the same system and pixels the grid begins, (left, top); None for any other raster."""
        own, side = source.transform, self.transform.a
        if source.crs != self.crs or own.b or own.d or max(abs(own.a - side), abs(own.e + side)) > 1e-9 * side:
            return None
        left, top = (self.transform.c - own.c) / side, (own.f - self.transform.f) / side
        if max(abs(left - round(left)), abs(top - round(top))) > 1e-3:
            return None
        return round(left), round(top)

    def _ranges(self) -> np.ndarray:
        """[2, 3, 2]: of each date's red, green and blue the values that become 0 and 255.

        8-bit pixels stay as they are. Others are stretched between the PERCENTILES of both dates together, taken from
        a reduced view of the whole; where the two have other types, their numbers do not compare, and each has its own.
        """
        types = [np.dtype(source.dtypes[0]) for source in self.sources]
        factor = max(1.0, max(self.width, self.height) / 512)
        shape = (max(1, round(self.height / factor)), max(1, round(self.width / factor)))
        ranges = np.array([[[0.0, 255.0]] * 3] * 2)
        views: list[np.ndarray] = []
        for path, raster, bands, kind in zip(self.paths, self.rasters, self.bands, types, strict=True):
            if kind == np.uint8:
                views.append(np.empty((3, 0)))
                continue
            with readable(path):
                data = raster.read(bands, out_shape=(3, *shape)).astype(np.float64)
                valid = (raster.dataset_mask(out_shape=shape) > 0) & np.isfinite(data).all(0)
            if not valid.any():
                raise InputError(f"{self.paths[0]} and {self.paths[1]}: no pixel with data where they overlap")
            views.append(data[:, valid])
        if types[0] == types[1]:
            views = [np.concatenate(views, 1)] * 2
        for date, view in enumerate(views):
            if view.shape[1]:
                ranges[date] = np.percentile(view, PERCENTILES, axis=1).T
        ranges[..., 1] = np.maximum(ranges[..., 1], ranges[..., 0] + 1e-6)
        return ranges

    def read(self, window: Window) -> Patch:
        """Both dates in a window of the grid, 8 bit; black where either has no data."""
        images, valid = [], np.ones((int(window.height), int(window.width)), bool)
        for path, raster, bands, ranges in zip(self.paths, self.rasters, self.bands, self.ranges, strict=True):
            with readable(path):
                data = raster.read(bands, window=window)  # [3, height, width]
                valid &= raster.dataset_mask(window=window) > 0
            if data.dtype == np.uint8 and (ranges == (0, 255)).all():
                images.append(data)
                continue
            data = data.astype(np.float32)
            valid &= np.isfinite(data).all(0)
            low, high = (ranges[:, i, None, None].astype(np.float32) for i in (0, 1))
            stretched = np.clip((np.nan_to_num(data) - low) * (255 / (high - low)), 0, 255)
            images.append(np.rint(stretched).astype(np.uint8))
        before, after = ((image * valid).transpose(1, 2, 0) for image in images)
        return Patch(before, after, valid)

    def valid(self, window: Window) -> np.ndarray:
        """Where both dates have data in a window of the grid, [height, width] bool; NaN is no data."""
        found = np.ones((int(window.height), int(window.width)), bool)
        for path, raster, bands, source in zip(self.paths, self.rasters, self.bands, self.sources, strict=True):
            with readable(path):
                found &= raster.dataset_mask(window=window) > 0
                if np.dtype(source.dtypes[0]).kind == "f":
                    found &= np.isfinite(raster.read(bands, window=window)).all(0)
        return found

    def _estimate(self) -> Shift:
        """The shift between the dates by phase correlation in windows spread over the grid, their median."""
        side = min(256, self.width, self.height)
        across = np.linspace(0, self.width - side, round(SAMPLES**0.5)).round().astype(int)
        down = np.linspace(0, self.height - side, round(SAMPLES**0.5)).round().astype(int)
        hann = cv2.createHanningWindow((side, side), cv2.CV_32F)
        found = []
        for top in sorted(set(down.tolist())):
            for left in sorted(set(across.tolist())):
                patch = self.read(Window(left, top, side, side))
                if patch.valid.mean() < 0.9:
                    continue
                first, second = (
                    cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) for image in (patch.before, patch.after)
                )
                if min(first.std(), second.std()) < 2:
                    continue  # nothing to hold on to
                offset, response = cv2.phaseCorrelate(first - first.mean(), second - second.mean(), hann)
                if response > 0.05 and max(map(abs, offset)) < side / 8:
                    found.append(offset)
        if len(found) < 3:
            return Shift(0.0, 0.0, len(found), False)
        shifts = np.array(found)
        middle = np.median(shifts, 0)
        agree = float(np.median(np.abs(shifts - middle).max(1))) <= AGREE
        applied = agree and bool(np.abs(middle).max() >= 0.25)
        return Shift(float(middle[0]), float(middle[1]), len(found), applied)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """What GDAL says of a damaged or vanished file as one line that names it."""
    try:
        yield
    except rasterio.errors.RasterioError as error:
        reason = " ".join(str(error.__cause__ or error).split())[:160]
        raise InputError(f"{path}: damaged or gone, cannot be read ({reason})") from None


def _bands(source: Any, path: Path, wanted: tuple[int, int, int] | None) -> list[int]:
    count = source.count
    if wanted is not None:
        if max(wanted) > count or min(wanted) < 1:
            raise InputError(f"{path}: has {count} bands, --bands asks for {','.join(map(str, wanted))}")
        return list(wanted)
    colours = [source.colorinterp.index(c) + 1 for c in (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
               if c in source.colorinterp]  # fmt: skip
    if len(colours) == 3:
        return colours
    return [1, 2, 3] if count >= 3 else [1, 1, 1]
