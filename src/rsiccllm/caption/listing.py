"""Which pairs the command line means: two files, two folders, or a CSV of pairs."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import NamedTuple

from rsiccllm.errors import InputError
from rsiccllm.files import inside, read_text
from rsiccllm.sources.base import SUFFIXES, images_in, listing, refuse


class Item(NamedTuple):
    """A pair by its paths. id: what results call it. fault: why it cannot be captioned, where that is known already."""

    id: str
    before: Path
    after: Path
    fault: str = ""


def list_pairs(before: Path, after: Path | None, notes: list[str] | None = None) -> list[Item]:
    """Two files: one pair. Two folders: the images whose names match (the endings may differ). A .csv alone: its rows.

    An image that only one of the folders has is an item with a fault, and so are two files of one name of which one is
    no image by its ending. notes: told how many other files were passed over. Raises InputError where nothing can be
    captioned at all.
    """
    if after is None:
        if before.suffix.lower() != ".csv":
            raise InputError(f"{before}: one path alone; expected BEFORE and AFTER, or a .csv of pairs")
        return _from_csv(before)
    if before.is_dir() != after.is_dir():
        folder, file = (before, after) if before.is_dir() else (after, before)
        raise InputError(f"{folder} is a directory and {file} is not; expected two images or two folders")
    if not before.is_dir():
        return [Item(before.stem, before, after)]
    return _from_folders(before, after, [] if notes is None else notes)


def _from_folders(before: Path, after: Path, notes: list[str]) -> list[Item]:
    first, second = images_in(before, refuse, notes), images_in(after, refuse, notes)
    others = [{Path(name).stem: name for name in listing(folder)} for folder in (before, after)]
    unread = others[0].keys() & others[1].keys() - first.keys() - second.keys()
    if not first.keys() & second.keys():
        raise InputError(f"{before} and {after}: no image of one has the name of one of the other")
    items = []
    for name in sorted(first.keys() | second.keys()):
        missing = next((folder for folder, held in ((before, first), (after, second)) if name not in held), None)
        fault = f"{missing}: no image of this name" if missing else ""
        for folder, held in ((before, first), (after, second)):
            try:
                inside(folder, held.get(name, name))
            except InputError as error:  # a symbolic link that leads out of the folder
                fault = fault or str(error)
        items.append(Item(name, before / first.get(name, name), after / second.get(name, name), fault))
    for name in sorted(unread):
        paths = before / others[0][name], after / others[1][name]
        items.append(Item(name, *paths, f"no image by its name; expected one of {', '.join(sorted(SUFFIXES))}"))
    return items


def _from_csv(path: Path) -> list[Item]:
    """Columns `before` and `after`, paths relative to the file's folder and inside it, and perhaps `id`; others are
    passed over."""
    rows = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    items: dict[str, Item] = {}
    try:
        columns = rows.fieldnames or []
        for column in ("before", "after"):
            if column not in columns:
                raise InputError(f"{path}:1: no column '{column}'; expected before,after and perhaps id")
        for number, row in enumerate(rows, start=1):
            where = f"{path}:{rows.line_num}"
            for column in ("before", "after"):
                if not row[column]:
                    raise InputError(f"{where}: column '{column}' is empty, expected a path")
            name = row.get("id") or str(number)
            if name in items:
                raise InputError(f"{where}: id '{name}' stands twice")
            try:
                before, after = (inside(path.parent, row[column]) for column in ("before", "after"))
            except InputError as error:
                raise InputError(f"{where}: {error}; expected paths inside the folder of the list") from None
            items[name] = Item(name, before, after)
    except csv.Error as error:
        raise InputError(f"{path}:{rows.line_num}: not valid CSV ({error})") from None
    if not items:
        raise InputError(f"{path}: no pairs, expected a row for each")
    return list(items.values())
