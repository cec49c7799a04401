"""Captioner: load a checkpoint once, caption pairs of images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from rsiccllm.model.checkpoint import resolve_checkpoint
from rsiccllm.model.generate import generate_answers
from rsiccllm.model.processor import PairProcessor, load_processor
from rsiccllm.model.vlm import load_model
from rsiccllm.pairs import OpenedPair, open_pair
from rsiccllm.rsici.prompts import PROMPTS


@dataclass(frozen=True)
class Caption:
    """What a model says of one pair.

    caption: the text. probability: geometric mean of its tokens' probabilities, in 0..1, not calibrated.
    change_map: [height, width] float32 in 0..1, where the model saw change, or None where it has no map.
    """

    caption: str
    probability: float
    change_map: np.ndarray | None


class Captioner:
    """A model and its processor, ready to caption. `load` takes a run's folder, a checkpoint folder or a hub name."""

    def __init__(self, model: Any, processor: PairProcessor) -> None:
        self.model = model.eval()
        self.processor = processor

    @classmethod
    def load(cls, checkpoint: str | Path, device: str | None = None) -> Captioner:
        """Load onto `device` (None: CUDA where there is one, else the CPU). Raises InputError without a checkpoint."""
        name = resolve_checkpoint(str(checkpoint))
        place = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return cls(load_model(name).to(place), load_processor(name))

    def caption(self, before: Path | str, after: Path | str, resize: bool = False, task: str = "caption") -> Caption:
        """Caption one pair of image files. Raises InputError for images that cannot be used (`rsiccllm.pairs`)."""
        return next(self.caption_all([open_pair(before, after, resize=resize)], task=task))

    def caption_all(self, pairs: Sequence[OpenedPair], batch_size: int = 16, task: str = "caption",
                    max_new_tokens: int = 64) -> Iterator[Caption]:  # fmt: skip
        """Caption opened pairs in batches, in order."""
        for start in range(0, len(pairs), batch_size):
            chunk = pairs[start : start + batch_size]
            questions = [((pair.before, pair.after), PROMPTS[task]) for pair in chunk]
            for pair, answer in zip(
                chunk, generate_answers(self.model, self.processor, questions, max_new_tokens), strict=True
            ):
                seen = None
                if answer.change_map is not None:
                    grid = Image.fromarray(answer.change_map.numpy())
                    seen = np.asarray(grid.resize(pair.before.size, Image.Resampling.BILINEAR)).clip(0, 1)
                yield Caption(answer.text, answer.probability, seen)
