"""What differs between two images, put into the visual tokens of the second.

`change_map` is our first form of the difference path: a map, cell by cell, of whether a place changed and what happened
there, learnt from change masks and facts. What the changed cells hold, with their positions, is pooled and added to the
tokens of the second image: so the language model reads what changed and where in one place. Without the trained map,
places stay at chance (docs/choices.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from rsiccllm.facts import Direction, Object

Variant = Literal["none", "change_map"]
VARIANTS: tuple[str, ...] = ("none", "change_map")


MAP_STRIDE = 4
"""Pixels of the processed image a cell of the change map, a side. A token of 28 pixels holds 7 x 7 cells."""


FACTS: tuple[tuple[str, str], ...] = tuple(
    (thing, direction) for thing in get_args(Object) for direction in get_args(Direction)
)
"""What can have happened in a place, as the map names it: (object, direction)."""


class DifferenceOutput(NamedTuple):
    """features: one [tokens, dim] an image, the second of each pair changed.

    maps: one [rows, cols] a pair, the log odds of change in each cell. facts: one [FACTS, rows, cols] a pair, the log
    probability of each fact in a cell, given that it changed.
    """

    features: list[Tensor]
    maps: list[Tensor]
    facts: list[Tensor]


ANCHORS = 8
"""Anchors of the place code, a side."""


def place_code(rows: int, cols: int, device: torch.device) -> Tensor:
    """How near each cell of a grid is to each of ANCHORS x ANCHORS points spread over the image, as bumps.

    The mean over changed cells is a soft histogram of where the change is: one place has one code at any grid size, and
    a linear map can read words such as "top left" from it (sines and cosines of the mean place need more).
    Each bump's mean over the image is taken off, and they are scaled to a spread of about 1: a part that all places
    share would be learnt first and drown the rest. Returns [ANCHORS^2, rows, cols] float32.
    """

    def bumps(count: int) -> Tensor:
        anchors = (torch.arange(ANCHORS, device=device) + 0.5) / ANCHORS
        cells = (torch.arange(count, device=device) + 0.5) / count
        return torch.exp(-((anchors[:, None] - cells) ** 2) * ANCHORS**2 / 2)  # [ANCHORS, count]

    code = torch.einsum("ay,bx->abyx", bumps(rows), bumps(cols)).flatten(0, 1)
    return 4 * (code - code.mean((1, 2), keepdim=True))


class ZeroLinear(nn.Linear):
    """A projection that starts at zero: what it feeds is at first untouched."""


class PixelTower(nn.Module):
    """A small convolutional encoder, the same for both dates, at one cell for MAP_STRIDE pixels a side.

    Attention over patches needs much data to learn what edges and texture are; convolution begins with it.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 2 * MAP_STRIDE - 1, stride=MAP_STRIDE, padding=MAP_STRIDE - 2)
        self.norms = nn.ModuleList(nn.GroupNorm(1, width) for _ in range(2))
        self.layers = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, images: Tensor) -> Tensor:
        """images: [images, 3, height, width]. Returns [images, width, height / MAP_STRIDE, width / MAP_STRIDE]."""
        # Each image by its own mean and spread: what is left is surface, not light.
        centred = images - images.mean((2, 3), keepdim=True)
        hidden = self.stem(centred / (centred.std((2, 3), keepdim=True) + 1e-3))
        for norm, layer in zip(self.norms, self.layers, strict=True):
            hidden = hidden + layer(nn.functional.gelu(norm(hidden)))
        return hidden


def unpatch(patches: Tensor, rows: int, cols: int, merge: int, patch: int) -> Tensor:
    """Qwen's flattened patches back as images.

    patches: [images, rows * cols * merge^2, 3 * time * patch^2], patches of one token together. A still image fills the
    time axis with itself. Returns [images, 3, rows * merge * patch, cols * merge * patch].
    """
    grid = patches.reshape(len(patches), rows, cols, merge, merge, 3, -1, patch, patch)[..., 0, :, :]
    return grid.permute(0, 5, 1, 3, 6, 2, 4, 7).reshape(len(patches), 3, rows * merge * patch, cols * merge * patch)


