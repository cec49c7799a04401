"""Every block of every tutorial, run in order in one folder: Python as it stands, commands by the command line's main.

Commands run in this process, so that torch is imported once. What they train is the model in the package, a step or
two.
"""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from chat_server import Act, ChatServer, completion
from rsiccllm.cli import main

SOURCES = str(Path(__file__).resolve().parents[1] / "sources")
TUTORIALS = Path(__file__).resolve().parents[2] / "docs" / "tutorials"

Run = Callable[..., dict[str, Any]]


def blocks(name: str) -> Iterator[tuple[str, str]]:
    """(language, text) of the fenced blocks of a page, in order."""
    text = (TUTORIALS / f"{name}.md").read_text(encoding="utf-8")
    yield from re.findall(r"^```(\w+)\n(.*?)^```$", text, re.M | re.S)


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Small data sets in the published layouts."""
    monkeypatch.syspath_prepend(SOURCES)
    return importlib.import_module("fakes")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a page; returns its names, and under "said" what each command printed. given: names a page takes as set."""
    monkeypatch.chdir(tmp_path)

    def page(name: str, **given: Any) -> dict[str, Any]:
        names: dict[str, Any] = {"__name__": "tutorial", **given}
        said: list[str] = []
        for language, text in blocks(name):
            if language == "python":
                exec(compile(text, f"{name}.md", "exec"), names)
                continue
            assert language == "bash", f"{name}.md: a block of {language!r} is not run"
            for line in text.splitlines():
                words = [word.format_map(names) for word in shlex.split(line)]
                assert words[0] == "rsiccllm", line
                monkeypatch.setattr(sys, "argv", words)
                capsys.readouterr()
                with pytest.raises(SystemExit) as end:
                    main()
                printed = capsys.readouterr()
                assert not end.value.code, f"{line}\n{printed.out}\n{printed.err}"
                said.append(printed.out)
        return {**names, "said": said}

    return page


def test_every_page_is_run() -> None:
    here = Path(__file__).read_text(encoding="utf-8")
    pages = {path.stem for path in TUTORIALS.glob("*.md") if any(blocks(path.stem))}
    assert pages == set(re.findall(r'run\("(\w+)"', here))


def test_first_caption(run: Run, tmp_path: Path) -> None:
    names = run("first_caption")
    assert names["said"][0].strip() == names["found"].caption
    assert names["found"].confidence is not None
    assert (tmp_path / "map.png").stat().st_size > 1000


def test_levir_cc(run: Run, fakes: ModuleType, tmp_path: Path) -> None:
    fakes.levir_cc(tmp_path / "data" / "LEVIR-CC")
    names = run("levir_cc")
    assert (tmp_path / "runs" / "levir_dnpo" / "model" / "model.safetensors").exists()
    assert "true flag" in names["said"][-1]


def test_teacher(run: Run, fakes: ModuleType, tmp_path: Path) -> None:
    fakes.levir_cd(tmp_path / "data" / "LEVIR-CD")

    def answer(number: int, request: dict[str, Any]) -> Act:
        return completion("A new building appears in the top left corner of the scene.")

    with ChatServer(answer) as server:
        names = run("teacher", url=server.url)
        assert server.requests, "the teacher was asked nothing"
    assert len(names["said"]) == 2
    assert (tmp_path / "runs" / "taught" / "dry_run.html").exists()


def test_own_data(run: Run, tmp_path: Path) -> None:
    names = run("own_data")
    assert (tmp_path / "runs" / "mine" / "instructions.jsonl").exists()
    assert "6 pairs" in names["said"][-1]


def test_country(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("rasterio")
    names = run("country")
    assert names["summary"]["text"]
    assert (tmp_path / "runs" / "map" / "changes.geojson").exists()


def test_reading_the_benchmark(run: Run) -> None:
    names = run("reading_the_benchmark")
    assert {"person", "silent", "liar"} <= set(re.findall(r"\w+", names["said"][0]))
