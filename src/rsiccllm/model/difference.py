"""What differs between two images, put into the visual tokens of the second.

`change_map` is our first form of the difference path. A score for each visual token says how sure it is that its place
changed; the scores are trained from change masks where a pair has one. The tokens are pooled by these scores, with
their positions, and the pooled token is added to every token of the second image: so the language model reads what
changed and where in one place. Without the trained map, places stay at chance (docs/choices.md).
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

Variant = Literal["none", "change_map"]
VARIANTS: tuple[str, ...] = ("none", "change_map")


class DifferenceOutput(NamedTuple):
    """features: one [tokens, dim] an image, the second of each pair changed. maps: one [rows, cols] logit grid a pair."""

    features: list[Tensor]
    maps: list[Tensor]


def position_encoding(rows: int, cols: int, dim: int, device: torch.device) -> Tensor:
    """Sines and cosines of the token centres in [0, 1]^2, so that one place means the same at any grid.

    Returns [rows * cols, dim], row first, float32. dim must be a multiple of 4.
    """
    frequency = math.pi * 2.0 ** torch.arange(dim // 4, device=device).clamp(max=6)
    frequency = frequency * (1 + torch.arange(dim // 4, device=device) // 7)
    y = (torch.arange(rows, device=device) + 0.5) / rows
    x = (torch.arange(cols, device=device) + 0.5) / cols
    wave_y = torch.cat([(y[:, None] * frequency).sin(), (y[:, None] * frequency).cos()], -1)  # [rows, dim / 2]
    wave_x = torch.cat([(x[:, None] * frequency).sin(), (x[:, None] * frequency).cos()], -1)  # [cols, dim / 2]
    grid = torch.cat([wave_y[:, None].expand(-1, cols, -1), wave_x[None].expand(rows, -1, -1)], -1)
    return grid.reshape(rows * cols, dim)


class ZeroLinear(nn.Linear):
    """A projection that starts at zero: what it feeds is at first untouched."""


class PixelTower(nn.Module):
    """A small convolutional encoder, the same for both dates, from pixels to the grid of visual tokens.

    Attention over patches needs much data to learn what edges and texture are; convolution begins with it.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, width // 2, 5, stride=2, padding=2),
            nn.GroupNorm(1, width // 2),
            nn.GELU(),
            nn.Conv2d(width // 2, width, 3, stride=2, padding=1),
            nn.GroupNorm(1, width),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(1, width),
            nn.GELU(),
        )

    def forward(self, images: Tensor, rows: int, cols: int) -> Tensor:
        """images: [images, 3, height, width]. Returns [images, rows * cols, 2 * width]: mean and peak in each token."""
        # Each image by its own mean and spread: what is left is surface, not light.
        centred = images - images.mean((2, 3), keepdim=True)
        maps = self.layers(centred / (centred.std((2, 3), keepdim=True) + 1e-3))
        pooled = [pool(maps, (rows, cols)) for pool in (nn.functional.adaptive_avg_pool2d, nn.functional.adaptive_max_pool2d)]
        return torch.cat(pooled, 1).flatten(2).transpose(1, 2)


def unpatch(patches: Tensor, rows: int, cols: int, merge: int, patch: int) -> Tensor:
    """Qwen's flattened patches back as images.

    patches: [images, rows * cols * merge^2, 3 * time * patch^2], patches of one token together. A still image fills the
    time axis with itself. Returns [images, 3, rows * merge * patch, cols * merge * patch].
    """
    grid = patches.reshape(len(patches), rows, cols, merge, merge, 3, -1, patch, patch)[..., 0, :, :]
    return grid.permute(0, 5, 1, 3, 6, 2, 4, 7).reshape(len(patches), 3, rows * merge * patch, cols * merge * patch)


class ChangeMap(nn.Module):
    """Scores each visual token for change and adds a pooled change token to the second image's tokens.

    tokens: width of the merged visual tokens. merge, patch: patches a token and pixels a patch, a side. width: inner.
    The last projection starts at zero, so before the first step the visual tokens are the base model's bit for bit.
    """

    def __init__(self, tokens: int, merge: int, patch: int, width: int = 128) -> None:
        super().__init__()
        self.merge, self.patch, self.width = merge, patch, width
        self.norm = nn.LayerNorm(tokens)
        self.tokens = nn.Linear(2 * tokens, width)
        self.tower = PixelTower(width // 2)
        self.pixels = nn.Sequential(nn.LayerNorm(3 * width), nn.Linear(3 * width, width))
        self.mix = nn.Conv2d(width, width, 3, padding=1)
        self.inner_norm = nn.LayerNorm(width)
        self.score = nn.Linear(width, 1)
        # What changed starts as loud as where (sines and cosines of size 1), else the place alone is learnt at first.
        self.value = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width), nn.LayerNorm(width)
        )
        self.out = ZeroLinear(2 * width, tokens)

    def forward(
        self, first: Tensor, second: Tensor, pixels_first: Tensor, pixels_second: Tensor, rows: int, cols: int
    ) -> tuple[Tensor, Tensor]:
        """first, second: [pairs, tokens, dim]. pixels_*: [pairs, patches, numbers], normalised as the processor does.

        Returns what is added to the second image's tokens [pairs, tokens, dim] and the map's logits [pairs, rows, cols].
        """
        pairs, count, _ = first.shape
        pixels = unpatch(torch.cat([pixels_first, pixels_second]), rows, cols, self.merge, self.patch)
        seen_first, seen_second = self.tower(pixels, rows, cols).chunk(2)
        hidden = self.pixels(torch.cat([seen_first, seen_second, seen_second - seen_first], -1))
        hidden = hidden + self.tokens(torch.cat([self.norm(first), self.norm(second)], -1))
        grid = nn.functional.gelu(hidden).transpose(1, 2).reshape(pairs, self.width, rows, cols)
        hidden = hidden + self.mix(grid).flatten(2).transpose(1, 2)
        hidden = nn.functional.gelu(self.inner_norm(hidden))  # [pairs, tokens, width]
        logits = self.score(hidden).squeeze(-1)  # [pairs, tokens]
        chance = logits.float().sigmoid()
        share = (chance / (chance.sum(-1, keepdim=True) + 1e-3)).to(hidden.dtype)
        place = position_encoding(rows, cols, self.width, first.device).to(hidden.dtype)
        carried = torch.cat([self.value(hidden), place.expand(pairs, count, -1)], -1)  # [pairs, tokens, 2 * width]
        pooled = (share[:, None] @ carried).expand(-1, count, -1)
        local = carried * chance[..., None].to(hidden.dtype)
        return self.out(pooled + local), logits.view(pairs, rows, cols)

    def enhance(self, features: list[Tensor], pixel_values: Tensor, grids: list[tuple[int, int]]) -> DifferenceOutput:
        """Walk over the pairs, those of one grid together.

        features: one [tokens, dim] an image, before and after in turn. pixel_values: [patches, numbers] of all images.
        grids: (rows, cols) of merged tokens, one an image. Raises ValueError where images do not come in pairs.
        """
        if len(features) % 2 or any(grids[i] != grids[i + 1] for i in range(0, len(grids) - 1, 2)):
            raise ValueError(
                f"the difference path needs images in pairs of equal size, got {len(features)} with token grids {grids}"
            )
        counts = [rows * cols for rows, cols in grids]
        per_token = pixel_values.shape[0] // sum(counts)
        pixels = (
            pixel_values.to(features[0].dtype).reshape(sum(counts), per_token * pixel_values.shape[1]).split(counts)
        )
        enhanced = list(features)
        maps: list[Tensor] = [features[0]] * (len(features) // 2)
        for rows, cols in sorted(set(grids)):
            chosen = [i for i in range(0, len(grids), 2) if grids[i] == (rows, cols)]
            first, second, pixels_first, pixels_second = (
                torch.stack([source[i + step] for i in chosen])
                for source, step in ((features, 0), (features, 1), (pixels, 0), (pixels, 1))
            )
            added, logits = self(first, second, pixels_first, pixels_second, rows, cols)
            for at, image in enumerate(chosen):
                enhanced[image + 1] = features[image + 1] + added[at]
                maps[image // 2] = logits[at]
        return DifferenceOutput(enhanced, maps)


def map_loss(maps: list[Tensor], targets: list[Tensor | None]) -> Tensor:
    """Binary cross-entropy between map logits and the share of each token's area that changed, mean over tokens.

    maps: [rows, cols] logits a pair. targets: [rows, cols] in [0, 1], or None where the pair has no mask (not counted).
    Returns a scalar, zero (with a gradient of zero) where no pair has a mask.
    """
    losses = [
        nn.functional.binary_cross_entropy_with_logits(logits.float(), target.to(logits.device).float())
        for logits, target in zip(maps, targets, strict=True)
        if target is not None
    ]
    if not losses:
        return torch.stack([logits.float().sum() * 0 for logits in maps]).sum()
    return torch.stack(losses).mean()
