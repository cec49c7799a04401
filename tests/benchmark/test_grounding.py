"""Change maps against masks, worked by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rsiccllm.benchmark.grounding import ground, overlap, points_at, read_map, score_maps
from rsiccllm.errors import InputError
from rsiccllm.sources.scenes.source import ScenesSource

MASK = np.array([[1, 1, 0, 0], [1, 1, 0, 0]], dtype=bool)


def test_overlap_by_hand() -> None:
    seen = np.array([[0.2, 0.9, 0.5, 0.1], [0.2, 0.6, 0.0, 0.0]])
    assert overlap(seen, MASK) == (2, 5)  # 0.9 and 0.6 in both; the mask's four and the 0.5
    assert overlap(seen, MASK).iou == pytest.approx(2 / 5)
    assert overlap(seen, MASK, threshold=0.15).iou == pytest.approx(4 / 5)
    assert overlap(np.zeros((2, 4)), np.zeros((2, 4), bool)).iou == 1
    with pytest.raises(InputError, match=r"\(2, 3\) and mask \(2, 4\)"):
        overlap(np.zeros((2, 3)), MASK)


def test_pointing_by_hand() -> None:
    assert points_at(np.array([[0.0, 0.9, 0.5, 0], [0, 0, 0, 0]]), MASK) == 1
    assert points_at(np.array([[0.0, 0.4, 0.5, 0], [0, 0, 0, 0]]), MASK) == 0
    assert points_at(np.array([[0.0, 0.9, 0.9, 0], [0, 0, 0, 0]]), MASK) == 0.5  # one of the two highest is right
    assert points_at(np.full((2, 4), 0.3), MASK) == 0.5  # a map without knowledge gets the mask's area


def test_scores_over_pairs() -> None:
    masks = {
        "a": MASK,
        "b": np.array([[1, 0, 0, 0], [0, 0, 0, 0]], bool),
        "empty": np.zeros((2, 4), bool),
        "none": MASK,
    }
    maps = {"a": MASK.astype(float), "b": np.ones((2, 4)), "empty": np.ones((2, 4))}
    found = score_maps(maps, masks)
    assert found is not None
    assert found.ids == ("a", "b")
    values = {name: part.value() for name, part in found.parts().items()}
    assert values == pytest.approx(
        {
            "iou": 100 * (4 + 1) / (4 + 8),
            "mean_iou": 100 * (1 + 1 / 8) / 2,
            "pointing": 100 * (1 + 1 / 8) / 2,
            "area": 100 * 5 / 16,
            "mean_area": 100 * (4 / 8 + 1 / 8) / 2,
        }
    )
    data = found.to_dict()
    assert data["pairs"] == 2
    low, high = data["interval_95"]["mean_iou"]
    assert low <= data["mean_iou"] <= high
    assert score_maps(maps, {"empty": masks["empty"]}) is None


def test_a_map_of_another_size_is_fitted() -> None:
    mask = np.zeros((8, 8), bool)
    mask[:4, :4] = True
    found = score_maps({"a": np.array([[1.0, 0], [0, 0]])}, {"a": mask})
    assert found is not None
    assert found.parts()["pointing"].value() == 100
    assert found.parts()["iou"].value() > 50


def test_stored_maps_of_rendered_scenes(tmp_path: Path) -> None:
    source = ScenesSource(6, seed=2, size=64)
    maps = {}
    for pair in source.pairs:
        mask = source.open(pair).mask
        assert mask is not None
        Image.fromarray((mask * 200).astype(np.uint8)).save(tmp_path / f"{pair.id}.png")
        maps[pair.id] = f"{pair.id}.png"
    found = ground(source, source.pairs, maps, tmp_path)
    assert found is not None
    assert len(found.ids) == 3  # half of the scenes change
    assert found.parts()["iou"].value() == 100
    assert found.parts()["pointing"].value() == 100
    assert 0 < found.parts()["area"].value() < 30
    assert read_map(tmp_path, maps[found.ids[0]]).max() == pytest.approx(200 / 255)
    with pytest.raises(InputError, match="no such file"):
        ground(source, source.pairs, {pair.id: "gone.png" for pair in source.pairs}, tmp_path)
