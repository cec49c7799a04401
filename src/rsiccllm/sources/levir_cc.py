"""LEVIR-CC and LEVIR-MCI, with their images or as the annotation file alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, StrictInt, ValidationError

from rsiccllm.errors import InputError
from rsiccllm.facts import Known
from rsiccllm.files import inside, read_json, validation_faults
from rsiccllm.pairs import OpenedPair, open_classes
from rsiccllm.records import ImagePair
from rsiccllm.sources.base import ChangeMask, Fault, Source, listing, make_pair, refuse

ANNOTATIONS = "LevirCCcaptions.json"
MEANING = {128: (Known("road"),), 255: (Known("building"),)}
"""The masks of LEVIR-MCI."""


class Sentence(BaseModel):
    """One caption of the JSON: as words (`tokens`), as text (`raw`), or both."""

    model_config = ConfigDict(strict=True)

    tokens: list[str] | None = None
    raw: str | None = None

    def text(self) -> str:
        """The caption: words joined by spaces, without the final full stop that `raw` sets apart.

        The words come first because they are what the field scores.
        """
        words = " ".join(self.tokens).split() if self.tokens is not None else (self.raw or "").split()
        return " ".join(words[:-1] if words[-1:] == ["."] else words)


class Entry(BaseModel):
    """One pair of the JSON. `filepath` is the folder, which in the published file is the split."""

    model_config = ConfigDict(strict=True)

    filename: str
    filepath: str
    split: str | None = None
    changeflag: StrictInt | None
    sentences: list[Sentence]

    @property
    def folder(self) -> str:
        """The folder of the pair's images."""
        return self.filepath


class LevirEntry(Entry):
    """An entry of LEVIR-CC itself, which always says whether the pair changed."""

    changeflag: StrictInt


class LevirCC(Source):
    """LEVIR-CC: pairs with five captions each, and the masks of LEVIR-MCI where they are there.

    Format: `LevirCCcaptions.json` and `images/{train,val,test}/{A,B}/*.png`, 256 x 256 pixels of 0.5 m; LEVIR-MCI adds
    `images/<split>/label/*.png`. 6,815 / 1,333 / 1,929 pairs. Each entry of the JSON has `filename`, `filepath`
    (folder, = split), `changeflag` and `sentences` with `tokens` and `raw`; captions are the tokens, joined.
    Classes: changeflag 0 / 1 (`changed`); masks hold 0 nothing, 128 road, 255 building.
    Licence: for academic use; see the page of the set.
    Paper: Liu et al., "Remote Sensing Image Change Captioning With Dual-Branch Transformers", IEEE TGRS 2022; for the
    masks Liu et al., "Change-Agent", IEEE TGRS 2024.
    """

    name = "levir-cc"
    layout = f"{ANNOTATIONS} and images/{{train,val,test}}/{{A,B}}/*.png"
    home = "huggingface.co/datasets/lcybuaa/LEVIR-CC (with masks: lcybuaa/LEVIR-MCI)"
    licence = "academic use, see the page of the set"
    annotations: ClassVar[str] = ANNOTATIONS

    def __init__(self, root: Path, fault: Fault = refuse) -> None:
        super().__init__(root, self._read(root, fault), fault)

    def _read(self, root: Path, fault: Fault) -> Iterator[ImagePair]:
        if not root.is_dir():
            raise self.absent(root, "no such folder")
        for part in (self.annotations, "images"):
            if not (root / part).exists():
                raise self.absent(root / part, "missing")
        names: dict[str, set[str]] = {}  # listed once a folder: a look-up a file would be slow on network disks
        for pair in self._entries(root, fault):
            for path in (pair.before, pair.after):
                if not _is_listed(root, path, names):
                    fault(f"{root / path}: no such file, named in {self.annotations}")
            mask = pair.before.replace("/A/", "/label/")
            yield pair.model_copy(update={"mask": mask}) if _is_listed(root, mask, names) else pair

    def _entries(self, root: Path, fault: Fault) -> Iterator[ImagePair]:
        return read_annotations(root / self.annotations, fault)

    def classes(self, pair: ImagePair) -> ChangeMask | None:
        """The mask of LEVIR-MCI: roads and buildings, which way they changed is not said."""
        if pair.mask is None:
            return None
        values = open_classes(inside(self.root, pair.mask)).astype(np.uint8)
        return ChangeMask(values, MEANING)

    def unpaired(self) -> Iterator[str]:
        """Images and masks that the JSON does not name."""
        # An entry that is broken has been reported for what it is: its images do have one.
        named = {pair.before for pair in self.pairs} | _named(read_json(self.root / self.annotations))
        for split in listing(self.root / "images"):
            folder = self.root / "images" / split
            names = dict.fromkeys(name for side in ("A", "B", "label") for name in listing(folder / side))
            for name in names:
                if f"images/{split}/A/{name}" not in named:
                    sides = ", ".join(side for side in ("A", "B", "label") if (folder / side / name).exists())
                    yield f"{folder}: {name} (in {sides}): captions missing, no entry in {self.annotations}"


