"""Training data in Parquet shards: what a folder of them holds, and its rows read without holding them all.

`shard-00000.parquet` and so on, and `index.json`, which says what is in them (`Index`). A row is one record as JSON and
the files of its images, byte for byte. Rows lie in small groups (`Index.group`), the least that is read at once.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError, model_validator

from rsiccllm.errors import InputError
from rsiccllm.files import SHARD, describe_validation, read_text, sha256
from rsiccllm.records import Text
from rsiccllm.training.shard_cache import ShardCache, is_url, joined, read_url_text

INDEX = "index.json"

Kind = Literal["instructions", "preferences"]
"""What records the rows of a folder are."""


class Row(NamedTuple):
    """One row: a record as JSON, and the files of its images."""

    record: str
    before: bytes
    after: bytes
    mask: bytes | None


SCHEMA = pa.schema(
    [
        pa.field("record", pa.string(), nullable=False),
        pa.field("before", pa.binary(), nullable=False),
        pa.field("after", pa.binary(), nullable=False),
        ("mask", pa.binary()),
    ]
)
"""The columns of a shard: the fields of Row."""

MAX_GROUP = 2**30
"""Bytes of a group of rows, which is read whole. Sixteen pairs of 1024 x 1024 px as PNG have some 100 MB."""

KEPT = 2**28
"""Bytes of groups that a process keeps in memory, those it used last."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)


