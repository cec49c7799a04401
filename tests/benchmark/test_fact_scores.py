"""Fact scores on captions worked by hand."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsiccllm.benchmark.fact_scores import (
    KINDS,
    change_flag,
    f1_of_sums,
    fact_scores,
    precision_of_sums,
    recall_of_sums,
)
from rsiccllm.facts import Fact, parse

REFERENCES = {
    "a": ["two houses are built at the top", "some houses appear"],
    "b": ["the trees are removed", "the trees have disappeared at the left"],
    "c": ["the scene is the same as before", "no change has occurred"],
    "d": ["there is no difference", "the two scenes seem identical"],
}
CHANGED = {"a": True, "b": True, "c": False, "d": False}


def test_counts_by_hand() -> None:
    captions = {
        "a": "two houses are built at the bottom",  # object, direction, verb, quantity right, place wrong
        "b": "a road is built",  # all wrong; missed trees
        "c": "a road is built",  # hallucinated
        "d": "no change has occurred",
    }
    found = fact_scores(captions, REFERENCES, CHANGED)
    flag = found.flag
    assert (flag.accuracy, flag.balanced_accuracy, flag.hallucination, flag.misses) == (75, 75, 50, 0)
    objects = found.references["object"]
    assert objects.counts.tolist() == [[1, 1, 1], [0, 1, 1]]
    assert (objects.precision, objects.recall, objects.f1) == (50, 50, 50)
    # stated {building}, {road}; true {building}, {tree}: dealt at random, building meets building half of the time
    assert objects.shuffled == 25
    assert objects.gain == 25
    directions = found.references["direction"]
    assert directions.counts.tolist() == [[1, 1, 1], [0, 1, 1]]
    assert (directions.f1, directions.shuffled, directions.gain) == (50, 50, 0)
    assert found.references["object_direction"].counts.tolist() == [[1, 1, 1], [0, 1, 1]]
    place = found.references["place"]
    assert place.counts.tolist() == [[0, 1, 1], [0, 0, 1]]
    assert (place.precision, place.recall, place.f1) == (0, 0, 0)
    assert found.planted is None


def test_the_first_reference_states_nothing_wrong() -> None:
    captions = {name: texts[0] for name, texts in REFERENCES.items()}
    found = fact_scores(captions, REFERENCES, CHANGED)
    assert (found.flag.accuracy, found.flag.unclear) == (100, 0)
    for kind, scores in found.references.items():
        assert scores.precision == 100, kind
        assert scores.recall is not None
        assert 0 < scores.recall <= 100


def test_no_change_everywhere_and_words_that_say_nothing() -> None:
    silent = fact_scores(dict.fromkeys(REFERENCES, "no change has occurred"), REFERENCES, CHANGED)
    assert (silent.flag.accuracy, silent.flag.misses, silent.flag.hallucination) == (50, 100, 0)
    assert (silent.references["object"].precision, silent.references["object"].recall) == (None, 0)
    assert silent.references["object"].f1 == 0
    blank = fact_scores(dict.fromkeys(REFERENCES, ""), REFERENCES, CHANGED)
    assert (blank.flag.accuracy, blank.flag.unclear, blank.flag.misses, blank.flag.hallucination) == (0, 100, 100, 0)


@pytest.mark.parametrize("caption", ["many houses are built along the road", "the trees are replaced by two villas"])
def test_a_constant_caption_gains_exactly_nothing(caption: str) -> None:
    rng = random.Random(0)
    sentences = [text for texts in list(REFERENCES.values())[:2] for text in texts] + [
        "some roads and houses are built on bareland",
        "many houses are built along the road",
        "the trees are replaced by two villas",
    ]
    references = {str(i): rng.sample(sentences, 3) for i in range(101)}
    found = fact_scores(dict.fromkeys(references, caption), references, dict.fromkeys(references, True))
    assert found.references["object"].f1
    for kind in KINDS:
        assert found.references[kind].gain == 0


def test_shuffled_is_the_mean_over_deals() -> None:
    sentences = [texts[0] for texts in list(REFERENCES.values())[:2]] + ["a road appears", "a villa is built"]
    references = {str(i): [sentences[i % 4]] for i in range(8)}
    changed = dict.fromkeys(references, True)
    captions = [sentences[(i // 2) % 4] for i in range(8)]
    said = fact_scores(dict(zip(references, captions, strict=True)), references, changed).references["object"]
    rng, deals = random.Random(0), []
    for _ in range(400):
        rng.shuffle(captions)
        dealt = fact_scores(dict(zip(references, captions, strict=True)), references, changed).references["object"]
        assert dealt.shuffled == said.shuffled
        deals.append(dealt.f1 or 0)
    assert sum(deals) / 400 == pytest.approx(said.shuffled, abs=2.5)


def test_planted_facts_are_scored_beside_the_references() -> None:
    planted = {
        "a": [Fact(object="building", direction="appear", verb="build", quantity="two", place="top")],
        "b": [Fact(object="tree", direction="disappear", verb="remove", place="left")],
        "c": [],
        "d": [],
    }
    captions = {name: texts[0] for name, texts in REFERENCES.items()}
    found = fact_scores(captions, REFERENCES, CHANGED, planted)
    assert found.planted is not None
    assert found.planted["object"].f1 == 100
    assert found.planted["verb"].f1 == 100
    assert found.planted["place"].counts.tolist() == [[1, 1, 1], [0, 0, 1]]  # "b" names no place in its first caption


def test_no_changed_pair_and_no_unchanged_pair() -> None:
    still = {name: REFERENCES[name] for name in "cd"}
    found = fact_scores({"c": "no change", "d": "a house is built"}, still, CHANGED)
    assert found.references == {}
    assert (found.flag.misses, found.flag.balanced_accuracy, found.flag.hallucination) == (None, None, 50)
    moved = {name: REFERENCES[name] for name in "ab"}
    assert fact_scores({"a": "", "b": ""}, moved, CHANGED).flag.hallucination is None


def test_the_json_holds_intervals() -> None:
    captions = {name: texts[1] for name, texts in REFERENCES.items()}
    found = fact_scores(captions, REFERENCES, CHANGED).to_dict()
    score = found["references"]["object"]
    assert score["f1"] == 100
    assert score["interval_95"] == score["intervals_95"]["f1"] == [100, 100]
    assert "counts" not in score
    low, high = found["change_flag"]["interval_95"]["accuracy"]
    assert (low, high) == (100, 100)


def test_consensus_is_what_most_references_state() -> None:
    references = {
        "a": ["a house is built", "a house and a road are built", "a villa appears at the top"],
        "b": ["a road appears", "trees are removed"],
    }
    captions = {"a": "a house is built", "b": "a road is built"}
    found = fact_scores(captions, references, {"a": True, "b": True})
    assert found.references["object"].counts.tolist() == [[1, 1, 2], [1, 1, 2]]
    # of three, two or more must say it; of two, both
    assert found.consensus["object"].counts.tolist() == [[1, 1, 1], [0, 1, 0]]
    assert (found.consensus["object"].precision, found.consensus["object"].recall) == (50, 100)
    assert found.consensus["place"].counts.tolist() == [[0, 0, 0], [0, 0, 0]]
    assert found.consensus["place"].f1 is None


def test_by_value_by_hand() -> None:
    references = {"a": ["a house is built"], "b": ["a road is built"], "c": ["a road and a house are built"]}
    captions = {"a": "a road is built", "b": "a road is built", "c": "a house is built"}
    found = fact_scores(captions, references, dict.fromkeys(references, True)).references["object"]
    road, house = found.values["road"], found.values["building"]
    assert (road.true, road.stated, road.precision, road.recall, road.f1) == (2, 2, 50, 50, 50)
    assert road.shuffled == pytest.approx(100 * 2 * (2 * 2 / 3) / 4)
    assert (house.true, house.stated, house.precision, house.recall) == (2, 1, 100, 50)
    assert house.gain == pytest.approx(100 * 2 / 3 - 100 * 2 * (1 * 2 / 3) / 3)
    right = sum(value.stated * (value.precision or 0) for value in found.values.values()) / 100
    assert right == found.counts[:, 0].sum()


def test_a_value_that_is_never_true_has_no_f1() -> None:
    found = fact_scores({"a": "a road is built"}, {"a": ["a house is built"]}, {"a": True}).references["object"]
    road = found.values["road"]
    assert (road.precision, road.recall, road.f1, road.shuffled, road.gain) == (0, None, None, None, None)


@pytest.mark.filterwarnings("error")
def test_scores_of_sums_by_hand_and_without_a_word_where_they_are_not_defined() -> None:
    sums = np.array([[1, 2, 4], [1, 1, 1], [0, 0, 3], [0, 3, 0], [0, 0, 0]])  # right, stated, true
    for statistic, expected in (
        (precision_of_sums, [50, 100, np.nan, 0, np.nan]),
        (recall_of_sums, [25, 100, 0, np.nan, np.nan]),
        (f1_of_sums, [100 / 3, 100, 0, np.nan, np.nan]),
    ):
        assert statistic(sums).tolist() == pytest.approx(expected, nan_ok=True)
    every = change_flag([True, None], [True, True])
    assert (every.accuracy, every.misses, every.unclear, every.hallucination) == (50, 50, 50, None)


def test_a_cheat_that_copies_a_good_caption_is_caught_by_its_gain() -> None:
    """The same sentences given to the wrong pairs agree with many references and gain nothing."""
    rng = random.Random(1)
    objects = ["a house is built", "a road is built", "trees are removed", "a pond appears", "a parking lot is built"]
    references = {str(i): [rng.choice(objects[:2]), rng.choice(objects)] for i in range(300)}
    honest = {name: texts[1] for name, texts in references.items()}
    dealt = list(honest.values())
    rng.shuffle(dealt)
    changed = dict.fromkeys(references, True)
    good = fact_scores(honest, references, changed).references["object"]
    cheat = fact_scores(dict(zip(references, dealt, strict=True)), references, changed).references["object"]
    assert cheat.f1 is not None
    assert good.gain is not None
    assert cheat.gain is not None
    assert cheat.f1 > 25
    assert good.gain > 20
    assert abs(cheat.gain) < 6
    assert cheat.shuffled == good.shuffled


SENTENCES = [
    "a house is built at the top", "two houses appear", "trees are removed on the left", "a road is built", "", "water",
    "the trees are replaced by a road and houses", "no change has occurred", "a pond appears in the center",
]  # fmt: skip
CASES = st.lists(
    st.tuples(st.sampled_from(SENTENCES), st.lists(st.sampled_from(SENTENCES), min_size=1, max_size=4), st.booleans()),
    min_size=1,
    max_size=5,
)


@settings(max_examples=100, deadline=None)
@given(CASES)
def test_scores_equal_the_formulas(cases: list[tuple[str, list[str], bool]]) -> None:
    """Precision, recall and F1 counted one value at a time; the shuffled F1 as the mean over every order of deals."""
    names = [str(number) for number in range(len(cases))]
    captions = dict(zip(names, (caption for caption, _, _ in cases), strict=True))
    references = dict(zip(names, (texts for _, texts, _ in cases), strict=True))
    changed = dict(zip(names, (flag for _, _, flag in cases), strict=True))
    found = fact_scores(captions, references, changed)

    said = [parse(caption).changed for caption, _, _ in cases]
    truth = [flag for _, _, flag in cases]
    right = [a is b for a, b in zip(said, truth, strict=True)]
    assert found.flag.accuracy == pytest.approx(100 * sum(right) / len(right), abs=1e-9)
    still = [a for a, b in zip(said, truth, strict=True) if not b]
    invented = 100 * still.count(True) / len(still) if still else None
    assert found.flag.hallucination == (None if invented is None else pytest.approx(invented, abs=1e-9))

    moved = [(caption, texts) for caption, texts, flag in cases if flag]
    if not moved:
        assert found.references == found.consensus == {}
        return
    for kind in KINDS:
        ours = [{KINDS[kind](fact) for fact in parse(caption).facts} - {None} for caption, _ in moved]
        people = [[{KINDS[kind](fact) for fact in parse(t).facts} - {None} for t in texts] for _, texts in moved]
        values = {value for group in (*ours, *(v for every in people for v in every)) for value in group}
        for against, least in (("references", 0), ("consensus", 0.5)):
            true = [{v for v in values if sum(v in t for t in every) / len(every) > least} for every in people]
            hits = sum(value in b for a, b in zip(ours, true, strict=True) for value in a)
            stated, wanted = sum(map(len, ours)), sum(map(len, true))
            score = vars(found)[against][kind]
            assert score.precision == (pytest.approx(100 * hits / stated, abs=1e-9) if stated else None)
            assert score.recall == (pytest.approx(100 * hits / wanted, abs=1e-9) if wanted else None)
            if not wanted:
                assert score.f1 is score.gain is None
                continue
            precision, recall = hits / stated if stated else 0, hits / wanted
            f1 = 200 * precision * recall / (precision + recall) if hits else 0
            assert score.f1 == pytest.approx(f1, abs=1e-9)
            deals = [sum(len(a & b) for a, b in zip(deal, true, strict=True)) for deal in itertools.permutations(ours)]
            assert score.shuffled == pytest.approx(200 * sum(deals) / len(deals) / (stated + wanted), abs=1e-9)