class LevirCCCaptions(Source):
    """The annotation file of LEVIR-CC alone, without pixels: for scoring and for building from captions.

    Format, classes, licence and paper as for LevirCC. The paths of the images are recorded and cannot be opened.
    """

    name = "levir-cc-captions"
    layout = f"the annotation file of LEVIR-CC ({ANNOTATIONS})"
    home = LevirCC.home
    licence = LevirCC.licence
    has_images = False

    def __init__(self, file: Path, fault: Fault = refuse) -> None:
        if not file.is_file():
            raise self.absent(file, "is a folder" if file.is_dir() else "no such file")
        super().__init__(file.parent, read_annotations(file, fault), fault)

    def open(self, pair: ImagePair) -> OpenedPair:
        raise InputError(f"{self.name}: '{pair.id}' has captions only; expected levir-cc:DIR, which has the images")


def read_annotations(
    file: Path,
    fault: Fault,
    entry_type: type[Entry] = LevirEntry,
    folders: tuple[str, str] = ("images/{}/A", "images/{}/B"),
) -> Iterator[ImagePair]:
    """The pairs of a JSON of LEVIR-CC's schema, without masks; whether images are there is not looked at.

    folders: where the images of the two dates lie, `{}` standing for the entry's folder.
    """
    content = read_json(file)
    if not isinstance(content, dict) or not isinstance(content.get("images"), list):
        raise InputError(f"{file}: expected an object with a list 'images' (the schema of LEVIR-CC)")
    for number, item in enumerate(content["images"]):
        where = f"{file}: images[{number}]"
        try:
            entry = entry_type.model_validate(item)
        except ValidationError as error:
            for line in validation_faults(error):
                fault(f"{where}: {line}")
            continue
        where += f" ({entry.filename})"
        if entry.changeflag not in {None, 0, 1}:
            fault(f"{where}: field 'changeflag': expected 0 or 1, got {entry.changeflag}")
            continue
        if not is_name(entry.filename) or not is_name(entry.folder):
            fault(f"{where}: in '{entry.filepath}': fields 'filepath' and 'filename' must be names, not paths")
            continue
        captions = [sentence.text() for sentence in entry.sentences]
        for position, caption in enumerate(captions):
            if not caption:
                fault(f"{where}: field 'sentences.{position}': empty caption, expected 'tokens' or 'raw' with words")
        first, second = (folder.format(entry.folder) for folder in folders)
        yield from make_pair(
            where,
            fault,
            id=entry.filename.rpartition(".")[0] or entry.filename,
            split=entry.split or entry.filepath,
            before=f"{first}/{entry.filename}",
            after=f"{second}/{entry.filename}",
            changed=None if entry.changeflag is None else bool(entry.changeflag),
            captions=[caption for caption in captions if caption],
        )


def _named(content: dict[str, Any]) -> set[str]:
    """The first image of every entry, whole or broken, that says a folder and a name."""
    entries = [item for item in content["images"] if isinstance(item, dict)]
    return {f"images/{item.get('filepath')}/A/{item.get('filename')}" for item in entries}


def is_name(text: str) -> bool:
    """Whether `text` names something directly in a folder: not empty, no separator, not `.` or `..`."""
    return bool(text.strip()) and text not in {".", ".."} and not set(text) & {"/", "\\", "\0"}


def _is_listed(root: Path, path: str, names: dict[str, set[str]]) -> bool:
    folder, _, name = path.rpartition("/")
    if folder not in names:
        names[folder] = set(listing(root / folder))
    return name in names[folder]
