"""The difference path reads layers within the vision tower, and forgives ground that lies a cell off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rsiccllm.errors import InputError
from rsiccllm.model.checkpoint import save_model
from rsiccllm.model.difference import Comparison, _aligned
from rsiccllm.model.processor import load_processor
from rsiccllm.model.vlm import load_model

FAMILIES = ("qwen2_5_vl", "qwen3_vl")


def deep(checkpoint: Path, folder: Path, depths: list[int]) -> Path:
    """A copy of a plain checkpoint that asks for layers of the tower."""
    torch.manual_seed(0)
    made = load_model(checkpoint, "ours", settings={"depths": depths})
    save_model(made, load_processor(checkpoint), folder)
    return folder


def images(sizes: list[tuple[int, int]], processor: Any) -> dict[str, torch.Tensor]:
    random = np.random.default_rng(0)
    drawn = [Image.fromarray(random.integers(0, 256, (*size, 3), np.uint8)) for size in sizes for _ in range(2)]
    return dict(processor.image_processor(images=drawn, return_tensors="pt"))


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_come_in_reading_order(tiny_checkpoints: dict[str, Path], tmp_path: Path, family: str) -> None:
    model = load_model(deep(tiny_checkpoints[family], tmp_path / "deep", [0, 1])).eval()
    # 9 x 5 tokens: windows of 4 x 4 tokens do not divide them.
    given = images([(252, 140), (112, 140)], load_processor(tiny_checkpoints[family]))
    body = model.model
    with torch.no_grad():
        encoded = body.tower_features(given["pixel_values"], given["image_grid_thw"])
        # What the tower's end says is the merger of its last layer: so the last layer's tokens are known in order.
        last = encoded.last_hidden_state.unflatten(0, (-1, 4))
        tokens = body.visual.merger(encoded.last_hidden_state)
    joined = torch.cat(list(encoded.pooler_output))
    order = [int((tokens - row).abs().sum(1).argmin()) for row in joined]
    assert sorted(order) == list(range(len(joined)))
    torch.testing.assert_close(torch.cat(encoded.within[1]), last.mean(1)[order], atol=1e-6, rtol=0)
    assert not torch.cat(encoded.within[0]).allclose(torch.cat(encoded.within[1]))
    assert [len(one) for one in encoded.within[0]] == [45, 45, 20, 20]


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_count_and_come_back_from_disk(tiny_checkpoints: dict[str, Path], tmp_path: Path, family: str) -> None:
    processor = load_processor(tiny_checkpoints[family])
    model = load_model(deep(tiny_checkpoints[family], tmp_path / "deep", [0])).eval()
    given = images([(84, 84)], processor)

    def seen(model: Any) -> torch.Tensor:
        with torch.no_grad():
            return model(**given).maps[0]

    before = seen(model)
    with torch.no_grad():
        model.model.difference.within[0].layer.weight.mul_(50)
    after = seen(model)
    assert not after.allclose(before, atol=1e-3)
    save_model(model, processor, tmp_path / "saved")
    torch.testing.assert_close(seen(load_model(tmp_path / "saved").eval()), after)


def test_a_layer_that_is_not_there(tiny_checkpoints: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"difference.depths: \[0, 7\]; expected layers of the vision tower, 0 to 1"):
        load_model(deep(tiny_checkpoints["qwen2_5_vl"], tmp_path / "deep", [0, 7]))


def test_alignment_by_hand() -> None:
    one, two = torch.zeros(1, 1, 1, 3), torch.zeros(1, 1, 1, 3)
    one[..., 0], two[..., 1] = 2.0, 2.0  # what lay in the left cell lies in the middle
    # Around the middle, of 9 cells (rows repeat at the border) 3 hold 2, at distance 0, and 6 hold 0, at distance 4.
    share = 3 / (3 + 6 * np.exp(-4))
    assert _aligned(one, two, torch.tensor(1.0))[0, 0, 0, 1].item() == pytest.approx(2 * share, rel=1e-6)
    sharp = _aligned(one, two, torch.tensor(50.0))
    torch.testing.assert_close(sharp[..., 1], two[..., 1])


def test_a_shift_of_a_cell_is_no_change() -> None:
    torch.manual_seed(0)
    ground = torch.randn(1, 8, 20, 22)
    forgiving, strict = Comparison(8, True), Comparison(8, False)
    seen = []
    forgiving.sharpness.data.fill_(3.0)
    for comparison in (forgiving, strict):
        # Only what came is read, as it is.
        comparison.layer.weight.data.zero_()
        assert comparison.layer.bias is not None
        comparison.layer.bias.data.zero_()
        comparison.layer.weight.data[:, 16:24, 0, 0] = torch.eye(8)
        came = comparison(torch.cat([ground[..., :-2], ground[..., 1:-1]]))
        seen.append(came.detach()[..., 1:-1, 1:-1].abs().mean().item())
    assert seen[0] < 0.01 * seen[1]


def test_a_fresh_path_begins_the_same_whatever_was_in_memory(tiny_checkpoints: dict[str, Path]) -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(load_model(tiny_checkpoints["qwen2_5_vl"], "ours").state_dict())
        torch.full((2_000_000,), float("nan"))  # what the next one may find in its memory
    assert all(states[0][name].equal(value) for name, value in states[1].items())
    assert states[0]["model.difference.compare.0.sharpness"] == 0
