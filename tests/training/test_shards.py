"""Parquet shards: what is written is what is read, from anywhere, and what is damaged or hostile is one line."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import noise
from serving import served

from rsiccllm.errors import InputError
from rsiccllm.files import read_jsonl, sha256, write_jsonl
from rsiccllm.records import INSTRUCTIONS, PREFERENCES, Instruction, Preference, Rejected, Turn
from rsiccllm.training import shard_cache, shard_writer, shards
from rsiccllm.training.data import PairDataset, load_records
from rsiccllm.training.packing import Sample
from rsiccllm.training.recipe import SFTRecipe
from rsiccllm.training.shard_cache import ShardCache
from rsiccllm.training.shard_writer import Length, unbeaten, write_shards
from rsiccllm.training.shards import INDEX, Shards
from rsiccllm.training.streamed import ShardDataset, streamed

ROWS = 50


def answers(record: Instruction | Preference) -> list[str]:
    if isinstance(record, Instruction):
        return record.answers[:2]
    return [record.chosen, *(answer.text for answer in record.rejected)]


def made(folder: Path, rows: int = ROWS, side: int = 40) -> Path:
    """Instructions over noise, some with masks (plain and coded), turns before the prompt, and facts."""
    random = np.random.default_rng(0)
    records = []
    for number in range(rows):
        paths = {date: f"images/{number}_{date}.png" for date in ("before", "after", "mask")}
        for path in paths.values():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
        for date in ("before", "after"):
            noise(random, side, side + number % 3).save(folder / paths[date])
        if masked := number % 2 == 0:
            noise(random, side, side + number % 3).convert("L").point(lambda value: value % 8).save(
                folder / paths["mask"]
            )
        records.append(
            Instruction(
                id=f"r{number}", pair=f"p{number}", source=f"set{number % 2}", task="caption", prompt="What changed?",
                before=paths["before"], after=paths["after"], mask=paths["mask"] if masked else None,
                coded_mask=number % 4 == 0, answers=[f"a house was built {number}"] * (1 + number % 3),
                history=[Turn(question="Where?", answer="Here.")] if number % 5 == 0 else [],
                split="val" if number == 7 else "train",
            )
        )  # fmt: skip
    write_jsonl(folder / INSTRUCTIONS, records)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def written(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "out"
    assert write_shards(data, out, rows=8) == {"rows": ROWS - 1, "shards": 7, "bytes": stored(out)}
    return out


@pytest.fixture
def copy(written: Path, tmp_path: Path) -> Path:
    return shutil.copytree(written, tmp_path / "copy")


def stored(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.parquet"))


def opened(place: Path | str, cache: Path, limit: float = 1e9) -> ShardDataset:
    return ShardDataset(Shards(place, ShardCache(cache, limit)), Instruction, answers)


@pytest.fixture
def in_memory(copy: Path) -> Iterator[str]:
    """The shards in fsspec's file system of this process."""
    files = fsspec.filesystem("memory")
    files.put(str(copy), "/bucket/shards", recursive=True)
    yield "memory://bucket/shards"
    files.rm("/bucket", recursive=True)


def assert_same(one: Sample, other: Sample) -> None:
    for name in ("id", "prompt", "answers", "facts", "history", "kinds", "task"):
        assert getattr(one, name) == getattr(other, name), name
    assert [image.tobytes() for image in one.images] == [image.tobytes() for image in other.images]
    for name in ("mask", "objects"):
        first, second = getattr(one, name), getattr(other, name)
        assert (first is None) == (second is None), name
        assert first is None or np.array_equal(first, second), name


def assert_same_rows(found: ShardDataset, folder: Path, filename: str = INSTRUCTIONS) -> None:
    kind: Any = {INSTRUCTIONS: Instruction, PREFERENCES: Preference}[filename]
    records = load_records(folder, filename, kind, "train")
    whole = PairDataset(folder, records, answers)
    place = {record.id: number for number, record in enumerate(records)}
    assert len(found) == len(whole)
    assert found.seen == whole.seen
    order = []
    for index in range(len(found)):
        sample = found[index]
        order.append(place[sample.id])
        assert_same(sample, whole[order[-1]])
    assert sorted(order) == list(range(len(whole)))
    assert order != sorted(order), "rows were to be shuffled"


