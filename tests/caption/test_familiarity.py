"""Familiarity: distances by hand, scipy beside ours, and the model in the package on imagery unlike its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file
from scipy.spatial.distance import mahalanobis

from rsiccllm.caption.captioner import Captioner
from rsiccllm.caption.familiarity import FILE, SHRINK, Familiarity, fit, load_familiarity, write_familiarity
from rsiccllm.errors import InputError
from rsiccllm.pairs import OpenedPair
from rsiccllm.sources.scenes import ScenesSource
from rsiccllm.training.nuisance import disturb


def test_by_hand() -> None:
    """The second date is the stranger: (3 - 1) / 2 = 1 and (4 - 0) / 1 = 4 scaled; half of 1, and 16."""
    found = Familiarity(np.array([1.0, 0.0]), np.array([2.0, 1.0]), np.diag([0.5, 1.0]), usual=5.5)
    look = np.array([[1.0, 0.0], [3.0, 4.0]], np.float32)
    assert found.distance(look) == pytest.approx(0.5 * 1 + 1 * 16)
    assert found.of(look) == pytest.approx(5.5 / (5.5 + 16.5))
    assert found.of(look[:1]) == 1
    assert found.distance(look[::-1]) == found.distance(look), "either order of the dates"


def test_fitted_is_scipys_distance_and_a_half_is_usual() -> None:
    rng = np.random.default_rng(3)
    mixing = rng.normal(size=(4, 4))
    looks = [(rng.normal(size=(2, 4)) @ mixing + 7).astype(np.float32) for _ in range(2000)]
    found = fit(looks)
    images = np.concatenate(looks[::2]).astype(np.float64)
    spread = images.std(0) + 1e-6
    inverse = np.linalg.inv(np.cov((images / spread).T) + SHRINK * np.eye(4))
    one = looks[1]
    theirs = max(mahalanobis(date / spread, images.mean(0) / spread, inverse) for date in one) ** 2
    assert found.distance(one) == pytest.approx(theirs, rel=1e-6)
    assert np.median([found.of(look) for look in looks]) == pytest.approx(0.5, abs=0.02)
    assert found.of(one + 100) < 0.01
    with pytest.raises(InputError, match="19 pairs, expected at least 20"):
        fit(looks[:19])


def test_written_and_read(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    looks = [rng.normal(size=(2, 3)).astype(np.float32) for _ in range(40)]
    made = fit(looks)
    assert load_familiarity(tmp_path) is None
    write_familiarity(tmp_path, made)
    read = load_familiarity(tmp_path)
    assert read is not None
    assert [read.of(look) for look in looks] == pytest.approx([made.of(look) for look in looks], rel=1e-4)
    held = load_file(tmp_path / FILE)
    for broken, told in (
        ({**held, "inverse": held["inverse"][:2]}, r"field 'inverse'.*\[3, 3\]"),
        ({**held, "usual": np.float32([np.nan])}, "field 'usual'"),
        ({**held, "usual": np.float32([0])}, "over 0"),
        ({name: value for name, value in held.items() if name != "mean"}, "field 'mean'"),
    ):
        save_file(broken, tmp_path / FILE)
        with pytest.raises(InputError, match=told):
            load_familiarity(tmp_path)
    (tmp_path / FILE).write_bytes(b"not a file of tensors")
    with pytest.raises(InputError, match="not readable"):
        load_familiarity(tmp_path)


def test_the_model_in_the_package_knows_its_own_imagery() -> None:
    """Scenes are as usual; noise and stripes are nothing it has seen, and scenes that drift far cost confidence."""
    captioner = Captioner.load()
    source = ScenesSource(12, seed=4715, size=224)
    scenes = [source.open(pair) for pair in source.pairs]
    own = list(captioner.caption_all(scenes))
    rng = np.random.default_rng(0)
    noise = [Image.fromarray(rng.integers(0, 256, (224, 224, 3), np.uint8)) for _ in range(2)]
    stripes = Image.fromarray(np.tile(np.uint8([[[0]], [[255]]]), (112, 224, 3)))
    strange = [captioner.caption(*pair, candidates=1) for pair in (noise, (stripes, stripes))]
    assert min(one.familiarity or 0 for one in own) > 3 * max(one.familiarity or 1 for one in strange)
    assert own[0].to_dict()["familiarity"] == pytest.approx(own[0].familiarity, abs=1e-4)
    far = [OpenedPair(*(disturb(date, rng, 5.0) for date in pair[:2]), None) for pair in scenes]
    drifted = list(captioner.caption_all(far))
    for field in ("familiarity", "confidence"):
        near, away = (np.mean([getattr(one, field) for one in some]) for some in (own, drifted))
        assert away < near - 0.15, field
