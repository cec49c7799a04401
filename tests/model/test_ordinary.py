"""What any transformers model can do: adapters, merging, 4 bits, checkpointing, compiling, beams, ragged batches."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from rsiccllm.model.generate import left_padded
from rsiccllm.model.processor import load_processor
from rsiccllm.model.vlm import load_model
from rsiccllm.training.learning import load_to_train, merged
from rsiccllm.training.packing import PackingCollator, Sample
from rsiccllm.training.recipe import SFTRecipe

FAMILIES = ["qwen2_5_vl", "qwen3_vl"]
FIELDS = ("input_ids", "position_ids", "attention_mask", "mm_token_type_ids", "pixel_values", "image_grid_thw")


def picture(seed: int, height: int = 56, width: int = 56) -> Image.Image:
    generator = torch.Generator().manual_seed(seed)
    return Image.fromarray(torch.randint(0, 255, (height, width, 3), dtype=torch.uint8, generator=generator).numpy())


def packed(folder: Path) -> dict[str, Any]:
    samples = [
        Sample("a", [picture(0), picture(1)], "what changed?", ["a house", "a house is built"]),
        Sample("b", [picture(2, 56, 84), picture(3, 56, 84)], "what changed?", ["a house is built in the corner"]),
    ]
    return PackingCollator(load_processor(folder))(samples)


def inputs_of(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: batch[name] for name in (*FIELDS, "predict_at")}


def recipe_for(folder: Path, **fields: Any) -> SFTRecipe:
    return SFTRecipe(model=str(folder), data=folder, out=folder / "out", learning_rate=1e-3, lora_rank=4, **fields)


def moved(model: Any) -> Any:
    """Everything that learns moved off its start, where adapters and the difference path say nothing."""
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight += 0.1 * torch.randn_like(weight)
    return model.eval()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("use_dora", [False, True])
def test_an_adapter_that_loads_changes_the_output_and_merges(
    tiny_checkpoints: dict[str, Path], tmp_path: Path, family: str, use_dora: bool
) -> None:
    from peft import PeftModel

    folder = tiny_checkpoints[family]
    inputs = inputs_of(packed(folder))
    torch.manual_seed(0)
    recipe = recipe_for(folder, use_dora=use_dora)
    model = moved(load_to_train(str(folder), recipe, "ours"))
    learns = {name.replace("modules_to_save.default.", "") for name, w in model.named_parameters() if w.requires_grad}
    whole = {name for name, _ in load_model(folder, "ours").model.difference.named_parameters()}
    assert {name for name in whole if f"base_model.model.model.difference.{name}" in learns} == whole
    assert any("lora_magnitude_vector" in name for name in learns) is use_dora
    with torch.no_grad():
        base = load_model(folder, "ours").eval()(**inputs).logits
        memory = model(**inputs).logits
        assert (memory - base).abs().max() > 0.01
        model.save_pretrained(tmp_path / "adapter")
        again = PeftModel.from_pretrained(load_model(folder, "ours"), tmp_path / "adapter").eval()
        torch.testing.assert_close(again(**inputs).logits, memory, atol=1e-6, rtol=0)
        # The language model's part alone matters too, not only the difference path that is saved beside it.
        start = load_model(folder, "ours")
        start.model.difference.load_state_dict(
            again.base_model.model.model.difference.modules_to_save["default"].state_dict()
        )
        assert (start.eval()(**inputs).logits - memory).abs().max() > 0.01
        plain = merged(model, recipe)
        assert not hasattr(plain, "peft_config") or not any("lora_" in name for name, _ in plain.named_parameters())
        torch.testing.assert_close(plain(**inputs).logits, memory, atol=2e-5, rtol=0)
        plain.save_pretrained(tmp_path / "merged")
        torch.testing.assert_close(load_model(tmp_path / "merged").eval()(**inputs).logits, memory, atol=2e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_over_a_four_bit_base(tiny_checkpoints: dict[str, Path], tmp_path: Path, family: str) -> None:
    pytest.importorskip("bitsandbytes")
    folder = tmp_path / "base"
    shutil.copytree(tiny_checkpoints[family], folder)
    batch = packed(folder)
    inputs = inputs_of(batch)
    torch.manual_seed(0)
    recipe = recipe_for(folder, load_in_4bit=True)
    model = load_to_train(str(folder), recipe, "ours")
    held = dict(model.named_parameters())
    layer = "base_model.model.model.language_model.layers.0.mlp.up_proj.base_layer.weight"
    assert held[layer].dtype is torch.uint8
    others = [name for name in held if ".visual." in name or ".difference." in name or "lora_" in name]
    assert others
    assert all(held[name].dtype is torch.float32 for name in others)
    optimizer = torch.optim.AdamW([weight for weight in held.values() if weight.requires_grad], lr=1e-2)
    losses = []
    for _ in range(6):
        loss = torch.nn.functional.cross_entropy(model(**inputs).logits, batch["labels"])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.1
    plain = merged(model, recipe).eval()
    assert all(weight.dtype is torch.float32 for weight in plain.parameters())
    with torch.no_grad():
        after = torch.nn.functional.cross_entropy(plain(**inputs).logits, batch["labels"])
    # What was learnt over the 4-bit base holds over the base that it was rounded from.
    assert float(after) < losses[0] - 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_checkpointing_gives_the_same_gradients(tiny_checkpoints: dict[str, Path], family: str) -> None:
    batch = packed(tiny_checkpoints[family])
    gradients = []
    for checkpointed in (False, True):
        torch.manual_seed(0)
        model = moved(load_to_train(str(tiny_checkpoints[family]), recipe_for(tiny_checkpoints[family]), "ours"))
        if checkpointed:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.train()
        torch.nn.functional.cross_entropy(model(**inputs_of(batch)).logits, batch["labels"]).backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], expected, atol=1e-6, rtol=1e-4, msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_beams_and_ragged_prompts_with_and_without_cache(tiny_checkpoints: dict[str, Path], family: str) -> None:
    """Beam search over a batch of two image sizes equals each prompt alone; greedy is the likeliest beam of one."""
    processor = load_processor(tiny_checkpoints[family])
    torch.manual_seed(3)
    model = load_model(tiny_checkpoints[family], "ours").eval()
    torch.nn.init.normal_(model.model.difference.out.weight, std=0.3)
    # An untrained model repeats its last token; a head of its own makes answers that differ.
    model.lm_head.weight = torch.nn.Parameter(0.3 * torch.randn(model.lm_head.weight.shape))
    prompts = [
        processor.encode_prompt("what changed?", [picture(0), picture(1)]),
        processor.encode_prompt("what changed?", [picture(2, 56, 112), picture(3, 56, 112)]),
    ]
    settings = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": -1, "num_beams": 3}

    def answers(chosen: list[Any], **options: Any) -> list[list[int]]:
        batch = left_padded(processor, chosen)
        return model.generate(**batch, **{**settings, **options})[:, batch["input_ids"].shape[1] :].tolist()

    with torch.no_grad():
        together = answers(prompts)
        assert together == answers(prompts, use_cache=False)
        assert together == [answers([prompt])[0] for prompt in prompts]
        assert answers(prompts, num_beams=1) == [answers([prompt], num_beams=1)[0] for prompt in prompts]
        assert together[0] != together[1]


@pytest.fixture
def compiler() -> Iterator[None]:
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("torch.compile on CPU needs a C++ compiler")
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def test_a_compiled_layer_equals_eager(tiny_checkpoints: dict[str, Path], compiler: None) -> None:
    """Layer by layer, as `torch.compile` is used on large models."""
    folder = tiny_checkpoints["qwen2_5_vl"]
    inputs = inputs_of(packed(folder))
    model = moved(load_model(folder, "ours"))
    with torch.no_grad():
        expected = model(**inputs).logits
        model.model.language_model.layers[0].compile()
        torch.testing.assert_close(model(**inputs).logits, expected, atol=1e-4, rtol=0)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_compiled_model_equals_eager(tiny_checkpoints: dict[str, Path], compiler: None, family: str) -> None:
    folder = tiny_checkpoints[family]
    batch = packed(folder)
    model = moved(load_model(folder, "ours"))
    found = []
    for way in (model, torch.compile(model, dynamic=False)):
        logits = way(**inputs_of(batch)).logits
        torch.nn.functional.cross_entropy(logits, batch["labels"]).backward()
        found.append((logits.detach(), {n: w.grad.clone() for n, w in model.named_parameters() if w.grad is not None}))
        model.zero_grad()
    torch.testing.assert_close(found[1][0], found[0][0], atol=1e-4, rtol=0)
    for name, expected in found[0][1].items():
        torch.testing.assert_close(
            found[1][1][name], expected, atol=1e-4, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}"
        )
