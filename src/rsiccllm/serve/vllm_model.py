"""Our Qwen2.5-VL and Qwen3-VL as models of vLLM's: its own classes, whose image embeddings pass through the difference
path in pairs.

    vllm serve runs/dnpo --no-enable-prefix-caching --mm-processor-cache-gb 0 --no-enable-chunked-prefill \\
        --skip-mm-profiling

Without these vLLM may embed the second image of a pair alone, or take what it kept of it from another pair; an engine
that is set so does not start. Run with vLLM 0.29 and 0.32 (tests/serve/test_vllm_engine.py).
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.model_executor.models.qwen2_5_vl import (
    Qwen2_5_VLDummyInputsBuilder,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLMultiModalProcessor,
    Qwen2_5_VLProcessingInfo,
)
from vllm.model_executor.models.qwen3_vl import Qwen3VLForConditionalGeneration
from vllm.model_executor.models.utils import WeightsMapper
from vllm.multimodal import MULTIMODAL_REGISTRY

from rsiccllm.model.difference import ChangeMap, DifferencePath
from rsiccllm.model.fusion import Fusion
from rsiccllm.model.processor import PairProcessor


class PairInfo(Qwen2_5_VLProcessingInfo):
    """Of each prompt two images and no video: our checkpoints have no processor for videos."""

    def get_hf_config(self) -> Any:
        return self.ctx.get_hf_config()

    def get_hf_processor(self, **kwargs: object) -> PairProcessor:
        processor: PairProcessor = self.ctx.get_hf_processor(PairProcessor, **kwargs)
        return processor

    def get_supported_mm_limits(self) -> dict[str, int | None]:
        return {"image": 2}

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Any) -> dict[str, int]:
        return {"image": self.get_max_image_tokens()}


class PairDummies(Qwen2_5_VLDummyInputsBuilder):
    """Images to start with, none of them moving."""

    def get_dummy_mm_data(self, seq_len: int, mm_counts: Any, mm_options: Any) -> dict[str, Any]:
        width, height = self.info.get_image_size_with_most_features()
        count = mm_counts.get("image", 0)
        return {"image": self._get_dummy_images(width=width, height=height, num_images=count)}


class _Pairs:
    """Mixed in before a class of vLLM's."""

    # The difference reads the very pixels that the vision tower reads, so they come normalised.
    supports_mm_device_do_normalize = False

    config: Any

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        refuse_torn_pairs(vllm_config)
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        self.difference = difference_of(vllm_config.model_config.hf_config)

    def _process_image_input(self, image_input: Any) -> tuple[torch.Tensor, ...]:
        embedded: tuple[torch.Tensor, ...] = super()._process_image_input(image_input)  # type: ignore[misc]
        if self.difference is None:
            return embedded
        if image_input["type"] != "pixel_values":
            raise ValueError("the difference path needs pixels; image embeddings were sent")
        vision = self.config.vision_config
        merge, width = vision.spatial_merge_size, vision.out_hidden_size
        grids = [(rows // merge, cols // merge) for _, rows, cols in image_input["image_grid_thw"].tolist()]
        # Beside the features Qwen3-VL's tower gives those of its inner layers, which stay as they are.
        features = [one[:, :width] for one in embedded]
        enhanced = self.difference.enhance(features, image_input["pixel_values"], grids).features
        return tuple(torch.cat([new, old[:, width:]], 1) for new, old in zip(enhanced, embedded, strict=True))


def _with_difference(mapper: WeightsMapper) -> WeightsMapper:
    """Before vLLM's own rules, of which "model." would take the difference for a part of the language model."""
    return WeightsMapper(
        orig_to_new_prefix={"model.difference.": "difference.", **mapper.orig_to_new_prefix},
    )


@MULTIMODAL_REGISTRY.register_processor(Qwen2_5_VLMultiModalProcessor, info=PairInfo, dummy_inputs=PairDummies)
class VllmPairQwen2_5_VL(_Pairs, Qwen2_5_VLForConditionalGeneration):
    """Qwen2.5-VL that reads two images and their difference. Raises ValueError for settings that tear pairs apart."""

    hf_to_vllm_mapper = _with_difference(Qwen2_5_VLForConditionalGeneration.hf_to_vllm_mapper)


@MULTIMODAL_REGISTRY.register_processor(Qwen2_5_VLMultiModalProcessor, info=PairInfo, dummy_inputs=PairDummies)
class VllmPairQwen3VL(_Pairs, Qwen3VLForConditionalGeneration):
    """Qwen3-VL, likewise."""

    hf_to_vllm_mapper = _with_difference(Qwen3VLForConditionalGeneration.hf_to_vllm_mapper)


def difference_of(config: Any) -> DifferencePath | None:
    """The difference path that a configuration of ours names, its weights still to be loaded.

    Raises ValueError for one that reads the vision tower's layers, which vLLM's tower does not give.
    """
    settings = dict(config.difference or {})
    variant = settings.pop("variant", "none")
    vision = config.vision_config
    shape = (vision.out_hidden_size, vision.spatial_merge_size, vision.patch_size)
    if variant == "none":
        return None
    if settings.get("depths"):
        raise ValueError(f"difference.depths: {settings['depths']}; vLLM serves a difference path without depths")
    return ChangeMap(*shape, **settings) if variant == "ours" else Fusion(*shape, variant, **settings)


def refuse_torn_pairs(vllm_config: Any) -> None:
    """Raise ValueError, naming the flag, where a setting lets the images of a prompt be embedded apart, or be kept."""
    multimodal = vllm_config.model_config.multimodal_config
    faults = {
        "--no-enable-prefix-caching": vllm_config.cache_config.enable_prefix_caching,
        "--mm-processor-cache-gb 0": multimodal.mm_processor_cache_gb > 0,
        "--no-enable-chunked-prefill": vllm_config.scheduler_config.enable_chunked_prefill,
    }
    if wanted := [flag for flag, fault in faults.items() if fault]:
        raise ValueError(f"two images make one difference and must be embedded together: add {' '.join(wanted)}")
