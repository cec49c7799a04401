"""What every source is: a name, a data root, its pairs, and how a pair is opened."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from rsiccllm.errors import InputError
from rsiccllm.facts import Known, Object
from rsiccllm.files import inside, validation_faults
from rsiccllm.masks import OBJECTS, encode
from rsiccllm.pairs import SUFFIXES, OpenedPair, open_mask, open_pair, probe_image
from rsiccllm.records import ImagePair

Fault = Callable[[str], None]
"""Takes one line that says what is wrong with a data set. If it returns, the reader goes on without what is broken."""


def refuse(fault: str) -> None:
    """The strict way, and the default: the first fault ends the loading. `data check` collects them instead."""
    raise InputError(fault)


@dataclass(frozen=True)
class ChangeMask:
    """Where a pair changed, and what changed there as far as the mask tells.

    values: [height, width] uint8, 0 where nothing changed. meaning: for each other value the changes it stands for,
    such as grass that goes and a building that comes; a value that is not in it says only that something changed.
    """

    values: np.ndarray
    meaning: Mapping[int, tuple[Known, ...]] = field(default_factory=dict)

    def coded(self) -> np.ndarray:
        """As a coded mask (`masks`), uint8 [height, width]: of several changes of one kind in a value, the last."""
        objects = np.zeros((2, *self.values.shape), np.uint8)
        for value, changes in self.meaning.items():
            for change in changes:
                for row, direction in enumerate(("disappear", "appear")):
                    if change.direction == direction:
                        objects[row][self.values == value] = 1 + OBJECTS.index(change.object)
        return encode(self.values > 0, objects)


class Source:
    """A set of image pairs under one root. A subclass documents its format, classes, licence and paper.

    Loading reads annotations and lists folders; it decodes no image. Every fault of the set's structure goes to
    `fault`: a key that is missing or of the wrong type, an empty caption, a path that leaves the root, an id that
    stands twice, a file that is not there. What leaves nothing to read (no such folder) raises InputError at once.

    Attributes:
        name: the kind in a spec, such as "levir-cc".
        layout: the files expected, in one line. home: where the set is had. Both stand in error messages.
        licence: of the images and annotations, as the set's page gives it; recorded in what is built from it.
        has_images: False where only annotations are read.
        on_disk: False where images are made when a pair is opened (rendered scenes, tiles); they cannot be linked.
        plain_mask: the file a pair's `mask` names is non-zero exactly where something changed. Where it is False
            (colours of classes, grades of damage) `mask` and `classes` say what it means.
        scope: the only kind of object whose changes the masks mark, None where they mark every change. An empty mask
            of a limited scope says nothing of the rest.
        root: the folder that the paths of `pairs` are relative to.
        pairs: ids unique, in the order of the set.
        notes: what loading saw and did not read, one line each. Not faults.
    """

    name: str = ""
    layout: str = ""
    home: str = ""
    licence: str = "not stated"
    has_images: bool = True
    on_disk: bool = True
    plain_mask: bool = True
    scope: Object | None = None

    def __init__(self, root: Path, pairs: Iterable[ImagePair], fault: Fault = refuse) -> None:
        self.root = root
        self.notes: list[str] = []
        by_id: dict[str, ImagePair] = {}
        for pair in pairs:
            if pair.id in by_id:
                splits = " and ".join(dict.fromkeys((by_id[pair.id].split, pair.split)))
                fault(f"{root}: duplicate id '{pair.id}' (in {splits}); expected each pair once")
            else:
                by_id[pair.id] = pair
        self.pairs: list[ImagePair] = list(by_id.values())

    def splits(self) -> list[str]:
        """Names of the splits, in the order in which they first appear."""
        return list(dict.fromkeys(pair.split for pair in self.pairs))

    def select(self, split: str | None) -> list[ImagePair]:
        """The pairs of one split, or all for None. Raises InputError for a split that the source does not have."""
        if split is not None and split not in self.splits():
            raise InputError(f"{self.name}:{self.root}: no split '{split}'; expected {', '.join(self.splits())}")
        return [pair for pair in self.pairs if split in {None, pair.split}]

    def open(self, pair: ImagePair) -> OpenedPair:
        """Decode a pair and its mask. Raises InputError where a file is missing, broken or outside the root."""
        before, after = inside(self.root, pair.before), inside(self.root, pair.after)
        if self.plain_mask:
            return open_pair(before, after, None if pair.mask is None else inside(self.root, pair.mask))
        opened, mask = open_pair(before, after), self.mask(pair)
        if mask is not None and mask.shape != (opened.before.height, opened.before.width):
            raise InputError(
                f"{self.root / str(pair.mask)}: {mask.shape[1]}x{mask.shape[0]} pixels, but {before} has "
                f"{opened.before.width}x{opened.before.height}; expected equal sizes"
            )
        return opened._replace(mask=mask)

    def size_of(self, pair: ImagePair) -> tuple[int, int]:
        """(width, height) in pixels, from the header. Raises InputError where the two images differ in size."""
        first, second = (probe_image(inside(self.root, path)) for path in (pair.before, pair.after))
        if first != second:
            raise InputError(
                f"{self.root / pair.after}: {second[0]}x{second[1]}, but its first image is {first[0]}x{first[1]}"
            )
        return first

    def mask(self, pair: ImagePair) -> np.ndarray | None:
        """[height, width] bool, True where something changed; None where the pair has no mask. Decodes the mask."""
        if pair.mask is None or not self.has_images:
            return None
        if self.plain_mask:
            return open_mask(inside(self.root, pair.mask))
        classes = self.classes(pair)
        return None if classes is None else classes.values > 0

    def classes(self, pair: ImagePair) -> ChangeMask | None:
        """The mask with what its values mean; None where the pair has none. Decodes the mask."""
        mask = self.mask(pair)
        if mask is None:
            return None
        return ChangeMask(mask.astype(np.uint8), {1: (Known(self.scope),)} if self.scope else {})

    def changed(self, pair: ImagePair) -> bool | None:
        """Whether the pair changed: what the set says, else True where the mask marks anything, else None.

        An empty mask proves nothing: a building mask is empty where only a road was built. Decodes the mask if it must.
        """
        if pair.changed is not None:
            return pair.changed
        mask = self.mask(pair)
        return True if mask is not None and mask.any() else None

    def unpaired(self) -> Iterator[str]:
        """Faults that do not hinder loading and are looked for by `data check` alone: files that no pair names."""
        return iter(())

    def absent(self, root: Path, found: str) -> InputError:
        """The error for a root that is not this set: what was found, what was expected, where the set is had."""
        home = f"; had from {self.home}" if self.home else ""
        return InputError(f"{root}: {found}; expected {self.layout}{home}")


def make_pair(where: object, fault: Fault, **fields: Any) -> Iterator[ImagePair]:
    """The pair of these fields, or no pair and a fault for each field that an ImagePair refuses."""
    try:
        yield ImagePair(**fields)
    except ValidationError as error:
        for line in validation_faults(error):
            fault(f"{where}: {line}")


def images_in(folder: Path, fault: Fault, notes: list[str]) -> dict[str, str]:
    """{stem: file name} of the images directly in `folder`, sorted; empty where there is no such folder.

    Two images of one stem are a fault. Other files are counted in a note; hidden ones are passed over.
    """
    found: dict[str, str] = {}
    other = []
    for name in listing(folder):
        stem, suffix = Path(name).stem, Path(name).suffix
        if suffix.lower() not in SUFFIXES:
            other.append(name)
        elif stem in found:
            fault(f"{folder / name}: same name as {found[stem]}; expected one image of each name")
        else:
            found[stem] = name
    if other:
        more = ", ..." if len(other) > 1 else ""
        notes.append(f"{folder}: {len(other)} not read, no image by name ({other[0]}{more})")
    return found


def listing(folder: Path) -> list[str]:
    """Sorted names in a folder, hidden ones left out; empty where there is no such folder."""
    try:
        if not folder.is_dir():
            return []
    except OSError:  # its name is longer than any can be
        return []
    return sorted(item.name for item in folder.iterdir() if not item.name.startswith("."))


def is_file(path: Path) -> bool:
    """Whether there is a file of this name; False too for a name longer than any can be."""
    try:
        return path.is_file()
    except OSError:
        return False


def root_of(where: str) -> Path:
    """The path in a spec, with `~` for the home folder. Raises InputError for the home of nobody."""
    try:
        return Path(where).expanduser()
    except (RuntimeError, ValueError):
        raise InputError(f"{where!r}: no such home folder") from None
