"""Any vision-language model of transformers that takes two images: its own class, processor and chat template.

Tried with Qwen2.5-VL, Qwen3-VL, InternVL and LLaVA-OneVision. Their stock processors demand a video processor, and with
it torchvision; where torchvision does not import, the same classes are used without one (`image_only`), so that the
prompt is still written by the code and the template that came with the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

from rsiccllm.errors import InputError
from rsiccllm.model.checkpoint import DATA_ONLY, WEIGHTS_ONLY, check_whole, load_config


class VisionLanguageModel:
    """A model and its processor. `load` takes a checkpoint folder or a hub name."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model = model.eval()
        self.processor = processor

    @classmethod
    def load(cls, name: str) -> VisionLanguageModel:
        """Load onto the GPUs in the checkpoint's own precision, or without any onto the CPU in float32.

        Raises InputError where there is no checkpoint, its architecture takes no images, or its weights do not fit.
        """
        processor = load_stock_processor(name)
        check_whole(name)
        gpu = torch.cuda.is_available()
        where: dict[str, Any] = {"dtype": "auto", "device_map": "auto"} if gpu else {"dtype": torch.float32}
        try:
            model, report = AutoModelForImageTextToText.from_pretrained(
                name, output_loading_info=True, **WEIGHTS_ONLY, **where
            )
        except (OSError, ValueError) as error:
            raise InputError(f"{name}: no model could be loaded ({_line(error)})") from None
        # A weight that silently starts at random is the worst of faults.
        if report["missing_keys"]:
            raise InputError(f"{name}: the weights do not fit the model (missing: {sorted(report['missing_keys'])[0]})")
        return cls(model, processor)

    @torch.inference_mode()
    def answers(self, questions: Sequence[tuple[Sequence[Image.Image], str]], max_new_tokens: int) -> list[str]:
        """Greedy answers to (images, prompt) questions, as one batch, special tokens and white space at the ends off.

        Raises InputError where the chat template has not one place an image: a model would answer what it has not seen.
        """
        batch = encode_questions(self.processor, questions).to(self.model.device)
        if batch["pixel_values"].is_floating_point():
            batch["pixel_values"] = batch["pixel_values"].to(self.model.dtype)
        output = self.model.generate(**batch, max_new_tokens=max_new_tokens, do_sample=False)
        texts = self.processor.tokenizer.batch_decode(
            output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True
        )
        return [text.strip() for text in texts]


def encode_questions(processor: Any, questions: Sequence[tuple[Sequence[Image.Image], str]]) -> Any:
    """(images, prompt) questions as one batch, padded on the left so that every answer starts at one place."""
    texts = []
    for images, prompt in questions:
        content = [*({"type": "image"} for _ in images), {"type": "text", "text": prompt}]
        try:
            text = processor.apply_chat_template(
                [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
            )
        except ValueError as error:
            raise InputError(f"the model has no usable chat template ({_line(error)})") from None
        if (places := text.count(processor.image_token)) != len(images):
            raise InputError(f"the model's chat template left {places} image places, expected {len(images)}")
        texts.append(text)
    return processor(
        text=texts,
        images=[list(images) for images, _ in questions],
        padding=True,
        padding_side="left",
        return_tensors="pt",
    )


def image_only(stock: type) -> Any:
    """A processor class of transformers as it is, for still images: it neither has nor loads a video processor."""
    kept = [name for name in stock.get_attributes() if name != "video_processor"]  # type: ignore[attr-defined]
    return type(stock.__name__, (stock,), {"get_attributes": classmethod(lambda cls: kept)})


def load_stock_processor(name: str) -> Any:
    """The processor that belongs to a checkpoint's architecture: stock with torchvision, else `image_only`.

    It is found by the architecture and not by the name in the checkpoint's files: for a name it does not know,
    AutoProcessor returns the bare tokenizer and every image would be dropped without a word.
    """
    config = load_config(name)
    if type(config) not in PROCESSOR_MAPPING:
        raise InputError(f"{name}: model type {config.model_type!r} has no image-and-text processor in transformers")
    stock = PROCESSOR_MAPPING[type(config)]
    try:
        if _torchvision_imports():
            processor = AutoProcessor.from_pretrained(name, **DATA_ONLY)
        else:
            processor = image_only(stock).from_pretrained(name, **DATA_ONLY)
    except (OSError, ValueError, TypeError, ImportError) as error:
        raise InputError(f"{name}: no processor could be loaded ({_line(error)})") from None
    if not isinstance(processor, stock):
        raise InputError(f"{name}: its processor is a {type(processor).__name__}, expected {stock.__name__}")
    return processor


@cache
def _torchvision_imports() -> bool:
    # Being installed is not enough: beside a CPU build of torch its extension may not load.
    try:
        import_module("torchvision")
    except Exception:
        return False
    return True


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
