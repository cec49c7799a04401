from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rsiccllm.masks import OBJECTS
from rsiccllm.model.processor import load_processor
from rsiccllm.training.crops import ON_CHANGE, Crops, crop
from rsiccllm.training.data import PairDataset
from rsiccllm.training.nuisance import disturb
from rsiccllm.training.packing import Sample

TREE, HOUSE = OBJECTS.index("tree") + 1, OBJECTS.index("building") + 1


def sample(objects: bool = True) -> Sample:
    """A 60 x 40 pair: the red of a pixel is its column, the green its row; a house came at the left, a tree went at the
    right."""
    rows, columns = np.indices((40, 60), dtype=np.uint8)
    image = Image.fromarray(np.stack([columns, rows, np.zeros_like(rows)], 2))
    mask = np.zeros((40, 60), bool)
    what = np.zeros((2, 40, 60), np.uint8)
    mask[5:10, 2:8] = True
    what[1, 5:10, 2:8] = HOUSE
    mask[20:30, 50:58] = True
    what[0, 20:30, 50:58] = TREE
    facts = [("building", "appear"), ("tree", "disappear")]
    return Sample("a", [image, image], "?", [], mask, facts, objects=what if objects else None)


def test_a_crop_holds_what_is_true_inside_it() -> None:
    random = np.random.default_rng(0)
    seen: dict[tuple[tuple[str, str], ...], int] = {}
    shown = set()
    for _ in range(300):
        part = crop(sample(), 16, random)
        pixels = np.asarray(part.images[1])
        assert pixels.shape == (16, 16, 3)
        whole = sample()
        assert part.mask is not None
        assert part.objects is not None
        # Where each pixel comes from is its colour, but at the border, where the zoom has nothing beyond it to read.
        columns, rows = np.moveaxis(pixels[2:-2, 2:-2, :2].astype(int), 2, 0)
        mask, objects = part.mask[2:-2, 2:-2], part.objects[:, 2:-2, 2:-2]
        shown.add(int(columns[0, -1] - columns[0, 0]))
        off = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]
        near = [(np.clip(rows + y, 0, 39), np.clip(columns + x, 0, 59)) for y, x in off]
        assert np.any([mask == whole.mask[at] for at in near], 0).all()
        assert np.any([(objects == whole.objects[:, at[0], at[1]]).all(0) for at in near], 0).all()
        assert np.mean(mask == whole.mask[rows, columns]) > 0.95
        house, tree = (part.objects == HOUSE).any(), (part.objects == TREE).any()
        assert part.facts == [("tree", "disappear")] * int(tree) + [("building", "appear")] * int(house)
        seen[tuple(part.facts)] = seen.get(tuple(part.facts), 0) + 1
    assert min(shown) < 9 < 13 < max(shown)  # 11 pixels apart are 11 apart without zoom
    assert set(seen) == {(), (("tree", "disappear"),), (("building", "appear"),)}
    assert 1 - seen[()] / 300 > ON_CHANGE


def test_without_objects_a_crop_keeps_the_pairs_facts_where_it_marks_anything() -> None:
    random = np.random.default_rng(1)
    for _ in range(50):
        part = crop(sample(objects=False), 16, random)
        assert part.mask is not None
        assert part.facts == (sample().facts if part.mask.any() else [])


def test_what_cannot_be_cut_stays_whole() -> None:
    random = np.random.default_rng(0)
    whole = sample()
    assert crop(whole, 40, random) is whole
    whole.mask = None
    assert crop(whole, 16, random) is whole


@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0])
def test_disturbed_images_show_the_same_ground(strength: float) -> None:
    """Each is another image, the same from the same seed, and still best explained by the ground at its own place."""
    rng = np.random.default_rng(5)
    ground = np.kron(rng.integers(40, 216, (14, 14, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    image = Image.fromarray(ground)
    for seed in range(20):
        found = disturb(image, np.random.default_rng(seed), strength)
        again = disturb(image, np.random.default_rng(seed), strength)
        assert found.size == image.size
        assert np.array_equal(np.asarray(found), np.asarray(again))
        assert not np.array_equal(np.asarray(found), ground)
        grey, other = ground.mean(2), np.asarray(found).mean(2)
        inner = slice(16, -16)

        def alike(move: int) -> float:
            return float(np.corrcoef(grey[inner, inner].ravel(), np.roll(other, move, 1)[inner, inner].ravel())[0, 1])  # noqa: B023

        assert alike(0) > max(alike(-8), alike(8))


def test_no_strength_is_no_change_but_rounding_and_blur() -> None:
    image = Image.fromarray(np.full((32, 32, 3), 120, np.uint8))
    found = np.asarray(disturb(image, np.random.default_rng(3), 0.0)).astype(int)
    assert np.abs(found - 120).max() <= 1


def test_a_crop_is_of_the_image_as_the_model_sees_it() -> None:
    """Brought to half its side, an image of 60 x 40 has 30 x 20: a square of 16 of these shows some 32 of those."""
    random = np.random.default_rng(0)
    for _ in range(50):
        part = crop(sample(), 16, random, scale=0.5)
        columns = np.asarray(part.images[1])[..., 0].astype(int)
        assert part.images[0].size == (16, 16)
        assert 20 <= columns.max() - columns.min() <= 40
    assert crop(sample(), 16, random, scale=0.4).images[0].size == (60, 40), "16 processed pixels are all there are"


@pytest.mark.parametrize(("limit", "expected"), [(None, 1.0), (112 * 112, 0.25)])
def test_the_scale_is_the_processors(tiny_checkpoints: dict[str, Path], limit: int | None, expected: float) -> None:
    processor = load_processor(tiny_checkpoints["qwen2_5_vl"], max_pixels=limit)
    crops = Crops(PairDataset.__new__(PairDataset), 56, 0.0, 0, processor)
    assert crops._scale(Image.new("RGB", (448, 448))) == pytest.approx(expected)
