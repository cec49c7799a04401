"""The captioner on a tiny real model: every kind of image, lists, candidates, questions."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rsiccllm import Captioner
from rsiccllm.caption import captioner as module
from rsiccllm.caption.borne_out import borne_out
from rsiccllm.caption.calibration import Calibration
from rsiccllm.caption.images import pair_of
from rsiccllm.caption.others import Others
from rsiccllm.caption.result import Box, Caption, boxes_of
from rsiccllm.errors import InputError
from rsiccllm.model.difference import FACTS
from rsiccllm.model.generate import Answer
from rsiccllm.model.processor import load_processor
from rsiccllm.model.vlm import load_model


@pytest.fixture(scope="module")
def captioner(mapping_checkpoint: Path) -> Captioner:
    return Captioner(
        load_model(mapping_checkpoint), load_processor(mapping_checkpoint), Calibration((1.0, 0.0, 0.0), 0.0)
    )


def pixels(seed: int, height: int = 56, width: int = 84) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, rsiccllm; assert 'torch' not in sys.modules; rsiccllm.Captioner; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_kind_of_image_gives_the_same_answer(captioner: Captioner, tmp_path: Path) -> None:
    first, second = pixels(0), pixels(1)
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path, values in zip(paths, (first, second), strict=True):
        Image.fromarray(values).save(path)
    expected = captioner.caption(paths[0], paths[1])
    assert expected.caption not in ("", captioner.caption(paths[1], paths[0]).caption)  # it depends on the images
    assert expected.change_map is not None
    assert expected.change_map.shape == (56, 84)
    assert 0 <= expected.change_map.min() <= expected.change_map.max() <= 1
    forms = {
        "str": [str(path) for path in paths],
        "pil": [Image.fromarray(first), Image.fromarray(second)],
        "numpy": [first, second],
        "float": [first / 255, (second / 255).astype(np.float32)],
        "torch": [torch.from_numpy(value).permute(2, 0, 1) for value in (first, second)],
        "torch float": [torch.from_numpy(value).permute(2, 0, 1) / 255 for value in (first, second)],
        "mixed": [paths[0], second],
    }
    for name, (before, after) in forms.items():
        found = captioner.caption(before, after)
        assert found.caption == expected.caption, name
        assert found.probability == expected.probability, name
        assert np.array_equal(found.change_map, expected.change_map), name


def test_lists_are_answered_in_order_and_as_one_by_one(captioner: Captioner) -> None:
    sizes = [(56, 84), (84, 56), (56, 56), (112, 56), (56, 84)]
    before = [pixels(i, *size) for i, size in enumerate(sizes)]
    after = [pixels(10 + i, *size) for i, size in enumerate(sizes)]
    together = captioner.caption(before, after, batch_size=2)
    assert len(together) == 5
    for a, b, found in zip(before, after, together, strict=True):
        alone = captioner.caption(a, b)
        assert found.caption == alone.caption
        assert found.probability == pytest.approx(alone.probability, abs=1e-5)
        assert found.change_map is not None
        assert found.change_map.shape == a.shape[:2]
    assert captioner.caption([], []) == []


def test_candidates_long_and_questions(captioner: Captioner) -> None:
    before, after = pixels(0), pixels(1)
    plain = captioner.caption(before, after)
    assert plain.candidates == ()
    several = captioner.caption(before, after, candidates=4, seed=3)
    assert several.candidates[0] == several.caption
    assert plain.caption in several.candidates
    assert 1 <= len(several.candidates) <= 4
    assert len(set(several.candidates)) == len(several.candidates)
    assert captioner.caption(before, after, candidates=4, seed=3).candidates == several.candidates
    asked = captioner.ask(before, after, "what changed here?")
    assert asked.confidence is None  # captions are calibrated, answers are not
    assert plain.confidence == pytest.approx(plain.probability)  # slope 1, intercept 0
    assert captioner.caption(before, after, long=True).confidence is None
    assert [a.caption for a in captioner.ask([before], [after], "what changed here?")] == [asked.caption]


def test_what_cannot_be_used_is_one_clear_error(captioner: Captioner, tmp_path: Path) -> None:
    good = pixels(0)
    cases: list[tuple[object, object, str]] = [
        (good, np.moveaxis(good, -1, 0), r"after: an array of shape \[3, 56, 84\], expected \[height, width, 3\]"),
        (good, good.astype(np.float32), "after: floats from 0 to 255, expected 0 to 1"),
        (good / 255 * np.nan, good, "before: floats from nan to nan"),
        (good.astype(np.int64), good, "before: numbers of type int64"),
        (torch.zeros(56, 84, 3), good, r"before: a tensor of shape \[56, 84, 3\]"),
        (good[:20], good, "before: 84x20 pixels; expected at least 28"),
        (good, pixels(1, 84, 84), "after: 84x84 pixels, but before has 84x56"),
        (good, 7, "after: a int, expected a path"),
        (tmp_path / "no.png", good, "no.png: no such file"),
        ([good], good, "one is a list"),
        ([good, good], [good], "lists of 2 and 1"),
        ([good, good], [good, good[:30]], r"after\[1\]: 84x30"),
    ]
    for before, after, message in cases:
        with pytest.raises(InputError, match=message):
            captioner.caption(before, after)  # type: ignore[call-overload]
    assert captioner.caption(good, pixels(1, 84, 84), resize=True).change_map.shape == (56, 84)  # type: ignore[union-attr]
    with pytest.raises(InputError, match="question: empty"):
        captioner.ask(good, good, "  ")


def test_no_embedded_model_is_an_error_that_says_how(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "EMBEDDED", tmp_path)
    with pytest.raises(InputError, match="make embedded"):
        Captioner.load()


def test_load_reads_the_calibration_beside_the_weights(captioner: Captioner, tmp_path: Path) -> None:
    from rsiccllm.model.checkpoint import save_model

    save_model(captioner.model, captioner.processor, tmp_path / "m")
    before, after = pixels(0), pixels(1)
    assert Captioner.load(tmp_path / "m").caption(before, after).confidence is None
    text = '{"schema": "rsiccllm.calibration.v2", "slopes": [0, 0, 0], "intercept": -2.0}'
    (tmp_path / "m" / "calibration.json").write_text(text, encoding="utf-8")
    found = Captioner.load(tmp_path / "m").caption(before, after)
    assert found.confidence == pytest.approx(1 / (1 + np.exp(2)))
    assert found.uncertain
    assert found.caption == captioner.caption(before, after).caption


def test_what_speaks_for_a_caption_is_its_weakest_facts_map() -> None:
    seen, named = np.zeros((8, 8), np.float32), np.zeros((len(FACTS), 8, 8), np.float16)
    seen[:, :4], seen[:4, 4:] = 0.8, 0.4  # a house on the left half, trees gone in the top right quarter
    named[FACTS.index(("building", "appear")), :, :4] = 1
    named[FACTS.index(("tree", "disappear")), :4, 4:] = 0.5

    def clues(text: str) -> tuple[float, ...]:
        return Caption(text, 0.7, change_map=seen, fact_maps=named).clues

    house, both = clues("a house is built"), clues("a house is built and trees are removed")
    assert house == pytest.approx((0.7, 0.8, 25.6 / 32), abs=1e-4)
    assert both == pytest.approx((0.7, 0.2, 3.2 / 32), abs=1e-4)
    assert clues("a road is built") == (0.7, 0, 0)
    assert clues("there is no change") == pytest.approx((0.7, 0.2, 0.2))
    assert Caption("a house is built", 0.7).clues == (0.7,)


def borne(text: str, chance: float = 0.7) -> float:
    """On a map of a house that came in the left upper corner and trees that went from the lower right, half as sure."""
    seen, named = np.zeros((9, 9), np.float32), np.zeros((len(FACTS), 9, 9), np.float16)
    seen[:3, :3], seen[6:, 6:] = 0.8, 0.4
    named[FACTS.index(("building", "appear")), :3, :3] = 1
    named[FACTS.index(("tree", "disappear")), 6:, 6:] = 1
    return borne_out(Caption(text, chance, change_map=seen, fact_maps=named))


def test_the_map_bears_out_by_hand() -> None:
    house = math.log(0.7) + math.log(0.8) + 8 * math.log(7.2 / 10.801)
    assert borne("a house is built") == pytest.approx(house, abs=1e-3)
    assert borne("a house is built in the top left") == pytest.approx(house + 1.5, abs=1e-3)
    assert borne("a house is built in the center") == pytest.approx(house - 1.5, abs=1e-3)
    both = math.log(0.7) + math.log(0.8) + math.log(0.4)
    assert borne("a house is built and trees are removed") == pytest.approx(both, abs=2e-3)
    assert borne("there is no change") == pytest.approx(math.log(0.7) + 9 * math.log(0.2), abs=1e-3)
    assert borne("a house is built", 0.35) == pytest.approx(house + math.log(0.5), abs=1e-3)
    # What is not in the map, and what is the wrong way round, stands behind all of these.
    assert max(borne("a road is built"), borne("a house is removed")) < borne("there is no change")


def test_a_place_is_borne_out_where_most_of_the_map_lies() -> None:
    """By hand: six tenths of the change in the left upper corner are enough, and half of it is not."""
    seen, named = np.zeros((9, 9), np.float32), np.zeros((len(FACTS), 9, 9), np.float16)
    seen[0, :3], seen[1, :3], seen[8, 5:9] = 0.8, 0.8, 0.8
    seen[4, 4] = 0.07  # faint: under a tenth of the highest, it does not count
    named[FACTS.index(("building", "appear"))] = 1

    def borne_by(text: str) -> float:
        return borne_out(Caption(text, 0.7, change_map=seen, fact_maps=named))

    bare = borne_by("a house is built")
    assert borne_by("a house is built in the top left") == pytest.approx(bare + 1.5)  # 6 of 10
    assert borne_by("a house is built in the bottom right") == pytest.approx(bare - 1.5)  # 3 of 10
    seen[8, 3:5] = 0.8  # 6 of 12
    assert borne_by("a house is built in the top left") == pytest.approx(borne_by("a house is built") - 1.5)


def test_of_several_answers_the_map_chooses(captioner: Captioner) -> None:
    seen, named = torch.zeros(9, 9), torch.zeros(len(FACTS), 9, 9, dtype=torch.float16)
    seen[:3, :3] = 0.9
    named[FACTS.index(("building", "appear")), :3, :3] = 1
    answer = Answer("a road is built", 0.9, seen, 4, True, 0.1, named)
    others = Others([("a house is built", 0.4), ("", 0.9), ("a road is built", 0.1)], answer)
    found = captioner.finish(answer, (18, 18), others=others)
    assert found.candidates == ("a house is built", "a road is built")
    assert (found.caption, found.probability) == ("a house is built", 0.4)
    assert found.change_map is not None
    assert found.change_map.shape == (18, 18)
    blind = answer._replace(change_map=None, fact_maps=None)
    alone = captioner.finish(blind, (18, 18), "?", others._replace(judge=blind))
    assert (alone.caption, alone.probability) == ("a road is built", 0.9)


def test_boxes_facts_and_json() -> None:
    seen = np.zeros((60, 80), np.float32)
    seen[10:20, 5:25] = 0.8
    seen[12, 6] = 0.9
    seen[30:36, 40:46] = 0.5
    seen[50:53, 50:53] = 1.0  # 9 pixels: a speck
    assert boxes_of(seen) == [Box(5, 10, 25, 20, pytest.approx(0.9)), Box(40, 30, 46, 36, 0.5)]
    found = Caption("two houses are built in the top left corner", 0.9, 0.4, seen)
    assert [(fact.object, fact.direction, fact.place) for fact in found.facts] == [("building", "appear", "top_left")]
    assert found.changed is True
    shown = found.to_dict()
    assert shown["boxes"][0] == [5, 10, 25, 20, 0.9]
    assert shown["uncertain"] is True
    assert shown["facts"][0]["quantity"] == "two"
    assert Caption("the scene is the same as before", None).changed is False
    assert Caption("x", None).boxes == []


def test_numbers_and_questions_that_are_none_are_refused(mapping_checkpoint: Path) -> None:
    captioner = Captioner.load(mapping_checkpoint)
    image = np.zeros((56, 56, 3), np.uint8)
    for more, told in (({"batch_size": 0}, "batch_size: 0; expected at least 1"), ({"candidates": 0}, "candidates: 0"),
                       ({"seed": -1, "candidates": 2}, "seed: -1")):  # fmt: skip
        with pytest.raises(InputError, match=told):
            captioner.caption([image], [image], **more)
    with pytest.raises(InputError, match="max_new_tokens: 0"):
        captioner.ask(image, image, "what?", max_new_tokens=0)
    for question, told in ((None, "question: None, expected a text"), ("a\ud800", "not UTF-8 at character 2")):
        with pytest.raises(InputError, match=told):
            captioner.ask(image, image, question)


def test_two_dates_of_floats_are_shown_by_one_range(mapping_checkpoint: Path, tmp_path: Path) -> None:
    """One pixel over 1.0 made its whole date black."""
    values = np.tile(np.linspace(0, 1, 56, dtype=np.float32), (56, 1))
    bright = values.copy()
    bright[0, 0] = 1.01
    images = [Image.fromarray(each) for each in (values, bright)]
    for number, image in enumerate(images):
        image.save(tmp_path / f"{number}.tif")
    for pair in (pair_of(*images), pair_of(tmp_path / "0.tif", tmp_path / "1.tif")):
        before, after = (np.asarray(image, np.int16) for image in pair[:2])
        assert np.abs(before - after)[1:].max() <= 1
        assert (before.max() == after.max()) or abs(int(before.max()) - int(after.max())) <= 1
