"""Writing what was built: shards of JSON Lines and Parquet, and the checksums of every file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rsiccllm.errors import InputError
from rsiccllm.files import CHECKSUMS, SHARD, atomic_write, sha256, write_jsonl
from rsiccllm.records import INSTRUCTIONS, PAIRS, PREFERENCES, Instruction

PARQUET = "parquet"

_FACT = pa.struct([(name, pa.string()) for name in ("object", "direction", "verb", "quantity", "place")])
_TURN = pa.struct([("question", pa.string()), ("answer", pa.string())])
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("schema", "id", "pair", "split", "source", "task")),
        *((name, pa.string()) for name in ("before", "after", "mask")),
        ("coded_mask", pa.bool_()),
        ("changed", pa.bool_()),
        ("history", pa.list_(_TURN)),
        ("prompt", pa.string()),
        ("answers", pa.list_(pa.string())),
        ("facts", pa.list_(_FACT)),
        ("teacher", pa.string()),
        ("asked", pa.string()),
    ]
)
"""The columns of the Parquet files: the fields of Instruction, in its order."""


def write_shards(folder: Path, records: Iterable[Instruction], size: int) -> Iterator[Instruction]:
    """Write instructions as they are consumed and yield each; at most two shards are held.

    A set of at most `size` records is `instructions.jsonl`; a larger one `instructions-00000.jsonl` and so on (see
    `files.shards`). `parquet/` holds the same records for `datasets`, by split. Whole files or none.
    """
    stem, suffix = INSTRUCTIONS.split(".")
    shards = folder.glob(SHARD.format(stem, 0, suffix).replace("0" * 5, "[0-9]" * 5))
    for old in (folder / INSTRUCTIONS, *shards, *(folder / PARQUET).glob("*.parquet")):
        old.unlink(
            missing_ok=True
        )  # of an earlier call that left asks unanswered: the set grows, and its shards get other names
    source = iter(records)
    ahead, number = list(islice(source, size)), 0
    while ahead:
        batch, ahead = ahead, list(islice(source, size))
        alone = number == 0 and not ahead
        write_jsonl(folder / (INSTRUCTIONS if alone else SHARD.format(stem, number, suffix)), batch)
        for split in dict.fromkeys(record.split for record in batch):
            rows = [record.model_dump(mode="json") for record in batch if record.split == split]
            with atomic_write(folder / PARQUET / SHARD.format(split_name(split), number, "parquet"), "wb") as handle:
                pq.write_table(pa.Table.from_pylist(rows, SCHEMA), handle, compression="zstd")
        yield from batch
        number += 1


def split_name(split: str) -> str:
    """A split as `datasets` can name it: letters, digits and underscores, and not "all", which it keeps for itself."""
    return "all_" if split == "all" else re.sub(r"\W", "_", split)


def refuse_strangers(out: Path, claim: str) -> None:
    """Raise InputError where `out` holds what a build would write over and none of ours wrote: it has no `claim`."""
    names = ("README.md", "card.json", CHECKSUMS, PAIRS, INSTRUCTIONS, PREFERENCES, PARQUET)
    strange = [name for name in names if (out / name).exists()]
    if strange and not (out / claim).exists():
        raise InputError(f"{out}: holds {', '.join(strange)} and no {claim} of an earlier build; choose another --out")


def write_checksums(folder: Path, leave_out: Iterable[str] = ()) -> None:
    """Write SHA256SUMS over every file of the folder, in the form that `sha256sum -c` reads."""
    passed = {CHECKSUMS, *leave_out}
    files = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not (path.name.startswith(".") and path.name.endswith(".tmp"))
    )
    with atomic_write(folder / CHECKSUMS) as handle:
        for name in files:
            if name not in passed:
                handle.write(f"{sha256(folder / name)}  {name}\n")
