"""Geometric texture of an image: eight 3x3 kernels, Hough voting and its inverse, and the difference of two dates.

The paper's second branch (docs/choices.md says what it leaves open and what is ours here). Everything is fixed: no
weight is learnt, so what a pair gives can be computed once. All of it is batched; there is no loop over pixels, angles
or images.
"""

from __future__ import annotations

import math
import warnings
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, pad

KERNELS = 8

Norm = Literal["kernels", "image"]
"""Over what the L1 norm of dS runs: the eight kernels at one place, or one kernel's whole map."""

# Which of the eight neighbours take part (the indicator delta of each kernel), row by row; the centre never does.
_ALL = ((1, 1, 1), (1, 0, 1), (1, 1, 1))
_LEFT = ((1, 0, 0), (1, 0, 0), (1, 0, 0))
_RIGHT = ((0, 0, 1), (0, 0, 1), (0, 0, 1))
_SIDES = ((1, 0, 1), (1, 0, 1), (1, 0, 1))
_TOP = ((1, 1, 1), (0, 0, 0), (0, 0, 0))
_BOTTOM = ((0, 0, 0), (0, 0, 0), (1, 1, 1))
_ENDS = ((1, 1, 1), (0, 0, 0), (1, 1, 1))
GATES = (_ALL, _LEFT, _RIGHT, _SIDES, _TOP, _BOTTOM, _ENDS)
"""C1 to C7: C1 sees all around, C2, C3, C5 and C6 one side, C4 and C7 two opposite sides. C8 has no gate."""


def kernels(dtype: torch.dtype = torch.float32) -> Tensor:
    """The eight kernels, [8, 3, 3], to be used as a convolution in torch's sense (no flip).

    A gated central difference is R(p) = sum over the gate's n neighbours q of (I(q) - I(p)) / n: an offset of the light
    leaves it as it is, a gain g makes it g times as large. As one kernel: 1/n at the gate, -1 at the centre. C8 is the
    plain mean of nine, which an offset c raises by c.
    """
    gates = torch.tensor(GATES, dtype=dtype)
    differences = gates / gates.sum((1, 2), keepdim=True)
    differences[:, 1, 1] = -1
    return torch.cat([differences, torch.full((1, 3, 3), 1 / 9, dtype=dtype)])


def responses(grey: Tensor) -> Tensor:
    """[images, height, width] to [images, 8, height, width]. The edge is repeated, so that flat ground answers 0."""
    return conv2d(pad(grey[:, None], (1, 1, 1, 1), mode="replicate"), kernels(grey.dtype).to(grey.device)[:, None])


def line_angles(count: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """`count` angles of normals, evenly from -pi/2 (included) to pi/2 (excluded), radians."""
    return torch.arange(count, dtype=dtype) * (math.pi / count) - math.pi / 2


def line_bins(height: int, width: int, angles: Tensor) -> Tensor:
    """The bin of the line through each pixel at each angle, [angles, height * width] int64, in angles' precision.

    rho = x cos(theta) + y sin(theta) in pixels, x to the right and y down, rounded half away from zero, plus `offset`;
    bins run from 0 to 2 * offset with offset = ceil(sqrt(height^2 + width^2)), as in scikit-image's hough_line.
    """
    y, x = torch.meshgrid(
        torch.arange(height, dtype=angles.dtype), torch.arange(width, dtype=angles.dtype), indexing="ij"
    )
    rho = angles.cos()[:, None] * x.flatten() + angles.sin()[:, None] * y.flatten()
    return (rho.sign() * (rho.abs() + 0.5).floor()).long() + line_offset(height, width)


def line_offset(height: int, width: int) -> int:
    """The bin of rho = 0; half the number of bins."""
    return math.ceil(math.hypot(height, width))


class Hough:
    """Voting and its adjoint for maps of one size, as a sparse matrix of ones: [angles * bins, pixels]."""

    def __init__(self, height: int, width: int, angles: int, device: torch.device, dtype: torch.dtype) -> None:
        self.shape = (angles, 2 * line_offset(height, width) + 1)
        self.size = (height, width)
        bins = line_bins(height, width, line_angles(angles))
        rows = bins + torch.arange(angles)[:, None] * self.shape[1]  # [angles, pixels]
        columns = torch.arange(height * width).expand_as(rows)
        votes = torch.sparse_coo_tensor(
            torch.stack([rows.flatten(), columns.flatten()]),
            torch.ones(rows.numel(), dtype=dtype),
            (angles * self.shape[1], height * width),
            check_invariants=False,
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
            self.votes = votes.to(device).to_sparse_csr()
            self.back = votes.t().to(device).to_sparse_csr()

    def vote(self, maps: Tensor) -> Tensor:
        """[maps, height, width] to accumulators [maps, angles, bins]: every pixel gives its value to its lines."""
        return (self.votes @ maps.flatten(1).t()).t().unflatten(1, self.shape)

    def project(self, accumulators: Tensor) -> Tensor:
        """The adjoint: [maps, angles, bins] to [maps, height, width], at every pixel the sum over its lines."""
        return (self.back @ accumulators.flatten(1).t()).t().unflatten(1, self.size)


@lru_cache(maxsize=8)
def hough(height: int, width: int, angles: int, device: torch.device, dtype: torch.dtype = torch.float32) -> Hough:
    """A `Hough` for this size, made once."""
    return Hough(height, width, angles, device, dtype)


def line_texture(grey: Tensor, angles: int, stride: int) -> Tensor:
    """S of each image: how much lies on the lines through each place, by kernel.

    grey: [images, height, width]. The responses' absolute values are averaged over cells of `stride` pixels a side,
    vote, and are projected back; the mean over angles is taken, and over the cells of the image, so that S has the
    unit of grey at any size. Returns [images, 8, height / stride, width / stride] float32, at least 0.
    """
    cells = avg_pool2d(responses(grey.float()).abs(), stride)
    height, width = cells.shape[-2:]
    lines = hough(height, width, angles, cells.device)
    back = lines.project(lines.vote(cells.flatten(0, 1)))
    return (back / (angles * math.sqrt(height * width))).unflatten(0, (-1, KERNELS))


def mean_texture(grey: Tensor, stride: int) -> Tensor:
    """The ablation's stand-in for S: the plain mean of each cell. Returns [images, 1, height / stride, ...] float32."""
    return avg_pool2d(grey.float()[:, None], stride).abs()


def texture_difference(first: Tensor, second: Tensor, norm: Norm = "kernels", eps: float = 1e-6) -> Tensor:
    """dS = (S2 - S1) / (||S1||_1 + ||S2||_1 + eps), in image space.

    first, second: [images, kernels, height, width], at least 0. norm: over what the L1 norms run. Over the kernels of a
    place ("kernels", ours) dS is a contrast in [-1, 1] wherever the place lies; over the whole map of a kernel
    ("image") it shrinks with the number of places, and is about 1e-5 at 256 px.
    """
    over = (1,) if norm == "kernels" else (2, 3)
    total = first.abs().sum(over, keepdim=True) + second.abs().sum(over, keepdim=True)
    return (second - first) / (total + eps)
