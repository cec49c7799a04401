from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rsiccllm.model.difference import ChangeMap, map_loss, place_code, unpatch
from rsiccllm.model.processor import load_processor


def test_unpatch_undoes_the_processor(tiny_checkpoints: dict[str, Path]) -> None:
    processor = load_processor(tiny_checkpoints["qwen2_5_vl"])
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 255, (112, 140, 3), dtype=np.uint8))
    pixels = processor.encode_prompt("what?", [picture])["pixel_values"]
    found = unpatch(pixels[None], 4, 5, 2, 14)[0]
    images = processor.image_processor
    expected = (np.asarray(picture) / 255 - images.image_mean) / images.image_std
    np.testing.assert_allclose(found.permute(1, 2, 0), expected, atol=1e-5)


def test_a_place_has_one_code_at_any_grid() -> None:
    coarse, fine = (place_code(side, side, torch.device("cpu")) for side in (16, 48))
    torch.testing.assert_close(coarse[:, 2, 5], fine[:, 7, 16], atol=0.02, rtol=0)
    # The top left cell of an 8 x 8 grid lies on the first anchor, its neighbour one anchor's distance from it.
    code = place_code(8, 8, torch.device("cpu"))
    assert float(code[0, 0, 0] - code[0, 0, 1]) == pytest.approx(4 * (1 - np.exp(-0.5)))
    torch.testing.assert_close(code.mean((1, 2)), torch.zeros(64), atol=1e-5, rtol=0)


def test_map_loss_by_hand() -> None:
    # Logit 0 is a chance of 1/2: -log(1/2) whatever the target; the pair without a mask does not count.
    maps = [torch.zeros(1, 2), torch.full((2, 2), 9.0)]
    assert float(map_loss(maps, [torch.tensor([[1.0, 0.25]]), None])) == pytest.approx(np.log(2))
    unsupervised = map_loss([maps[1].requires_grad_()], [None])
    unsupervised.backward()
    assert float(unsupervised.detach()) == 0
    assert maps[1].grad is not None
    assert not maps[1].grad.any()


def test_pairs_of_other_sizes_in_one_batch_are_each_treated_alone() -> None:
    torch.manual_seed(0)
    module = ChangeMap(tokens=8, merge=2, patch=4, width=32)
    torch.nn.init.normal_(module.out.weight)
    grids = [(2, 3), (2, 3), (4, 2), (4, 2), (2, 3), (2, 3)]
    features = [torch.randn(rows * cols, 8) for rows, cols in grids]
    pixels = torch.randn(sum(rows * cols * 4 for rows, cols in grids), 3 * 2 * 16)
    together = module.enhance(features, pixels, grids)
    starts = np.cumsum([0, *(rows * cols * 4 for rows, cols in grids)])
    for pair in range(3):
        at = slice(2 * pair, 2 * pair + 2)
        alone = module.enhance(features[at], pixels[starts[2 * pair] : starts[2 * pair + 2]], grids[at])
        torch.testing.assert_close(together.features[2 * pair + 1], alone.features[1])
        torch.testing.assert_close(together.maps[pair], alone.maps[0])
        assert together.features[2 * pair].equal(features[2 * pair])
        rows, cols = grids[2 * pair]
        assert together.maps[pair].shape == (2 * rows, 2 * cols)
