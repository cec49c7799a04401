"""Small data sets in the true layouts of the public ones, with images drawn here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

NO_CHANGE = ["there is no difference", "no change has occurred"]


def draw(path: Path, seed: int = 0, size: tuple[int, int] = (40, 32)) -> Path:
    """Noise of `size` (width, height), different for each seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def draw_mask(path: Path, value: int = 255, size: tuple[int, int] = (40, 32)) -> Path:
    """A rectangle of `value` on 0; value 0 gives an empty mask."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((size[1], size[0]), np.uint8)
    pixels[4:12, 6:20] = value
    Image.fromarray(pixels).save(path)
    return path


def entry(name: str, split: str, changed: int, sentences: list[str]) -> dict[str, Any]:
    """One entry of LevirCCcaptions.json as it is published."""
    return {
        "filename": name,
        "filepath": split,
        "split": split,
        "changeflag": changed,
        "imgid": 0,
        "sentids": list(range(len(sentences))),
        "sentences": [
            {"tokens": text.split(), "raw": f" {text} .", "imgid": 0, "sentid": number}
            for number, text in enumerate(sentences)
        ],
    }


def levir_cc(root: Path) -> list[dict[str, Any]]:
    """Two train pairs and one val pair; the second train pair has a mask. Returns the entries of the JSON."""
    entries = [
        entry("train_000001.png", "train", 0, NO_CHANGE),
        entry("train_000002.png", "train", 1, ["two houses are built", "a road appears"]),
        entry("val_000001.png", "val", 1, ["trees are removed", "the trees make way for a house"]),
    ]
    for number, item in enumerate(entries):
        for side, seed in (("A", 2 * number), ("B", 2 * number + 1)):
            draw(root / "images" / item["split"] / side / item["filename"], seed)
    draw_mask(root / "images" / "train" / "label" / "train_000002.png", 128)
    write_annotations(root, entries)
    return entries


def write_annotations(root: Path, entries: Any) -> Path:
    path = root / "LevirCCcaptions.json"
    path.write_text(json.dumps({"images": entries, "dataset": "LEVIR-CC"}), encoding="utf-8")
    return path


def levir_cd(root: Path, names: tuple[str, ...] = ("train_1", "val_1", "test_1")) -> None:
    """One pair a name, in the split that the name begins with; every second mask is empty."""
    for number, name in enumerate(names):
        folder = root / name.split("_")[0]
        draw(folder / "A" / f"{name}.png", 100 + 2 * number)
        draw(folder / "B" / f"{name}.png", 101 + 2 * number)
        draw_mask(folder / "label" / f"{name}.png", 255 * (number % 2))


def folder(root: Path, names: tuple[str, ...] = ("x", "y")) -> None:
    """A/ and B/ alone."""
    for number, name in enumerate(names):
        draw(root / "A" / f"{name}.png", 200 + 2 * number)
        draw(root / "B" / f"{name}.png", 201 + 2 * number)
