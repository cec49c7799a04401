"""What differs between two dates and is no change, stronger and more varied than a set shows: light, patches of another
season, colour, sharpness, noise, and ground that does not lie quite on itself.

Rendered or collected under few conditions, a set teaches a change map those conditions too; drawn at random, each date
on its own, they tell it nothing. Masks and facts stay true.
"""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image


def disturb(image: Image.Image, random: np.random.Generator, strength: float = 1.0) -> Image.Image:
    """One date under conditions drawn from `random`. strength: 1 as tried (docs/choices.md), 0 the image itself.

    Moves are at most about 2 pixels x strength. RGB in, RGB of the same size out.
    """
    pixels = np.asarray(image, np.float32) / 255
    pixels = _moved(_seasons(pixels, random, strength), random, strength)
    pixels = _sharpness(pixels, random, strength)
    pixels = pixels * np.exp(random.normal(0, 0.25 * strength) + random.normal(0, 0.12 * strength, 3))
    if random.random() < 0.5:
        grey = pixels.mean(2, keepdims=True)
        pixels = grey + (pixels - grey) * (1 + strength * random.uniform(-0.7, 0.3))
    pixels = np.clip(pixels, 0, 1) ** np.exp(random.normal(0, 0.25 * strength))
    return Image.fromarray((255 * pixels + 0.5).astype(np.uint8))


def _field(shape: tuple[int, int], cells: int, random: np.random.Generator, channels: int = 1) -> np.ndarray:
    """Smooth noise of spread about 1 with `cells` bumps a side, [height, width, channels]."""
    coarse = random.normal(0, 1, (cells, cells, channels)).astype(np.float32)
    height, width = shape
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).reshape(height, width, channels)


def _seasons(pixels: np.ndarray, random: np.random.Generator, strength: float) -> np.ndarray:
    """Ground that is lighter here and darker there, in each colour a little apart, and another fine texture."""
    shape = pixels.shape[:2]
    size = abs(random.normal(0, 0.12)) * strength
    cells = int(random.choice([2, 4, 8, 16]))
    pixels = pixels * np.exp(size * (_field(shape, cells, random) + 0.4 * _field(shape, cells, random, 3)))
    fine = int(random.choice([16, 32, 56]))
    return pixels + abs(random.normal(0, 0.03)) * strength * _field(shape, fine, random)


def _moved(pixels: np.ndarray, random: np.random.Generator, strength: float) -> np.ndarray:
    """Ground that is shifted, and more here than there."""
    if random.random() >= 0.7:
        return pixels
    reach = random.uniform(0, 1.6) * strength
    bent = _field(pixels.shape[:2], int(random.choice([2, 4, 8])), random, 2) * np.float32(0.6 * reach)
    bent = bent + (random.uniform(-1, 1, 2) * reach).astype(np.float32)
    rows, columns = np.indices(pixels.shape[:2], dtype=np.float32)
    return cv2.remap(
        pixels.astype(np.float32), columns + bent[..., 0], rows + bent[..., 1], cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT,
    )  # fmt: skip


def _sharpness(pixels: np.ndarray, random: np.random.Generator, strength: float) -> np.ndarray:
    """Blurred or sharpened, and noisy."""
    choice = random.random()
    if choice < 0.5:
        pixels = cv2.GaussianBlur(pixels, (5, 5), 0.1 + random.uniform(0.2, 1.2) * strength)
    elif choice < 0.7:
        pixels = pixels + random.uniform(0.2, 0.9) * strength * (pixels - cv2.GaussianBlur(pixels, (5, 5), 1.2))
    if random.random() < 0.4:
        pixels = pixels + random.normal(0, random.uniform(0, 0.04) * strength, pixels.shape)
    return pixels
