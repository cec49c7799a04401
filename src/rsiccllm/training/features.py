"""What is fixed and expensive, kept on disk: it is computed once in all epochs and runs.

A file an image, named by what it depends on. For features of a frozen vision tower: the tower's weights, the image's
pixels as the processor gives them, and the precision. For the paper's line texture: the Hough grid and the pixels.
Files are whole or not there, and may be removed at any time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

from rsiccllm.errors import InputError
from rsiccllm.files import atomic_write
from rsiccllm.model.checkpoint import pack_tensors, read_tensors
from rsiccllm.model.texture import line_texture

Kept = dict[str, Tensor]


def tower_digest(visual: torch.nn.Module) -> str:
    """What tells one tower from another: a digest of its weights."""
    digest = hashlib.sha256()
    for name, weight in sorted(visual.state_dict().items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(_bytes(weight.detach()))
    return digest.hexdigest()[:16]


class Store:
    """Tensors by name under `folder`, a file an entry.

    limit: bytes that the folder may hold; what comes after is computed anew each time. Nothing is thrown out for it: a
    training run goes round and round, and whatever was dropped would be the next to be asked for.
    """

    def __init__(self, folder: Path, limit: float) -> None:
        self.folder = folder
        self.limit = limit
        self.held = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))

    def fetch(
        self, names: Sequence[str], device: torch.device, compute: Callable[[list[int]], list[Kept]]
    ) -> list[Kept]:
        """The entries of these names; those that are not there, or not whole, are computed, by their places."""
        files = [self.folder / f"{name}.safetensors" for name in names]
        found = {at: held for at, file in enumerate(files) if (held := _read(file, device)) is not None}
        missing = [at for at in range(len(files)) if at not in found]
        if missing:
            for at, one in zip(missing, compute(missing), strict=True):
                found[at] = one
                self._write(files[at], one)
        return [found[at] for at in range(len(files))]

    def _write(self, file: Path, tensors: Kept) -> None:
        data = pack_tensors(tensors)
        if self.held + len(data) <= self.limit:
            with atomic_write(file, "wb") as handle:
                handle.write(data)
            self.held += len(data)


class FeatureCache:
    """Features of the frozen tower of `body`, from a `Store` where they are there."""

    def __init__(self, folder: Path, body: Any, limit: float) -> None:
        self.body = body
        self.store = Store(folder, limit)
        self.tower = tower_digest(body.visual)

    @torch.no_grad()
    def encode(self, pixel_values: Tensor, image_grid_thw: Tensor) -> Any:
        """As the body's tower gives them, before the difference path: pooler_output, one [tokens, width] an image, and
        for Qwen3-VL deepstack_features, the same from each of some middle layers. Arguments as the model's."""
        grids = image_grid_thw.tolist()
        pixels = pixel_values.split([time * rows * cols for time, rows, cols in grids])
        names = [self._name(part, grid) for part, grid in zip(pixels, grids, strict=True)]

        def compute(missing: list[int]) -> list[Kept]:
            return self._compute([pixels[at] for at in missing], image_grid_thw[missing])

        images = self.store.fetch(names, pixel_values.device, compute)
        deep, within = (sorted(name for name in images[0] if name.startswith(kind)) for kind in ("deep", "within"))
        encoded: Any = BaseModelOutputWithDeepstackFeatures(
            pooler_output=tuple(image["tokens"] for image in images),
            deepstack_features=[tuple(image[name] for image in images) for name in deep],
        )
        encoded.within = [tuple(image[name] for image in images) for name in within]
        return encoded

    def _compute(self, pixels: list[Tensor], grids: Tensor) -> list[Kept]:
        encoded = self.body.tower_features(torch.cat(pixels), grids)
        deep = getattr(encoded, "deepstack_features", None) or []
        return [
            {
                "tokens": tokens,
                **{f"deep_{layer:03d}": images[at] for layer, images in enumerate(deep)},
                **{f"within_{layer:03d}": images[at] for layer, images in enumerate(encoded.within)},
            }
            for at, tokens in enumerate(encoded.pooler_output)
        ]

    def _name(self, pixels: Tensor, grid: list[int]) -> str:
        precision = (
            torch.get_autocast_dtype(pixels.device.type) if torch.is_autocast_enabled(pixels.device.type) else None
        )
        path = self.body.difference
        depths = () if path is None else path.depths
        return _name(self.tower, f"{grid} {pixels.dtype} {precision} {depths}", pixels)


class TextureCache:
    """`line_texture`, from a `Store` where it is there. To stand in its place in `Fusion`."""

    def __init__(self, folder: Path, limit: float) -> None:
        self.store = Store(folder, limit)

    @torch.no_grad()
    def __call__(self, grey: Tensor, angles: int, stride: int) -> Tensor:
        """Arguments and result as those of `line_texture`."""
        folder = f"texture_{angles}_{stride}"
        names = [_name(folder, f"{tuple(one.shape)} {one.dtype}", one) for one in grey]

        def compute(missing: list[int]) -> list[Kept]:
            return [{"texture": one} for one in line_texture(grey[missing], angles, stride)]

        return torch.stack([one["texture"] for one in self.store.fetch(names, grey.device, compute)])


def _name(folder: str, what: str, pixels: Tensor) -> str:
    digest = hashlib.sha256(what.encode())
    digest.update(_bytes(pixels))
    name = digest.hexdigest()
    return f"{folder}/{name[:2]}/{name}"


def _bytes(tensor: Tensor) -> Any:
    return tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data


def _read(file: Path, device: torch.device) -> Kept | None:
    """None where it is not there, or not as it was written: then it is made anew."""
    try:
        return {name: value.to(device) for name, value in read_tensors(file).items()}
    except InputError:
        return None
