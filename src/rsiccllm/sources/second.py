"""SECOND and SECOND-CC: what the ground was and what it became, by class, and captions."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
from pydantic import StrictInt

from rsiccllm.errors import InputError
from rsiccllm.facts import Known, Object
from rsiccllm.files import inside
from rsiccllm.pairs import open_image
from rsiccllm.records import ImagePair
from rsiccllm.sources.base import ChangeMask, Fault, Source, images_in, is_file, listing, make_pair, refuse
from rsiccllm.sources.levir_cc import Entry, read_annotations

COLOURS: dict[tuple[int, int, int], Object | None] = {
    (255, 255, 255): None,  # unchanged
    (0, 0, 255): "water",
    (128, 128, 128): "bareland",  # ground without vegetation, which may be paved
    (0, 128, 0): "grass",  # low vegetation
    (0, 255, 0): "tree",
    (128, 0, 0): "building",
    (255, 0, 0): "playground",
}
NAMES = list(COLOURS.values())
CLASSES = len(NAMES)


def class_change(before: Path, after: Path) -> ChangeMask:
    """The change between two label images of SECOND's colours: one value for each pair of classes.

    A pixel is unchanged where either label is white or both have one class. Raises InputError for another colour.
    """
    first, second = _read(before), _read(after)
    if first.shape != second.shape:
        raise InputError(f"{after}: {second.shape[1]}x{second.shape[0]} pixels, but {before} has another size")
    changed = (first != 0) & (second != 0) & (first != second)
    values = np.where(changed, first * CLASSES + second, 0).astype(np.uint8)
    return ChangeMask(values, _meaning())


def _read(path: Path) -> np.ndarray:
    """[height, width] uint8 index into NAMES."""
    pixels = np.asarray(open_image(path)).astype(np.int32)
    packed = (pixels[..., 0] << 16) | (pixels[..., 1] << 8) | pixels[..., 2]
    values = np.full(packed.shape, 255, np.uint8)
    for index, (red, green, blue) in enumerate(COLOURS):
        values[packed == (red << 16) | (green << 8) | blue] = index
    if (values == 255).any():
        row, column = np.argwhere(values == 255)[0]
        colour = tuple(int(value) for value in pixels[row, column])
        raise InputError(f"{path}: colour {colour} at column {column}, row {row} is none of SECOND's seven")
    return values


@cache
def _meaning() -> dict[int, tuple[Known, ...]]:
    found: dict[int, tuple[Known, ...]] = {}
    for first, gone in enumerate(NAMES):
        for second, come in enumerate(NAMES):
            if gone and come and gone != come:
                found[first * CLASSES + second] = (
                    Known(come, "appear", "replace"),
                    Known(gone, "disappear", "replace"),
                )
    return found


class SECOND(Source):
    """SECOND: aerial pairs of Chinese cities with the land cover of what changed, at both dates.

    Format: `im1, im2, label1, label2` with PNGs of equal names, 512 x 512 pixels of 0.5 to 3 m, 4,662 pairs of which
    2,968 are published; directly under the root, or under folders that are splits (`train`, `test`).
    Classes: RGB labels: white unchanged, (0,0,255) water, (128,128,128) ground, (0,128,0) low vegetation, (0,255,0)
    tree, (128,0,0) building, (255,0,0) playground. They are read as water, bareland, grass, tree, building, playground.
    Licence: for academic use; see the page of the set.
    Paper: Yang et al., "Asymmetric Siamese Networks for Semantic Change Detection in Aerial Images", IEEE TGRS 2022.
    """

    name = "second"
    layout = "im1/, im2/, label1/ and label2/ with PNGs of equal names, perhaps under train/ and test/"
    home = "captain-whu.github.io/SCD"
    licence = "academic use, see the page of the set"
    plain_mask = False

    def __init__(self, root: Path, fault: Fault = refuse) -> None:
        super().__init__(root, self._read(root, fault), fault)

    def _read(self, root: Path, fault: Fault) -> Iterator[ImagePair]:
        if not root.is_dir():
            raise self.absent(root, "no such folder")
        folders = [name for name in ("", *listing(root)) if (root / name / "im1").is_dir()]
        if not folders:
            raise self.absent(root, "has no folder im1")
        for folder in folders:
            base = root / folder
            for side in ("im2", "label1", "label2"):
                if not (base / side).is_dir():
                    raise self.absent(base / side, "no such folder")
            sides = {side: images_in(base / side, fault, self.notes) for side in ("im1", "im2", "label1", "label2")}
            prefix = f"{folder}/" if folder else ""
            for stem in sorted(set().union(*sides.values())):
                file = next(names[stem] for names in sides.values() if stem in names)
                for side, names in sides.items():
                    if stem not in names:
                        fault(f"{base / side / file}: no such file, expected beside the other images named {stem}")
                paths = {side: f"{prefix}{side}/{names.get(stem, file)}" for side, names in sides.items()}
                yield from make_pair(
                    root, fault, id=f"{folder}_{stem}" if folder else stem, split=folder.lower() or "train",
                    before=paths["im1"], after=paths["im2"], mask=paths["label1"],
                )  # fmt: skip

    def classes(self, pair: ImagePair) -> ChangeMask | None:
        """What each pixel was and became."""
        if pair.mask is None:
            return None
        other = pair.mask.replace("label1/", "label2/")
        return class_change(inside(self.root, pair.mask), inside(self.root, other))


class SecondCCEntry(Entry):
    """An entry of SECOND-CC-AUG.json; its folder is its split."""

    filepath: str = ""
    split: str
    changeflag: StrictInt | None = None

    @property
    def folder(self) -> str:
        """The split, whatever `filepath` says."""
        return self.split


class SecondCC(Source):
    """SECOND-CC: SECOND's pairs as 256 x 256 crops with five captions each.

    Format: `SECOND-CC-AUG.json` in LEVIR-CC's schema and `<split>/{rgb,sem}/{A,B}/<filename>`; 6,041 pairs and their
    augmented copies. The maps under `sem` hold SECOND's colours; pairs without them have captions alone.
    Classes: changeflag 0 / 1 where given (`changed`); the maps as SECOND.
    Licence: see the record on Zenodo.
    Paper: Karaca et al., "Robust Change Captioning in Remote Sensing: SECOND-CC Dataset and MModalCC Framework", IEEE
    JSTARS 2025.
    """

    name = "second-cc"
    layout = "SECOND-CC-AUG.json and <split>/rgb/{A,B}/*.png, optional <split>/sem/{A,B}/*.png"
    home = "doi.org/10.5281/zenodo.16937571"
    licence = "see the record on Zenodo"
    annotations = "SECOND-CC-AUG.json"
    plain_mask = False

    def __init__(self, root: Path, fault: Fault = refuse) -> None:
        super().__init__(root, self._read(root, fault), fault)

    def _read(self, root: Path, fault: Fault) -> Iterator[ImagePair]:
        if not root.is_dir():
            raise self.absent(root, "no such folder")
        if not (root / self.annotations).is_file():
            raise self.absent(root / self.annotations, "missing")
        folders = ("{}/rgb/A", "{}/rgb/B")
        for pair in read_annotations(root / self.annotations, fault, SecondCCEntry, folders):
            for path in (pair.before, pair.after):
                if not is_file(root / path):
                    fault(f"{root / path}: no such file, named in {self.annotations}")
            maps = [path.replace("/rgb/", "/sem/") for path in (pair.before, pair.after)]
            mask = maps[0] if all(is_file(root / path) for path in maps) else None
            yield pair.model_copy(update={"mask": mask})

    def classes(self, pair: ImagePair) -> ChangeMask | None:
        """What each pixel was and became, where the maps are there."""
        if pair.mask is None:
            return None
        after = pair.mask.replace("/sem/A/", "/sem/B/")
        return class_change(inside(self.root, pair.mask), inside(self.root, after))
