"""What a map writes, read by others: geopandas, GDAL's own programs, a COG validator, a geodesic."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

pytest.importorskip("rasterio")
pytest.importorskip("pyogrio")
import rasterio
import shapely
from pyproj import Geod
from rasterio.transform import from_origin
from rasterio.warp import transform as warp_points
from rasterio.warp import transform_geom

from rsiccllm.facts import Object
from rsiccllm.geo.polygons import Polygon, polygons_of, write_geojson, write_geopackage
from rsiccllm.geo.style import color_of, write_raster_style, write_vector_style

UTM = rasterio.CRS.from_epsg(32633)
CORNER = (400_000.0, 5_000_000.0)


def rows(polygons: list[Polygon]) -> list[dict[str, Any]]:
    facts = json.dumps([{"object": "building", "direction": "appear", "verb": "build"}])
    return [{"caption": "a house is built", "class": "building appear", "confidence": None, "probability": 0.9,
             "facts": facts, "area_m2": round(polygon.area, 1), "before": "2019-05-01", "after": None}
            for polygon in polygons]  # fmt: skip


@pytest.fixture
def polygons(tmp_path: Path) -> list[Polygon]:
    """A rectangle of 40 x 60 pixels of half a metre with a hole of 10 x 10, and a speck that is too small."""
    mask = np.zeros((200, 200), np.uint8)
    mask[20:80, 30:70] = 1
    mask[40:50, 40:50] = 0
    mask[150:153, 150:153] = 1
    path = tmp_path / "mask.tif"
    with rasterio.open(path, "w", driver="GTiff", width=200, height=200, count=1, dtype="uint8", crs=UTM,
                       transform=from_origin(*CORNER, 0.5, 0.5)) as raster:  # fmt: skip
        raster.write(mask, 1)
    return list(polygons_of(path, UTM, 20))


def test_areas_are_those_on_the_ellipsoid(polygons: list[Polygon]) -> None:
    (polygon,) = polygons  # 9 pixels are 2.25 square metres
    # In the plane of UTM it is 30 m x 20 m - 5 m x 5 m; the ground is larger by 1 / k^2, k the scale at its place:
    # k = 0.9996 (1 + x^2 / 2 R^2) with x = 100 km from the middle of the zone, so 575 * (1 / 0.99972)^2.
    scale = 0.9996 * (1 + 100_000**2 / (2 * 6_378_000**2))
    assert polygon.shape.area == 575
    assert polygon.area == pytest.approx(575 / scale**2, rel=1e-4)
    turned = shapely.geometry.shape(transform_geom(UTM, "EPSG:4326", shapely.geometry.mapping(polygon.shape)))
    geodesic = abs(Geod(ellps="WGS84").geometry_area_perimeter(turned)[0])
    assert polygon.area == pytest.approx(geodesic, rel=1e-4)


@pytest.mark.parametrize("latitude", [0.0, 45.0, 70.0])
def test_equal_area_holds_at_every_latitude(tmp_path: Path, latitude: float) -> None:
    degrees = rasterio.CRS.from_epsg(4326)
    path = tmp_path / "mask.tif"
    with rasterio.open(path, "w", driver="GTiff", width=10, height=10, count=1, dtype="uint8", crs=degrees,
                       transform=from_origin(10, latitude, 1e-4, 1e-4)) as raster:  # fmt: skip
        raster.write(np.ones((10, 10), np.uint8), 1)
    (polygon,) = polygons_of(path, degrees, 0)
    # By hand, on a sphere: (R * 0.001 degrees)^2 * cos(latitude); the ellipsoid differs from it by under 1 %.
    side = 6_371_007 * math.radians(1e-3)
    assert polygon.area == pytest.approx(side**2 * math.cos(math.radians(latitude)), rel=0.01)
    assert polygon.area == pytest.approx(abs(Geod(ellps="WGS84").geometry_area_perimeter(polygon.shape)[0]), rel=1e-5)


def test_an_area_across_180_degrees(tmp_path: Path) -> None:
    zone = rasterio.CRS.from_epsg(32760)  # its middle is 177 degrees east
    path = tmp_path / "mask.tif"
    (east,), (north,) = warp_points("EPSG:4326", zone, [180.0], [-17.0])
    with rasterio.open(path, "w", driver="GTiff", width=10, height=10, count=1, dtype="uint8", crs=zone,
                       transform=from_origin(east - 25, north, 5, 5)) as raster:  # fmt: skip
        raster.write(np.ones((10, 10), np.uint8), 1)
    (polygon,) = polygons_of(path, zone, 0)
    assert polygon.area == pytest.approx(2500, rel=0.01)


def program(name: str, *arguments: object) -> str:
    """What one of GDAL's programs prints; skips the test where it is not installed."""
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not here (apt install gdal-bin)")
    return subprocess.run([name, *map(str, arguments)], check=True, capture_output=True, text=True).stdout


