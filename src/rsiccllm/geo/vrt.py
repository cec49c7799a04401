"""Virtual rasters: an XML file that names others. Whatever it names must be a TIFF in its own folder.

GDAL follows any name there is, such as a file elsewhere on the disk or an address on the network, and opens it with any
of its two hundred drivers. So the names are read before GDAL is.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

from rsiccllm.errors import InputError
from rsiccllm.files import inside, read_text

MAX_CHARACTERS = 2**26
"""Of a VRT. One over 10,000 tiles has some 5 million."""

DEEPEST = 4
"""How often a VRT may name a VRT that names another."""

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""How TIFF and BigTIFF files begin."""


def check_vrt(path: Path, depth: int = 0) -> list[Path]:
    """The TIFFs and VRTs that a VRT reads.

    Raises InputError where it names anything but TIFFs, or VRTs that do, in its own folder or below it.
    """
    text = read_text(path)
    if len(text) > MAX_CHARACTERS or depth > DEEPEST:
        raise InputError(f"{path}: too long, or nested too deeply, for a VRT")
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise InputError(f"{path}: defines entities, which a VRT does not need")
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError) as error:
        raise InputError(f"{path}: not valid XML ({error})") from None
    except RecursionError:
        raise InputError(f"{path}: XML is nested too deeply") from None
    sources: list[Path] = []
    for element in root.iter():
        if element.tag in _REFUSED:
            raise InputError(f"{path}: holds <{element.tag}>, which is not read; expected mosaics of TIFFs alone")
        if element.tag in {"SourceFilename", "SourceDataset"}:
            if element.tag == "SourceFilename" and element.get("relativeToVRT", "0") != "1":
                raise InputError(f"{path}: names '{element.text}' not relative to itself; expected files beside it")
            sources += _check_source(path, (element.text or "").strip(), depth)
    return sources


_REFUSED = {"PixelFunctionType", "PixelFunctionLanguage", "PixelFunctionCode", "OverviewFile", "GDALWarpOptions",
            "PansharpeningOptions", "Group", "ProcessingSteps"}  # fmt: skip
"""What lets a VRT run code, or read files by other names."""


def _check_source(path: Path, name: str, depth: int) -> list[Path]:
    source = inside(path.parent, name)
    try:
        with source.open("rb") as handle:
            begin = handle.read(4)
    except OSError as error:
        raise InputError(f"{source}: named in {path.name}, cannot be read ({error.strerror})") from None
    if begin in _TIFF:
        return [source]
    if source.suffix.lower() != ".vrt":
        raise InputError(f"{source}: named in {path.name}, is no TIFF")
    return [source, *check_vrt(source, depth + 1)]
