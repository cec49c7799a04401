"""Your own pairs: two folders of images, perhaps masks and captions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, StrictInt, ValidationError

from rsiccllm.errors import InputError
from rsiccllm.files import read_json, validation_faults
from rsiccllm.records import ImagePair
from rsiccllm.sources.base import Fault, Source, images_in, listing, make_pair, refuse
from rsiccllm.sources.levir_cc import Sentence, is_name

CAPTIONS = "captions.json"


class Entry(BaseModel):
    """One pair of `captions.json`."""

    model_config = ConfigDict(strict=True)

    filename: str
    sentences: list[str | Sentence]
    split: str | None = None
    changeflag: StrictInt | None = None


class FolderSource(Source):
    """Image pairs in two folders, paired by file name.

    Format: `A/` (before) and `B/` (after) with images of equal names; the endings may differ, as in `A/x.jpg` and
    `B/x.png`. Optional `label/` with masks and `captions.json`, each for some or all of the pairs. The latter is one of
      [{"filename": "x.png", "sentences": ["...", ...]}, ...], each with optional "split" and "changeflag" (0 or 1);
      {"images": [...]} with the same entries (the schema of LEVIR-CC);
      {"x.png": ["...", ...], "y.png": "..."}.
    A caption keeps its line breaks and its full stop. Pairs whose entry names no split are in "train".
    Classes: masks are zero where nothing changed. `changed` is set by changeflag alone: see `Source.changed`.
    Licence, paper: your own.
    """

    name = "folder"
    layout = "A/ and B/ with images of equal names, optional label/ and captions.json"

    def __init__(self, root: Path, fault: Fault = refuse) -> None:
        super().__init__(root, self._read(root, fault), fault)

    def _read(self, root: Path, fault: Fault) -> Iterator[ImagePair]:
        for folder in (root, root / "A", root / "B"):
            if not folder.is_dir():
                raise self.absent(folder, "no such folder")
        before, after, masks = (images_in(root / side, fault, self.notes) for side in ("A", "B", "label"))
        if not before and not after:
            raise self.absent(root, "A/ and B/ hold no images")
        unread = [name for name in listing(root) if name.startswith("label") and name != "label"]
        if unread:
            self.notes.append(f"{root}: {', '.join(unread)} not read; masks are read from label/ alone")
        entries = self._captions(root, before.keys() | after.keys(), fault)
        for stem in sorted(before.keys() | after.keys() | masks.keys()):
            if stem not in before and stem not in after:
                fault(f"{root / 'label' / masks[stem]}: a mask without images, expected A/{stem} and B/{stem}")
                continue
            for side, names, others in (("A", before, after), ("B", after, before)):
                if stem not in names:
                    names[stem] = others[stem]
                    fault(f"{root / side / names[stem]}: no such file, expected beside the other image named {stem}")
            entry = entries.get(stem)
            yield from make_pair(
                root,
                fault,
                id=stem,
                split=(entry and entry.split) or "train",
                before=f"A/{before[stem]}",
                after=f"B/{after[stem]}",
                mask=f"label/{masks[stem]}" if stem in masks else None,
                changed=None if entry is None or entry.changeflag is None else bool(entry.changeflag),
                captions=[_text(sentence) for sentence in entry.sentences] if entry else [],
            )

    def _captions(self, root: Path, stems: set[str], fault: Fault) -> dict[str, Entry]:
        """{stem: entry} of captions.json; empty where there is none."""
        file = root / CAPTIONS
        if not file.exists():
            return {}
        entries: dict[str, Entry] = {}
        try:
            items = list(_items(file))
        except InputError as error:
            fault(str(error))
            return {}
        for where, item in items:
            try:
                entry = Entry.model_validate(item)
            except ValidationError as error:
                for line in validation_faults(error):
                    fault(f"{where}: {line}")
                continue
            where += f" ({entry.filename})"
            stem = entry.filename if entry.filename in stems else Path(entry.filename).stem
            if not is_name(entry.filename):
                fault(f"{where}: field 'filename' is not a bare name inside the data root")
            elif stem not in stems:
                fault(f"{where}: no image of that name in A/ or B/")
            elif stem in entries:
                fault(f"{where}: duplicate id '{stem}'; expected one entry a pair")
            elif entry.changeflag not in {None, 0, 1}:
                fault(f"{where}: field 'changeflag': expected 0 or 1, got {entry.changeflag}")
            else:
                for position, sentence in enumerate(entry.sentences):
                    if not _text(sentence):
                        fault(f"{where}: field 'sentences.{position}': empty caption, expected words")
                kept = [sentence for sentence in entry.sentences if _text(sentence)]
                entries[stem] = entry.model_copy(update={"sentences": kept})
        return entries


def _items(file: Path) -> Iterator[tuple[str, Any]]:
    """(where, entry) for every entry of captions.json, whichever form it has; entries are not validated yet."""
    content = read_json(file)
    if isinstance(content, dict) and isinstance(content.get("images"), list):
        content = content["images"]
    if isinstance(content, list):
        for number, item in enumerate(content):
            yield f"{file}: entry {number}", item
    elif isinstance(content, dict):
        for name, captions in content.items():
            sentences = [captions] if isinstance(captions, str) else captions
            yield f"{file}: '{name}'", {"filename": name, "sentences": sentences}
    else:
        raise InputError(f"{file}: expected a list of {{filename, sentences}} or an object {{filename: captions}}")


def _text(sentence: str | Sentence) -> str:
    return sentence.strip() if isinstance(sentence, str) else sentence.text()
