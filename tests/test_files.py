"""Files are whole or not there, JSON faults are named, and no path leaves its root."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pydantic import BaseModel

from rsiccllm.errors import InputError
from rsiccllm.files import (
    atomic_write,
    inside,
    link_or_copy,
    read_json,
    read_jsonl,
    read_text,
    sha256,
    write_json,
    write_jsonl,
)
from rsiccllm.records import ImagePair


class Line(BaseModel):
    id: str
    note: str | None = None


def refused(call: object, *arguments: object) -> str:
    with pytest.raises(InputError) as caught:
        call(*arguments)  # type: ignore[operator]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def names(folder: Path) -> list[str]:
    return sorted(item.name for item in folder.iterdir())


def interrupted(path: Path, error: BaseException) -> None:
    with atomic_write(path) as handle:
        handle.write("half")
        raise error


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.txt"
    with atomic_write(path) as handle:
        handle.write("old")
    with atomic_write(path) as handle:
        handle.write("new")
        handle.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(path.parent) == ["x.txt"]


def test_an_error_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("old")
    for error in (KeyboardInterrupt(), FileNotFoundError()):
        with pytest.raises(type(error)):
            interrupted(path, error)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["x.txt"]


def test_bytes(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "x", "wb") as handle:
        handle.write(b"\xff\x00")
    assert (tmp_path / "x").read_bytes() == b"\xff\x00"


FULL_DISK = """
import resource, sys
from rsiccllm.errors import InputError
from rsiccllm.files import write_jsonl
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))  # the write fails as it does where a quota is reached
try:
    write_jsonl(sys.argv[1], ({"id": "x" * 100} for _ in range(int(sys.argv[2]))))
except InputError as error:
    print(error)
