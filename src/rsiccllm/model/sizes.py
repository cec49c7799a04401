"""The published sizes of the large base models, for plans and for measurements without their weights."""

from __future__ import annotations

from typing import Any, Literal

from transformers import Qwen2_5_VLConfig, Qwen3VLConfig

Size = Literal["qwen2_5_vl_7b", "qwen3_vl_8b"]

NAMES: dict[str, Size] = {
    "Qwen/Qwen2.5-VL-7B-Instruct": "qwen2_5_vl_7b",
    "Qwen/Qwen3-VL-8B-Instruct": "qwen3_vl_8b",
}
"""Their names on the hub."""

_TOKENS = {"image_token_id": 151655, "video_token_id": 151656, "vision_start_token_id": 151652,
           "vision_end_token_id": 151653, "tie_word_embeddings": False}  # fmt: skip


def published_config(size: Size) -> Any:
    """The configuration of Qwen2.5-VL-7B-Instruct or Qwen3-VL-8B-Instruct, as its makers publish it."""
    if size == "qwen2_5_vl_7b":
        text: dict[str, Any] = {
            "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
            "num_key_value_heads": 4, "vocab_size": 152064, "max_position_embeddings": 128000,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        }  # fmt: skip
        vision: dict[str, Any] = {
            "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584,
            "patch_size": 14, "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31],
        }  # fmt: skip
        return Qwen2_5_VLConfig(text_config=text, vision_config=vision, **_TOKENS)
    text = {
        "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "max_position_embeddings": 262144,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20],
                            "mrope_interleaved": True},
    }  # fmt: skip
    vision = {
        "depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16, "out_hidden_size": 4096,
        "patch_size": 16, "deepstack_visual_indexes": [8, 16, 24], "num_position_embeddings": 2304,
    }  # fmt: skip
    return Qwen3VLConfig(text_config=text, vision_config=vision, **_TOKENS)
