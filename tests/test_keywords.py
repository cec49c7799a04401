"""Key words and their similarity, worked by hand."""

from __future__ import annotations

import math

import pytest

from rsiccllm.keywords import bleu, key_words, rouge_1, similarity


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A small hut is built in the woods .", ["hut", "built", "woods"]),
        ("two rows of huts have been removed along the road", ["two", "rows", "huts", "removed", "along", "road"]),
        ("a parking lot appears at the top left corner", ["parking", "lot", "appears", "top", "left", "corner"]),
        ("the trees are replaced by a lane", ["trees", "replaced", "lane"]),
        ("no change has occurred", ["no", "change", "occurred"]),
        ("it is so", []),
    ],
)
def test_key_words(caption: str, expected: list[str]) -> None:
    assert key_words(caption) == expected


def test_bleu_by_hand() -> None:
    ours, theirs = ["two", "huts", "built", "top"], ["huts", "built", "woods"]
    # words: huts, built of 4; pairs: "huts built" of 3; no penalty, ours is longer
    assert bleu(ours, theirs, 1) == pytest.approx(2 / 4)
    assert bleu(ours, theirs, 2) == pytest.approx(math.sqrt(2 / 4 * 1 / 3))
    # the other way: 2 of 3 and 1 of 2, and 3 words against 4
    assert bleu(theirs, ours, 1) == pytest.approx(math.exp(1 - 4 / 3) * 2 / 3)
    assert bleu(theirs, ours, 2) == pytest.approx(math.exp(1 - 4 / 3) * math.sqrt(2 / 3 * 1 / 2))


def test_a_word_counts_as_often_as_in_the_reference() -> None:
    assert bleu(["hut", "hut", "hut"], ["hut", "lane", "lane"], 1) == pytest.approx(1 / 3)
    assert rouge_1(["hut", "hut", "hut"], ["hut", "lane"]) == pytest.approx(2 * 1 / 5)


def test_edges() -> None:
    assert bleu([], ["hut"], 1) == bleu(["hut"], [], 2) == rouge_1([], []) == 0
    assert bleu(["hut"], ["hut"], 2) == 1  # one word has no pairs; BLEU-2 is BLEU-1
    assert bleu(["hut", "built"], ["built", "hut"], 2) == 0  # not smoothed


def test_similarity_is_the_mean_and_the_best_reference_counts() -> None:
    caption = "two huts are built at the top"  # two huts built top
    far, near = "a pond disappears", "huts are built in the woods"  # huts built woods
    expected = (2 / 4 + math.sqrt(2 / 4 * 1 / 3) + 2 * 2 / 7) / 3
    assert similarity(caption, [far, near]) == pytest.approx(expected)
    assert similarity(caption, [far]) == 0
    assert similarity(caption, [far, near, caption]) == pytest.approx(1)
    assert similarity(caption, []) == 0
