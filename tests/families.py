"""Tiny checkpoints of other people's vision-language models: the real classes from small configs, random weights.

Tokenizers are byte-level with each family's own special tokens, and the chat templates render what the published ones
do for a user turn; tests compare that with the published text, written out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLProcessor,
    Qwen3VLProcessor,
)
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from rsiccllm.model.processor import PairProcessor
from rsiccllm.model.stock import image_only
from rsiccllm.model.tiny import build_tiny_model

FAMILIES = ("qwen2_5_vl", "qwen3_vl", "internvl", "llava_onevision")

IMAGE = {
    "qwen2_5_vl": "<|vision_start|><|image_pad|><|vision_end|>",
    "qwen3_vl": "<|vision_start|><|image_pad|><|vision_end|>",
    "internvl": "<IMG_CONTEXT>\n",
    "llava_onevision": "<image>\n",
}
SYSTEM = {"qwen2_5_vl": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"}
SPECIAL = {
    "internvl": ["<img>", "</img>", "<IMG_CONTEXT>", "<video>"],
    "llava_onevision": ["<image>", "<video>"],
}
QWEN = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]


def published(family: str, prompt: str, place: str | None = None) -> str:
    """The user turn with two images, as the family's published chat template writes it.

    place: what stands for one image; None: what the template leaves, before the processor fills it.
    """
    images = 2 * (place or IMAGE[family])
    return f"{SYSTEM.get(family, '')}<|im_start|>user\n{images}{prompt}<|im_end|>\n<|im_start|>assistant\n"


def template(family: str) -> str:
    return (
        SYSTEM.get(family, "").replace("\n", "{{ '\\n' }}")
        + "{% for message in messages %}<|im_start|>{{ message['role'] + '\\n' }}"
        + "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
        + IMAGE[family].replace("\n", "{{ '\\n' }}")
        + "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>{{ '\\n' }}{% endfor %}"
        + "{% if add_generation_prompt %}<|im_start|>assistant{{ '\\n' }}{% endif %}"
    )


def tokenizer_of(family: str) -> PreTrainedTokenizerFast:
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *SPECIAL.get(family, QWEN)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(["what changed between the two images"] * 3, trainer)
    named: dict[str, Any] = {}
    if family == "internvl":
        named["extra_special_tokens"] = {
            "start_image_token": "<img>", "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>", "video_token": "<video>",
        }  # fmt: skip
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", **named
    )


def processor_of(family: str) -> Any:
    tokens = tokenizer_of(family)
    if family == "internvl":
        images: Any = GotOcr2ImageProcessorPil(size={"height": 56, "width": 56})
        return image_only(InternVLProcessor)(images, tokens, image_seq_length=4, chat_template=template(family))
    if family == "llava_onevision":
        images = LlavaOnevisionImageProcessorPil(
            size={"height": 56, "width": 56}, image_grid_pinpoints=[[56, 56], [56, 112], [112, 56], [112, 112]]
        )
        return image_only(LlavaOnevisionProcessor)(
            images, tokens, num_image_tokens=16, vision_feature_select_strategy="full", chat_template=template(family)
        )
    stock = Qwen2_5_VLProcessor if family == "qwen2_5_vl" else Qwen3VLProcessor
    images = Qwen2VLImageProcessorPil(patch_size=14, merge_size=2, min_pixels=56 * 56, max_pixels=224 * 224)
    return image_only(stock)(images, tokens, chat_template=template(family))


def model_of(family: str, processor: Any) -> Any:
    tokens = processor.tokenizer
    text = {
        "model_type": "qwen2", "vocab_size": len(tokens), "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 2048,
        "bos_token_id": None, "eos_token_id": tokens.eos_token_id, "pad_token_id": tokens.pad_token_id,
    }  # fmt: skip
    torch.manual_seed(0)
    if family == "internvl":
        vision = {
            "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
            "image_size": [56, 56], "patch_size": [14, 14],
        }  # fmt: skip
        image = tokens.convert_tokens_to_ids("<IMG_CONTEXT>")
        config = InternVLConfig(vision_config=vision, text_config=text, image_token_id=image, image_seq_length=4)
        return InternVLForConditionalGeneration(config)
    if family == "llava_onevision":
        vision = {
            "model_type": "siglip_vision_model", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "intermediate_size": 64, "image_size": 56, "patch_size": 14, "vision_use_head": False,
        }  # fmt: skip
        config = LlavaOnevisionConfig(
            vision_config=vision, text_config=text, image_token_index=tokens.convert_tokens_to_ids("<image>"),
            video_token_index=tokens.convert_tokens_to_ids("<video>"),
            image_grid_pinpoints=processor.image_processor.image_grid_pinpoints,
        )  # fmt: skip
        return LlavaOnevisionForConditionalGeneration(config)
    paired = PairProcessor(processor.image_processor, tokens, chat_template=processor.chat_template)
    return build_tiny_model(paired, family, width=64, layers=2, vision_width=32, vision_layers=2)  # type: ignore[arg-type]


def save_family(family: str, folder: Path) -> None:
    """Write a checkpoint as the family's own `save_pretrained` does, with what makes its answers end."""
    processor = processor_of(family)
    model = model_of(family, processor)
    for weight in model.parameters():
        if weight.ndim > 1:  # as initialised, a tiny model repeats the last token of any prompt
            torch.nn.init.normal_(weight, std=0.2)
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
