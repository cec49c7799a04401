"""Polygons of what changed, with their areas, and the files that hold them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyogrio
import rasterio
import shapely
from rasterio.features import shapes
from rasterio.warp import transform_geom

from rsiccllm.files import atomic_write

EQUAL_AREA = "EPSG:6933"
"""WGS 84 / NSIDC EASE-Grid 2.0 Global: cylindrical, equal-area, in metres."""

WORLD = 2 * 17_367_530.4451615
"""Metres from one end of it to the other."""

FIELDS = ("caption", "class", "confidence", "probability", "facts", "area_m2", "before", "after")
"""Of every polygon. facts: JSON text. confidence: null without a calibration. before, after: dates or null."""

UNNAMED = "unnamed"
"""The class of a polygon whose caption names no change."""


class Polygon(NamedTuple):
    """shape: in the raster's coordinate system. area: square metres, measured in EQUAL_AREA."""

    shape: shapely.Polygon
    area: float


def _equal_area(geometry: Any, crs: Any) -> float:
    """Square metres of a geometry. What crosses 180 degrees has come apart, to both ends of the world."""
    shape = shapely.geometry.shape(transform_geom(crs, EQUAL_AREA, geometry))
    west, _, east, _ = shape.bounds
    if east - west > WORLD / 2:
        shape = shapely.transform(shape, lambda at: np.column_stack([at[:, 0] % WORLD, at[:, 1]]))
    return float(shape.area)


def polygons_of(mask: Path, crs: Any, smallest: float) -> Iterator[Polygon]:
    """The connected parts of a raster of 0 and 1 on disk, those of at least `smallest` square metres."""
    with rasterio.open(mask) as source:
        band = rasterio.band(source, 1)
        for geometry, _ in shapes(band, mask=band, connectivity=4, transform=source.transform):
            area = _equal_area(geometry, crs)
            if area >= smallest:
                yield Polygon(shapely.geometry.shape(geometry), area)


def write_geojson(path: Path, polygons: Sequence[Polygon], rows: Sequence[dict[str, Any]], crs: Any) -> None:
    """RFC 7946: longitude and latitude of WGS 84, outer rings counter-clockwise."""
    features = []
    for polygon, row in zip(polygons, rows, strict=True):
        turned = transform_geom(crs, "EPSG:4326", shapely.geometry.mapping(polygon.shape), precision=8)
        ringed = shapely.geometry.mapping(shapely.geometry.polygon.orient(shapely.geometry.shape(turned)))
        facts = json.loads(row["facts"])
        features.append({"type": "Feature", "geometry": ringed, "properties": {**row, "facts": facts}})
    with atomic_write(path) as handle:
        json.dump({"type": "FeatureCollection", "features": features}, handle)


def write_geopackage(
    path: Path, polygons: Sequence[Polygon], rows: Sequence[dict[str, Any]], crs: Any, made: str
) -> None:
    """A layer `changes` in the raster's own coordinate system. made: the time it is to bear (the format wants one), so
    that equal polygons are equal bytes."""
    temporary = path.with_name(f".{path.stem}.tmp.gpkg")
    temporary.unlink(missing_ok=True)
    columns = []
    for field in FIELDS:
        values = [row[field] for row in rows]
        numeric = field in {"confidence", "probability", "area_m2"}
        columns.append(np.array([np.nan if v is None else v for v in values], float) if numeric
                       else np.array(values, object))  # fmt: skip
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": made})
    try:
        pyogrio.raw.write(
            temporary,
            geometry=shapely.to_wkb(np.array([polygon.shape for polygon in polygons], object)),
            field_data=columns,
            fields=list(FIELDS),
            geometry_type="Polygon",
            crs=crs.to_wkt(),
            layer="changes",
            driver="GPKG",
        )
        temporary.replace(path)
    finally:
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": None})
        temporary.unlink(missing_ok=True)
