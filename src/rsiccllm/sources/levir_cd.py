"""LEVIR-CD: building change masks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rsiccllm.records import ImagePair
from rsiccllm.sources.base import Fault, Source, images_in, make_pair, refuse

SPLITS = ("train", "val", "test")
SIDES = ("A", "B", "label")


class LevirCD(Source):
    """LEVIR-CD: pairs with a mask of the buildings that were built or removed, as published or cut into crops.

    Format: `{train,val,test}/{A,B,label}/*.png`, 1024 x 1024 pixels of 0.5 m, 445 / 64 / 128 pairs; often cut to
    256 x 256 (`train_36_0512_0512.png`). Splits that are absent are passed over as long as one is there.
    Classes: mask 0 nothing, 255 a building changed. `changed` is not set at loading: see `Source.changed`.
    Licence: for academic use; see the page of the set.
    Paper: Chen and Shi, "A Spatial-Temporal Attention-Based Method and a New Dataset for Remote Sensing Image Change
    Detection", Remote Sensing 2020.
    """

    name = "levir-cd"
    layout = "{train,val,test}/{A,B,label}/*.png, at least one split"
    home = "justchenhao.github.io/LEVIR"

    def __init__(self, root: Path, fault: Fault = refuse) -> None:
        super().__init__(root, self._read(root, fault), fault)

    def _read(self, root: Path, fault: Fault) -> Iterator[ImagePair]:
        if not root.is_dir():
            raise self.absent(root, "no such folder")
        splits = [split for split in SPLITS if (root / split).is_dir()]
        if not splits:
            raise self.absent(root, f"has none of the folders {', '.join(SPLITS)}")
        found = False
        for split in splits:
            absent = [side for side in SIDES if not (root / split / side).is_dir()]
            for side in absent:
                fault(str(self.absent(root / split / side, "no such folder")))
            if absent:
                continue
            sides = [images_in(root / split / side, fault, self.notes) for side in SIDES]
            for stem in sorted(set().union(*sides)):
                found = True
                file = next(side[stem] for side in sides if stem in side)
                paths = [f"{split}/{folder}/{side.get(stem, file)}" for folder, side in zip(SIDES, sides, strict=True)]
                for path, names in zip(paths, sides, strict=True):
                    if stem not in names:
                        fault(f"{root / path}: no such file, expected beside the other images named {stem}")
                # Published names begin with their split, names of crops often do not: ids must be unique over all.
                identity = stem if stem.startswith(f"{split}_") else f"{split}_{stem}"
                yield from make_pair(
                    root, fault, id=identity, split=split, before=paths[0], after=paths[1], mask=paths[2]
                )
        if not found:
            fault(str(self.absent(root, "holds no images")))
