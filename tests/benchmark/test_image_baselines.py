"""Rows that look at the images and know nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rsiccllm.benchmark.image_baselines import best_threshold, image_baselines, look, nearest
from rsiccllm.pairs import OpenedPair
from rsiccllm.records import ImagePair
from rsiccllm.sources import open_source
from rsiccllm.sources.base import Source


def noise(seed: int, size: int = 64) -> Image.Image:
    rough = np.random.default_rng(seed).integers(60, 180, (8, 8, 3)).astype(np.uint8)
    return Image.fromarray(rough).resize((size, size), Image.Resampling.BICUBIC)


class Noise(Source):
    """Pairs of one noise image a place; a changed pair has another one as its second."""

    name = "noise"

    def __init__(self, records: list[ImagePair], images: dict[str, tuple[int, int]]) -> None:
        super().__init__(Path(), records)
        self.images = images

    def open(self, pair: ImagePair) -> OpenedPair:
        first, second = self.images[pair.id]
        return OpenedPair(noise(first), noise(second), None)


def record(name: str, split: str, caption: str, changed: bool | None) -> ImagePair:
    return ImagePair(id=name, split=split, before="b", after="a", captions=[caption], changed=changed)


def test_light_counts_neither_for_the_descriptor_nor_for_the_difference() -> None:
    pair = OpenedPair(noise(1), noise(1), None)
    darker = OpenedPair(noise(1), Image.fromarray((np.asarray(noise(1)) * 0.6).astype(np.uint8)), None)
    other = OpenedPair(noise(1), noise(2), None)
    assert look(pair)[1] == pytest.approx(0, abs=1e-6)
    assert look(darker)[1] < 0.01
    assert look(other)[1] > 0.3
    assert np.abs(look(darker)[0] - look(pair)[0]).max() < 0.2
    flat = OpenedPair(*[Image.new("RGB", (64, 64), "grey")] * 2, None)
    assert look(flat)[1] == 0
    assert np.isfinite(look(flat)[0]).all()


def test_nearest_is_brute_force() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(size=(20, 5)), rng.normal(size=(30, 5))
    slow = [min(range(30), key=lambda row: float(((a - theirs[row]) ** 2).sum())) for a in ours]
    assert nearest(ours, theirs, block=7).tolist() == slow


def test_threshold_is_the_best_one() -> None:
    values = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    positive = np.array([False, False, True, False, True, True])
    # above 0.25: all three positives, and two of three negatives below; above 0.45: two of three, and all three
    found = best_threshold(values, positive)
    assert found in (pytest.approx(0.25), pytest.approx(0.45))
    assert best_threshold(np.array([1.0, 2.0]), np.array([False, True])) == 1.5


def test_rows_of_pairs_drawn_by_hand() -> None:
    records = [
        record("t1", "train", "a house is built", True),
        record("t2", "train", "no change", False),
        record("t3", "train", "a road is built", True),
        record("x", "test", "a villa appears", True),
        record("y", "test", "nothing", False),
    ]
    images = {"t1": (1, 2), "t2": (3, 3), "t3": (4, 5), "x": (4, 5), "y": (3, 3)}
    source = Noise(records, images)
    rows, notes = image_baselines(source, records[3:], "same", "houses", "test")
    assert not notes
    close, threshold = rows
    assert close.name == "nearest pair"
    assert close.job.predictions == {"x": "a road is built", "y": "no change"}
    assert close.job.references == {"x": ["a villa appears"], "y": ["nothing"]}
    assert threshold.name == "pixel diff."
    assert threshold.job.predictions == {"x": "houses", "y": "same"}
    assert "from train" in threshold.legend


def test_what_cannot_be_had_is_said() -> None:
    records = [record("t", "train", "a house", None), record("x", "test", "a villa", None)]
    source = Noise(records, {"t": (1, 2), "x": (3, 4)})
    rows, notes = image_baselines(source, records[1:], "same", "houses", "test")
    assert [row.name for row in rows] == ["nearest pair"]
    assert "pixel diff. is absent" in notes[0]
    assert image_baselines(source, records[:1], "same", "houses", "train") == (
        [], ["nearest pair and pixel diff. are absent: they need another split 'train', and they learn from it"],
    )  # fmt: skip
    assert (
        "there is no such split"
        in image_baselines(Noise(records[1:], {"x": (3, 4)}), records[1:], "", "", "test")[1][0]
    )


def test_on_real_pairs(shared_data: Path) -> None:
    source = open_source(f"levir-cc:{shared_data / 'levir_cc'}")
    pairs = source.select("val")
    rows, notes = image_baselines(source, pairs, "same", "houses", "val")
    assert not notes
    assert [row.name for row in rows] == ["nearest pair", "pixel diff."]
    train = {pair.captions[0] for pair in source.select("train")}
    assert set(rows[0].job.predictions.values()) <= train