class Shard(_Part):
    """One file of rows. bytes: its size."""

    name: Annotated[str, Field(pattern=r"^shard-\d{5}\.parquet$")]
    rows: Annotated[int, Field(ge=1, le=2**31)]
    bytes: Annotated[int, Field(ge=1, le=2**50)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Index(_Part):
    """What a folder of shards holds.

    made_of: a digest of the records and settings that it was written from. records: their kind. split: the split they
    are of. group: rows a group; only the last group of a shard may have fewer. seen: their sets and splits, as
    "set/split". longest: rows among which the one with most tokens is, however images and words are counted.
    """

    version: Literal["rsiccllm.shards.v1"] = Field(default="rsiccllm.shards.v1", alias="schema")
    made_of: str
    records: Kind
    split: Text
    group: Annotated[int, Field(ge=1, le=4096)]
    seen: list[Text]
    longest: Annotated[list[NonNegativeInt], Field(min_length=1)]
    shards: Annotated[list[Shard], Field(min_length=1)]

    @property
    def rows(self) -> int:
        """Of all shards."""
        return sum(shard.rows for shard in self.shards)

    @model_validator(mode="after")
    def _fits_together(self) -> Index:
        for number, shard in enumerate(self.shards):
            if shard.name != (wanted := shard_name(number)):
                raise ValueError(f"shard {number} is named {shard.name}; expected {wanted}")
        if max(self.longest) >= self.rows:
            raise ValueError(f"longest: names row {max(self.longest)} of {self.rows}")
        return self


def shard_name(number: int) -> str:
    """The file name of a shard."""
    return SHARD.format("shard", number, "parquet")


def holds_shards(place: Path | str) -> bool:
    """Whether a place that data is read from is one of shards: any URL, and a folder with their index."""
    return is_url(place) or (Path(place) / INDEX).is_file()


def read_index(place: Path | str) -> Index:
    """The index of a folder or URL of shards. Raises InputError where there is none, or none of ours."""
    where = joined(place, INDEX)
    text = read_url_text(where) if isinstance(where, str) else read_text(where)
    try:
        return Index.model_validate_json(text)
    except ValidationError as error:
        raise InputError(f"{where}: {describe_validation(error)}; expected what `rsiccllm data shards` wrote") from None


class Shards:
    """The rows of a folder or URL of shards, by number, in the order in which they were written.

    A local shard is read in place, its checksum compared when a process first opens it; one from a URL is fetched by
    `cache`. Raises InputError, naming the shard, for one that is missing, damaged, or not what the index says.
    """

    def __init__(self, place: Path | str, cache: ShardCache) -> None:
        self.place = place
        self.index = read_index(place)
        self.starts = np.cumsum([0, *(shard.rows for shard in self.index.shards)])  # [shards + 1]
        self._cache = cache
        self._checked: set[int] = set()
        self._groups: OrderedDict[tuple[int, int], pa.Table] = OrderedDict()
        self._kept = 0

    def __len__(self) -> int:
        return int(self.starts[-1])

    def row(self, number: int) -> tuple[str, Row]:
        """(where its shard is, the row)."""
        shard = int(np.searchsorted(self.starts, number, side="right")) - 1
        group, at = divmod(number - int(self.starts[shard]), self.index.group)
        table = self._group(shard, group)
        row = Row(*(table.column(name)[at].as_py() for name in Row._fields))
        return str(joined(self.place, self.index.shards[shard].name)), row

    def _group(self, shard: int, group: int) -> pa.Table:
        key = shard, group
        if key in self._groups:
            self._groups.move_to_end(key)
            return self._groups[key]
        table = self._read(shard, group)
        self._groups[key] = table
        self._kept += table.nbytes
        while self._kept > KEPT and len(self._groups) > 1:
            _, dropped = self._groups.popitem(last=False)
            self._kept -= dropped.nbytes
        return table

    def _read(self, shard: int, group: int) -> pa.Table:
        """A group of rows. The file is opened for it and closed again: an open one would hold its place on the disk
        when the cache has removed it, and a fork would share it."""
        told = self.index.shards[shard]
        where = joined(self.place, told.name)
        if isinstance(where, Path):
            self._check(where, told, shard)
        for _ in range(5):
            path = where if isinstance(where, Path) else self._cache.fetch(where, told.bytes, told.sha256)
            try:
                with pq.ParquetFile(path) as file:
                    self._check_form(file, where, told, group)
                    table = file.read_row_group(group, use_threads=False)
                    table.validate(full=True)  # that texts are UTF-8 is not seen to in reading
                    return table
            except FileNotFoundError:
                continue  # another process made room in the cache; a local one is told of below
            except (OSError, ValueError, pa.ArrowException) as error:  # names and metadata of no UTF-8: ValueError
                raise InputError(f"{where}: cannot be read as Parquet ({_first_line(error)})") from None
        raise InputError(f"{where}: no such file, though {INDEX} names it")

    def _check(self, path: Path, told: Shard, shard: int) -> None:
        if shard in self._checked:
            return
        if not path.is_file():
            raise InputError(f"{path}: no such file, though {INDEX} names it")
        if (size := path.stat().st_size) != told.bytes:
            raise InputError(f"{path}: {size:,} bytes; expected {told.bytes:,} (by {INDEX}): cut short or replaced")
        if sha256(path) != told.sha256:
            raise InputError(f"{path}: is not the shard that was written (by {INDEX}): damaged or edited")
        self._checked.add(shard)

    def _check_form(self, file: pq.ParquetFile, where: Path | str, told: Shard, group: int) -> None:
        """A shard whose checksum is right may still be another than the index says, where both were made to deceive."""
        found, size = file.metadata, self.index.group
        if not file.schema_arrow.equals(SCHEMA):
            raise InputError(f"{where}: has other columns; expected {', '.join(SCHEMA.names)}")
        if found.num_rows != told.rows or found.num_row_groups != -(-told.rows // size):
            raise InputError(
                f"{where}: {found.num_rows} rows in {found.num_row_groups} groups; expected {told.rows} in groups of "
                f"{size} (by {INDEX})"
            )
        read = found.row_group(group)
        if read.num_rows != min(size, told.rows - group * size):
            raise InputError(f"{where}: group {group} has {read.num_rows} rows; expected {size}")
        if read.total_byte_size > MAX_GROUP:
            raise InputError(
                f"{where}: group {group} takes {read.total_byte_size:,} bytes; expected at most {MAX_GROUP:,}"
            )


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
