"""Suites name sources that can be opened, and the published results stand beside the suites they belong to."""

from __future__ import annotations

import json
import shlex
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from rsiccllm.benchmark.bench import run_bench
from rsiccllm.benchmark.report import _published
from rsiccllm.benchmark.results import Board, ModelResult
from rsiccllm.benchmark.suites import SUITES, open_suite
from rsiccllm.errors import InputError
from rsiccllm.rsici.build import PRESETS
from rsiccllm.rsici.prompts import PROMPTS
from rsiccllm.sources import SPECS, open_source

WANTED = ("paper-test-in", "paper-test-out", "levir-cc", "second-cc", "whu-cdc", "dubai-cc", "rscc", "scenes")


def test_every_suite_is_of_a_known_kind_and_task() -> None:
    assert tuple(SUITES) == WANTED
    for name, suite in SUITES.items():
        assert suite.spec.partition(":")[0] in SPECS, name
        assert suite.task in PROMPTS
        if suite.build:  # the preset of that name takes the sources that the command names
            kinds, split = PRESETS[name]
            assert all(f"--source {kind}:" in suite.build for kind in kinds)
            assert split == suite.split


def test_scenes_work_anywhere_and_the_others_say_what_is_missing(tmp_path: Path) -> None:
    suite = open_suite("scenes", tmp_path)
    few = suite.spec.replace("scenes:2000,", "scenes:40,")
    assert few != suite.spec
    assert len(open_source(few).select(suite.split)) == 4
    for name in WANTED[:-1]:
        with pytest.raises(InputError, match=str(tmp_path)):
            open_source(open_suite(name, tmp_path).spec)


def layouts(root: Path) -> None:
    """Every set of the suites as it is published, small, with images of our own."""
    sys.path.append(str(Path(__file__).parent.parent / "sources"))
    import fakes

    def cc(folder: Path, sides: str, file: str) -> None:
        """LEVIR-CC's schema: a changed and an unchanged pair in each split."""
        entries: list[dict[str, Any]] = []
        for number, split in enumerate(("train", "train", "test", "test")):
            texts = ["two houses are built", "houses appear"] if number % 2 else fakes.NO_CHANGE
            entries.append(fakes.entry(f"{split}_{number:06d}.png", split, number % 2, texts))
            for side in "AB":
                fakes.draw(
                    folder / sides.format(split=split) / side / entries[-1]["filename"], number * 2 + (side == "B")
                )
        (folder / file).write_text(json.dumps({"images": entries}), encoding="utf-8")

    cc(root / "LEVIR-CC", "images/{split}", "LevirCCcaptions.json")
    cc(root / "SECOND-CC", "{split}/rgb", "SECOND-CC-AUG.json")
    fakes.whu_cdc(root / "WHU-CDC")
    fakes.dubai_cc(root / "DUBAI-CC")
    fakes.rscc(root / "RSCC")
    fakes.levir_cd(root / "LEVIR-CD", ("train_1", "test_1", "test_2"))
    splits = ("train", "test")
    fakes.split_folders(root / "SYSU-CD", ("time1", "time2", "label"), splits=splits)
    fakes.split_folders(root / "S2Looking", ("Image1", "Image2", "label"), splits=splits)
    fakes.split_folders(root / "CDD/ChangeDetectionDataset/Real/subset", ("A", "B", "OUT"), ".jpg", splits)


def test_every_suite_runs_on_its_set_as_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rsiccllm.cli import app

    monkeypatch.setenv("PATH", "")  # no Java
    layouts(tmp_path)
    for name in WANTED[:2]:  # the command that the refusal names builds what is missing
        with pytest.raises(InputError) as missing:
            open_suite(name, tmp_path)
        app(shlex.split(str(missing.value).split("`")[1])[1:], standalone_mode=False)
    for name in WANTED[:-1]:
        suite = open_suite(name, tmp_path)
        pairs = open_source(suite.spec).select(suite.split)
        assert pairs
        said = tmp_path / f"{name}.jsonl"
        texts = {pair.id: pair.captions[0] if suite.task == "caption" else pair.description for pair in pairs}
        said.write_text("".join(json.dumps({"id": key, "caption": text}) + "\n" for key, text in texts.items()))
        result = run_bench(str(said), tmp_path / "out" / name, suite=name, root=tmp_path)
        assert result.rows[0].name == name
        assert result.rows[0].scores.overall.bleu_1 == pytest.approx(100), name
        assert "true flag" in {row.name for row in result.rows}, name  # so flag and facts are known
        settings = json.loads((tmp_path / "out" / name / "settings.json").read_text())
        assert settings["data"]["suite"] == name
        assert settings["data"]["pairs"] == len(pairs)
        assert settings["data"]["images"] is not None
        assert settings["task"] == suite.task


def board(suite: str | None) -> Board:
    settings = {"data": {"suite": suite, "spec": "x:y", "split": "test", "pairs": 1}, "task": "caption"}
    return Board("t", [ModelResult("a", Path(), settings, {"rows": []}, {})], [])


def test_published_results_are_labelled_and_stand_by_their_suite_alone() -> None:
    blocks = yaml.safe_load((files("rsiccllm.benchmark") / "published.yaml").read_text(encoding="utf-8"))
    for block in blocks:
        assert block["suite"] in SUITES
        assert all(len(row) == 1 + len(block["columns"]) for row in block["rows"])
    levir = "".join(_published(board("levir-cc")))
    assert "Published by others, not run here" in levir
    assert "HCFNet" in levir
    assert "RSICCLLM" not in levir
    # S*m is the mean of the four parts, where they were published.
    parts = next(row for row in blocks[0]["rows"] if row[1] is not None)
    assert sum(parts[1:5]) / 4 == pytest.approx(parts[5], abs=0.006)
    assert not list(_published(board(None)))
