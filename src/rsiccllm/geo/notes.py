"""What the user of a map must know of the rasters it was made from: what is far from what the model has seen."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
from rasterio.enums import ColorInterp

from rsiccllm.geo.grid import Grid

TRAINED = 0.5
"""Metres a pixel of the rendered scenes (`sources/scenes/geometry.py`), and of LEVIR-CC."""
FAR = 2.0
"""Times finer or coarser than TRAINED from which a raster is unlike what the model has seen."""
CLOUDS, NODATA, MOVED = 0.02, 0.05, 0.25
"""Shares of the scene, and pixels of shift, from which a note is due."""
DATES = ("before", "after")

_SENSOR = ("SENSOR", "SENSOR_ID", "SATELLITE", "SATELLITEID", "PLATFORM", "SPACECRAFT", "SPACECRAFT_ID",
           "SPACECRAFT_NAME", "INSTRUMENT")  # fmt: skip


def sensor_of(source: Any) -> str | None:
    """The name of the sensor or satellite that a raster's tags give, if any do."""
    tags = {key.upper(): value for space in (None, "IMAGERY") for key, value in source.tags(ns=space).items()}
    return next((str(tags[key]).strip() for key in _SENSOR if str(tags.get(key, "")).strip()), None)


def date_of(source: Any) -> str | None:
    """When a raster was taken, where GDAL knows it from the maker's metadata (ISO date)."""
    given = str(source.tags(ns="IMAGERY").get("ACQUISITIONDATETIME", ""))[:10]
    return given if _parsed(given) else None


def cover_of(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Shares 0..1 over all tiles: nodata, without data in one of the dates; clouds, of each date what looks like it."""
    return {
        "nodata": round(float(np.mean([line["nodata"] for line in lines])), 4),
        "clouds": {date: round(float(np.mean([line["clouds"][at] for line in lines])), 4)
                   for at, date in enumerate(DATES)},
    }  # fmt: skip


def notes_of(grid: Grid, cover: dict[str, Any], dates: tuple[str | None, str | None]) -> list[str]:
    """One line each, its subject first: resolution, sensor, bands, bits, registration, clouds, nodata, dates."""
    sensors = [sensor_of(source) for source in grid.sources]
    by = f" ({', '.join(dict.fromkeys(filter(None, sensors)))})" if any(sensors) else ""
    notes = []
    if not TRAINED / FAR <= grid.pixel <= TRAINED * FAR:
        notes.append(
            f"resolution: a pixel is {grid.pixel:.2f} m{by}; the model was trained on {TRAINED:g} m and is not to be "
            f"trusted beyond {TRAINED / FAR:g} to {TRAINED * FAR:g} m"
        )
    if all(sensors) and sensors[0] != sensors[1]:
        notes.append(f"sensor: {sensors[0]} before, {sensors[1]} after; what looks changed may be the sensor")
    types = [source.dtypes[0] for source in grid.sources]
    for date, source, bands, path in zip(DATES, grid.sources, grid.bands, grid.paths, strict=True):
        shown = ",".join(map(str, bands))
        if len(set(bands)) < 3:
            notes.append(
                f"bands: {date} ({path.name}) is shown grey, by band {bands[0]}; the model was trained on colour"
            )
        elif source.count > 3 and [source.colorinterp[band - 1] for band in bands] != _RGB:
            notes.append(
                f"bands: {date} ({path.name}) has {source.count} and does not say which are red, green and blue; "
                f"{shown} are shown (--bands chooses)"
            )
    if types[0] != types[1]:
        notes.append(f"bits: {types[0]} before and {types[1]} after; each was stretched to 8 bit by itself")
    elif types[0] != "uint8":
        notes.append(f"bits: {types[0]} was stretched to 8 bit; its look may differ from the training images")
    shift = grid.shift
    if shift.windows and not shift.applied and max(abs(shift.right), abs(shift.down)) >= MOVED:
        notes.append("registration: the dates seem shifted, but the windows disagree; nothing was corrected")
    for date, share in cover["clouds"].items():
        if share >= CLOUDS:
            notes.append(f"clouds: {100 * share:.0f} % of {date} looks like cloud; changes there are not to be trusted")
    if cover["nodata"] >= NODATA:
        notes.append(f"nodata: {100 * cover['nodata']:.0f} % of the scene has no data in one of the dates")
    first, second = (_parsed(date) for date in dates)
    if first and second and second < first:
        notes.append(f"dates: {dates[1]} is before {dates[0]}; what is said runs from the first raster to the second")
    return notes


_RGB = [ColorInterp.red, ColorInterp.green, ColorInterp.blue]


def _parsed(date: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(date or "").replace(tzinfo=None)
    except ValueError:
        return None
