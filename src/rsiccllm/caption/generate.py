"""Answers of a model, in batches, with how sure it was and where it saw change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from rsiccllm.model.processor import PairProcessor


class Answer(NamedTuple):
    """text; probability: geometric mean of its tokens' probabilities; change_map: [rows, cols] in 0..1, or None."""

    text: str
    probability: float
    change_map: Tensor | None


def left_padded(processor: PairProcessor, prompts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Encoded prompts as one batch for generation, padded on the left so that every answer starts at one place."""
    length = max(len(prompt["input_ids"]) for prompt in prompts)
    shape = (len(prompts), length)
    input_ids = torch.full(shape, processor.tokenizer.pad_token_id)
    attention_mask, types = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        size = len(prompt["input_ids"])
        input_ids[row, -size:] = prompt["input_ids"]
        types[row, -size:] = prompt["mm_token_type_ids"]
        attention_mask[row, -size:] = 1
    images = {
        name: torch.cat([prompt[name] for prompt in prompts if name in prompt])
        for name in ("pixel_values", "image_grid_thw")
        if any(name in prompt for prompt in prompts)
    }
    return {"input_ids": input_ids, "attention_mask": attention_mask, "mm_token_type_ids": types, **images}


@torch.inference_mode()
def generate_answers(
    model: Any,
    processor: PairProcessor,
    questions: Sequence[tuple[Sequence[Image.Image], str]],
    max_new_tokens: int = 64,
) -> list[Answer]:
    """Greedy answers to (images, prompt) questions, as one batch.

    With two images a question, a model that has a change map also returns it.
    """
    prompts = [processor.encode_prompt(prompt, images) for images, prompt in questions]
    batch: dict[str, Any] = {name: value.to(model.device) for name, value in left_padded(processor, prompts).items()}
    pixels = batch.pop("pixel_values", None)
    maps: list[Tensor] | None = None
    if pixels is not None:
        encoded = model.model.get_image_features(pixels, batch["image_grid_thw"], return_dict=True)
        batch["mm_encoder_outputs"] = {"image": encoded}
        maps = getattr(encoded, "maps", None)
    output = model.generate(
        **batch,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    new = output.sequences[:, batch["input_ids"].shape[1] :]  # [batch, answer tokens]
    token = torch.stack([step.float().log_softmax(-1) for step in output.logits], 1)  # [batch, answer tokens, vocab]
    token = token.gather(-1, new[..., None]).squeeze(-1)
    written = new != processor.tokenizer.pad_token_id
    mean = (token * written).sum(1) / written.sum(1).clamp(min=1)
    texts = processor.tokenizer.batch_decode(new, skip_special_tokens=True)
    return [
        Answer(text.strip(), float(mean[row].exp()), None if maps is None else maps[row].float().sigmoid().cpu())
        for row, text in enumerate(texts)
    ]