def test_vectors_are_read_by_ogrinfo(polygons: list[Polygon], tmp_path: Path) -> None:
    write_geojson(tmp_path / "c.geojson", polygons, rows(polygons), UTM)
    write_geopackage(tmp_path / "c.gpkg", polygons, rows(polygons), UTM, "2024-01-02T03:04:05.000Z")
    for name, axis in (("c.geojson", "WGS 84"), ("c.gpkg", "WGS 84 / UTM zone 33N")):
        said = program("ogrinfo", "-ro", "-al", tmp_path / name)
        assert "Feature Count: 1" in said
        assert f'CRS["{axis}"' in said
        assert "class (String) = building appear" in said
        assert f"area_m2 (Real) = {polygons[0].area:.1f}" in said
        assert "before (Date) = 2019/05/01" in said or "before (String) = 2019-05-01" in said
        assert "POLYGON ((" in said


def test_equal_polygons_are_equal_bytes(polygons: list[Polygon], tmp_path: Path) -> None:
    for name in ("a.gpkg", "b.gpkg"):
        write_geopackage(tmp_path / name, polygons, rows(polygons), UTM, "2024-01-02T03:04:05.000Z")
    assert (tmp_path / "a.gpkg").read_bytes() == (tmp_path / "b.gpkg").read_bytes()


QGIS = """
import os
import sys
from qgis.core import QgsApplication, QgsRasterLayer, QgsVectorLayer
application = QgsApplication([], False)
application.initQgis()
layer = QgsVectorLayer(sys.argv[1], "c", "ogr")
kinds = layer.renderer().categories()
print(layer.featureCount(), *(f"{kind.value()}={kind.symbol().color().name()}" for kind in kinds), sep=";")
raster = QgsRasterLayer(sys.argv[2], "r")
shader = raster.renderer().shader().rasterShaderFunction()
print(*(f"{item.value:g}={item.color.alpha()}" for item in shader.colorRampItemList()), sep=";")
sys.stdout.flush()
os._exit(0)  # QGIS falls over its own layers when Python ends in the usual way
"""


def test_qgis_draws_layers_by_the_styles_beside_them(polygons: list[Polygon], tmp_path: Path) -> None:
    python = "/usr/bin/python3"  # the one that Debian's QGIS is for
    if subprocess.run([python, "-c", "import qgis.core"], capture_output=True, check=False).returncode:
        pytest.skip("QGIS is not here (apt install python3-qgis)")
    write_geopackage(tmp_path / "c.gpkg", polygons, rows(polygons), UTM, "2024-01-02T03:04:05.000Z")
    write_vector_style(tmp_path / "c.qml", ["building appear"])
    write_raster_style(tmp_path / "mask.qml")
    environment = {"PATH": "/usr/bin", "QT_QPA_PLATFORM": "offscreen", "HOME": str(tmp_path)}
    said = subprocess.run([python, "-c", QGIS, tmp_path / "c.gpkg", tmp_path / "mask.tif"], env=environment, text=True,
                          check=True, capture_output=True).stdout  # fmt: skip
    red = "#{:02x}{:02x}{:02x}".format(*color_of("building appear"))
    assert said.splitlines() == [f"1;building appear={red};unnamed=#6e6e6e", "0=0;127=128;254=230"]


def test_styles_name_every_class_in_its_own_color(tmp_path: Path) -> None:
    kinds = [f"{thing} {way}" for thing in Object.__args__ for way in ("appear", "disappear")]  # type: ignore[attr-defined]
    assert len({color_of(kind) for kind in [*kinds, "unnamed"]}) == len(kinds) + 1
    write_vector_style(tmp_path / "c.qml", ["road disappear", "building appear", "building appear"])
    root = ElementTree.parse(tmp_path / "c.qml").getroot()
    renderer = root.find("renderer-v2")
    assert renderer is not None
    assert renderer.get("attr") == "class"
    named = {category.get("value"): category.get("symbol") for category in renderer.iter("category")}
    assert list(named) == ["building appear", "road disappear", "unnamed"]
    fills = {
        symbol.get("name"): option.get("value")
        for symbol in renderer.iter("symbol")
        for option in symbol.iter("Option")
        if option.get("name") == "color"
    }
    assert fills[named["building appear"]] == f"{','.join(map(str, color_of('building appear')))},110"
    write_raster_style(tmp_path / "r.qml")
    items = list(ElementTree.parse(tmp_path / "r.qml").getroot().iter("item"))
    assert [(item.get("value"), item.get("alpha")) for item in items] == [("0", "0"), ("127", "128"), ("254", "230")]
