from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from rsiccllm.errors import InputError
from rsiccllm.model.checkpoint import save_model
from rsiccllm.model.processor import PairProcessor, load_processor
from rsiccllm.model.variants import VARIANTS, Variant
from rsiccllm.model.vlm import OLDEST, PairQwen2_5_VL, load_model, refuse_old

FAMILIES = ["qwen2_5_vl", "qwen3_vl"]


def prompt_batch(processor: PairProcessor, images: int = 2) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 255, (84, 112, 3), dtype=np.uint8)) for _ in range(images)]
    encoded = processor.encode_prompt("what changed?", pictures)
    batch = {
        name: value[None] if name in {"input_ids", "mm_token_type_ids"} else value for name, value in encoded.items()
    }
    return {**batch, "attention_mask": torch.ones_like(batch["input_ids"])}


def test_a_transformers_that_drops_images_is_refused() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"transformers>={OLDEST}" in project["dependencies"]
    refuse_old("5.19.0")
    refuse_old("6.0.0.dev0")
    with pytest.raises(InputError, match=r"transformers 5\.17\.0: expected 5\.19 or newer"):
        refuse_old("5.17.0")


@pytest.mark.parametrize("family", FAMILIES)
def test_difference_starts_as_the_base_model_bit_for_bit(tiny_checkpoints: dict[str, Path], family: str) -> None:
    batch = prompt_batch(load_processor(tiny_checkpoints[family]))
    plain, *others = (load_model(tiny_checkpoints[family], variant) for variant in VARIANTS)
    with torch.inference_mode():
        assert len(others) == 5
        for other in others:
            assert plain(**batch).logits.equal(other(**batch).logits)
        stock = AutoModelForImageTextToText.from_pretrained(tiny_checkpoints[family])
        torch.testing.assert_close(stock(**batch).logits, plain(**batch).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("family", "variant"), [("qwen2_5_vl", "ours"), ("qwen3_vl", "ours"), ("qwen2_5_vl", "paper")])
def test_save_and_load_keep_every_weight_and_generate_uses_the_difference(
    tiny_checkpoints: dict[str, Path], tmp_path: Path, family: str, variant: Variant
) -> None:
    model = load_model(tiny_checkpoints[family], variant)
    processor = load_processor(tiny_checkpoints[family])
    torch.manual_seed(1)
    torch.nn.init.normal_(model.model.difference.out.weight, std=1.0)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = load_model(tmp_path)
    assert model.state_dict().keys() == again.state_dict().keys()
    assert all(value.equal(again.state_dict()[name]) for name, value in model.state_dict().items())
    assert type(AutoModelForImageTextToText.from_pretrained(tmp_path)) is type(model)
    assert isinstance(AutoProcessor.from_pretrained(tmp_path), PairProcessor)

    batch = prompt_batch(processor)
    cut = load_model(tiny_checkpoints[family], "none")
    with torch.inference_mode():
        assert not torch.allclose(again(**batch).logits, cut(**batch).logits, atol=1e-3)
        for cache in (True, False):
            answer = again.generate(**batch, max_new_tokens=8, do_sample=False, use_cache=cache, eos_token_id=-1)
            ids = batch["input_ids"]
            for _ in range(8):
                extra = ids.shape[1] - batch["input_ids"].shape[1]
                types = torch.nn.functional.pad(batch["mm_token_type_ids"], (0, extra))
                step = {**batch, "input_ids": ids, "mm_token_type_ids": types, "attention_mask": torch.ones_like(ids)}
                ids = torch.cat([ids, again(**step).logits[:, -1].argmax(-1, keepdim=True)], 1)
            assert answer.equal(ids)


def test_images_that_are_no_pairs_are_refused(tiny_checkpoints: dict[str, Path]) -> None:
    processor = load_processor(tiny_checkpoints["qwen2_5_vl"])
    batch = prompt_batch(processor, images=3)
    with pytest.raises(ValueError, match="pairs of equal size"):
        load_model(tiny_checkpoints["qwen2_5_vl"], "ours")(**batch)
    load_model(tiny_checkpoints["qwen2_5_vl"], "none")(**batch)


def test_loading_what_is_no_model(tiny_checkpoints: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no model could be loaded"):
        load_model(tmp_path)
    with pytest.raises(InputError, match="no processor could be loaded"):
        load_processor(tmp_path)
    model = load_model(tiny_checkpoints["qwen2_5_vl"])
    assert isinstance(model, PairQwen2_5_VL)
    state = model.state_dict()
    state.pop("model.language_model.layers.0.mlp.up_proj.weight")
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(InputError, match="weights do not fit"):
        load_model(tmp_path)


def test_a_checkpoint_keeps_its_variant(tiny_checkpoints: dict[str, Path], tmp_path: Path) -> None:
    load_model(tiny_checkpoints["qwen2_5_vl"], "paper").save_pretrained(tmp_path)
    assert load_model(tmp_path).config.difference["variant"] == "paper"
    load_model(tmp_path, "paper")
    with pytest.raises(InputError, match="was trained with variant 'paper', expected 'ours'"):
        load_model(tmp_path, "ours")


def test_a_template_that_loses_images_is_told(tiny_checkpoints: dict[str, Path]) -> None:
    processor = load_processor(tiny_checkpoints["qwen2_5_vl"])
    processor.chat_template = "{% for message in messages %}{{ message['role'] }}{% endfor %}"
    with pytest.raises(InputError, match="left 0 image places, expected 2"):
        prompt_batch(processor)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_features_that_are_given_twice_have_no_difference_in_them(
    tiny_checkpoints: dict[str, Path], family: str
) -> None:
    processor = load_processor(tiny_checkpoints[family])
    model = load_model(tiny_checkpoints[family], "ours").eval()
    torch.nn.init.normal_(model.model.difference.out.weight)
    images = [Image.fromarray(np.random.default_rng(s).integers(0, 255, (56, 84, 3), np.uint8)) for s in (0, 1)]
    given = processor.image_processor(images=images, return_tensors="pt")
    body = model.model
    with torch.no_grad():
        held = body.tower_features(given["pixel_values"], given["image_grid_thw"])
        first, second = (
            body.get_image_features(given["pixel_values"], given["image_grid_thw"], held).pooler_output for _ in "12"
        )
    assert all(one.equal(other) for one, other in zip(first, second, strict=True))
    assert not first[1].equal(held.pooler_output[1])


def test_a_trained_difference_path_takes_no_new_parts(tiny_checkpoints: dict[str, Path], tmp_path: Path) -> None:
    base = tiny_checkpoints["qwen2_5_vl"]
    save_model(load_model(base, "ours"), load_processor(base), tmp_path / "ours")
    with pytest.raises(InputError, match=r"difference\.depths=its default, not \[0\]"):
        load_model(tmp_path / "ours", settings={"depths": [0]})
    weights = load_file(tmp_path / "ours" / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if "difference.classes" not in name}
    save_file(kept, tmp_path / "ours" / "model.safetensors", {"format": "pt"})
    (tmp_path / "ours" / "whole.json").unlink(missing_ok=True)
    with pytest.raises(InputError, match=r"the weights do not fit the model \(first: model\.difference\.classes"):
        load_model(tmp_path / "ours")
