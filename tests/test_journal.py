from __future__ import annotations

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
    path.write_bytes(b"x" * 200_000)  # no line end at all
    journal = Journal(path)
    assert list(journal.read()) == []
    journal.close()


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