"""


@pytest.mark.parametrize("lines", [600, 20_000])
def test_a_disk_that_fills_up_is_one_line_and_keeps_the_old_file(tmp_path: Path, lines: int) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("old")
    command = [sys.executable, "-c", FULL_DISK, str(path), str(lines)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{path}: cannot be written (")
    assert done.stderr == ""
    assert path.read_text() == "old"
    assert names(tmp_path) == ["x.jsonl"]


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refused(write_json, tmp_path / "file" / "x.json", {})
    assert "cannot be written" in refused(write_json, tmp_path, {})
    assert "cannot be written" in refused(write_json, tmp_path / ("x" * 300), {})
    assert names(tmp_path) == ["file"]


def test_read_text_faults(tmp_path: Path) -> None:
    assert refused(read_text, tmp_path / "no") == f"{tmp_path / 'no'}: no such file"
    assert "is a directory" in refused(read_text, tmp_path)
    (tmp_path / "latin").write_bytes("café".encode("latin-1"))
    assert "not UTF-8 text (byte 3)" in refused(read_text, tmp_path / "latin")
    assert "cannot be read" in refused(read_text, tmp_path / ("x" * 300))
    assert "cannot be read" in refused(read_text, tmp_path / "a\0b")
    (tmp_path / "bom").write_bytes(b"\xef\xbb\xbf{}")
    assert read_text(tmp_path / "bom") == "{}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": 1,\n"b": }', ":2: not valid JSON"),
        ("", ":1: not valid JSON"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "key 'c' stands twice"),
        ("[" * 100_000, "nested too deeply"),
        ("1" * 10_000, "not valid JSON"),
    ],
)
def test_read_json_faults(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    message = refused(read_json, path)
    assert message.startswith(str(path))
    assert expected in message


def test_json_comes_back(tmp_path: Path) -> None:
    value = {"é": [1, 2.5, None, {"a": "b"}]}
    write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == value


def test_jsonl_comes_back_whatever_a_string_holds(tmp_path: Path) -> None:
    notes = ["plain", "a\nb", "a\r\nb", "line\u2028separator", "next\x85line", "\x0b\x0c\x1c", "图像 é", '"\\', None]
    lines = [Line(id=str(number), note=note) for number, note in enumerate(notes)]
    path = tmp_path / "x.jsonl"
    write_jsonl(path, lines)
    assert read_jsonl(path, Line) == lines
    assert "note" not in path.read_text(encoding="utf-8").split("\n")[-2]  # unset fields are left out
    write_jsonl(path, (line.model_dump() for line in lines))
    assert read_jsonl(path, Line) == lines


def test_jsonl_faults_name_line_and_field(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    for text, expected in {
        '{"id": "a"}\n\n{"note": "x"}\n': ":3: field 'id': Field required",
        '{"id": "a"}\r\n{"id": 7}\r\n': ":2: field 'id': Input should be a valid string, got 7",
        '{"id": "a"}\n{"id": "b"': ":2: field 'record': Invalid JSON",
        "[]\n": ":1: field 'record'",
    }.items():
        path.write_bytes(text.encode())
        assert expected in refused(read_jsonl, path, Line)


def test_writing_records_is_quick(tmp_path: Path) -> None:
    pair = ImagePair(id="a", before="A/a.png", after="B/a.png", captions=["a house is built"] * 5)
    start = time.perf_counter()
    write_jsonl(tmp_path / "x.jsonl", [pair] * 10_000)
    assert time.perf_counter() - start < 2  # 0.1 s here; ten times that means dumping went through Python
    first = json.loads((tmp_path / "x.jsonl").read_text().split("\n")[0])
    assert first["schema"] == "rsiccllm.image_pair.v1"


def test_inside(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (tmp_path / "secret.png").write_text("")
    assert inside(root, "sub/x.png") == root / "sub" / "x.png"
    for path in ("../secret.png", "sub/../../secret.png", "sub/../x.png", "/etc/passwd", str(tmp_path / "secret.png")):
        assert "leaves the data root" in refused(inside, root, path)
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "folder").symlink_to(tmp_path)
    assert "through a symbolic link" in refused(inside, root, "link.png")
    assert "through a symbolic link" in refused(inside, root, "folder/secret.png")
    (root / "kept.png").symlink_to(root / "sub")
    assert inside(root, "kept.png") == root / "kept.png"
    # The root itself may be a link: people keep their data on another disk.
    (tmp_path / "alias").symlink_to(root)
    assert inside(tmp_path / "alias", "sub/x.png") == tmp_path / "alias" / "sub" / "x.png"
    (root / "loop").symlink_to(root / "loop")
    assert inside(root, "a") == root / "a"
    assert "cannot be followed" in refused(inside, root, "a\0b")


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert "cannot be read" in refused(sha256, tmp_path / "no")


def test_a_long_list_is_read_from_its_shards_in_order(tmp_path: Path) -> None:
    for number in range(3):
        names = [f"{number}_{item}" for item in range(2)]
        pairs = [ImagePair(id=name, before="a.png", after="b.png") for name in names]
        write_jsonl(tmp_path / f"pairs-{number:05d}.jsonl", pairs)
    found = read_jsonl(tmp_path / "pairs.jsonl", ImagePair)
    assert [pair.id for pair in found] == ["0_0", "0_1", "1_0", "1_1", "2_0", "2_1"]
    write_jsonl(tmp_path / "pairs-00003.jsonl", found[1:2])
    with pytest.raises(InputError, match=r"pairs-00003.jsonl:1: .*'0_1' is in pairs-00000.jsonl on line 2 already"):
        read_jsonl(tmp_path / "pairs.jsonl", ImagePair)
    (tmp_path / "pairs-00001.jsonl").unlink()
    with pytest.raises(InputError, match=r"pairs-00001.jsonl: no such file, though later parts of pairs.jsonl"):
        read_jsonl(tmp_path / "pairs.jsonl", ImagePair)


def test_a_link_that_went_stale_is_replaced(tmp_path: Path) -> None:
    first, second, same, target = (tmp_path / name for name in ("first", "second", "same", "into/target"))
    first.write_bytes(b"one")
    second.write_bytes(b"two")
    same.write_bytes(b"two")
    link_or_copy(first, target)
    assert target.samefile(first)
    link_or_copy(second, target)
    assert target.samefile(second)
    link_or_copy(same, target)
    assert target.samefile(second), "the same bytes stay"
    assert first.read_bytes() == b"one"
