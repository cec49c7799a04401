"""Real Qwen2.5-VL and Qwen3-VL classes at a size that learns within minutes on a laptop."""

from __future__ import annotations

from typing import Any, Literal

import torch
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from rsiccllm.model.processor import PairProcessor


def build_tiny_model(
    processor: PairProcessor,
    family: Literal["qwen2_5_vl", "qwen3_vl"] = "qwen2_5_vl",
    width: int = 256,
    layers: int = 4,
    vision_width: int = 128,
    vision_layers: int = 4,
    seed: int = 0,
) -> Any:
    """A plain base model with random weights for `processor`'s vocabulary and patches (about 4.5 M parameters).

    width: of the language model, a multiple of 64. vision_width: of the vision tower, a multiple of 32.
    """
    tokenizer = processor.tokenizer
    patch = processor.image_processor.patch_size
    token_id = tokenizer.convert_tokens_to_ids
    heads = width // 64
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": width,
        "intermediate_size": width * 5 // 2,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": max(1, heads // 2),
        "max_position_embeddings": 4096,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        # Half of the head's 64 numbers, split over time, rows and columns as in the real models.
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 12, 12]},
    }
    vision: dict[str, Any] = {
        "depth": vision_layers,
        "hidden_size": vision_width,
        "intermediate_size": vision_width * 5 // 2,
        "num_heads": vision_width // 32,
        "patch_size": patch,
        "spatial_merge_size": processor.image_processor.merge_size,
        "out_hidden_size": width,
    }
    common = {
        "image_token_id": processor.image_token_id,
        "video_token_id": processor.video_token_id,
        "vision_start_token_id": token_id("<|vision_start|>"),
        "vision_end_token_id": token_id("<|vision_end|>"),
        "tie_word_embeddings": True,
    }
    torch.manual_seed(seed)
    if family == "qwen2_5_vl":
        vision |= {"window_size": patch * 8, "fullatt_block_indexes": [vision_layers - 1]}
        model: Any = Qwen2_5_VLForConditionalGeneration(
            Qwen2_5_VLConfig(text_config=text, vision_config=vision, **common)
        )
    else:
        vision |= {"deepstack_visual_indexes": [0], "num_position_embeddings": 256}
        text |= {"head_dim": 64, "rope_parameters": {**text["rope_parameters"], "mrope_interleaved": True}}
        model = Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text, vision_config=vision, **common))
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model
