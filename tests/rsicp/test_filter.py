from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsiccllm.errors import InputError
from rsiccllm.keywords import similarity
from rsiccllm.rsicp.build import filter_samples
from rsiccllm.rsicp.filter import Window, distinct, is_wrong, truth_of, window_for
from rsiccllm.words import load_words

CHANGED = ["two houses are built on the left", "two villas appear on the left", "some buildings are built by the road"]
SAME = ["the scene is the same as before", "there is no difference"]


@pytest.mark.parametrize(
    ("text", "references", "expected"),
    [
        ("two houses are built on the left", CHANGED, False),
        ("two buildings appear on the left", CHANGED, False),  # the same in other words
        ("a house is built on the left", CHANGED, False),  # leaves one out
        ("two houses are removed on the left", CHANGED, True),
        ("two lakes appear on the left", CHANGED, True),
        ("two houses are built on the right", CHANGED, True),  # two say left
        ("two houses are built at the top", CHANGED, True),
        ("two houses are built at the top left", CHANGED, False),  # a part of what they say
        ("there is no difference", CHANGED, True),
        ("the house", CHANGED, False),  # says nothing that could be wrong
        ("", CHANGED, False),
        ("a house is built", SAME, True),
        ("the house", SAME, False),
        ("a house is built", ["an aeroplane flies past"], False),  # which tells neither
        ("no change has occurred", SAME, False),
        ("there is no difference", [*CHANGED, *SAME], False),  # people disagree
        ("two houses are built on the right", [CHANGED[0], CHANGED[2]], False),  # one alone says left
        ("two houses are built on the right", [CHANGED[0]], True),  # and it is all there is
        ("two houses are built", CHANGED, False),  # leaves out where
        ("two houses are renovated", CHANGED, False),  # the verb decides nothing
        # one alone says left, and one bears out the number
        ("two houses are built on the right", ["two houses are built on the left", "many villas appear"], False),
        ("many houses are built", ["two houses are built", "two villas appear"], True),
        ("many houses are built", ["two houses are built"], True),
        ("the grass is removed", ["a house is built on the grass", "a house is built"], False),  # it stands on it
        ("the trees are removed", ["the grass is removed"], False),  # people confuse them
    ],
)
def test_what_is_surely_wrong(text: str, references: list[str], expected: bool) -> None:
    assert is_wrong(text, truth_of(references)) is expected


def test_distinct_by_key_words() -> None:
    texts = ["a house is built on the left", "the house has been built in the left", "a road is built on the left"]
    assert distinct(texts) == [texts[0], texts[2]]
    assert distinct(texts[1:], [texts[0]]) == [texts[2]]


def test_own_words_are_understood_on_both_sides(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("objects:\n  building:\n    write: [lighthouse/lighthouses]\n", encoding="utf-8")
    words = load_words(own)
    truth = truth_of(["two lighthouses are built"], words)
    assert truth.known.pairs == {("building", "appear")}
    assert [fact.object for fact in truth.parsed[0].facts] == ["building"]
    assert is_wrong("the lighthouse is removed", truth, words)


def test_as_alike_as_the_bound_counts_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["a house is built on the left", "a road is built on the left"]
    likeness = similarity(texts[1], texts[:1])
    monkeypatch.setattr("rsiccllm.rsicp.filter.ALIKE", likeness)
    assert distinct(texts) == texts[:1]
    monkeypatch.setattr("rsiccllm.rsicp.filter.ALIKE", math.nextafter(likeness, 1))
    assert distinct(texts) == texts


def test_window_by_hand() -> None:
    # Of ten values a share of 0.8 leaves one out at each end.
    found = window_for([0.1 * k for k in range(10)], 0.8)
    assert not found.holds(0.0)
    assert found.holds(0.1)
    assert found.holds(0.8)
    assert not found.holds(0.9)
    assert window_for([0.0, 1.0], 1.0).holds(0.0)
    assert window_for([0.0, 1.0], 1.0).holds(1.0)


@given(st.lists(st.floats(0, 1), min_size=1), st.floats(0.01, 1))
def test_no_less_than_the_share_survives(values: list[float], share: float) -> None:
    bounds = window_for(values, share)
    assert sum(map(bounds.holds, values)) >= share * len(values) - 1e-6


def test_filter_samples_by_hand() -> None:
    words = load_words()
    truths = [truth_of(CHANGED, words), truth_of(SAME, words)]
    texts = [
        [
            "two houses are built on the left",  # right
            "two houses are removed on the left",
            "two villas are removed on the left",  # the same by key words but one
            "two houses have been removed on the left",  # the same by key words
            "a lake disappears",  # wrong and far away
        ],
        ["no change has occurred", "a house is built"],
    ]
    kept, found = filter_samples(texts, truths, 2, (0.3, 0.9), 0.5, words)
    assert [[bad.text for bad in own] for own in kept] == [
        ["two houses are removed on the left", "two villas are removed on the left"],
        [],
    ]
    assert found.window == Window(0.3, 0.9)
    assert found.wrong == 4
    assert found.kept == 2
    first = kept[0][0]
    assert first.kind == "sampled"
    # houses, removed, left, two against houses, built, left, two: worked in test_keywords, by the same function here
    assert first.similarity == pytest.approx(similarity(first.text, CHANGED), abs=1e-4)

    with pytest.raises(InputError, match=r"--window 0.98 0.99: none of the 4 wrong samples lies in it \(theirs run"):
        filter_samples(texts, truths, 2, (0.98, 0.99), 0.5, words)
    with pytest.raises(InputError, match=r"none of the 1 samples is wrong and ended"):
        filter_samples([[CHANGED[0]], []], truths, 2, None, 0.5, words)
