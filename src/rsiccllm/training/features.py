"""Features of a frozen vision tower, kept on disk: the tower sees each image once in all epochs and runs.

A file an image, named by what it depends on: the tower's weights, the image's pixels as the processor gives them, and
the precision. Files are whole or not there, and may be removed at any time.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from rsiccllm.files import atomic_write


def tower_digest(visual: torch.nn.Module) -> str:
    """What tells one tower from another: a digest of its weights."""
    digest = hashlib.sha256()
    for name, weight in sorted(visual.state_dict().items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


class FeatureCache:
    """Features of the frozen tower of `body`, from `folder` where they are there.

    limit: bytes that the folder may hold; what comes after is computed anew each time. Nothing is thrown out for it: a
    training run goes round and round, and whatever was dropped would be the next to be asked for.
    """

    def __init__(self, folder: Path, body: Any, limit: float) -> None:
        self.body = body
        self.limit = limit
        self.folder = folder / tower_digest(body.visual)
        self.held = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))

    @torch.no_grad()
    def encode(self, pixel_values: Tensor, image_grid_thw: Tensor) -> SimpleNamespace:
        """As the body's tower gives them, before the difference path: pooler_output, one [tokens, width] an image, and
        for Qwen3-VL deepstack_features, the same from each of some middle layers. Arguments as the model's."""
        grids = image_grid_thw.tolist()
        pixels = pixel_values.split([time * rows * cols for time, rows, cols in grids])
        files = [self._file(part, grid) for part, grid in zip(pixels, grids, strict=True)]
        found = {at: held for at, file in enumerate(files) if (held := _read(file, pixel_values.device)) is not None}
        missing = [at for at in range(len(files)) if at not in found]
        if missing:
            for at, one in zip(
                missing, self._compute([pixels[at] for at in missing], image_grid_thw[missing]), strict=True
            ):
                found[at] = one
                self._write(files[at], one)
        images = [found[at] for at in range(len(files))]
        deep = [name for name in sorted(images[0]) if name != "tokens"]
        return SimpleNamespace(
            pooler_output=tuple(image["tokens"] for image in images),
            deepstack_features=[tuple(image[name] for image in images) for name in deep],
        )

    def _compute(self, pixels: list[Tensor], grids: Tensor) -> list[dict[str, Tensor]]:
        encoded = self.body.tower_features(torch.cat(pixels), grids)
        deep = getattr(encoded, "deepstack_features", None) or []
        return [
            {"tokens": tokens, **{f"deep_{layer:03d}": images[at] for layer, images in enumerate(deep)}}
            for at, tokens in enumerate(encoded.pooler_output)
        ]

    def _file(self, pixels: Tensor, grid: list[int]) -> Path:
        precision = (
            torch.get_autocast_dtype(pixels.device.type) if torch.is_autocast_enabled(pixels.device.type) else None
        )
        digest = hashlib.sha256(f"{grid} {pixels.dtype} {precision}".encode())
        digest.update(pixels.cpu().contiguous().view(torch.uint8).numpy().tobytes())
        name = digest.hexdigest()
        return self.folder / name[:2] / f"{name}.safetensors"

    def _write(self, file: Path, features: dict[str, Tensor]) -> None:
        data = save({name: value.cpu().contiguous() for name, value in features.items()})
        if self.held + len(data) <= self.limit:
            with atomic_write(file, "wb") as handle:
                handle.write(data)
            self.held += len(data)


def _read(file: Path, device: torch.device) -> dict[str, Tensor] | None:
    """None where it is not there, or not whole: then it is made anew."""
    try:
        return {name: value.to(device) for name, value in load_file(file).items()}
    except (OSError, SafetensorError):
        return None
