"""QGIS styles: a .qml beside a layer of the same name is what QGIS draws it with."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable
from pathlib import Path
from typing import get_args
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from rsiccllm.facts import Direction, Object
from rsiccllm.files import atomic_write
from rsiccllm.geo.polygons import UNNAMED

QGIS = "3.28"
"""The version whose form this is; later ones read it too."""

CHANGE = ((0, 0.0, "no change"), (127, 0.5, "as likely as not"), (254, 0.9, "change"))
"""Of the change raster: value, opacity, label."""


def color_of(kind: str) -> tuple[int, int, int]:
    """Red, green, blue of a class, the same in every map: a hue for each object, light where it appears."""
    object_, _, direction = kind.partition(" ")
    if object_ not in get_args(Object) or direction not in get_args(Direction):
        return (110, 110, 110)
    hue = get_args(Object).index(object_) / len(get_args(Object))
    light, strength = (0.55, 0.9) if direction == "appear" else (0.3, 0.75)
    red, green, blue = (round(255 * part) for part in colorsys.hls_to_rgb(hue, light, strength))
    return red, green, blue


def write_vector_style(path: Path, kinds: Iterable[str]) -> None:
    """Polygons filled by their field `class`, a colour for each of `kinds` and one for all others."""
    root = _root()
    renderer = SubElement(root, "renderer-v2", type="categorizedSymbol", attr="class", symbollevels="0",
                          forceraster="0", enableorderby="0")  # fmt: skip
    categories, symbols = SubElement(renderer, "categories"), SubElement(renderer, "symbols")
    for number, kind in enumerate(sorted({*kinds, UNNAMED})):
        SubElement(categories, "category", value=kind, symbol=str(number), label=kind.replace("_", " "), render="true")
        symbol = SubElement(symbols, "symbol", type="fill", name=str(number), alpha="1", clip_to_extent="1",
                            force_rhr="0")  # fmt: skip
        layer = SubElement(symbol, "layer", {"class": "SimpleFill", "enabled": "1", "locked": "0", "pass": "0"})
        color = ",".join(map(str, color_of(kind)))
        options = SubElement(layer, "Option", type="Map")
        for name, value in (("color", f"{color},110"), ("style", "solid"), ("outline_color", f"{color},255"),
                            ("outline_style", "solid"), ("outline_width", "0.5"),
                            ("outline_width_unit", "MM")):  # fmt: skip
            SubElement(options, "Option", type="QString", name=name, value=value)
    _write(path, root)


def write_raster_style(path: Path) -> None:
    """The change raster in red, the surer the more opaque."""
    root = _root()
    pipe = SubElement(root, "pipe")
    low, high = str(CHANGE[0][0]), str(CHANGE[-1][0])
    renderer = SubElement(pipe, "rasterrenderer", type="singlebandpseudocolor", band="1", opacity="1", alphaBand="-1",
                          classificationMin=low, classificationMax=high)  # fmt: skip
    shader = SubElement(SubElement(renderer, "rastershader"), "colorrampshader", colorRampType="INTERPOLATED",
                        classificationMode="1", clip="0", minimumValue=low, maximumValue=high)  # fmt: skip
    for value, alpha, label in CHANGE:
        SubElement(shader, "item", value=str(value), color="#ff2828", alpha=str(round(255 * alpha)), label=label)
    SubElement(root, "blendMode").text = "0"
    _write(path, root)


def _root() -> Element:
    return Element("qgis", version=QGIS, styleCategories="Symbology")


def _write(path: Path, root: Element) -> None:
    indent(root)
    with atomic_write(path) as handle:
        handle.write(
            "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n" + tostring(root, encoding="unicode")
        )
        handle.write("\n")
