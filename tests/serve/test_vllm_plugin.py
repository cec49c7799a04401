"""The plugin for vLLM against a stub, where vLLM is not installed (test_vllm_engine.py is for where it is): the
registration, the mapping of weights, the settings refused, and that embeddings are those of our own model."""

from __future__ import annotations

import importlib
import sys
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rsiccllm.model.processor import load_processor
from rsiccllm.model.vlm import load_model

REGISTERED: dict[str, str] = {}


class WeightsMapper:
    def __init__(self, orig_to_new_prefix: dict[str, str]) -> None:
        self.orig_to_new_prefix = orig_to_new_prefix

    def name(self, key: str) -> str:
        for old, new in self.orig_to_new_prefix.items():
            if key.startswith(old):
                key = key.replace(old, new, 1)
        return key


class Base(torch.nn.Module):
    """In place of vLLM's Qwen2.5-VL: the images' features come from our model's own tower."""

    hf_to_vllm_mapper = WeightsMapper(
        {"model.language_model.": "language_model.model.", "model.visual.": "visual.",
         "lm_head.": "language_model.lm_head.", "model.": "language_model.model."}
    )  # fmt: skip

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__()
        self.config = vllm_config.model_config.hf_config
        self.tower = vllm_config.tower

    def _process_image_input(self, image_input: dict[str, Any]) -> tuple[torch.Tensor, ...]:
        return tuple(self.tower(image_input["pixel_values"], image_input["image_grid_thw"]).pooler_output)


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Any:
    """rsiccllm.serve.vllm_model over the stub."""
    names = ("Qwen2_5_VLDummyInputsBuilder", "Qwen2_5_VLMultiModalProcessor", "Qwen2_5_VLProcessingInfo")
    bases: dict[str, Any] = {name: type(name, (), {}) for name in names}
    registry = SimpleNamespace(register_model=lambda name, path: REGISTERED.update({name: path}))
    parts: dict[str, dict[str, Any]] = {
        "vllm": {"ModelRegistry": registry},
        "vllm.config": {"VllmConfig": object},
        "vllm.model_executor": {},
        "vllm.model_executor.models": {},
        "vllm.model_executor.models.qwen2_5_vl": {
            "Qwen2_5_VLForConditionalGeneration": Base, **bases
        },
        "vllm.model_executor.models.qwen3_vl": {"Qwen3VLForConditionalGeneration": Base},
        "vllm.model_executor.models.utils": {"WeightsMapper": WeightsMapper},
        "vllm.multimodal": {
            "MULTIMODAL_REGISTRY": SimpleNamespace(register_processor=lambda *_, **__: lambda found: found)
        },
    }  # fmt: skip
    for name, held in parts.items():
        module = ModuleType(name)
        module.__dict__.update(held)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "rsiccllm.serve.vllm_model", raising=False)
    yield importlib.import_module("rsiccllm.serve.vllm_model")
    sys.modules.pop("rsiccllm.serve.vllm_model", None)


def config_of(model: Any, **changed: Any) -> Any:
    settings = {"prefix": False, "cache": 0, "chunked": False, **changed}
    return SimpleNamespace(
        tower=model.model.tower_features,
        cache_config=SimpleNamespace(enable_prefix_caching=settings["prefix"]),
        scheduler_config=SimpleNamespace(enable_chunked_prefill=settings["chunked"]),
        model_config=SimpleNamespace(
            hf_config=model.config, multimodal_config=SimpleNamespace(mm_processor_cache_gb=settings["cache"])
        ),
    )


def test_the_entry_point_registers_a_class_that_is_there(plugin: Any) -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, function = project["entry-points"]["vllm.general_plugins"]["rsiccllm"].split(":")
    getattr(importlib.import_module(module), function)()
    for model in ("PairQwen2_5_VL", "PairQwen3VL"):
        path, name = REGISTERED[model].split(":")
        assert getattr(importlib.import_module(path), name) is getattr(plugin, f"Vllm{model}")


def test_embeddings_are_those_of_our_model(plugin: Any, mapping_checkpoint: Path) -> None:
    model = load_model(mapping_checkpoint).eval()
    processor = load_processor(mapping_checkpoint)
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (56, 56, 3), dtype=np.uint8)) for _ in range(4)]
    given = processor.image_processor(images, return_tensors="pt")
    served = plugin.VllmPairQwen2_5_VL(vllm_config=config_of(model))
    assert served.hf_to_vllm_mapper.name("model.difference.out.weight") == "difference.out.weight"
    assert served.hf_to_vllm_mapper.name("model.language_model.norm.weight") == "language_model.model.norm.weight"
    named = {
        name.removeprefix("model."): weight for name, weight in model.state_dict().items() if ".difference." in name
    }
    served.load_state_dict(named)  # every weight of the difference has its place there, and no other is wanted
    with torch.inference_mode():
        found = served._process_image_input({"type": "pixel_values", **given})
        truth = model.model.get_image_features(**given).pooler_output
        for one, other in zip(found, truth, strict=True):
            torch.testing.assert_close(one, other)
        alone = model.model.tower_features(**given).pooler_output
        assert not torch.equal(found[1], alone[1])
        three = {"pixel_values": given["pixel_values"][: -(len(given["pixel_values"]) // 4)],
                 "image_grid_thw": given["image_grid_thw"][:3]}  # fmt: skip
        with pytest.raises(ValueError, match="in pairs"):
            served._process_image_input({"type": "pixel_values", **three})


def test_settings_that_tear_pairs_apart_are_refused(plugin: Any, mapping_checkpoint: Path) -> None:
    model = load_model(mapping_checkpoint)
    for changed, flag in (
        ({"prefix": True}, "--no-enable-prefix-caching"),
        ({"cache": 4}, "--mm-processor-cache-gb 0"),
        ({"chunked": True}, "--no-enable-chunked-prefill"),
    ):
        with pytest.raises(ValueError, match=flag):
            plugin.VllmPairQwen2_5_VL(vllm_config=config_of(model, **changed))
