"""Turned pairs and captions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rsiccllm.facts import parse
from rsiccllm.pairs import OpenedPair
from rsiccllm.sources.scenes.source import ScenesSource
from rsiccllm.turning import TURNS, Turn, turn_caption, turn_fact, turn_pair, turn_place

PLACES = {
    "top_left": (0, 0), "top": (0, 1), "top_right": (0, 2), "left": (1, 0), "center": (1, 1), "right": (1, 2),
    "bottom_left": (2, 0), "bottom": (2, 1), "bottom_right": (2, 2),
}  # fmt: skip
BACK: dict[Turn, Turn] = {turn: turn for turn in TURNS} | {"rotate_90": "rotate_270", "rotate_270": "rotate_90"}


@pytest.mark.parametrize("turn", TURNS)
def test_places_follow_the_pixels(turn: Turn) -> None:
    for name, (row, column) in PLACES.items():
        mask = np.zeros((3, 3), dtype=bool)
        mask[row, column] = True
        image = Image.fromarray(np.where(mask[..., None], 255, 0).astype(np.uint8).repeat(3, 2))
        turned = turn_pair(OpenedPair(image, image, mask), turn)
        where = PLACES[str(turn_place(name, turn))]
        assert turned.mask is not None
        assert np.argwhere(turned.mask).tolist() == [list(where)]
        assert (np.asarray(turned.after)[..., 0] > 0).tolist() == turned.mask.tolist()
    assert turn_place("along_road", turn) == "along_road"
    assert turn_place(None, turn) is None


@pytest.mark.parametrize(
    ("caption", "turn", "expected"),
    [
        ("a house in the upper left corner", "rotate_90", "a house in the lower left corner"),
        ("a house in the upper left corner", "flip_left_right", "a house in the upper right corner"),
        ("An upper-left road, a lower house .", "rotate_90", "A lower-left road, a right house ."),
        ("a lower road", "flip_top_bottom", "an upper road"),
        ("houses at the north-west", "rotate_180", "houses at the south-east"),
        ("the northwestern part", "flip_left_right", "the northeastern part"),
        ("the western part", "rotate_270", "the northern part"),
        ("in the middle right", "rotate_90", "in the middle top"),
        ("Top right houses", "transpose", "Bottom left houses"),
        ("the left-bottom of the scene", "rotate_90", "the right-bottom of the scene"),
        ("a horizontal road", "rotate_90", "a vertical road"),
        ("a horizontal road", "flip_left_right", "a horizontal road"),
        ("on the left side of the road", "flip_left_right", "on the right side of the road"),
        # not places
        ("some trees are left", "flip_left_right", "some trees are left"),
        ("a right angle turn on top of it", "rotate_180", "a right angle turn on top of it"),
        ("a hut on top of the scene", "flip_top_bottom", "a hut on bottom of the scene"),
        ("", "rotate_90", ""),
    ],
)
def test_captions_by_hand(caption: str, turn: Turn, expected: str) -> None:
    assert turn_caption(caption, turn) == expected


@pytest.mark.parametrize("turn", TURNS)
def test_a_turned_caption_says_the_turned_facts(turn: Turn) -> None:
    seen = set()
    for pair in ScenesSource(120, seed=5).pairs:
        for caption in [*pair.captions, str(pair.description)]:
            turned = turn_caption(caption, turn)
            assert parse(turned).facts == [turn_fact(fact, turn) for fact in parse(caption).facts], caption
            assert turn_caption(turned, BACK[turn]) == caption
            seen |= {fact.place for fact in parse(caption).facts}
    assert len(seen) > 9


def test_captions_of_people(shared_data: Path) -> None:
    """On LEVIR-CC captions: the places read from a turned caption are the turned places of the caption."""
    images = json.loads((shared_data / "levir_cc_captions_train_val.json").read_text())["images"]
    captions = [s["raw"] for image in images[::4] for s in image["sentences"] if image["changeflag"]]
    wrong = 0
    placed = 0
    for number, caption in enumerate(captions):
        turn = TURNS[1 + number % 7]
        facts = parse(caption).facts
        placed += any(fact.place not in {None, "along_road"} for fact in facts)
        wrong += parse(turn_caption(caption, turn)).facts != [turn_fact(fact, turn) for fact in facts]
    assert placed > 500
    assert wrong / placed < 0.01


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("many cars have left the parking lot on the left", "many cars have left the parking lot on the right"),
        ("houses are built right next to the road", "houses are built right next to the road"),
        ("a house is built on the right near the road", "a house is built on the left near the road"),
        ("a house stands at the lower right by the road", "a house stands at the lower left by the road"),
    ],
)
def test_left_and_right_that_name_no_place_stay(caption: str, expected: str) -> None:
    assert turn_caption(caption, "flip_left_right") == expected
