"""Every parser over the kept corpus and a few inputs of hypothesis; `make fuzz` gives each many thousands."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parent))
from targets import TARGETS

CORPUS = Path(__file__).resolve().parent / "corpus"
SLOW = {"words", "model_folders"}


@pytest.mark.parametrize("name", TARGETS)
def test_every_parser_says_what_is_wrong_in_one_line(name: str) -> None:
    target, _ = TARGETS[name]
    kept = sorted((CORPUS / name).iterdir()) if (CORPUS / name).is_dir() else []
    for path in kept[:2] if name in SLOW else kept:
        target(path.read_bytes())

    @settings(max_examples=2 if name in SLOW else 25, deadline=None, database=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(st.binary(max_size=200))
    def run(data: bytes) -> None:
        target(data)

    run()


def test_the_corpus_is_of_parsers_that_are_there_and_small() -> None:
    kept = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert {path.parent.name for path in kept} <= set(TARGETS)
    assert sum(path.stat().st_size for path in kept) < 200_000
