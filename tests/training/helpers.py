"""Samples made of noise, for tests that compare one computation with another."""

from __future__ import annotations

import numpy as np
from PIL import Image

from rsiccllm.training.packing import Sample


def noise(rng: np.random.Generator, height: int = 56, width: int = 56) -> Image.Image:
    return Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))


def sample(seed: int, answers: int, height: int = 56, width: int = 56, images: int = 2) -> Sample:
    rng = np.random.default_rng(seed)
    words = ["a", "house", "is", "built", "in", "the", "top", "left", "corner"]
    return Sample(
        id=f"sample_{seed}",
        images=[noise(rng, height, width) for _ in range(images)],
        prompt="what changed?",
        answers=[" ".join(rng.permutation(words)[: 3 + k]) for k in range(answers)],
        mask=rng.random((height, width)) > 0.5,
    )
