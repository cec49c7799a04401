"""A pair and the same pair with swapped dates are one question: maps by hand, and what the models then say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rsiccllm.caption.calibration import Calibration
from rsiccllm.caption.captioner import Captioner
from rsiccllm.caption.others import TURNED, Others, mean_maps, others_of, turned_text
from rsiccllm.facts import parse
from rsiccllm.model.difference import FACTS
from rsiccllm.model.generate import Answer
from rsiccllm.pairs import OpenedPair
from rsiccllm.rsici.prompts import PROMPTS
from rsiccllm.sources.scenes import ScenesSource

COME, GONE = FACTS.index(("building", "appear")), FACTS.index(("building", "disappear"))


def test_facts_are_turned_one_for_one() -> None:
    assert [TURNED[at] for at in TURNED] == list(range(len(FACTS)))
    assert (TURNED[COME], TURNED[GONE]) == (GONE, COME)


def test_maps_of_both_orders_by_hand() -> None:
    """One cell that both saw, one that the second order alone saw and one that nobody saw."""

    def answer(change: list[float], come: list[float], gone: list[float]) -> Answer:
        named = torch.zeros(len(FACTS), 1, 3, dtype=torch.float16)
        named[COME, 0], named[GONE, 0] = torch.tensor(come), torch.tensor(gone)
        return Answer("?", 0.5, torch.tensor([change]), 1, True, 0.0, named)

    forth = answer([0.5, 0.0, 0.0], come=[1.0, 0.5, 1.0], gone=[0.0, 0.5, 0.0])
    back = answer([0.25, 0.5, 0.0], come=[0.25, 0.0, 0.0], gone=[0.75, 1.0, 1.0])
    found = mean_maps(forth, back)
    assert found.change_map is not None
    assert found.fact_maps is not None
    assert found.change_map[0].tolist() == pytest.approx([0.375, 0.25, 0])
    assert found.fact_maps[COME, 0].tolist() == pytest.approx([0.6875 / 0.75, 1, 0], abs=1e-3)
    assert found.fact_maps[GONE, 0].tolist() == pytest.approx([0.0625 / 0.75, 0, 0], abs=1e-3)
    assert (found.text, found.probability) == ("?", 0.5)
    bare = forth._replace(change_map=None, fact_maps=None)
    assert mean_maps(bare, back) is bare


def test_what_is_said_of_swapped_dates_is_turned_round() -> None:
    turned = turned_text("two houses are built on the left and a road is removed")
    assert turned is not None
    assert {(fact.object, fact.direction, fact.place) for fact in parse(turned).facts} == {
        (fact.object, {"appear": "disappear", "disappear": "appear"}[fact.direction], fact.place)
        for fact in parse("two houses are built on the left and a road is removed").facts
    }
    assert turned_text("the scene is the same as before") == "the scene is the same as before"
    assert turned_text("something has changed here") is None


def test_agreement_by_hand() -> None:
    house, both, same, none = (
        "a house is built",
        "a house is built and trees are removed",
        "a villa appears",
        "no change",
    )
    answer = Answer(house, 0.9, None, 4, True, 0.1)
    others = Others([(both, 0.5), (same, 0.4), ("", 0.4), (none, 0.2)], answer)
    assert others.agreement(answer, house) == pytest.approx((1 / 2 + 1 + 0 + 0) / 4)
    assert others.agreement(answer, both) == pytest.approx((1 / 2 + 1 / 2 + 0 + 0) / 4)
    assert others.agreement(answer, none) == 0
    still = Others([("the scene is the same as before", 0.3), ("something has changed", 0.1)], answer)
    assert still.agreement(answer._replace(text=none), none) == 1 / 2
    assert Others([(house, 0.1)], answer).agreement(answer, house) == 1


def test_a_calibration_of_several_answers_is_asked_by_default(mapping_checkpoint: Path) -> None:
    """Half a chance of one answer, and of several what the agreement says: slope 1 of its log odds."""
    loaded = Captioner.load(mapping_checkpoint)
    rng = np.random.default_rng(5)
    before, after = (rng.integers(0, 256, (56, 84, 3), np.uint8) for _ in range(2))
    of_several = Calibration((0.0, 0.0, 0.0, 1.0), 0.0, answers=4)
    captioner = Captioner(loaded.model, loaded.processor, Calibration((0.0, 0.0, 0.0), 0.0), of_several)
    usual = captioner.caption(before, after)
    assert usual.agreement is not None
    assert usual.confidence == pytest.approx(min(max(usual.agreement, 1e-6), 1 - 1e-6))
    assert usual.candidates == captioner.caption(before, after, candidates=4).candidates != ()
    one = captioner.caption(before, after, candidates=1)
    assert (one.agreement, one.confidence, one.candidates) == (None, 0.5, ())
    long = captioner.caption(before, after, long=True)
    assert (long.agreement, long.confidence, long.candidates) == (None, None, ())
    assert (captioner.usual("caption"), captioner.usual("describe"), loaded.usual("caption")) == (4, 1, 1)
    alone = Captioner(loaded.model, loaded.processor, Calibration((0.0, 0.0, 0.0), 1.0))
    found = alone.caption(before, after, candidates=4)
    assert found.confidence == pytest.approx(1 / (1 + np.exp(-1)))
    assert found.agreement == usual.agreement
    assert len(found.clues) == 4, "what a calibration of several answers is fitted to"


def test_half_of_the_answers_are_of_swapped_images(mapping_checkpoint: Path) -> None:
    """The judge of both orders is one, its facts turned; the map that is shown stays that of the order asked for."""
    captioner = Captioner.load(mapping_checkpoint)
    rng = np.random.default_rng(5)
    one, other = (Image.fromarray(rng.integers(0, 256, (56, 84, 3), np.uint8)) for _ in range(2))
    judges = []
    for before, after in ((one, other), (other, one)):
        pair = OpenedPair(before, after, None)
        prompts = [captioner.encode(pair, PROMPTS["caption"])]
        answers = captioner.answer_encoded(prompts, 12)
        judges += others_of(captioner, [pair], PROMPTS["caption"], prompts, answers, 12, 4, 0)
        assert len(judges[-1].ranked(answers[0])) <= 4
        asked = others_of(captioner, [pair], "Why?", prompts, answers, 12, 4, 0)
        assert asked[0].judge is answers[0], "the answer to a question cannot be turned"
    forth, back = (judge.judge for judge in judges)
    assert forth.change_map is not None
    assert back.change_map is not None
    torch.testing.assert_close(forth.change_map, back.change_map)
    assert forth.fact_maps is not None
    assert back.fact_maps is not None
    torch.testing.assert_close(forth.fact_maps, back.fact_maps[TURNED], atol=2e-3, rtol=0)
    single, several = captioner.caption(one, other), captioner.caption(one, other, candidates=2)
    assert single.change_map is not None
    assert several.change_map is not None
    np.testing.assert_array_equal(single.change_map, several.change_map)
    assert len(several.candidates) <= 2


def test_the_model_in_the_package_tells_swapped_scenes_in_reverse() -> None:
    source = ScenesSource(6, seed=4712, size=224)
    pairs = [pair for one in source.pairs if one.changed for pair in [source.open(one)]]
    captioner = Captioner.load()
    before, after = [pair.before for pair in pairs], [pair.after for pair in pairs]
    forth = captioner.caption(before, after, candidates=6)
    back = captioner.caption(after, before, candidates=6)
    other = {"appear": "disappear", "disappear": "appear"}
    assert pairs
    for there, again in zip(forth, back, strict=True):
        assert {(fact.object, fact.direction) for fact in there.facts} == {
            (fact.object, other[fact.direction]) for fact in again.facts
        }
