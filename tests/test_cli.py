"""The command as a user meets it: one line and a status for every mistake, never a traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rsiccllm import cli
from rsiccllm.cli import main


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rsiccllm.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


LEVELS = [
    "",
    "data",
    "rsici",
    "rsicp",
    "train",
    "train sft",
    "train dnpo",
    "bench",
    "caption",
    "map",
    "serve",
    "app",
    "demo",
]


@pytest.mark.parametrize("level", LEVELS)
def test_help_at_every_level(level: str) -> None:
    done = run(*level.split(), "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"Usage: rsiccllm {level}".rstrip())
    assert "...\n" not in done.stdout.partition("Commands:")[2], "a command's line is cut"


def test_help_loads_nothing_slow() -> None:
    slow = "{'torch', 'transformers', 'numpy', 'pydantic'}"
    code = f"import sys, rsiccllm.cli; print({slow} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_fields_of_a_recipe_are_listed() -> None:
    from rsiccllm.training.recipe import DNPORecipe

    done = run("train", "dnpo", "--fields")
    assert done.returncode == 0
    listed, _, meanings = done.stdout.partition("\n\n")
    assert [line.split()[0] for line in listed.splitlines()] == list(DNPORecipe.model_fields)
    assert "beta                      default 0.1         float, > 0\n" in listed
    assert "the paper's lambda" in meanings


def test_mistakes_are_one_line_and_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """In one process, since two dozen that load torch would take half a minute; to the file descriptors themselves."""
    monkeypatch.chdir(tmp_path)
    grey = tmp_path / "grey.png"
    Image.fromarray(np.zeros((64, 64), dtype=np.uint8)).save(grey)
    other = tmp_path / "other.png"
    Image.fromarray(np.zeros((64, 80, 3), dtype=np.uint8)).save(other)
    thin = tmp_path / "thin.png"
    Image.fromarray(np.zeros((64, 1), dtype=np.uint8)).save(thin)
    cut = tmp_path / "cut.png"
    cut.write_bytes(grey.read_bytes()[:60])
    recipe = tmp_path / "r.yaml"
    recipe.write_text("learning_rte: 1e-4\n", encoding="utf-8")
    right = tmp_path / "right.yaml"
    right.write_text("model: m\ndata: d\nout: o\nlearning_rate: 1e-4\n", encoding="utf-8")
    cases = {
        ("caption", str(tmp_path / "no.png"), str(grey)): "no such file",
        ("caption", str(tmp_path), str(grey)): "directory",
        ("caption", str(grey), str(other)): "--resize",
        ("caption", str(thin), str(thin)): "at least 28 pixels",
        ("caption", str(cut), str(cut)): "cut.png",
        ("caption", str(recipe), str(recipe)): "r.yaml",
        ("caption", str(grey), str(grey), "--model", "runs/none/here"): "no such model",
        ("caption", str(grey)): "expected BEFORE and AFTER, or a .csv",
        ("caption", str(grey), str(tmp_path)): "expected two images or two folders",
        ("caption", str(tmp_path), str(tmp_path / "empty")): "is not",
        ("train", "sft", str(recipe)): "unknown field 'learning_rte'",
        ("train", "sft", str(right), "batch_size=0"): "(with batch_size=0): field 'batch_size'",
        ("train", "dnpo", str(tmp_path / "no.yaml")): "no such file",
        ("data", "check", str(tmp_path)): "no kind; expected one of levir-cc:DIR",
        ("data", "check", "rsici:two\nlines"): "two lines: no pairs.jsonl",
        ("data", "check", "levir:x"): "unknown kind 'levir'",
        ("data", "check", f"levir-cc:{tmp_path / 'x'}"): "LevirCCcaptions.json",
        ("rsici", "build", "--source", "scenes:4", "--out", str(tmp_path / "o"), "--tasks", "poem"): "task 'poem'",
        ("rsici", "build", "--source", "scenes:4", "--out", str(tmp_path / "o"), "--preset", "paper-train"): (
            "expected --source levir-cd:DIR --source sysu-cd:DIR, got scenes"
        ),
        ("rsici", "build", "--source", "scenes:4", "--out", str(tmp_path / "o"), "--shares", "caption"): "task=share",
        ("rsicp", "build", "--data", str(tmp_path), "--out", str(tmp_path / "o")): "instructions.jsonl",
        ("bench", "score", "--predictions", str(recipe), "--references", "scenes:20,size=64"): "r.yaml:1",
    }
    for arguments, message in cases.items():
        monkeypatch.setattr(sys, "argv", ["rsiccllm", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        out, said = capfd.readouterr()
        assert end.value.code == 2, (arguments, said)
        assert out == "", arguments
        lines = said.strip().splitlines()
        assert len(lines) == 1, (arguments, said)
        assert message in lines[0], (arguments, lines)


def test_score_prints_json(tmp_path: Path) -> None:
    from rsiccllm.sources import open_source

    spec = "scenes:40,seed=2,size=64,easy=1"
    pairs = open_source(spec).select("test")
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps({"id": p.id, "caption": p.captions[0]}) + "\n" for p in pairs), encoding="utf-8")
    done = run("bench", "score", "--predictions", str(path), "--references", spec, "--split", "test", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert rows[0]["scores"]["overall"]["bleu_1"] == pytest.approx(100)
    assert [row["name"] for row in rows] == ["p", "no change", "true flag", "nearest pair", "pixel diff.", "a person"]


def test_check_exits_1_on_faults_and_show_writes_a_page(tmp_path: Path) -> None:
    assert run("data", "check", "scenes:20,size=64").returncode == 0
    done = run("data", "show", "scenes:20,size=64", "--n", "2", "--out", str(tmp_path / "page.html"))
    assert done.returncode == 0
    assert (tmp_path / "page.html").read_text(encoding="utf-8").count("<section") == 2
    for folder in ("A", "B"):
        (tmp_path / "set" / folder).mkdir(parents=True)
        Image.fromarray(np.zeros((64, 64, 3), dtype=np.uint8)).save(tmp_path / "set" / folder / "a.png")
    broken = tmp_path / "set" / "B" / "a.png"
    broken.write_bytes(broken.read_bytes()[:-40])
    done = run("data", "check", f"folder:{tmp_path / 'set'}")
    assert done.returncode == 1
    assert "a.png" in done.stdout


@pytest.mark.parametrize(
    ("fault", "status", "said"),
    [
        (MemoryError(), 2, "out of memory; what was finished is kept"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory"), 2,
         "out of memory ([enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory); what was"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), 2, "out of memory (CUDA out of memory."),
        (RuntimeError("could not create a primitive"), 2, "out of memory (could not create a primitive); what was"),
        (RuntimeError("shapes cannot be multiplied"), 70, "unexpected RuntimeError: shapes cannot be multiplied"),
    ],
)  # fmt: skip
def test_too_little_memory_is_told_however_torch_says_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fault: Exception, status: int, said: str
) -> None:
    def fails(**_: object) -> None:
        raise fault

    monkeypatch.setattr(cli, "app", fails)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == status
    assert f"rsiccllm: {said}" in capsys.readouterr().err
