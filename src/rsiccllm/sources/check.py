"""`rsiccllm data check`: what a source holds, and every fault in it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import StringIO
from typing import TypeVar

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from rsiccllm.errors import InputError
from rsiccllm.files import inside, sha256
from rsiccllm.pairs import open_classes, open_image, probe_image
from rsiccllm.records import ImagePair
from rsiccllm.sources import Source, open_source

Item = TypeVar("Item")

LONG_CAPTION = 300
"""Words. The longest captions of the public sets have under 200; a longer one is a file read wrongly, and would in any
case be refused by training for its tokens."""

MASK_VALUES = {0, 128, 255}
"""LEVIR-MCI's nothing, road and building. Every other mask is binary: at most one value besides 0."""


@dataclass
class SplitRow:
    """One split in figures. `changed` counts True, False and None (not stated, and no mask that tells)."""

    pairs: int = 0
    captioned: int = 0
    captions: int = 0
    least: int = 0
    most: int = 0
    changed: Counter[bool | None] = field(default_factory=Counter)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    masks: int = 0
    marked: int = 0


@dataclass
class CheckReport:
    """What `check_source` found. `faults` and `notes` are one line each; notes are worth knowing and no fault."""

    spec: str
    decoded: bool
    splits: dict[str, SplitRow] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """True where there is no fault."""
        return not self.faults

    def print(self, console: Console) -> None:
        """The table of splits, the notes, then every fault on a line of its own."""
        if self.splits:
            console.print(self._table())
        for note in self.notes:
            console.print(f"[yellow]note[/] {escape(note)}", soft_wrap=True, highlight=False)
        for fault in self.faults:
            console.print(f"[red]fault[/] {escape(fault)}", soft_wrap=True, highlight=False)
        pairs = sum(row.pairs for row in self.splits.values())
        how = "every image decoded" if self.decoded else "images not decoded"
        verdict = "[green]no faults[/]" if self.ok else f"[red]{_count(len(self.faults), 'fault')}[/]"
        console.print(f"{_count(pairs, 'pair')}, {how}: {verdict}", soft_wrap=True, highlight=False)

    def render(self, width: int = 120) -> str:
        """What `print` prints, as plain text."""
        buffer = StringIO()
        self.print(Console(file=buffer, width=width, color_system=None))
        return buffer.getvalue()

    def _table(self) -> Table:
        table = Table(title=escape(self.spec), title_justify="left")
        table.add_column("split")
        for name in ("pairs", "captions", "a pair", "changed", "masks"):
            table.add_column(name, justify="right")
        table.add_column("sizes")
        for name, row in self.splits.items():
            table.add_row(
                escape(name),
                f"{row.pairs:,}",
                f"{row.captions:,}",
                "–" if not row.captions else str(row.most) if row.least == row.most else f"{row.least} to {row.most}",
                _changed_share(row),
                f"{row.masks:,} ({row.marked:,} not empty)" if row.masks and self.decoded else f"{row.masks:,}",
                _sizes(row.sizes),
            )
        return table


@dataclass
class _Seen:
    """What looking at the files of one pair gave."""

    size: tuple[int, int] | None = None
    marked: bool | None = None
    faults: list[str] = field(default_factory=list)


def check_source(spec: str, decode: bool = True, progress: bool = True) -> CheckReport:
    """Look at every pair of a source and list every fault.

    Faults: whatever loading finds (see Source); a file that leaves the root or cannot be decoded; sizes that differ
    within a pair; mask values that are neither binary nor LEVIR-MCI's; captions missing where other pairs have them,
    or over LONG_CAPTION words; images or masks that belong to no pair; the same two images (byte for byte) in two
    splits. Masks on some pairs only are a note.

    decode: decode every image to its last byte; otherwise only headers are read, and masks are not.
    progress: a bar with the time left, on stderr.
    Raises InputError where there is nothing to look at: a wrong spec, no such folder, an unreadable annotation file.
    """
    report = CheckReport(spec, decode)
    source = open_source(spec, report.faults.append)
    report.faults += source.unpaired()
    report.notes += source.notes
    seen = list(_look(source, decode, progress)) if source.has_images else [_Seen() for _ in source.pairs]
    if not source.has_images:
        report.decoded = False
        report.notes.append("annotations alone: there are no images to look at")
    captioned = any(pair.captions for pair in source.pairs)
    for pair, found in zip(source.pairs, seen, strict=True):
        _count_in(report.splits.setdefault(pair.split, SplitRow()), pair, found)
        report.faults += found.faults
        if captioned and not pair.captions:
            report.faults.append(f"{source.root}: pair '{pair.id}': captions missing, other pairs have them")
        for caption in pair.captions:
            words = len(caption.split())
            if words > LONG_CAPTION:
                report.faults.append(
                    f"{source.root}: pair '{pair.id}': a caption of {words:,} words ('{caption[:40]}...'); "
                    f"expected at most {LONG_CAPTION}"
                )
    if _has_files(source):
        report.faults += _in_two_splits(source)
    report.notes += _notes(source, seen)
    return report


def _has_files(source: Source) -> bool:
    """Whether pairs are opened from files under the root, and not rendered or absent."""
    return source.has_images and type(source).open is Source.open