def test_rows_are_those_of_the_folder(data: Path, written: Path, tmp_path: Path) -> None:
    found = opened(written, tmp_path)
    assert_same_rows(found, data)
    assert found.seen == {"set0/train", "set1/train"}
    assert any(found[index].objects is not None for index in range(8))
    index = found.shards.index
    assert [shard.rows for shard in index.shards] == [8] * 6 + [1]
    assert index.split == "train"
    assert not list(tmp_path.iterdir()), "what is on disk is read in place"


def test_preferences_too(data: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(data, tmp_path / "data")
    shared = {"source", "pair", "before", "after", "mask", "coded_mask", "prompt", "id", "split"}
    preferences = [
        Preference(
            **record.model_dump(include=shared), chosen="a house was built", references=["a house was built"],
            rejected=[Rejected(text="a road was built", kind="swap:object"), Rejected(text="nothing", kind="filter")],
        )
        for record in read_jsonl(folder / INSTRUCTIONS, Instruction)
    ]  # fmt: skip
    (folder / INSTRUCTIONS).unlink()
    write_jsonl(folder / PREFERENCES, preferences)
    write_shards(folder, tmp_path / "out", rows=20)
    shards = Shards(tmp_path / "out", ShardCache(tmp_path / "cache", 1e9))
    found = ShardDataset(shards, Preference, answers)
    assert_same_rows(found, folder, PREFERENCES)
    assert found[0].kinds == ["swap", "filter"]


def test_shards_end_at_their_size(data: Path, tmp_path: Path) -> None:
    write_shards(data, tmp_path / "out", megabytes=0.1)
    sizes = [(shard.rows, shard.bytes) for shard in Shards(tmp_path / "out", ShardCache(tmp_path, 0)).index.shards]
    # A group of 16 rows has 170 kB of noise or so: more than a shard is to hold.
    assert [rows for rows, _ in sizes] == [16, 16, 16, 1]
    assert opened(tmp_path / "out", tmp_path)[48].id


def test_a_stopped_call_goes_on_behind_the_last_whole_shard(
    data: Path, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, out, paths = shard_writer._write, tmp_path / "out", []

    def stopping(path: Path, *rest: Any) -> list[Length]:
        if path.name == "shard-00003.parquet" and len(paths) == 3:
            path.with_name(f".{path.name}.1.2.tmp").write_bytes(b"torn")
            raise KeyboardInterrupt
        paths.append(path.name)
        return write(path, *rest)

    monkeypatch.setattr(shard_writer, "_write", stopping)
    with pytest.raises(KeyboardInterrupt):
        write_shards(data, out, rows=8)
    assert not (out / INDEX).exists(), "what is not finished is no folder of shards"
    with pytest.raises(InputError, match="holds unfinished shards of other records or settings"):
        write_shards(data, out, rows=9)
    # One of the three was damaged meanwhile: it and what follows are written again.
    (out / "shard-00001.parquet").write_bytes(b"damaged")
    write_shards(data, out, rows=8)
    assert paths == [f"shard-{number:05d}.parquet" for number in (0, 1, 2, 1, 2, 3, 4, 5, 6)]
    files = {path.name: path.read_bytes() for path in written.iterdir()}
    assert {path.name: path.read_bytes() for path in out.iterdir()} == files
    write_shards(data, out, rows=8)
    assert len(paths) == 9, "what is finished is not written again"


def test_what_cannot_be_written_is_one_line(data: Path, written: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds shards of other records or settings"):
        write_shards(data, written, rows=9)
    (tmp_path / "mine").write_text("")
    with pytest.raises(InputError, match="is not empty; choose another OUT"):
        write_shards(data, tmp_path)
    with pytest.raises(InputError, match="no such folder; expected a folder that `rsiccllm rsici build`"):
        write_shards(tmp_path / "none", tmp_path / "out")
    with pytest.raises(InputError, match="no record of split 'test' \\(there: train, val\\)"):
        write_shards(data, tmp_path / "out", split="test")
    for wrong in ({"rows": 0}, {"megabytes": 0}, {"megabytes": float("nan")}):
        with pytest.raises(InputError, match=r"^--(rows|size): "):
            write_shards(data, tmp_path / "out", **wrong)  # type: ignore[arg-type]
    folder = shutil.copytree(data, tmp_path / "data")
    noise(np.random.default_rng(0), 41, 40).save(folder / "images" / "3_after.png")
    with pytest.raises(
        InputError, match=r"^[^\n]*3_after.png: 40x41 pixels, but [^\n]*3_before.png has 40x40; [^\n]*$"
    ):
        write_shards(folder, tmp_path / "out")
    assert not list((tmp_path / "out").glob("[!.]*"))


def test_the_longest_row_is_never_left_out() -> None:
    random = np.random.default_rng(0)
    lengths = [Length(row, *random.integers(1, 100, 2).tolist()) for row in range(500)]
    found = unbeaten(lengths)
    assert len(found) < 20
    for weight in (0, 0.1, 1, 10, 1000):  # tokens of a pixel against those of a word
        longest = max(weight * length.pixels + length.words for length in lengths)
        assert longest in {weight * length.pixels + length.words for length in found}
    many = unbeaten([Length(row, row, 1000 - row) for row in range(1000)])
    assert len(many) == shard_writer.LONGEST
    assert {many[0].row, many[-1].row} == {999, 0}


def test_from_a_file_system_in_memory_and_from_file_urls(
    data: Path, copy: Path, in_memory: str, tmp_path: Path
) -> None:
    found = opened(in_memory, tmp_path / "cache")
    assert_same_rows(found, data)
    kept = {path.name for path in (tmp_path / "cache").glob("*.parquet")}
    assert kept == {f"{shard.sha256}.parquet" for shard in found.shards.index.shards}
    recipe = SFTRecipe(model="m", data=copy.as_uri(), out="o", learning_rate=1e-3)
    assert recipe.data == copy, "a local URL is a path"


def test_over_http_each_shard_is_fetched_once(data: Path, written: Path, tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    with served(written) as (url, asked):
        assert_same_rows(opened(url, tmp_path / "cache"), data)
        names = [f"/shard-{number:05d}.parquet" for number in range(7)]
        assert sorted(set(asked)) == [f"/{INDEX}", *names]
        assert len(asked) == 8
        # Another process, and a shard that was damaged meanwhile: that one alone is fetched again.
        damaged = tmp_path / "cache" / f"{sha256(written / 'shard-00003.parquet')}.parquet"
        data_of = bytearray(damaged.read_bytes())
        data_of[100] ^= 1
        damaged.write_bytes(data_of)
        assert_same_rows(opened(f"{url}/", tmp_path / "cache"), data)
        assert asked[8:] == [f"/{INDEX}", names[3]]
        with pytest.raises(InputError, match=r"none/index\.json: no such file"):
            opened(f"{url}/none", tmp_path)
        # Many threads at once, as loader processes would.
        fresh = [opened(url, tmp_path / "other") for _ in range(4)]
        del asked[:]
        readers = [threading.Thread(target=lambda rows=rows: [rows[at] for at in range(8)]) for rows in fresh]
        [reader.start() for reader in readers]
        [reader.join() for reader in readers]
        assert asked == [names[shard_of(fresh[0], 0)]]


def shard_of(rows: ShardDataset, index: int) -> int:
    return int(np.searchsorted(rows.shards.starts, index, side="right")) - 1


def test_a_fetch_that_failed_is_tried_again(
    copy: Path, in_memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_cache, "WAITS", (0.0, 0.0))
    found = opened(in_memory, tmp_path / "cache")
    read, calls = shard_cache.read_url, []

    def torn(url: str) -> Iterator[bytes]:
        calls.append(url)
        for block in read(url):
            yield block if len(calls) == 3 else block[:-1]

    monkeypatch.setattr(shard_cache, "read_url", torn)
    assert found[0].id
    assert len(calls) == 3
    del calls[:]
    fsspec.filesystem("memory").pipe("/bucket/shards/shard-00002.parquet", b"x" * found.shards.index.shards[2].bytes)
    with pytest.raises(InputError, match=r"^memory://\S*shard-00002.parquet: is not the shard that was written[^\n]*$"):
        found[16]
    assert len(calls) == 3
    assert not list((tmp_path / "cache").glob("*.tmp"))


def test_the_cache_is_bounded_and_drops_what_was_not_used_for_longest(
    written: Path, in_memory: str, tmp_path: Path
) -> None:
    largest = max(file.stat().st_size for file in written.glob("*.parquet"))
    cache = tmp_path / "cache"
    found = opened(in_memory, cache, limit=3.5 * largest)
    names = [f"{shard.sha256}.parquet" for shard in found.shards.index.shards]
    torn = cache / f".{names[0]}.1.2.tmp"
    for number in range(6):
        found[8 * number]
        if number == 0:  # a killed process left it
            torn.write_bytes(b"torn")
            os.utime(torn, (time.time() - 2 * shard_cache.STALE,) * 2)
        for at, name in enumerate(names[: number + 1]):
            if (cache / name).exists():
                os.utime(cache / name, (at + 1, at + 1))  # of an order that no clock's grain can blur
        held = {path.name for path in cache.glob("*.parquet")}
        assert stored(cache) <= 3.5 * largest
        assert held == set(names[max(0, number - 2) : number + 1])
    assert not torn.exists()
    # A limit below one shard: that one is there, or nothing could be read.
    small = opened(in_memory, tmp_path / "small", limit=1)
    for number in (0, 8, 0):
        assert small[number].id == found[number].id
        assert len(list((tmp_path / "small").glob("*.parquet"))) == 1


def test_a_cache_too_small_for_what_is_read_at_once_is_one_line(in_memory: str, tmp_path: Path) -> None:
    recipe = SFTRecipe(
        model="m", data=in_memory, out="o", learning_rate=1e-3, shard_cache=tmp_path, shard_cache_gb=1e-4
    )
    with pytest.raises(
        InputError, match=r"^shard_cache_gb=0.0001: up to 8 shards are read at once; expected at least 0"
    ):
        streamed(recipe, INSTRUCTIONS, Instruction, answers)


def test_memory_does_not_grow_with_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path / "data", rows=120, side=160)
    write_shards(tmp_path / "data", tmp_path / "out", rows=32)
    found = opened(tmp_path / "out", tmp_path)
    group = stored(tmp_path / "out") / (len(found) / shard_writer.GROUP)
    monkeypatch.setattr(shards, "KEPT", int(2.5 * group))
    before, most = pa.total_allocated_bytes(), 0
    for _ in range(2):
        for index in range(len(found)):
            found[index]
            most = max(most, pa.total_allocated_bytes() - before)
    # Two groups and a half are kept, and one is being read.
    assert 2 * group < most < 4 * group
    assert 4 * group < stored(tmp_path / "out") / 1.5


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


DAMAGES = {
    "flipped": (flip, "is not the shard that was written"),
    "cut": (lambda file: file.write_bytes(file.read_bytes()[:-9]), r"bytes; expected [\d,]+ \(by index.json\)"),
    "gone": (lambda file: file.unlink(), "no such file, though index.json names it"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_shard_is_one_line_that_names_it(copy: Path, tmp_path: Path, name: str) -> None:
    damage, told = DAMAGES[name]
    damage(copy / "shard-00002.parquet")
    found = opened(copy, tmp_path)
    assert found[0].id
    with pytest.raises(InputError, match=rf"^[^\n]*/copy/shard-00002.parquet: [^\n]*{told}[^\n]*$"):
        found[16]


def edited(folder: Path, **fields: Any) -> None:
    index = json.loads((folder / INDEX).read_text())
    first = index["shards"][0]
    first |= {name: fields.pop(name) for name in list(fields) if name in first}
    (folder / INDEX).write_text(json.dumps(index | fields))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"schema": "rsiccllm.shards.v2"}, "field 'schema': .*v1.*v2"),
        ({"name": "../shard-00000.parquet"}, "field 'shards.0.name'"),
        ({"name": "/etc/passwd"}, "field 'shards.0.name'"),
        ({"name": "shard-00000.parquet\n"}, "field 'shards.0.name'"),
        ({"name": "shard-00001.parquet"}, "shard 0 is named shard-00001.parquet"),
        ({"sha256": "../x"}, "field 'shards.0.sha256'"),
        ({"rows": 0}, "field 'shards.0.rows'"),
        ({"rows": 10**30}, "field 'shards.0.rows'"),
        ({"rows": 7}, "shard-00000.parquet: 8 rows in 1 groups; expected 7 in groups of 16"),
        ({"bytes": 10**30}, "field 'shards.0.bytes'"),
        ({"bytes": 10**9}, "expected 1,000,000,000"),
        ({"group": 4}, "expected 8 in groups of 4"),
        ({"group": 10**9}, "field 'group'"),
        ({"longest": [49]}, "longest: names row 49 of 49"),
        ({"longest": []}, "field 'longest'"),
        ({"longest": [-1]}, "field 'longest.0'"),
        ({"shards": []}, "field 'shards'"),
        ({"records": "pairs"}, "field 'records'"),
        ({"seen": [""]}, "field 'seen.0'"),
        ({"more": 1}, "field 'more'"),
    ],
)
def test_a_hostile_index_is_one_line(copy: Path, tmp_path: Path, fields: dict[str, Any], told: str) -> None:
    edited(copy, **fields)
    with pytest.raises(InputError, match=rf"^[^\n]*{told}[^\n]*$"):
        opened(copy, tmp_path)[0]


def test_a_shard_made_to_deceive_is_one_line(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its checksum is what the index says; what is in it is not."""
    file = copy / "shard-00000.parquet"
    table = pq.read_table(file)
    columns = {name: table.column(name).to_pylist() for name in table.column_names}

    def read(**changes: Any) -> None:
        pq.write_table(pa.Table.from_pydict(columns | changes, shards.SCHEMA), file)
        edited(copy, bytes=file.stat().st_size, sha256=sha256(file))
        opened(copy, tmp_path)[0]

    with pytest.raises(InputError, match=r"shard-00000.parquet: row 0: field 'answers'"):
        read(record=[record.replace('"answers"', '"other"') for record in columns["record"]])
    with pytest.raises(InputError, match=r"shard-00000.parquet: row 0: field 'before': expected a relative path"):
        read(record=[record.replace("images/", "../") for record in columns["record"]])
    with pytest.raises(InputError, match=r"shard-00000.parquet: images/\d+_after.png: not an image"):
        read(after=[b"GIF89a"] * 8)
    with pytest.raises(InputError, match=r"shard-00000.parquet: images/\d+_before.png: empty file"):
        read(before=[b""] * 8)
    monkeypatch.setattr(shards, "MAX_GROUP", 1000)
    with pytest.raises(InputError, match=r"shard-00000.parquet: group 0 takes [\d,]+ bytes; expected at most 1,000"):
        read()
    for content, told in (
        (b"PAR1 and no more", "cannot be read as Parquet"),
        (other_columns(tmp_path), "has other columns; expected record, before, after, mask"),
    ):
        file.write_bytes(content)
        edited(copy, bytes=file.stat().st_size, sha256=sha256(file))
        with pytest.raises(InputError, match=rf"^[^\n]*shard-00000.parquet: {told}[^\n]*$"):
            opened(copy, tmp_path)[0]


def other_columns(folder: Path) -> bytes:
    pq.write_table(pa.table({"record": ["{}"] * 8}), folder / "other.parquet")
    return (folder / "other.parquet").read_bytes()


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("memory://bucket/none", "no such file"),
        ("s4://bucket/none", "cannot be read .*s4"),
        ("s3://bucket/none", "what reads such URLs is not installed; .*s3fs"),
        ("http://127.0.0.1:9/none", "cannot be read .*127.0.0.1:9"),
    ],
)
def test_a_url_that_cannot_be_read_is_one_line(
    tmp_path: Path, url: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if url.startswith("http:"):
        pytest.importorskip("aiohttp")
    monkeypatch.setattr(shard_cache, "WAITS", (0.0,))
    with pytest.raises(InputError, match=rf"^{url}/index.json: {told}[^\n]*$"):
        opened(url, tmp_path)


def test_without_what_reads_http_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(url: str) -> None:
        raise ImportError("aiohttp")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(InputError, match=r"^http://x/index.json: [^\n]*pip install 'rsiccllm\[stream\]'$"):
        opened("http://x", tmp_path)
