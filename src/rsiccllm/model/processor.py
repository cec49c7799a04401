"""Image-and-text processor for a pair of images, and the small tokenizer of the tiny models.

The stock Qwen processors demand a video processor, and with it torchvision. This one needs neither, reads the same
checkpoint folders, and writes the same token sequences.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoProcessor, PreTrainedTokenizerFast, Qwen2_5_VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from rsiccllm.errors import InputError
from rsiccllm.model.checkpoint import DATA_ONLY

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

# The tiny models' chat form: Qwen's, without its system message (every prompt token costs time at this size).
TINY_CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class PairProcessor(Qwen2_5_VLProcessor):
    """Qwen2.5-VL's and Qwen3-VL's processor for still images: the image processor and the tokenizer, no video."""

    def __init__(
        self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(image_processor, tokenizer, None, chat_template=chat_template)

    def prompt_text(self, prompt: str, images: int, history: Sequence[tuple[str, str]] = ()) -> str:
        """The chat-templated turns with `images` image places, up to where the assistant begins to answer.

        history: (question, answer) of earlier turns; the images stand in the first turn.
        """
        messages: list[dict[str, Any]] = []
        content: list[dict[str, str]] = [{"type": "image"}] * images
        for question, answer in history:
            messages.append({"role": "user", "content": [*content, {"type": "text", "text": question}]})
            messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
            content = []
        messages.append({"role": "user", "content": [*content, {"type": "text", "text": prompt}]})
        return self.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    def encode_prompt(
        self, prompt: str, images: Sequence[Image.Image], history: Sequence[tuple[str, str]] = ()
    ) -> dict[str, torch.Tensor]:
        """One prompt with its images, not padded. history: earlier turns, as for `prompt_text`.

        Returns input_ids [tokens], mm_token_type_ids [tokens] (1 at image tokens), pixel_values
        [patches, channels * temporal * patch * patch], image_grid_thw [images, 3].
        Raises InputError where the template lost an image: a model would then answer without having seen it.
        """
        text = self.prompt_text(prompt, len(images), history)
        if text.count(self.image_token) != len(images):
            raise InputError(
                f"the chat template left {text.count(self.image_token)} image places, expected {len(images)}"
            )
        encoded = self(text=[text], images=[list(images)] if images else None, return_tensors="pt")
        fields = ("input_ids", "mm_token_type_ids")
        return {
            **{name: encoded[name][0] for name in fields},
            **{name: encoded[name] for name in ("pixel_values", "image_grid_thw") if images},
        }

    def encode_answer(self, answer: str) -> list[int]:
        """Token ids of an answer and the end-of-turn token."""
        return [*self.tokenizer(answer, add_special_tokens=False)["input_ids"], self.tokenizer.eos_token_id]


AutoProcessor.register("PairProcessor", PairProcessor)


def load_processor(
    checkpoint: str | Path, min_pixels: int | None = None, max_pixels: int | None = None
) -> PairProcessor:
    """Load from a folder or a hub name, ours or a plain Qwen-VL's. Pixel limits override the checkpoint's."""
    try:
        processor = PairProcessor.from_pretrained(str(checkpoint), **DATA_ONLY)
    except Exception as error:  # a broken tokenizer.json is answered with almost any exception there is
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{checkpoint}: no processor could be loaded ({reason})") from None
    size = processor.image_processor.size
    if min_pixels is not None:
        size["shortest_edge"] = min_pixels
    if max_pixels is not None:
        size["longest_edge"] = max_pixels
    return processor


def build_tiny_processor(texts: Iterable[str], vocabulary: int = 1024, patch_size: int = 8) -> PairProcessor:
    """A byte-level BPE tokenizer learnt from `texts`, and an image processor for patches of `patch_size` pixels.

    vocabulary: at most this many tokens, special ones included (at least 263: the bytes and the special tokens).
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS[1:]),
    )
    side = 2 * patch_size
    images = Qwen2VLImageProcessorPil(
        patch_size=patch_size, merge_size=2, min_pixels=(4 * side) ** 2, max_pixels=(16 * side) ** 2
    )
    return PairProcessor(images, fast, chat_template=TINY_CHAT_TEMPLATE)
