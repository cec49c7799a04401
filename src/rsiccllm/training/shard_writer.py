"""`rsiccllm data shards`: a built folder written as Parquet shards, from which training streams it.

Rows are shuffled once, since whoever reads them looks at a few hundred side by side; an image that several records name
is written with each.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rsiccllm.errors import InputError
from rsiccllm.files import atomic_write, inside, only_run, sha256, shards, sweep, write_json
from rsiccllm.journal import Journal
from rsiccllm.progress import track
from rsiccllm.records import INSTRUCTIONS, PREFERENCES, Instruction, Preference
from rsiccllm.training.data import load_records, same_size
from rsiccllm.training.shards import INDEX, SCHEMA, Index, Kind, Row, Shard, read_index, shard_name

GROUP = 16
"""Rows that are read together."""

LONGEST = 64
"""Rows that the index names as perhaps the longest, at most."""

JOURNAL = ".shards.journal"
"""The file of an unfinished folder that says which of its shards are whole."""

Record = Instruction | Preference


class Length(NamedTuple):
    """How long a row is: the pixels of one of its images, and the bytes of its words. row: its number."""

    row: int
    pixels: int
    words: int


def write_shards(
    data: Path, out: Path, split: str = "train", rows: int | None = None, megabytes: float = 64
) -> dict[str, int]:
    """Write one split of a folder that `rsici build` or `rsicp build` wrote to `out`, which holds nothing else.

    A shard ends where it has `rows` rows, or `megabytes` of images (10^6 bytes). Stopped, it goes on behind the last
    whole shard when called again; the index comes last, so an unfinished folder is none of shards. Returns the numbers
    of rows and shards, and of bytes. Raises InputError as `load_records` does, and where `out` holds anything else.
    """
    if rows is not None and rows < 1:
        raise InputError(f"--rows: {rows}; expected at least 1")
    if not megabytes > 0:
        raise InputError(f"--size: {megabytes}; expected megabytes above 0")
    kind, records = _records(data, split)
    every = [(record, record.model_dump_json(exclude_none=True)) for record in records]
    lines = [f"{kind} {split} {rows} {megabytes} {GROUP}", *(text for _, text in every)]
    made_of = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    _claim(out, made_of)
    with only_run(out):
        sweep(out)
        if not (out / INDEX).exists():
            shuffled = [every[at] for at in np.random.default_rng(0).permutation(len(every))]
            whole, longest = _write_all(data, out, shuffled, made_of, (rows or len(every), 1e6 * megabytes))
            seen = sorted({f"{record.source}/{record.split}" for record in records})
            index = Index(
                made_of=made_of, records=kind, split=split, group=GROUP, seen=seen, longest=longest, shards=whole
            )
            write_json(out / INDEX, index.model_dump())
        (out / JOURNAL).unlink(missing_ok=True)
    index = read_index(out)
    return {"rows": index.rows, "shards": len(index.shards), "bytes": sum(shard.bytes for shard in index.shards)}


def _records(data: Path, split: str) -> tuple[Kind, Sequence[Instruction] | Sequence[Preference]]:
    if shards(data / INSTRUCTIONS)[0].is_file():
        return "instructions", load_records(data, INSTRUCTIONS, Instruction, split, images=False)
    if shards(data / PREFERENCES)[0].is_file():
        return "preferences", load_records(data, PREFERENCES, Preference, split, images=False)
    found = f"neither {INSTRUCTIONS} nor {PREFERENCES} in it" if data.is_dir() else "no such folder"
    raise InputError(f"{data}: {found}; expected a folder that `rsiccllm rsici build` or `rsicp build` wrote")


def _claim(out: Path, made_of: str) -> None:
    """Refuse a folder in which these shards would be mixed with anything else."""
    if (out / INDEX).exists():
        if read_index(out).made_of != made_of:
            raise InputError(f"{out}: holds shards of other records or settings; choose another OUT")
    elif not (out / JOURNAL).exists() and out.exists() and any(path.name[0] != "." for path in out.iterdir()):
        raise InputError(f"{out}: is not empty; choose another OUT")


def _write_all(
    data: Path, out: Path, every: Sequence[tuple[Record, str]], made_of: str, limits: tuple[int, float]
) -> tuple[list[Shard], list[int]]:
    """Write what is not written yet. limits: rows and bytes of a shard. Returns the shards, and the rows among which
    the longest is."""
    journal = Journal(out / JOURNAL, sealed=True)
    try:
        whole, longest = _finished(journal, out, made_of)
        done = sum(shard.rows for shard in whole)
        rows = track(_rows(data, every, done), "writing shards", len(every), done)
        while done < len(every):
            path = out / shard_name(len(whole))
            lengths = _write(path, rows, min(limits[0], len(every) - done), limits[1])
            size = path.stat().st_size
            whole.append(Shard(name=path.name, rows=len(lengths), bytes=size, sha256=sha256(path)))
            longest += (own := unbeaten(lengths))
            journal.append({"shard": whole[-1].model_dump(), "longest": own})
            done += len(lengths)
        next(rows, None)  # the bar ends
        return whole, [length.row for length in unbeaten(longest)]
    finally:
        journal.close()


def _finished(journal: Journal, out: Path, made_of: str) -> tuple[list[Shard], list[Length]]:
    """The shards that an earlier call has written, up to the first that is not whole, and their longest rows."""
    lines = list(journal.read())
    if not lines:
        journal.append({"made_of": made_of})
    elif lines[0] != {"made_of": made_of}:
        raise InputError(
            f"{out}: holds unfinished shards of other records or settings; remove it, or choose another OUT"
        )
    told = {line["shard"]["name"]: line for line in lines[1:]}
    whole: list[Shard] = []
    longest: list[Length] = []
    while (line := told.get(shard_name(len(whole)))) is not None:
        shard = Shard.model_validate(line["shard"])
        if not (out / shard.name).is_file() or sha256(out / shard.name) != shard.sha256:
            break
        whole.append(shard)
        longest += [Length(*length) for length in line["longest"]]
    return whole, longest


def _rows(data: Path, every: Sequence[tuple[Record, str]], start: int) -> Iterator[tuple[Row, Length]]:
    """Each row from number `start`, its images looked at as before training, and how long it is."""
    for number, (record, text) in enumerate(every[start:], start=start):
        files = [inside(data, path) for path in (record.before, record.after, record.mask) if path is not None]
        width, height = same_size(*files)
        try:
            held = [file.read_bytes() for file in files]
        except OSError as error:
            raise InputError(f"{data}: an image of record '{record.id}' cannot be read ({error.strerror})") from None
        words = sum(len(said.encode()) for said in _words(record))
        yield Row(text, held[0], held[1], held[2] if len(held) > 2 else None), Length(number, width * height, words)


def _words(record: Record) -> list[str]:
    if isinstance(record, Instruction):
        return [
            record.prompt,
            *record.answers,
            *(said for turn in record.history for said in (turn.question, turn.answer)),
        ]
    return [record.prompt, record.chosen, *(answer.text for answer in record.rejected)]


def _write(path: Path, rows: Iterator[tuple[Row, Length]], most: int, size: float) -> list[Length]:
    """Write one shard: at most `most` rows, and no more groups once it has `size` bytes. Returns its rows' lengths."""
    lengths: list[Length] = []
    # Images are compressed already; statistics would hold whole images.
    packing = {"record": "zstd", "before": "none", "after": "none", "mask": "none"}
    with (
        atomic_write(path, "wb") as handle,
        pq.ParquetWriter(handle, SCHEMA, compression=packing, use_dictionary=False, write_statistics=False) as writer,
    ):
        while len(lengths) < most and handle.tell() < size:
            group = list(islice(rows, min(GROUP, most - len(lengths))))
            writer.write_table(pa.Table.from_pylist([row._asdict() for row, _ in group], SCHEMA))
            lengths += [length for _, length in group]
    return lengths


def unbeaten(lengths: Iterable[Length]) -> list[Length]:
    """Those that no other is beyond in both pixels and words, at most LONGEST of them: the longest row is among these,
    as long as more pixels and more words are more tokens."""
    found: list[Length] = []
    for length in sorted(lengths, key=lambda length: (-length.pixels, -length.words, length.row)):
        if not found or length.words > found[-1].words:
            found.append(length)
    if len(found) > LONGEST:
        found = [found[round(at)] for at in np.linspace(0, len(found) - 1, LONGEST)]
    return found
