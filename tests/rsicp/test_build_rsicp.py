from __future__ import annotations

from pathlib import Path

import pytest

from rsiccllm.errors import InputError
from rsiccllm.facts import parse
from rsiccllm.files import read_jsonl
from rsiccllm.records import PREFERENCES, Preference
from rsiccllm.rsici.build import build_rsici
from rsiccllm.rsicp.build import build_rsicp
from rsiccllm.sources import open_source


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rsici")
    build_rsici(["scenes:200,seed=5,size=64,easy=1"], folder)
    return folder


def test_negatives_are_wrong_by_the_planted_facts(data: Path, tmp_path: Path) -> None:
    counts = build_rsicp(data, tmp_path)
    records = read_jsonl(tmp_path / PREFERENCES, Preference)
    assert counts["preferences"] == len(records) == 160
    planted = {pair.id: pair for pair in open_source("scenes:200,seed=5,size=64,easy=1").pairs}
    for record in records:
        truth = planted[record.pair]
        assert record.chosen in truth.captions
        for rejected in record.rejected:
            said = parse(rejected.text)
            if truth.changed:
                assert truth.facts is not None
                right = {(fact.object, fact.direction) for fact in truth.facts}
                wrong_fact = any((fact.object, fact.direction) not in right for fact in said.facts)
                elsewhere = rejected.kind not in {"replace:object", "replace:direction", "no_change"}
                assert wrong_fact or said.changed is False or elsewhere, (rejected, truth.captions)
            else:
                assert said.facts, rejected
            assert rejected.text not in record.references


def test_the_same_call_writes_the_same_bytes_and_another_seed_others(data: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        build_rsicp(data, tmp_path / name, seed=seed)
    first, again, other = ((tmp_path / name / PREFERENCES).read_bytes() for name in "abc")
    assert first == again
    assert first != other


def test_paper_variant_swaps_words_only(data: Path, tmp_path: Path) -> None:
    counts = build_rsicp(data, tmp_path, variant="paper")
    records = read_jsonl(tmp_path / PREFERENCES, Preference)
    assert all(rejected.kind.startswith("replace:") for record in records for rejected in record.rejected)
    assert counts["without"] >= 80  # a no-change sentence holds no key word to swap


def test_what_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        build_rsicp(tmp_path / "none", tmp_path / "out")
    with pytest.raises(InputError, match="no caption task of split 'holdout'"):
        build_rsicp(data, tmp_path / "out", split="holdout")
    build_rsicp(data, tmp_path / "out")
    with pytest.raises(InputError, match="choose another --out"):
        build_rsicp(data, tmp_path / "out", seed=9)