def _look(source: Source, decode: bool, progress: bool) -> Iterator[_Seen]:
    """Look at every pair, in order. Threads are enough: PIL decodes outside the interpreter lock."""

    def look(pair: ImagePair) -> _Seen:
        return _look_at_files(source, pair, decode) if _has_files(source) else _look_at_pair(source, pair)

    executor = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        yield from _with_progress(executor.map(look, source.pairs), len(source.pairs), progress)
    finally:
        executor.shutdown(cancel_futures=True)  # Ctrl-C does not wait for the pairs that are still to come


def _look_at_files(source: Source, pair: ImagePair, decode: bool) -> _Seen:
    seen = _Seen()
    reference = ""
    for relative in (pair.before, pair.after, pair.mask):
        if relative is None or not os.path.lexists(source.root / relative):  # loading has reported it as missing
            continue
        try:
            path = inside(source.root, relative)
            size = probe_image(path)
            if seen.size is None:
                seen.size, reference = size, relative
            elif size != seen.size:
                seen.faults.append(
                    f"{path}: {_size(size)} pixels, but {reference} has {_size(seen.size)}; sizes differ"
                )
            if not decode:
                continue
            if relative == pair.mask and not source.plain_mask:
                seen.marked = bool(source.mask(pair).any())  # type: ignore[union-attr]
            elif relative == pair.mask:
                values = np.unique(open_classes(path))
                seen.marked = bool((values > 0).any())
                if not _is_mask(values):
                    some = ", ".join(str(value) for value in values[:5]) + (", ..." if len(values) > 5 else "")
                    seen.faults.append(
                        f"{path}: mask values {some}; expected 0 and one other, or {sorted(MASK_VALUES)}"
                    )
            else:
                open_image(path)
        except InputError as error:
            seen.faults.append(str(error))
    return seen


def _look_at_pair(source: Source, pair: ImagePair) -> _Seen:
    try:
        opened = source.open(pair)
    except InputError as error:
        return _Seen(faults=[str(error)])
    return _Seen(opened.before.size, None if opened.mask is None else bool(opened.mask.any()))


def _is_mask(values: np.ndarray) -> bool:
    """values: sorted distinct values of a mask."""
    return len(values) == 1 or (len(values) == 2 and values[0] == 0) or set(values.tolist()) <= MASK_VALUES


def _in_two_splits(source: Source) -> Iterator[str]:
    """Pairs of different splits whose two files are equal byte for byte. Only files of equal length are read."""
    by_length: dict[tuple[int, int], list[ImagePair]] = {}
    for pair in source.pairs:
        try:
            before, after = (inside(source.root, path).stat().st_size for path in (pair.before, pair.after))
        except (InputError, OSError):
            continue  # reported where the files are looked at
        by_length.setdefault((before, after), []).append(pair)
    for candidates in by_length.values():
        if len({pair.split for pair in candidates}) < 2:
            continue
        first: dict[tuple[str, str], ImagePair] = {}
        for pair in candidates:
            content = (sha256(source.root / pair.before), sha256(source.root / pair.after))
            other = first.setdefault(content, pair)
            if other.split != pair.split:
                yield (
                    f"{source.root}: pair '{pair.id}' of {pair.split} has the same two images as '{other.id}' of "
                    f"{other.split}; expected each pair in one split"
                )


def _count_in(row: SplitRow, pair: ImagePair, seen: _Seen) -> None:
    number = len(pair.captions)
    row.least = number if row.pairs == 0 else min(row.least, number)
    row.most = max(row.most, number)
    row.pairs += 1
    row.captions += number
    row.changed[True if pair.changed is None and seen.marked else pair.changed] += 1
    row.masks += pair.mask is not None
    row.marked += bool(seen.marked)
    if seen.size is not None:
        row.sizes[seen.size] += 1


def _notes(source: Source, seen: list[_Seen]) -> Iterator[str]:
    masks = sum(pair.mask is not None for pair in source.pairs)
    if 0 < masks < len(source.pairs):
        yield f"{masks:,} of {_count(len(source.pairs), 'pair')} have a mask"
    against = [
        pair.id for pair, found in zip(source.pairs, seen, strict=True) if found.marked and pair.changed is False
    ]
    if against:
        some = ", ".join(against[:5]) + (", ..." if len(against) > 5 else "")
        yield f"{_count(len(against), 'pair')} said to be unchanged with a mask that is not empty: {some}"


def _changed_share(row: SplitRow) -> str:
    known = row.changed[True] + row.changed[False]
    if not known:
        return "not stated"
    if not row.changed[None]:
        return f"{row.changed[True]:,} ({100 * row.changed[True] / known:.1f}%)"
    return f"{row.changed[True]:,} yes, {row.changed[False]:,} no, {row.changed[None]:,} not stated"


def _sizes(sizes: Counter[tuple[int, int]]) -> str:
    if len(sizes) == 1:
        return _size(next(iter(sizes)))
    shown = [f"{_size(size)} ({number:,})" for size, number in sizes.most_common(3)]
    return ", ".join(shown) + (f" and {len(sizes) - 3} more" if len(sizes) > 3 else "")


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _with_progress(items: Iterable[Item], total: int, progress: bool) -> Iterator[Item]:
    columns = (TextColumn("looking at pairs"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not (progress and console.is_terminal)) as bar:
        yield from bar.track(items, total=total)
