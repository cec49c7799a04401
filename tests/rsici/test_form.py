"""Gate 3 at its edges: the last word allowed and the first that is not, and what exactly is told of a fault."""

from __future__ import annotations

import pytest

from rsiccllm.rsici.form import LENGTHS, check_form

TEXT = (
    "a new house stands beside the road while many trees were removed from the upper left part of the scene and "
    "several large buildings appeared near it after bare ground had been cleared between them over time"
)
PLAIN = TEXT.split()
"""Words that a caption may have, no six of them twice."""


def reasons(answer: str, task: str = "caption") -> list[str]:
    return [rejection.reason for rejection in check_form(answer, task)]


def of_length(count: int) -> str:
    """So many known words, without anything said three times."""
    words = [PLAIN[(at * step + step) % len(PLAIN)] for step in (1, 3, 5, 7, 11, 13) for at in range(len(PLAIN))]
    return " ".join(words[:count])


@pytest.mark.parametrize(("task", "fewest", "most"), [("describe", 15, 180), ("caption", 3, 60), ("kind", 2, 40)])
def test_the_shortest_and_the_longest_answer_of_a_task(task: str, fewest: int, most: int) -> None:
    assert LENGTHS[task] == (fewest, most)
    for count, expected in ((fewest - 1, ["short"]), (fewest, []), (most, []), (most + 1, ["long"])):
        assert reasons(of_length(count), task) == expected, count
    short, long = (check_form(of_length(count), task)[0] for count in (fewest - 1, most + 1))
    assert short == ("form", "short", f"{fewest - 1} words, expected at least {fewest}")
    assert long == ("form", "long", f"{most + 1} words, expected at most {most}")


def test_half_of_the_words_may_be_unknown_and_a_tenth_foreign() -> None:
    known = ["a", "house", "stands", "beside", "the", "road"]
    unknown = ["zorg", "blick", "frum", "quax", "dree", "plof"]
    for foreign, expected in ((5, []), (6, []), (7, ["language"]), (9, ["language"])):
        words = [*(unknown * 2)[:foreign], *(known * 2)[: 12 - foreign]]
        assert reasons(" ".join(words)) == expected, foreign
    told = check_form(" ".join([*unknown, "blicks", *known[:5]]), "caption")[0]
    assert told == ("form", "language", "5 of 12 words are known")
    plain = ["a", "house", "stands", "beside", "the", "road", "near", "many", "trees", "and", "one"]
    assert reasons(" ".join([*plain[:9], "hüs"])) == [], "one of ten"
    assert reasons(" ".join([*plain[:8], "hüs", "wäg"])) == ["language"], "two of ten, though eight are known"


def test_what_is_said_three_times_is_told() -> None:
    assert reasons("a house house stands beside the road") == [], "twice is a slip"
    assert check_form("a house house house stands beside the road", "caption") == [
        ("form", "repetition", "house house house")
    ]
    phrase = "house beside the road was built"
    twice = f"a {phrase} and one {phrase} and many trees were removed"
    assert reasons(twice) == []
    assert check_form(f"{twice} while a third {phrase}", "caption") == [("form", "repetition", phrase)]
    assert check_form("A house is built. A road appeared. A  house is built.", "caption") == [
        ("form", "repetition", "a house is built")
    ]


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("Sure, a house is built beside the road", "Sure,"),
        ("ok. a house is built beside the road", "ok."),
        ("here are the changes: a house is built", "here are the changes:"),
        ("Here's what changed: a house is built", "Here's what changed:"),
        ("The changes:\na house is built beside the road", "The changes:"),
        ("a house is built assistant: and a road", "assistant:"),
        ("a **house** is built beside the road", "**"),
    ],
)
def test_what_only_a_chat_has_is_markup(answer: str, told: str) -> None:
    assert ("form", "markup", told) in check_form(answer, "caption")


def test_words_that_only_look_like_a_chat_are_none() -> None:
    assert reasons("the surely built house stands here and the road appeared") == []
    assert reasons("here a house is built, there a road appeared beside it") == []
