"""The layout most change detection sets share: split folders, each with two folders of images and one of masks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from rsiccllm.records import ImagePair
from rsiccllm.sources.base import Fault, Source, images_in, make_pair, refuse


class SplitFolders(Source):
    """Pairs of `<split>/{first, second, mask}/` with files of equal names. A subclass names the folders.

    Splits that are absent are passed over as long as one is there.

    Attributes:
        split_names: the folders that are splits.
        sides: the folders of first images, second images and masks.
    """

    split_names: ClassVar[tuple[str, ...]] = ("train", "val", "test")
    sides: ClassVar[tuple[str, str, str]] = ("A", "B", "label")

    def __init__(self, root: Path, fault: Fault = refuse) -> None:
        super().__init__(root, self._read(root, fault), fault)

    def _read(self, root: Path, fault: Fault) -> Iterator[ImagePair]:
        if not root.is_dir():
            raise self.absent(root, "no such folder")
        splits = [split for split in self.split_names if (root / split).is_dir()]
        if not splits:
            raise self.absent(root, f"has none of the folders {', '.join(self.split_names)}")
        found = False
        for split in splits:
            absent = [side for side in self.sides if not (root / split / side).is_dir()]
            for side in absent:
                fault(str(self.absent(root / split / side, "no such folder")))
            if absent:
                continue
            sides = [images_in(root / split / side, fault, self.notes) for side in self.sides]
            for stem in sorted(set().union(*sides)):
                found = True
                file = next(side[stem] for side in sides if stem in side)
                paths = [
                    f"{split}/{folder}/{side.get(stem, file)}" for folder, side in zip(self.sides, sides, strict=True)
                ]
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
