"""The captioner with other people's families: real classes of transformers at small size, random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from families import save_family
from rsiccllm.caption.captioner import Captioner
from rsiccllm.caption.other import OtherCaptioner
from rsiccllm.cli import app
from rsiccllm.model.stock import VisionLanguageModel
from rsiccllm.pairs import OpenedPair
from rsiccllm.rsici.prompts import PROMPTS


def image(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (56, 56, 3), dtype=np.uint8))


@pytest.fixture(scope="module", params=["internvl", "llava_onevision"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    save_family(request.param, folder)
    return folder


def test_it_says_what_the_model_says(checkpoint: Path) -> None:
    captioner = Captioner.load(checkpoint)
    assert isinstance(captioner, OtherCaptioner)
    pairs = [(image(1), image(2)), (image(3), image(4)), (image(5), image(6))]
    found = captioner.caption([a for a, _ in pairs], [b for _, b in pairs])
    plain = VisionLanguageModel.load(str(checkpoint))
    alone = [plain.answers([(pair, PROMPTS["caption"])], 8)[0] for pair in pairs]
    assert [one.caption for one in found] == alone
    assert len(set(alone)) > 1, "answers shall depend on the images"
    for one in found:
        assert one.confidence is None  # not calibrated
        assert one.probability is not None
        assert 0 < one.probability <= 1
        assert one.change_map is None
        assert one.boxes == []


def test_samples_follow_their_seed(checkpoint: Path) -> None:
    captioner = Captioner.load(checkpoint)
    first, second = ([captioner.encode(OpenedPair(image(a), image(a + 1), None), "what changed?")] for a in (1, 3))
    one = captioner.draw(first, [7], 3, 6)
    both = captioner.draw([*second, *first], [9, 7], 3, 6)
    assert both[1] == one[0]


def test_the_command_says_that_it_is_not_calibrated(checkpoint: Path, tmp_path: Path) -> None:
    for name, seed in (("a.png", 1), ("b.png", 2)):
        image(seed).save(tmp_path / name)
    result = CliRunner().invoke(
        app, ["caption", str(tmp_path / "a.png"), str(tmp_path / "b.png"), "--model", str(checkpoint), "--json"]
    )
    assert result.exit_code == 0, result.output
    assert '"confidence": null' in result.stdout
    assert "not calibrated: its captions come without a confidence" in result.stderr
