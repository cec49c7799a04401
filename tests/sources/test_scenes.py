"""Rendered scenes: the same everywhere, half of them unchanged, and pixels that agree with the mask."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from rsiccllm.errors import InputError
from rsiccllm.sources.scenes import ScenesSource, render_scene
from rsiccllm.sources.scenes.geometry import PLACES
from rsiccllm.sources.scenes.plan import is_changed, plan_scene
from rsiccllm.sources.scenes.render import paint_scene
from rsiccllm.sources.scenes.source import split_of

SHADOW = 18  # world units that a shadow may reach beyond what casts it


def grown(mask: np.ndarray, pixels: int) -> np.ndarray:
    return cv2.dilate(mask.astype(np.uint8), np.ones((2 * pixels + 1, 2 * pixels + 1), np.uint8)) > 0


@pytest.mark.parametrize(("size", "easy"), [(128, True), (224, False), (256, False)])
def test_a_scene_is_the_same_each_time(size: int, easy: bool) -> None:
    one, two = render_scene(3, 7, size, easy), render_scene(3, 7, size, easy)
    assert one.before.shape == one.after.shape == (size, size, 3)
    assert one.before.dtype == one.after.dtype == np.uint8
    assert one.mask.shape == (size, size)
    assert one.mask.dtype == np.bool_
    for name in ("before", "after", "mask"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert (one.facts, one.captions, one.description, one.single) == (
        two.facts,
        two.captions,
        two.description,
        two.single,
    )


def test_other_seeds_and_indices_are_other_scenes() -> None:
    first = render_scene(0, 0, 64).before.astype(int)
    for seed, index in ((1, 0), (0, 1), (2**31, 5)):
        assert np.abs(render_scene(seed, index, 64).before - first).mean() > 5


def test_facts_and_captions_do_not_hang_on_the_size() -> None:
    small, large = render_scene(4, 11, 128), render_scene(4, 11, 256)
    assert small.facts == large.facts
    assert small.captions == large.captions
    # and neither does the mask, but for its edge
    shrunk = cv2.resize(large.mask.astype(np.float32), (128, 128), interpolation=cv2.INTER_AREA)
    edge = grown(small.mask, 1) & grown(~small.mask, 1)
    assert np.abs(shrunk - small.mask)[~edge].max() < 0.5
    assert np.abs(shrunk - small.mask).sum() < 0.5 * edge.sum()


def test_half_of_any_number_of_scenes_is_unchanged() -> None:
    for count in (1, 2, 7, 100, 501):
        changed = sum(is_changed(5, index) for index in range(count))
        assert abs(changed - count / 2) <= 1
    assert len({is_changed(5, 2 * k) for k in range(20)}) == 2, "which of two changes must not be their order"
    for easy in (False, True):
        for index in range(30):
            assert plan_scene(5, index, easy).changed == is_changed(5, index)


@pytest.mark.parametrize(("size", "easy"), [(256, False), (128, True)])
def test_without_nuisance_the_dates_differ_where_the_mask_says(size: int, easy: bool) -> None:
    shares = []
    for index in range(60):
        plan = plan_scene(8, index, easy)
        before, after, mask = paint_scene(plan, size, nuisance=False)
        difference = np.abs(before.astype(int) - after).max(axis=2)
        assert mask.any() == plan.changed
        away = ~grown(mask, round(SHADOW * size / 256)) if plan.changed else np.ones_like(mask)
        assert difference[away].max(initial=0) <= 1, (index, plan.facts)
        if plan.changed:
            shares.append((difference[mask] > 4).mean())
            assert shares[-1] > 0.85, (index, plan.facts)
    assert len(shares) == 30
    assert np.mean(shares) > 0.97


def test_light_and_season_differ_in_changed_and_unchanged_pairs_alike() -> None:
    means: dict[bool, list[float]] = {True: [], False: []}
    for index in range(60):
        scene = render_scene(2, index, 128)
        assert scene.mask.any() == scene.changed
        quiet = ~grown(scene.mask, 10)
        means[scene.changed].append(float(np.abs(scene.before.astype(float) - scene.after)[quiet].mean()))
    assert min(means[False]) > 2, "an unchanged pair must not be two copies of one image"
    assert 0.6 < np.mean(means[True]) / np.mean(means[False]) < 1.6


def test_easy_scenes_have_one_clearly_visible_event() -> None:
    for index in range(60):
        scene = render_scene(6, index, 128, easy=True)
        assert len(plan_scene(6, index, True).events) == int(scene.changed)
        if scene.changed:
            assert all(fact.place in PLACES for fact in scene.facts)
            rows, columns = np.flatnonzero(scene.mask.any(1)), np.flatnonzero(scene.mask.any(0))
            assert max(np.ptp(rows), np.ptp(columns)) + 1 >= 128 / 8
            assert scene.mask.mean() > 0.008


def test_the_source_lists_pairs_without_painting_and_opens_them() -> None:
    source = ScenesSource(40, seed=3, size=128, easy=True)
    pairs = source.pairs
    assert len({p.id for p in pairs}) == len(pairs) == 40
    assert {p.split for p in pairs} == {"train", "val", "test"}
    assert [p.split for p in pairs].count("train") == 32
    assert sum(bool(p.changed) for p in pairs) == 20
    pair = next(p for p in pairs if p.changed)
    assert pair.id == f"scene_3_{pairs.index(pair):06d}"
    opened, scene = source.open(pair), render_scene(3, pairs.index(pair), 128, True)
    np.testing.assert_array_equal(np.asarray(opened.before), scene.before)
    np.testing.assert_array_equal(np.asarray(opened.after), scene.after)
    assert opened.mask is not None
    np.testing.assert_array_equal(opened.mask, scene.mask)
    assert pair.captions == scene.captions
    assert pair.facts == scene.facts
    assert ScenesSource(2, split="val").pairs[0].split == "val"


def test_splits_hold_as_many_changed_as_unchanged_pairs() -> None:
    for split, share in (("train", 0.8), ("val", 0.1), ("test", 0.1)):
        chosen = [i for i in range(400) if split_of(1, i) == split]
        assert len(chosen) == 400 * share
        assert sum(is_changed(1, i) for i in chosen) == len(chosen) / 2


@pytest.mark.parametrize("wrong", [{"count": 0}, {"count": 5, "size": 30}, {"count": 5, "seed": -1}])
def test_impossible_settings_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(InputError, match="scenes: expected"):
        ScenesSource(**wrong)
