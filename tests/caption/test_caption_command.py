"""`rsiccllm caption`, its command line run in this process: what it prints, what it writes, how it ends."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from rsiccllm import cli
from rsiccllm.caption.captioner import Captioner

Folders = tuple[Path, Path]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], mapping_checkpoint: Path):  # type: ignore[no-untyped-def]
    def call(*arguments: object) -> tuple[int, str, str]:
        command = ["rsiccllm", "caption", *map(str, arguments), "--model", str(mapping_checkpoint)]
        monkeypatch.setattr(sys, "argv", command)
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        held = capsys.readouterr()
        return int(end.value.code or 0), held.out, held.err

    return call


def test_one_pair(run, folders: Folders, mapping_checkpoint: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    before, after = (folder / "a.png" for folder in folders)
    expected = Captioner.load(mapping_checkpoint).caption(before, after)
    status, out, err = run(before, after, "--overlay", tmp_path / "map.png")
    note = f"rsiccllm: note: {mapping_checkpoint}: not calibrated: its captions come without a confidence\n"
    assert (status, out, err) == (0, expected.caption + "\n", note)
    assert Image.open(tmp_path / "map.png").size == (3 * 56 + 2 * 8, 56)
    status, out, _ = run(before, after, "--json", "--candidates", 3)
    line = json.loads(out)
    assert line["caption"] == line["candidates"][0]
    assert expected.caption in line["candidates"]
    assert line["confidence"] is None
    assert line["probability"] == pytest.approx(expected.probability, abs=1e-4)
    assert run(before, after, "--ask", "what changed?")[0] == 0
    assert run(before, after, "--long")[0] == 0


def test_low_confidence_is_shown(folders: Folders, mapping_checkpoint: Path, tmp_path: Path) -> None:
    model = tmp_path / "calibrated"
    shutil.copytree(mapping_checkpoint, model)
    text = '{"schema": "rsiccllm.calibration.v2", "slopes": [0, 0, 0], "intercept": -2.0}'
    (model / "calibration.json").write_text(text, encoding="utf-8")
    from rsiccllm.caption.job import Job, Wanted, shown

    (outcome,) = Job(folders[0] / "a.png", folders[1] / "a.png", Wanted()).run(str(model))
    assert outcome.line is not None
    assert shown(outcome.line, single=True).endswith("  [uncertain: confidence 0.12]")
    strange = {**outcome.line, "familiarity": 0.1, "strange": True}
    assert shown(strange, single=True).endswith("0.12]  [images unlike those of the model's training]")


def test_folders_with_faults_are_status_1_and_named(run, folders: Folders, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    before, after = folders
    (after / "b.png").unlink()
    (after / "c.png").write_bytes((after / "c.png").read_bytes()[:200])
    (before / "d.png").rename(before / "d.tif")  # another ending: still the same name
    Image.open(before / "d.tif").save(before / "d.bmp")
    (before / "d.tif").unlink()
    status, out, err = run(before, after, "--overlay", tmp_path / "maps", "--batch-size", 2)
    assert status == 1
    assert [line.split("\t")[0] for line in out.splitlines()] == ["a", "d", "e"]
    named = [line for line in err.splitlines() if line.startswith("rsiccllm: ")]
    assert len(named) == 3
    assert named[0].startswith(f"rsiccllm: b: {after}: no image of this name")
    assert "c.png: truncated" in named[1]
    assert "not calibrated" in named[2]
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == ["a.png", "d.png", "e.png"]


def test_csv(run, folders: Folders, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    table = tmp_path / "pairs.csv"
    table.write_text('id,before,after,note\n"one, two",before/a.png,after/a.png,x\n,before/b.png,after/b.png,y\n')
    status, out, _ = run(table, "--json")
    assert status == 0
    assert [json.loads(line)["id"] for line in out.splitlines()] == ["one, two", "2"]
    for text, message in (
        ("before,later\nx,y\n", "pairs.csv:1: no column 'after'"),
        ("before,after\nx\n", "pairs.csv:2: column 'after' is empty"),
        ("id,before,after\nq,x,y\nq,x,y\n", "pairs.csv:3: id 'q' stands twice"),
        ('before,after\n"x,y\n', "not valid CSV"),
        ("before,after\n", "no pairs"),
    ):
        table.write_text(text)
        status, out, err = run(table)
        assert (status, out) == (2, ""), text
        assert message in err


def test_a_journal_goes_on_and_refuses_what_is_not_its_own(run, folders: Folders, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    journal = tmp_path / "captions.jsonl"
    damaged = folders[1] / "c.png"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:200])
    status, first, _ = run(*folders, "--jsonl", journal, "--json")
    assert status == 1
    assert [json.loads(line)["id"] for line in journal.read_text().splitlines()] == ["a", "b", "d", "e"]
    damaged.write_bytes(whole)
    held = journal.read_bytes()
    status, second, _ = run(*folders, "--jsonl", journal, "--json")
    assert status == 0
    assert journal.read_bytes().startswith(held)
    lines = [json.loads(line) for line in second.splitlines()]
    assert [line["id"] for line in lines] == list("abcde")
    assert [line for line in lines if line["id"] != "c"] == [json.loads(line) for line in first.splitlines()]
    assert run(*folders, "--jsonl", journal, "--json")[1] == second  # nothing left to do, the same result
    for extra, message in (
        (["--long"], "was made with asked 'caption'"),
        (["--candidates", "3"], "was made with answers 'usual', this command has 3"),
        (["--resize"], "was made with resize False"),
        (["--overlay", tmp_path / "maps"], "holds 'a', whose picture was not drawn"),
        ([], "stands for other images"),
    ):
        pair = folders if extra else (folders[1], folders[0])
        status, _, err = run(*pair, "--jsonl", journal, *extra)
        assert status == 2
        assert message in err
    (folders[0] / "b.png").touch()
    assert "the images of 'b' were written anew since" in run(*folders, "--jsonl", journal)[2]
    journal.write_text('{"a": 1}\n')
    assert run(*folders, "--jsonl", journal)[0] == 2


def test_killed_it_goes_on_and_prints_into_the_pipe(folders: Folders, mapping_checkpoint: Path, tmp_path: Path) -> None:
    journal = tmp_path / "captions.jsonl"
    code = (
        "import time, sys\nfrom rsiccllm import cli\nfrom rsiccllm.caption import captioner\n"
        "real = captioner.Captioner.finish\n"
        "def slow(*a):\n    time.sleep(0.3)\n    return real(*a)\n"
        "captioner.Captioner.finish = slow\ncli.main()\n"
    )
    command = [sys.executable, "-c", code, "caption", *map(str, folders), "--model", str(mapping_checkpoint)]
    command += ["--jsonl", str(journal), "--batch-size", "1"]
    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 300
    while not (journal.exists() and journal.read_bytes().count(b"\n") >= 2):
        assert time.monotonic() < end
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    held = journal.read_bytes()
    assert 2 <= held.count(b"\n") < 5
    # Standard error is a terminal here: the bar must not draw what is printed away from the pipe.
    ours, theirs = pty.openpty()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, check=True, timeout=300)
    os.close(theirs)
    os.close(ours)
    assert [line.split(b"\t")[0] for line in done.stdout.splitlines()] == [b"a", b"b", b"c", b"d", b"e"]
    assert journal.read_bytes().startswith(held)
    assert journal.read_bytes().count(b"\n") == 5


def test_an_overlay_never_goes_over_an_input(run, folders: Folders, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    own = tmp_path / "own"
    shutil.copytree(folders[0], own)
    held = {path.name: path.read_bytes() for path in own.iterdir()}
    for arguments in (
        (own, folders[1], "--overlay", own),
        (own / "a.png", folders[1] / "a.png", "--overlay", own / "a.png"),
    ):
        status, _, err = run(*arguments)
        assert status == 2
        assert "would write over the image" in err
    assert {path.name: path.read_bytes() for path in own.iterdir()} == held


def test_a_file_that_is_no_journal_stays(run, folders: Folders, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    results = tmp_path / "results.json"
    results.write_text('{"my": "precious results"}')
    status, _, err = run(folders[0] / "a.png", folders[1] / "a.png", "--jsonl", results)
    assert (status, results.read_text()) == (2, '{"my": "precious results"}')
    assert "results.json" in err


def test_files_of_other_endings_are_not_passed_over_in_silence(run, folders: Folders, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    two = tmp_path / "1", tmp_path / "2"
    for folder, own in zip(folders, two, strict=True):
        own.mkdir()
        shutil.copy(folder / "a.png", own)
        Image.open(folder / "a.png").save(own / "b.gif")
    (two[0] / "notes.txt").write_text("x")
    status, out, err = run(*two)
    assert status == 1, "both folders hold b"
    assert out.startswith("a\t")
    assert "b: no image by its name; expected one of .bmp" in err
    assert "2 not read, no image by name (b.gif, ...)" in err


def test_a_question_in_another_encoding_is_one_line(run, folders: Folders) -> None:  # type: ignore[no-untyped-def]
    status, _, err = run(folders[0] / "a.png", folders[1] / "a.png", "--ask", "caf\udce9?")
    assert (status, err) == (2, "rsiccllm: --ask: not UTF-8 at character 4; expected a text in Unicode\n")
