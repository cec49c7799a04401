from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rsiccllm.errors import InputError
from rsiccllm.journal import Journal


def test_lines_come_back_in_order_and_a_torn_one_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.jsonl"
    journal = Journal(path)
    lines = [{"n": n, "text": "häuser \u2028 \ud800"} for n in range(3)]
    for line in lines:
        journal.append(line)
    journal.close()
    whole = path.read_bytes()
    for cut in range(1, 30):
        path.write_bytes(whole + whole[:cut])
        journal = Journal(path)
        assert list(journal.read()) == lines
        journal.append({"n": 3})
        assert list(journal.read()) == [*lines, {"n": 3}]
        journal.close()
    path.write_bytes(whole + b"\0" * 5000)  # what a power cut may leave
    journal = Journal(path)
    assert list(journal.read()) == lines
    journal.close()


@pytest.mark.parametrize(
    "content",
    [
        b"x" * 200_000,
        b'{"my": "precious results", "n": [1, 2, 3]}',  # as json.dump writes, without a line end
        b"before,after\nA/1.png,B/1.png\nA/2.png,B/2.png",
        b'{\n  "my": 1\n}',
        bytes(range(256)) * 40,
    ],
)
def test_somebody_elses_file_stays_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(content)
    for _ in range(2):  # and is not left locked
        with pytest.raises(InputError, match=r"results\.json"):
            Journal(path)
        assert path.read_bytes() == content


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path(os.devnull)):
        with pytest.raises(InputError, match="not a regular file"):
            Journal(path)


def test_a_second_user_and_a_damaged_line_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    journal = Journal(path)
    with pytest.raises(InputError, match="in use by another run"):
        Journal(path)
    journal.close()
    journal.close()
    path.write_text('{"a": 1}\nnonsense\n', encoding="utf-8")
    journal = Journal(path)
    with pytest.raises(InputError, match=r"a\.jsonl:2: not a JSON object"):
        list(journal.read())
    journal.close()
    with pytest.raises(InputError, match="cannot be written"):
        Journal(tmp_path / "a.jsonl" / "b.jsonl")


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    program = f"""
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
from rsiccllm.journal import Journal
from rsiccllm.errors import InputError
journal = Journal({str(tmp_path / "a.jsonl")!r})
journal.append({{"a": "x" * 40}})
try:
    journal.append({{"a": "y" * 80}})
except InputError:
    journal.append({{"a": "z"}})
    print([len(line["a"]) for line in journal.read()])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[40, 1]\n"
