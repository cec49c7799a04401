"""The paper's difference path: pixel difference and geometric texture, fused by cross-attention.

T = I2 - I1, patch by patch, is embedded as the visual tokens are; dS (texture.py) is cut into the same grid. With T as
query and dS as key and value, F = softmax(T dS^T / sqrt(d)) dS, and V + F are the tokens of the second image. The paper
leaves open how T and dS become tokens and to which image F is added. Ours: a linear map each, the second image, and a
projection to the tokens' width that starts at zero. Back-projected lines cover the whole image, so dS is nearly the
same everywhere and the attention to it flat; dS is therefore taken against its mean over the image, in units of its
spread.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_unshuffle

from rsiccllm.errors import InputError
from rsiccllm.model.difference import MAP_STRIDE, DifferencePath, ZeroLinear, unpatch
from rsiccllm.model.texture import KERNELS, Norm, line_texture, mean_texture, texture_difference
from rsiccllm.model.variants import Variant

LEAST_SPREAD = 0.01
"""Of dS over the places of an image, in the contrast's own unit."""


class Fusion(DifferencePath):
    """Cross-attention of the pixel difference to the texture difference, and the paper's ablations of it.

    tokens: width of the merged visual tokens. merge, patch: patches a token and pixels a patch, a side. width: of the
    attention. angles: of the Hough accumulator. stride: pixels of its cells, a side; it divides a token's. norm: of dS.
    variant: "paper"; "paper-no-pixel" (dS is query too), "paper-no-texture" (T is key and value too),
    "paper-mean-texture" (plain means stand for the texture).
    line_texture: S of images by angles and stride; nothing in it is learnt, so training may set one that remembers.
    """

    line_texture: Callable[[Tensor, int, int], Tensor] = staticmethod(line_texture)

    def __init__(
        self, tokens: int, merge: int, patch: int, variant: Variant, width: int = 64, angles: int = 32,
        stride: int = MAP_STRIDE, norm: Norm = "kernels",
    ) -> None:  # fmt: skip
        super().__init__()
        if merge * patch % stride:
            raise InputError(f"difference.stride: {stride} does not divide a token's {merge * patch} pixels")
        self.merge, self.patch, self.angles, self.stride, self.variant = merge, patch, angles, stride, variant
        self.texture_norm = norm
        # Of two images of one date: a spread below this is noise, and is not blown up.
        self.least_spread = LEAST_SPREAD if norm == "kernels" else 0.0
        side = merge * patch // stride  # cells a token, a side
        maps = 1 if variant == "paper-mean-texture" else KERNELS
        self.pixel = nn.Linear(3 * (merge * patch) ** 2, width)
        self.texture = nn.Linear(maps * side**2, width)
        self.out = ZeroLinear(width, tokens)

    def forward(
        self, first: Tensor, second: Tensor, pixels_first: Tensor, pixels_second: Tensor, rows: int, cols: int,
        within: Sequence[tuple[Tensor, Tensor]] = (),
    ) -> tuple[Tensor, None, None, None]:  # fmt: skip
        """As in DifferencePath; there is no map, and `within` is not read."""
        images = unpatch(torch.cat([pixels_first, pixels_second]), rows, cols, self.merge, self.patch)
        one, two = images.chunk(2)  # [pairs, 3, height, width]
        blocks = pixel_unshuffle(two - one, self.merge * self.patch)  # [pairs, 3 * side^2, rows, cols]
        pixel = self.pixel(blocks.flatten(2).transpose(1, 2))  # [pairs, tokens, width]
        if self.variant == "paper-no-texture":
            return self.out(attend(pixel, pixel)[0]), None, None, None
        texture = self.texture(self._texture(images, cols).to(second.dtype))
        query = texture if self.variant == "paper-no-pixel" else pixel
        return self.out(attend(query, texture)[0]), None, None, None

    @torch.no_grad()
    def _texture(self, images: Tensor, cols: int) -> Tensor:
        """dS of each pair as tokens, [pairs, tokens, kernels * cells]."""
        grey = images.float().mean(1)
        with torch.autocast(grey.device.type, enabled=False):
            if self.variant == "paper-mean-texture":
                statistics = mean_texture(grey, self.stride)
            else:
                statistics = self.line_texture(grey, self.angles, self.stride)
            before, after = statistics.chunk(2)
            difference = texture_difference(before, after, self.texture_norm)
            difference = difference - difference.mean((2, 3), keepdim=True)
            difference = difference / (difference.std((2, 3), keepdim=True) + self.least_spread)
        side = difference.shape[-1] // cols
        return pixel_unshuffle(difference, side).flatten(2).transpose(1, 2)


def attend(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """softmax(Q K^T / sqrt(d)) K, and the softmax.

    query, key: [pairs, tokens, d]. Returns [pairs, tokens, d] and [pairs, tokens, tokens].
    """
    weights = (query @ key.transpose(1, 2) / math.sqrt(query.shape[-1])).softmax(-1)
    return weights @ key, weights