class ChangeMap(nn.Module):
    """Says cell by cell whether and what changed, and adds what and where to the second image's tokens.

    tokens: width of the merged visual tokens. merge, patch: patches a token and pixels a patch, a side.
    width: of a cell.
    The last projection starts at zero, so before the first step the visual tokens are the base model's bit for bit.
    """

    def __init__(self, tokens: int, merge: int, patch: int, width: int = 64) -> None:
        super().__init__()
        self.merge, self.patch = merge, patch
        self.parts = (width, ANCHORS**2, len(FACTS))  # what a message is made of: features, place, facts
        self.tower = PixelTower(width)
        self.compare = nn.Conv2d(4 * width, width, 1)
        self.compare_norm = nn.GroupNorm(1, width)
        self.norm = nn.LayerNorm(tokens)
        self.tokens = nn.Linear(tokens, width)
        self.spread = nn.Conv2d(width, width, 3, padding=2, dilation=2)
        self.classes = nn.Conv2d(width, 1 + len(FACTS), 1)  # the first: nothing happened here
        # What changed starts as loud as where, else the place alone is learnt at first.
        self.what_norm = nn.LayerNorm(width, elementwise_affine=False)
        self.out = ZeroLinear(sum(self.parts), tokens)

    def forward(
        self, first: Tensor, second: Tensor, pixels_first: Tensor, pixels_second: Tensor, rows: int, cols: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """first, second: [pairs, tokens, dim]. pixels_*: [pairs, patches, numbers], normalised as the processor does.

        Returns what is added to the second image's tokens [pairs, tokens, dim], and as in DifferenceOutput the maps
        [pairs, height / MAP_STRIDE, width / MAP_STRIDE] and the facts [pairs, FACTS, ..., ...].
        """
        pixels = unpatch(torch.cat([pixels_first, pixels_second]), rows, cols, self.merge, self.patch)
        one, two = self.tower(pixels).chunk(2)  # [pairs, width, height, width] in cells
        moved = self.tokens(self.norm(second) - self.norm(first))  # [pairs, tokens, width]
        moved = moved.transpose(1, 2).unflatten(2, (rows, cols))
        both = self.compare(torch.cat([one, two, two - one, (two - one).abs()], 1))
        both = both + nn.functional.interpolate(moved, size=both.shape[-2:], mode="bilinear")
        both = nn.functional.gelu(self.compare_norm(both))
        both = nn.functional.gelu(both + self.spread(both))
        classes = self.classes(both).float()  # [pairs, 1 + FACTS, height, width]
        # One softmax over nothing and every fact; a start at even odds, however many facts there are.
        logits = classes[:, 1:].logsumexp(1) - math.log(len(FACTS)) - classes[:, 0]
        facts = classes[:, 1:].log_softmax(1)
        chance = logits.sigmoid().to(both.dtype)[:, None]  # [pairs, 1, height, width]
        height, width = chance.shape[-2:]
        place = place_code(height, width, first.device).to(both.dtype).expand(len(first), -1, -1, -1)
        what = both - both.mean((2, 3), keepdim=True)  # against the rest of the image: see `place_code`
        told = torch.cat([what, place, facts.exp().to(both.dtype)], 1) * chance  # [pairs, parts, height, width]
        # The mean over what changed, whatever its size, as loud as the surest cell: nothing where nothing changed.
        pooled = told.sum((2, 3)) / (chance.sum((2, 3)) + 1e-3)
        local = nn.functional.adaptive_avg_pool2d(told, (rows, cols)).flatten(2).transpose(1, 2)
        sure = nn.functional.adaptive_avg_pool2d(chance, (rows, cols)).flatten(2).transpose(1, 2)  # [pairs, tokens, 1]
        added = self._message(pooled[:, None]) * chance.amax((2, 3))[:, None] + self._message(local) * sure
        return added, logits, facts

    def _message(self, told: Tensor) -> Tensor:
        """What is said to the language model of changed ground: [pairs, places, parts] to [pairs, places, tokens]."""
        what, place, named = told.split(self.parts, -1)
        # 12 makes a likely fact as loud as a place (norm about 8).
        return self.out(torch.cat([self.what_norm(what), place, 12 * named], -1))

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
        facts: list[Tensor] = list(maps)
        for rows, cols in sorted(set(grids)):
            chosen = [i for i in range(0, len(grids), 2) if grids[i] == (rows, cols)]
            first, second, pixels_first, pixels_second = (
                torch.stack([source[i + step] for i in chosen])
                for source, step in ((features, 0), (features, 1), (pixels, 0), (pixels, 1))
            )
            added, seen, told = self(first, second, pixels_first, pixels_second, rows, cols)
            for at, image in enumerate(chosen):
                enhanced[image + 1] = features[image + 1] + added[at]
                maps[image // 2], facts[image // 2] = seen[at], told[at]
        return DifferenceOutput(enhanced, maps, facts)


def map_loss(maps: list[Tensor], targets: list[Tensor | None]) -> Tensor:
    """Binary cross-entropy between map logits and the share of each cell's area that changed, mean over cells.

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


def fact_target(facts: Iterable[tuple[str, str]]) -> Tensor:
    """A distribution over FACTS, even over those stated; all zero where nothing changed."""
    target = torch.zeros(len(FACTS))
    for fact in set(facts):
        target[FACTS.index(fact)] = 1
    return target / target.sum().clamp(min=1)


def fact_loss(
    maps: list[Tensor], facts: list[Tensor], masks: list[Tensor | None], targets: list[Tensor | None]
) -> Tensor:
    """How far the map's facts are from those stated of the pair, mean over the pairs whose facts are known.

    With a mask: cross-entropy in each cell, weighted by the share of it that changed (where several facts are stated of
    a pair, all of them are even in every cell). Without one, the pair as a whole: the surest cell says whether anything
    changed, and the mean over cells, weighted by their chance of change, says what.
    maps, facts: as in DifferenceOutput. masks: as for `map_loss`. targets: `fact_target`s, or None where not known.
    Returns a scalar, zero (with a gradient of zero) where no facts are known.
    """
    losses = []
    for logits, told, mask, target in zip(maps, facts, masks, targets, strict=True):
        if target is None:
            continue
        wanted = target.to(told.device)
        changed = bool(wanted.any())
        weight = logits.sigmoid() if mask is None else mask.to(told.device)
        loss = told.sum() * 0
        if changed and weight.sum() > 0:
            cells = -(wanted[:, None, None] * told).sum(0)  # [rows, cols]
            loss = loss + (weight.detach() * cells).sum() / weight.detach().sum()
        if mask is None:
            flag = torch.full_like(logits.amax(), float(changed))
            loss = loss + nn.functional.binary_cross_entropy_with_logits(logits.amax(), flag)
        losses.append(loss)
    if not losses:
        return torch.stack([told.sum() * 0 for told in facts]).sum()
    return torch.stack(losses).mean()
