"""Our Qwen2.5-VL as a model of vLLM's: its own class, whose image embeddings pass through the difference path in pairs.

Not run with vLLM itself: it pins another torch than this project. What is tested stands on a stub of the few names
imported here; of vLLM it was read that a subclass is asked for the embeddings of several images at once by
`_process_image_input`, that weights are mapped by prefix, and which settings keep the images of a prompt together.

    vllm serve runs/dnpo --no-enable-prefix-caching --mm-processor-cache-gb 0 --no-enable-chunked-prefill \\
        --skip-mm-profiling --limit-mm-per-prompt '{"image": 2}'

Without these vLLM may embed the second image of a pair alone, or take what it kept of it from another pair.
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
from vllm.model_executor.models.utils import WeightsMapper
from vllm.multimodal import MULTIMODAL_REGISTRY

from rsiccllm.model.difference import ChangeMap, DifferencePath
from rsiccllm.model.fusion import Fusion


@MULTIMODAL_REGISTRY.register_processor(
    Qwen2_5_VLMultiModalProcessor, info=Qwen2_5_VLProcessingInfo, dummy_inputs=Qwen2_5_VLDummyInputsBuilder
)
class VllmPairQwen2_5_VL(Qwen2_5_VLForConditionalGeneration):
    """Qwen2.5-VL that reads two images and their difference. Raises ValueError for settings that tear pairs apart."""

    # Before vLLM's own rules, of which "model." would take the difference for a part of the language model.
    hf_to_vllm_mapper = WeightsMapper(
        orig_to_new_prefix={
            "model.difference.": "difference.",
            **Qwen2_5_VLForConditionalGeneration.hf_to_vllm_mapper.orig_to_new_prefix,
        }
    )

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        refuse_torn_pairs(vllm_config)
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        config = vllm_config.model_config.hf_config
        self.difference = difference_of(config)

    def _process_image_input(self, image_input: Any) -> tuple[torch.Tensor, ...]:
        features = super()._process_image_input(image_input)
        if self.difference is None:
            return features
        if image_input["type"] != "pixel_values":
            raise ValueError("the difference path needs pixels; image embeddings were sent")
        merge = self.config.vision_config.spatial_merge_size
        grids = [(rows // merge, cols // merge) for _, rows, cols in image_input["image_grid_thw"].tolist()]
        return tuple(self.difference.enhance(list(features), image_input["pixel_values"], grids).features)


def difference_of(config: Any) -> DifferencePath | None:
    """The difference path that a configuration of ours names, its weights still to be loaded."""
    settings = dict(config.difference or {})
    variant = settings.pop("variant", "none")
    vision = config.vision_config
    shape = (vision.out_hidden_size, vision.spatial_merge_size, vision.patch_size)
    if variant == "none":
        return None
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
