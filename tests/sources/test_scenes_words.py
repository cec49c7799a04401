"""What is said of a rendered scene is true of it."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter

import numpy as np
import pytest

from rsiccllm.facts import Fact, parse
from rsiccllm.sources.scenes import render_scene
from rsiccllm.sources.scenes.geometry import PLACES
from rsiccllm.sources.scenes.items import Building, stands
from rsiccllm.sources.scenes.plan import Plan, plan_scene
from rsiccllm.sources.scenes.words import UNCHANGED, captions, description, single

GOLDEN = {False: "bc1352c6fe8edc7c", True: "a1bdfcd017a94d34"}
OBJECT_WORDS = {
    "building": {"house", "houses", "villa", "villas", "building", "buildings"},
    "road": {"road", "roads"},
    "tree": {"tree", "trees"},
    "water": {"pond", "ponds"},
    "parking_lot": {"lot", "lots"},
    "bareland": {"bareland"},
}


def plans(easy: bool, count: int = 240, seed: int = 12) -> list[Plan]:
    return [plan_scene(seed, index, easy) for index in range(count)]


@pytest.mark.parametrize("easy", [False, True])
def test_facts_and_captions_are_the_golden_ones(easy: bool) -> None:
    """Where this fails the scenes have changed: say so in the changelog, and put the new value here."""
    digest = hashlib.sha256()
    for plan in plans(easy, 100, 2024):
        facts = [f.model_dump() for f in plan.facts]
        digest.update(json.dumps([facts, captions(plan), description(plan), single(plan)]).encode())
    assert digest.hexdigest()[:16] == GOLDEN[easy]


@pytest.mark.parametrize("easy", [False, True])
def test_captions_say_the_facts_and_nothing_against_them(easy: bool) -> None:
    for plan in plans(easy):
        written = captions(plan)
        assert len(written) == 5
        for caption in written:
            assert re.fullmatch(r"[a-z]+( [a-z]+)*", caption), caption
        if not plan.changed:
            assert sorted(written) == sorted(UNCHANGED)
            assert all(parse(caption).changed is False for caption in written)
            continue
        true = {(f.object, f.direction) for f in plan.facts}
        read = [{(f.object, f.direction) for f in parse(caption).facts} for caption in written]
        for caption, found in zip(written, read, strict=True):
            assert found <= true, (caption, plan.facts)
            assert parse(caption).changed is True
        for fact in plan.facts:
            assert sum((fact.object, fact.direction) in found for found in read) >= 4, (fact, written)
            assert sum(bool(OBJECT_WORDS[fact.object] & set(c.split())) for c in written) >= 4


@pytest.mark.parametrize("easy", [False, True])
def test_places_and_quantities_that_captions_name_are_the_facts_own(easy: bool) -> None:
    named = 0
    for plan in plans(easy):
        places = {f.place for f in plan.facts}
        for caption in captions(plan):
            for fact in parse(caption).facts:
                if fact.place is not None and fact.place != "along_road":
                    named += 1
                    assert fact.place in places, (caption, plan.facts)
                same = [f for f in plan.facts if (f.object, f.direction) == (fact.object, fact.direction)]
                if fact.quantity in {"two", "three"}:
                    assert fact.quantity == same[0].quantity, (caption, plan.facts)
    assert named > 150


def test_the_place_of_a_single_fact_is_where_the_masks_middle_is() -> None:
    seen = set()
    for easy, count in ((True, 100), (False, 60)):
        for index in range(count):
            plan = plan_scene(13, index, easy)
            if len(plan.facts) != 1 or plan.facts[0].place not in PLACES:
                continue
            mask = render_scene(13, index, 128, easy).mask
            cells = np.array([[part.sum() for part in np.array_split(row, 3, 1)] for row in np.array_split(mask, 3, 0)])
            assert PLACES[int(cells.argmax())] == plan.facts[0].place, (index, easy)
            if easy:
                row, column = (int(3 * np.mean(where) / 128) for where in np.nonzero(mask))
                assert PLACES[3 * row + column] == plan.facts[0].place
                seen.add(plan.facts[0].place)
    assert seen == set(PLACES)


def test_the_quantity_of_houses_is_how_many_come_or_go() -> None:
    checked = Counter[str]()
    for plan in plans(False):
        for change in (c for e in plan.events for c in e.changes if c.kind == "house"):
            homes = [i for i in plan.items if isinstance(i, Building) and not i.flat]
            count = len({id(h) for h in homes if stands(h, "after")} ^ {id(h) for h in homes if stands(h, "before")})
            word = {1: "one", 2: "two", 3: "three", 4: "several", 5: "several"}.get(count, "many")
            assert change.fact.quantity == word
            checked[word] += 1
    assert len(checked) == 5


@pytest.mark.parametrize("easy", [False, True])
def test_descriptions_have_60_to_90_words_in_several_sentences(easy: bool) -> None:
    for plan in plans(easy, 400):
        text = description(plan)
        assert 60 <= len(text.split()) <= 90, text
        assert text.count(". ") >= 3
        words = set(re.findall("[a-z]+", text.lower()))
        for fact in plan.facts:
            assert OBJECT_WORDS[fact.object] & words
        assert ("same" in words) or ("no" in words)


def test_a_description_that_calls_the_second_image_darker_is_right() -> None:
    claims = 0
    for index in range(80):
        scene = render_scene(14, index, 128)
        for word, sign in (("darker", -1), ("brighter", 1)):
            if f"is {word} than the first" in scene.description:
                claims += 1
                assert (scene.after.mean() - scene.before.mean()) * sign > 0
    assert claims > 20


def test_the_vocabulary_is_small_and_captions_are_short() -> None:
    words: set[str] = set()
    lengths = []
    for plan in plans(False, 400) + plans(True, 400):
        for text in [*captions(plan), *single(plan), description(plan)]:
            words |= set(re.findall("[a-z-]+", text.lower()))
        if plan.changed:
            lengths += [len(c.split()) for c in captions(plan)]
    assert len(words) < 250
    assert 8 < np.mean(lengths) < 13


def test_events_are_of_every_sort() -> None:
    facts: list[Fact] = [f for plan in plans(False, 500) for f in plan.facts]
    assert {f.object for f in facts} >= {"building", "road", "tree", "water", "parking_lot", "bareland"}
    assert {f.verb for f in facts} >= {"build", "remove", "replace", "extend", "appear"}
    assert {f.direction for f in facts} == {"appear", "disappear"}
    assert sum(len(plan.events) > 1 for plan in plans(False, 100)) > 5


def test_single_captions_tell_the_dates_apart_where_a_pond_comes_or_goes() -> None:
    found = 0
    for plan in plans(True):
        if plan.facts and plan.facts[0].object == "water":
            before, after = single(plan)
            found += 1
            assert before != after
            assert "pond" in (after if plan.facts[0].direction == "appear" else before)
    assert found > 3
