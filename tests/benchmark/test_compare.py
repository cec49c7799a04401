"""Paired tests between the rows of a table, copies, and what a checkpoint saw."""

from __future__ import annotations

import random

import pytest

from rsiccllm.benchmark.baselines import FLAG
from rsiccllm.benchmark.compare import KINDS, compare_rows, size_note
from rsiccllm.benchmark.copied import count_copied, training_captions
from rsiccllm.benchmark.provenance import check_unseen, parts_of
from rsiccllm.benchmark.rows import Row, score_rows
from rsiccllm.errors import InputError
from rsiccllm.records import ImagePair
from rsiccllm.sources.scenes.source import ScenesSource


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """A good system, its twin that differs in nothing that matters, and a bad one, on 120 rendered pairs."""
    pairs = ScenesSource(120, seed=4).pairs
    references = {pair.id: list(pair.captions[1:]) for pair in pairs}
    changed = {pair.id: bool(pair.changed) for pair in pairs}
    rng = random.Random(0)
    good = {pair.id: pair.captions[0] for pair in pairs}
    twin = {pair.id: pair.captions[0] + (" ." if rng.random() < 0.5 else "") for pair in pairs}
    dealt = list(good.values())
    rng.shuffle(dealt)
    bad = dict(zip(good, dealt, strict=True))
    return score_rows({"good": good, "twin": twin, "bad": bad}, references, changed, meteor=False, sbs=False)


def test_systems_are_compared_in_pairs_and_with_the_true_flag(rows: list[Row]) -> None:
    found = compare_rows(rows, draws=500)
    names = {(item.first, item.second) for item in found}
    assert names == {("good", "twin"), ("good", "bad"), ("twin", "bad"), *((n, FLAG) for n in ("good", "twin", "bad"))}
    assert {item.score for item in found} == {"bleu_4", "rouge_l", "cider_d", "flag, balanced"} | {
        f"{kind} F1" for kind in KINDS
    }
    for item in found:
        if (item.first, item.second) == ("good", "twin"):
            assert (item.difference.value, item.p, item.p_holm) == (0, 1, 1)
        if (item.first, item.second, item.score) == ("good", "bad", "cider_d"):
            assert item.p < 0.05
            assert item.difference.low > 0
            assert item.detectable > 0
        assert item.p <= item.p_holm <= 1
        assert item.pairs in (120, 60)
    worst = [item for item in found if item.p < 0.05]
    assert min(item.p_holm for item in worst) > min(item.p for item in worst)
    assert found[0].to_dict()["interval_95"] == [found[0].difference.low, found[0].difference.high]


def test_a_difference_that_is_printed_as_nothing_is_none() -> None:
    references = {str(number): ["a b c d e f"] for number in range(30)}
    outputs = {"short": dict.fromkeys(references, "a x b"), "long": dict.fromkeys(references, "a x b x c x d x")}
    found = {c.score: c for c in compare_rows(score_rows(outputs, references, None, meteor=False, sbs=False), draws=99)}
    assert 0 < abs(found["bleu_4"].difference.value) < 1e-3  # not 0, and the same in every draw
    assert (found["bleu_4"].p, found["bleu_4"].p_holm) == (1, 1)
    assert found["rouge_l"].p < 0.05


def test_one_system_is_compared_with_the_true_flag_alone(rows: list[Row]) -> None:
    alone = [row for row in rows if row.name == "good" or row.baseline]
    assert {(item.first, item.second) for item in compare_rows(alone, draws=50)} == {("good", FLAG)}
    assert compare_rows([row for row in rows if row.baseline]) == []
    assert "120 pairs know the mean of three to ±" in size_note(rows)
    assert "under 200 pairs" in size_note(rows)


def test_copies_are_counted() -> None:
    training = training_captions(["A house is built .", "no change", "trees go"])
    captions = {"a": "a house is built.", "b": "A HOUSE is built", "c": "no change", "d": "a new road", "e": ""}
    found = count_copied(captions, training, {"a": True, "b": True, "c": False, "d": True, "e": True})
    assert (found.copied, found.captions, found.changed_copied, found.changed, found.distinct) == (3, 5, 2, 4, 4)
    assert found.changed_share == 50
    assert found.most == (("a house is built", 2),)
    unknown = count_copied(captions, training, None)
    assert (unknown.changed_copied, unknown.changed_share) == (None, None)
    assert unknown.most == (("a house is built", 2), ("no change", 1))
    assert count_copied({"a": "x"}, training, {"a": False}).changed_share is None


def pair(split: str, before: str) -> ImagePair:
    return ImagePair(id="x", split=split, before=before, after="images/levir-cc/x.after.png")


def test_a_split_that_was_seen_is_refused() -> None:
    source = ScenesSource(40, seed=1)
    test = source.select("test")
    assert parts_of(source, test) == {"scenes/test"}
    seen = {"seen": ["levir-cc/train", "scenes/train"]}
    assert check_unseen("m", seen, source, test) is None
    assert check_unseen("m", None, source, test) is None
    assert check_unseen("m", {}, source, test) is None
    line = check_unseen("m", seen, source, source.select("train"))
    assert line == "m was trained on scenes/train: these are scores on its own training data"
    with pytest.raises(InputError, match="m: its training saw scenes/test, so it has no honest score there"):
        check_unseen("m", {"seen": ["scenes/test"]}, source, test)


def test_a_built_folder_stands_for_the_sets_it_was_built_from() -> None:
    source = ScenesSource(2)
    source.name = "rsici"
    assert parts_of(source, [pair("test", "images/levir-cc/x.before.png")]) == {"levir-cc/test"}


def test_a_large_family_can_still_be_significant() -> None:
    """Ten systems make some 500 tests: with 99 draws no p would come under 0.05 once it is corrected."""
    pairs = ScenesSource(60, seed=4).pairs
    references = {pair.id: list(pair.captions) for pair in pairs}
    rng = random.Random(0)
    noise = {f"noise{n}": {pair.id: " ".join(rng.choices("abcdefgh", k=9)) for pair in pairs} for n in range(6)}
    systems = {"copies": {pair.id: pair.captions[0] for pair in pairs}, **noise}
    changed = {pair.id: bool(pair.changed) for pair in pairs}
    found = compare_rows(score_rows(systems, references, changed, meteor=False, sbs=False), draws=99)
    clear = [test for test in found if "copies" in (test.first, test.second) and test.score == "rouge_l"]
    assert len(found) > 100
    assert all(test.p_holm < 0.05 for test in clear if FLAG not in (test.first, test.second))
