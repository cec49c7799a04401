"""The stage that trains the difference path alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers import sample

from rsiccllm.errors import InputError
from rsiccllm.model.checkpoint import save_model
from rsiccllm.model.processor import load_processor
from rsiccllm.model.vlm import load_model
from rsiccllm.records import Instruction
from rsiccllm.rsici.build import build_rsici
from rsiccllm.training.difference import ImageCollator, _one_a_pair, train_difference
from rsiccllm.training.packing import PackingCollator, Sample
from rsiccllm.training.recipe import DifferenceRecipe


def test_a_batch_holds_what_a_packed_one_does(tiny_checkpoints: dict[str, Path]) -> None:
    processor = load_processor(tiny_checkpoints["qwen2_5_vl"])
    samples: list[Sample] = [sample(0, 1), sample(1, 1, 56, 84)]
    samples[0].facts, samples[1].mask = [("road", "appear")], None
    ours, packed = ImageCollator(processor)(samples), PackingCollator(processor)(samples)
    for name in ("pixel_values", "image_grid_thw"):
        assert ours[name].equal(packed[name])
    for name in ("map_targets", "fact_targets"):
        for one, other in zip(ours[name], packed[name], strict=True):
            assert one is other is None or one.equal(other)
    assert ours["map_targets"][1] is ours["fact_targets"][1] is None


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_only_the_difference_path_learns(tiny_checkpoints: dict[str, Path], tmp_path: Path, family: str) -> None:
    build_rsici(["scenes:20,seed=7,size=64,easy=1"], tmp_path / "data")
    recipe = DifferenceRecipe(
        model=str(tiny_checkpoints[family]), data=tmp_path / "data", out=tmp_path / "out", max_steps=12, batch_size=4,
        learning_rate=3e-3, warmup_steps=0, log_steps=4,
    )  # fmt: skip
    folder = train_difference(recipe)
    log = [json.loads(line) for line in (recipe.out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert log[2]["map_loss"] < log[0]["map_loss"]
    start, end = load_model(tiny_checkpoints[family]).state_dict(), load_model(folder)
    assert end.config.difference["variant"] == "ours"
    assert end.config.provenance["stage"] == "difference"
    assert end.config.provenance["seen"] == ["scenes/train"]
    assert all(value.equal(end.state_dict()[name]) for name, value in start.items())
    # The projection to the language model is not used here, and stays at its zero start.
    assert not end.model.difference.out.weight.any()


def test_images_alone_give_maps_and_no_logits(tiny_checkpoints: dict[str, Path]) -> None:
    processor = load_processor(tiny_checkpoints["qwen2_5_vl"])
    model = load_model(tiny_checkpoints["qwen2_5_vl"], "ours").eval()
    samples = [sample(0, 1)]
    packed = PackingCollator(processor)(samples)
    batch = ImageCollator(processor)(samples)
    with torch.inference_mode():
        alone = model(pixel_values=batch["pixel_values"], image_grid_thw=batch["image_grid_thw"])
        names = ("input_ids", "position_ids", "attention_mask", "mm_token_type_ids", "pixel_values", "image_grid_thw")
        whole = model(**{name: packed[name] for name in names}, predict_at=packed["predict_at"])
    assert alone.logits is None
    assert alone.maps[0].equal(whole.maps[0])


def test_of_a_pairs_records_the_one_that_tells_what_changed_is_taken() -> None:
    common = {"pair": "0", "source": "x", "before": "a.png", "after": "b.png", "prompt": "?"}
    told = Instruction(id="0", task="caption", answers=["a house is built"], teacher="people", **common)
    mute = Instruction(id="1", task="dialogue", answers=["Yes."], teacher="rules", **common)
    assert _one_a_pair([told, mute]) == _one_a_pair([mute, told]) == [told]
    assert _one_a_pair([mute]) == [mute]


def test_a_loss_that_is_no_number_ends_the_run(tiny_checkpoints: dict[str, Path], tmp_path: Path) -> None:
    build_rsici(["scenes:10,seed=7,size=64,easy=1"], tmp_path / "data")
    broken = load_model(tiny_checkpoints["qwen2_5_vl"], "ours")
    with torch.no_grad():
        broken.model.difference.classes.bias.fill_(float("nan"))
    save_model(broken, load_processor(tiny_checkpoints["qwen2_5_vl"]), tmp_path / "broken")
    recipe = DifferenceRecipe(model=str(tmp_path / "broken"), data=tmp_path / "data", out=tmp_path / "out", max_steps=3,
                              batch_size=4, learning_rate=1e-3, log_steps=1)  # fmt: skip
    with pytest.raises(InputError, match=r"at update 1 .*loss.* is no number any more"):
        train_difference(recipe)
    assert not (tmp_path / "out" / "model").exists()
