"""The mask prior against masks drawn by hand, whose numbers are worked out beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rsiccllm.facts import Known, parse
from rsiccllm.files import read_jsonl
from rsiccllm.records import INSTRUCTIONS, ImagePair, Instruction
from rsiccllm.rsici.build import build_rsici
from rsiccllm.rsici.prior import THIRDS, ZONES, consensus, mask_prior, prior_of
from rsiccllm.sources import open_source
from rsiccllm.sources.base import ChangeMask

SIDE = 120
BUILDING = (Known("building"),)


def mask(*boxes: tuple[int, int, int, int], value: int = 1) -> np.ndarray:
    """A mask [120, 120] of rectangles (left, top, right, bottom)."""
    values = np.zeros((SIDE, SIDE), np.uint8)
    for left, top, right, bottom in boxes:
        values[top:bottom, left:right] = value
    return values


def test_two_squares() -> None:
    prior = mask_prior(ChangeMask(mask((0, 0, 20, 20), (100, 90, 112, 110))))
    first, second = prior.regions
    assert (first.share, first.box, first.place, first.shape) == (400 / 14400, (0, 0, 20, 20), "top_left", "compact")
    assert (second.share, second.box, second.place) == (240 / 14400, (100, 90, 112, 110), "bottom_right")
    assert prior.share == pytest.approx(640 / 14400)
    assert (prior.spread, prior.specks, prior.changed, prior.masked) == ("scattered", 0, True, True)
    zones = dict(prior.zones)
    assert zones["top_left"] == zones["top"] == zones["left"] == 400 / 640
    assert zones["bottom_right"] == 240 / 640
    assert zones["center"] == zones["top_right"] == zones["bottom_left"] == 0


@pytest.mark.parametrize("number", range(9))
def test_a_square_in_each_ninth_lies_there_and_in_its_zone(number: int) -> None:
    row, column = divmod(number, 3)
    prior = mask_prior(ChangeMask(mask((40 * column + 8, 40 * row + 8, 40 * column + 32, 40 * row + 32))))
    assert prior.regions[0].place == THIRDS[number]
    assert prior.zone(THIRDS[number]) > 0.4
    assert set(ZONES) == set(THIRDS)


def test_shapes() -> None:
    assert mask_prior(ChangeMask(mask((10, 10, 100, 18)))).regions[0].shape == "elongated"
    ring = mask((10, 10, 100, 100)) - mask((16, 16, 94, 94))  # fills a quarter of its box
    assert mask_prior(ChangeMask(ring)).regions[0].shape == "irregular"
    slanted = np.zeros((SIDE, SIDE), np.uint8)
    for step in range(80):
        slanted[20 + step : 28 + step, 20 + step : 28 + step] = 1
    assert mask_prior(ChangeMask(slanted)).regions[0].shape == "elongated"
    corner = mask((10, 10, 100, 50), (10, 50, 50, 100))  # fills 5,600 of the 6,850 pixels of its hull
    assert mask_prior(ChangeMask(corner)).regions[0].shape == "compact"
    thin = mask((10, 10, 100, 30), (10, 30, 30, 100))  # 3,200 of 5,650
    assert mask_prior(ChangeMask(thin)).regions[0].shape == "irregular"


def test_spread() -> None:
    assert mask_prior(ChangeMask(mask((10, 10, 20, 20)))).spread == "single"
    # An eighth of 120 is 15: gaps of 15 across, of (9, 12) and so 15 aslant, are close; of 16 are not.
    near, aslant, far = (35, 10, 45, 20), (29, 32, 39, 42), (36, 10, 46, 20)
    for other, spread in ((near, "clustered"), (aslant, "clustered"), (far, "scattered")):
        assert mask_prior(ChangeMask(mask((10, 10, 20, 20), other))).spread == spread
    row = [(10 + 20 * k, 10, 20 + 20 * k, 20) for k in range(5)]
    assert mask_prior(ChangeMask(mask(*row))).spread == "clustered"
    assert mask_prior(ChangeMask(mask(*row[:3], (90, 90, 100, 100)))).spread == "grouped"
    everywhere = [(40 * c + 15, 40 * r + 15, 40 * c + 25, 40 * r + 25) for r in range(3) for c in range(3)]
    assert mask_prior(ChangeMask(mask(*everywhere))).spread == "throughout"


def test_specks_are_dropped_by_the_named_threshold_and_counted() -> None:
    values = ChangeMask(mask((0, 0, 20, 20), (50, 50, 54, 56), (80, 80, 83, 83)))  # 24 and 9 pixels
    assert [len(mask_prior(values, speck).regions) for speck in (0, 10, 24, 25)] == [3, 2, 2, 1]
    assert [mask_prior(values, speck).specks for speck in (0, 10, 24, 25)] == [0, 1, 1, 2]
    alone = mask_prior(ChangeMask(mask((80, 80, 83, 83))))
    assert alone.silent
    assert alone.changed is None


def test_what_the_border_cuts_off_is_a_speck() -> None:
    cut = (115, 40, 120, 60), (40, 0, 60, 5)  # 5 pixels wide at the right, 5 high at the top
    whole = (114, 70, 120, 90), (20, 40, 25, 60)  # 6 wide at the border; 5 wide, but not cut off
    prior = mask_prior(ChangeMask(mask(*cut, *whole)))
    assert (sorted(region.box for region in prior.regions), prior.specks) == (sorted(whole), 2)
    assert len(mask_prior(ChangeMask(mask(*cut, *whole)), 0).regions) == 4


def test_squares_that_touch_at_a_corner_are_two() -> None:
    assert len(mask_prior(ChangeMask(mask((10, 10, 20, 20), (20, 20, 30, 30)))).regions) == 2


def test_an_empty_mask_says_no_change_as_far_as_it_reaches() -> None:
    every = mask_prior(ChangeMask(mask()))
    assert (every.changed, every.empty, every.silent) == (False, True, False)
    buildings = mask_prior(ChangeMask(mask()), scope="building")
    assert (buildings.changed, buildings.empty) == (None, True)


def test_classes_are_regions_of_their_own_and_summed_up() -> None:
    values = mask((0, 0, 20, 20), (40, 0, 60, 20)) + mask((20, 0, 40, 20), value=2)
    road = (Known("road", "appear", "build"),)
    prior = mask_prior(ChangeMask(values, {1: BUILDING, 2: road}))
    assert len(prior.regions) == 3
    assert prior.known == (Known("building", fewest=2), Known("road", "appear", "build", "top_left"))
    one = mask_prior(ChangeMask(mask((0, 0, 20, 20)), {1: BUILDING})).known[0]
    assert (one.fewest, one.most, one.place) == (1, 1, "top_left")
    large = mask_prior(ChangeMask(mask((0, 0, 60, 60)), {1: BUILDING})).known[0]
    assert large.most == float("inf")  # a quarter of the image may be a whole row of houses


def test_what_two_of_five_people_say() -> None:
    said = ["two houses are built in the top left", "houses are built", "two villas appear in the top left corner",
            "trees are removed", "a road is built"]  # fmt: skip
    assert consensus([parse(text) for text in said]) == (Known("building", "appear", "build", "top_left", 2, 2),)
    assert consensus([parse(said[3])]) == (Known("tree", "disappear", "remove", None, 1, float("inf")),)


def test_no_facts_are_taken_of_a_report(tmp_path: Path) -> None:
    for side in ("A", "B"):
        (tmp_path / side).mkdir()
        Image.fromarray(np.full((40, 40), 10, np.uint8)).save(tmp_path / side / "x.png")
    source = open_source(f"folder:{tmp_path}")
    short, long = "a road is built", "ROAD: a road is built where no sign of damage was seen before. " * 5
    for captions, known in (([short], 1), ([long], 0), ([long, short], 1)):
        assert len(prior_of(source, source.pairs[0].model_copy(update={"captions": captions})).known) == known


def test_the_flag_and_the_captions_count_before_the_mask(tmp_path: Path) -> None:
    for side, value in (("A", 10), ("B", 20), ("label", 0)):
        (tmp_path / side).mkdir()
        Image.fromarray(np.full((40, 40), value, np.uint8)).save(tmp_path / side / "x.png")
    source = open_source(f"folder:{tmp_path}")
    pair = source.pairs[0]
    assert prior_of(source, pair).changed is False
    told = pair.model_copy(update={"captions": ["a road is built", "a road appears"]})
    assert prior_of(source, told).changed is True
    same = pair.model_copy(update={"captions": ["there is no difference"] * 2})
    assert prior_of(source, same).empty
    flagged = told.model_copy(update={"changed": False})
    assert prior_of(source, flagged).known == ()


def test_planted_facts_are_all_there_is() -> None:
    source = open_source("scenes:20,size=64,seed=2")
    for pair in source.pairs:
        prior = prior_of(source, pair)
        assert prior.complete
        assert [item.object for item in prior.known] == [fact.object for fact in pair.facts or []]
        assert prior.changed is pair.changed


def test_annotations_alone_have_no_size() -> None:
    class Bare:
        has_images, scope = False, None

        def classes(self, pair: ImagePair) -> None:
            return None

    pair = ImagePair(id="a", before="a.png", after="b.png", captions=["a road is built"])
    prior = prior_of(Bare(), pair)  # type: ignore[arg-type]
    assert (prior.width, prior.masked, prior.known[0].object) == (0, False, "road")


def test_a_mask_that_its_captions_deny_answers_nothing(tmp_path: Path) -> None:
    """Without a flag of the set neither is known; a flag settles it, and people who agree with the mask do."""
    for side in ("A", "B", "label"):
        (tmp_path / side).mkdir()
    values = mask((10, 10, 60, 60))
    for name in ("denied", "told"):
        for side in ("A", "B"):
            Image.fromarray(np.full((SIDE, SIDE, 3), 90, np.uint8)).save(tmp_path / side / f"{name}.png")
        Image.fromarray(values * 255).save(tmp_path / "label" / f"{name}.png")
    (tmp_path / "captions.json").write_text(
        '{"denied.png": ["the scene is the same as before"], "told.png": ["a house is built in the top left"]}'
    )
    source = open_source(f"folder:{tmp_path}")
    denied, told = (prior_of(source, next(p for p in source.pairs if p.id == name)) for name in ("denied", "told"))
    assert (denied.silent, denied.empty, denied.changed) == (True, False, None)
    assert (told.silent, told.changed) == (False, True)
    flagged = next(p for p in source.pairs if p.id == "denied").model_copy(update={"changed": True})
    assert not prior_of(source, flagged).silent
    counts = build_rsici([f"folder:{tmp_path}"], tmp_path / "out", tasks=("caption", "count", "where"))
    assert counts["pairs"] == 2
    records = read_jsonl(tmp_path / "out" / INSTRUCTIONS, Instruction)
    assert {record.task for record in records if record.pair.endswith("told")} == {"caption", "count", "where"}
    assert [(record.task, record.changed) for record in records if record.pair.endswith("denied")] == [
        ("caption", None)
    ]
