"""Suites name sources that can be opened, and the published results stand beside the suites they belong to."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest
import yaml

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
