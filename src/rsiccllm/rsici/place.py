"""Putting a pair's images and mask into the folder that is built: linked where they can be, written where not."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
from PIL import Image

from rsiccllm.files import inside, link_or_copy
from rsiccllm.pairs import open_image, save_png
from rsiccllm.records import ImagePair
from rsiccllm.sources.base import Source
from rsiccllm.sources.tiles import Tiles


def place(source: Source, pair: ImagePair, out: Path, label: str) -> ImagePair:
    """Put a pair's images under `out` and return the record that points there. What is there already stays.

    Raises InputError for an image that cannot be decoded to its end, before it is linked.
    label: the folder under `images/`. Masks whose values are classes are written as coded masks; others are linked.
    """
    linked, names = _is_linked(source, pair), {"before": pair.before, "after": pair.after, "mask": pair.mask}
    placed = placed_paths(source, pair, label)
    missing = [role for role, path in placed.items() if path and not (out / path).exists()]
    if linked:
        for role in missing:
            if role != "mask":
                open_image(inside(source.root, str(names[role])))  # a header may be whole where the rest is cut off
            if role != "mask" or source.plain_mask:
                link_or_copy(inside(source.root, str(names[role])), out / str(placed[role]))
        if "mask" in missing and not source.plain_mask:
            mask = source.classes(pair)
            if mask is not None:
                save_png(Image.fromarray(mask.coded()), out / str(placed["mask"]))
    elif missing:
        opened = source.open(pair)
        for role, image in (("before", opened.before), ("after", opened.after)):
            if role in missing:
                save_png(image, out / str(placed[role]))
        if opened.mask is not None and "mask" in missing:
            save_mask(opened.mask, out / str(placed["mask"]))
    coded = linked and not source.plain_mask and pair.mask is not None
    rendered = pair.coded_mask and not (isinstance(source, Tiles) and source.is_tile(pair))
    return pair.model_copy(update={**placed, "coded_mask": coded or rendered})


def placed_paths(source: Source, pair: ImagePair, label: str) -> dict[str, str | None]:
    """Where the images of a pair (before, after, mask) go, relative to the folder; None for a mask there is not."""
    stem = f"images/{label}/{safe_name(pair.id)}"
    placed: dict[str, str | None] = {}
    for role, name in (("before", pair.before), ("after", pair.after), ("mask", pair.mask)):
        plain = _is_linked(source, pair) and (role != "mask" or source.plain_mask)
        suffix = Path(name).suffix.lower() if name and plain else ".png"
        placed[role] = f"{stem}.{role}{suffix}" if name else None
    return placed


def _is_linked(source: Source, pair: ImagePair) -> bool:
    return source.on_disk and not (isinstance(source, Tiles) and source.is_tile(pair))


def safe_name(identifier: str) -> str:
    """A file name for an id: itself where it is plain, else its plain characters and a digest, so no two meet."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", identifier)[:100]
    if plain == identifier and not plain.startswith("."):
        return plain
    return f"{plain.lstrip('.')}_{hashlib.sha256(identifier.encode()).hexdigest()[:8]}"


def save_mask(mask: np.ndarray, path: Path) -> None:
    """Write a bool mask [height, width] as a PNG of 0 and 255."""
    save_png(Image.fromarray((mask * 255).astype(np.uint8)), path)
