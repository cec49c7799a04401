"""Both dates and the change map side by side, as one picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from rsiccllm.errors import InputError
from rsiccllm.files import atomic_write
from rsiccllm.pairs import OpenedPair

GAP = 8


def draw_overlay(pair: OpenedPair, change_map: np.ndarray | None, path: Path) -> None:
    """Write a PNG: before, after, and after with the change map in red. change_map: [height, width] in 0..1.

    Raises InputError where there is no map to draw.
    """
    if change_map is None:
        raise InputError(f"{path}: this model has no change map to draw")
    panels = [pair.before, pair.after, redden(pair.after, change_map)]
    width, height = pair.before.size
    sheet = Image.new("RGB", (3 * width + 2 * GAP, height), "white")
    for place, panel in enumerate(panels):
        sheet.paste(panel, (place * (width + GAP), 0))
    with atomic_write(path, "wb") as handle:
        sheet.save(handle, format="PNG")


def redden(image: Image.Image, change_map: np.ndarray) -> Image.Image:
    """The image with the change map over it in red, the stronger the surer. change_map: [height, width] in 0..1."""
    strength = 0.6 * change_map[..., None]
    marked = np.asarray(image).astype(np.float32) * (1 - strength) + np.array([255.0, 40.0, 40.0]) * strength
    return Image.fromarray(marked.round().astype(np.uint8))
