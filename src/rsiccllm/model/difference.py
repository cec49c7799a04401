"""What differs between two images, put into the visual tokens of the second.

`DifferencePath` is what every variant shares; the paper's are in fusion.py. `ours` is a map, cell by cell, of whether a
place changed and what happened there, learnt from change masks and facts. What the changed cells hold, with their
positions, is pooled and added to the tokens of the second image: so the language model reads what changed and where in
one place. Without the trained map, places stay at chance (docs/choices.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple, get_args

import torch
from torch import Tensor, nn

from rsiccllm.facts import Direction
from rsiccllm.masks import OBJECTS

MAP_STRIDE = 4
"""Pixels of the processed image a cell of the change map, a side. A token of 28 pixels holds 7 x 7 cells."""


FACTS: tuple[tuple[str, str], ...] = tuple((thing, direction) for thing in OBJECTS for direction in get_args(Direction))
"""What can have happened in a place, as the map names it: (object, direction)."""


class DifferenceOutput(NamedTuple):
    """features: one [tokens, dim] an image, the second of each pair changed. The rest: None where there is no map.

    maps: one [rows, cols] a pair, the log odds of change in each cell. facts: one [FACTS, rows, cols] a pair, the log
    probability of each fact in a cell, given that it changed. looks: one [2, 2 x width] a pair, `look_of` each date.
    """

    features: list[Tensor]
    maps: list[Tensor] | None
    facts: list[Tensor] | None
    looks: list[Tensor] | None


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


class DifferencePath(nn.Module):
    """What every variant is: a module that adds something to the second image's tokens of each pair."""

    depths: tuple[int, ...] = ()
    """Layers of the vision tower, whose outputs it reads too."""

    def forward(
        self,
        first: Tensor,
        second: Tensor,
        pixels_first: Tensor,
        pixels_second: Tensor,
        rows: int,
        cols: int,
        within: Sequence[tuple[Tensor, Tensor]] = (),
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """first, second: [pairs, tokens, dim]. pixels_*: [pairs, patches, numbers], normalised as the processor does.

        rows, cols: tokens. within: first and second again, within the tower after each of `depths`: [pairs, tokens,
        width of the tower]. Returns what is added to the second image's tokens [pairs, tokens, dim], and, where the
        variant has a map, the maps [pairs, height, width], facts [pairs, FACTS, height, width] and looks of
        DifferenceOutput.
        """
        raise NotImplementedError

    def enhance(
        self,
        features: list[Tensor],
        pixel_values: Tensor,
        grids: list[tuple[int, int]],
        within: Sequence[Sequence[Tensor]] = (),
    ) -> DifferenceOutput:
        """Walk over the pairs, those of one grid together.

        features: one [tokens, dim] an image, before and after in turn. pixel_values: [patches, numbers] of all images.
        grids: (rows, cols) of merged tokens, one an image. within: for each of `depths`, as features.
        Raises ValueError where images do not come in pairs.
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
        maps: dict[int, Tensor] = {}
        facts: dict[int, Tensor] = {}
        looks: dict[int, Tensor] = {}
        for rows, cols in sorted(set(grids)):
            chosen = [i for i in range(0, len(grids), 2) if grids[i] == (rows, cols)]

            def dates(source: Sequence[Tensor], chosen: list[int] = chosen) -> tuple[Tensor, Tensor]:
                return torch.stack([source[i] for i in chosen]), torch.stack([source[i + 1] for i in chosen])

            deep = [dates(layer) for layer in within]
            added, seen, told, look = self(*dates(features), *dates(pixels), rows, cols, deep)
            for at, image in enumerate(chosen):
                enhanced[image + 1] = features[image + 1] + added[at]
                if seen is not None and told is not None and look is not None:
                    maps[image], facts[image], looks[image] = seen[at], told[at], look[at]
        found = ([of[i] for i in sorted(of)] or None for of in (maps, facts, looks))
        return DifferenceOutput(enhanced, *found)


class ZeroLinear(nn.Linear):
    """A projection that starts at zero: what it feeds is at first untouched."""

    def reset_parameters(self) -> None:
        """Called by nn.Linear when it is made."""
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


class Block(nn.Module):
    """A 3 x 3 convolution that adds to what it reads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, width)
        self.layer = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, hidden: Tensor) -> Tensor:
        """[images, width, height, width] to the same."""
        return hidden + self.layer(nn.functional.gelu(self.norm(hidden)))


class PixelTower(nn.Module):
    """A small convolutional encoder, the same for both dates: cells of 1, 2 and 4 times MAP_STRIDE pixels a side.

    Attention over patches needs much data to learn what edges and texture are; convolution begins with it. The coarse
    cells see enough around them to tell a house from a hall and the edge of a wood from a tree.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.widths = (width, width, 2 * width)
        self.stem = nn.Conv2d(3, width, 2 * MAP_STRIDE - 1, stride=MAP_STRIDE, padding=MAP_STRIDE - 2)
        self.down = nn.ModuleList(
            nn.Conv2d(fine, coarse, 3, stride=2, padding=1)
            for fine, coarse in zip(self.widths, self.widths[1:], strict=False)
        )
        self.blocks = nn.ModuleList(nn.Sequential(Block(wide), Block(wide)) for wide in self.widths)

    def forward(self, images: Tensor) -> list[Tensor]:
        """images: [images, 3, height, width]. Returns [images, widths[i], height, width] in cells, finest first."""
        # Each image by its own mean and spread: what is left is surface, not light.
        centred = images - images.mean((2, 3), keepdim=True)
        spread = torch.linalg.vector_norm(centred, dim=(2, 3), keepdim=True) / math.sqrt(centred[0, 0].numel() - 1)
        found = [self.blocks[0](self.stem(centred / (spread + 1e-3)))]
        for down, block in zip(self.down, list(self.blocks)[1:], strict=True):
            found.append(block(down(found[-1])))
        return found


class Comparison(nn.Module):
    """The two dates side by side, cell by cell: both, what came, and how much it is.

    forgiving: what came is against the cell of the first date that is most alike among the nine around, each by how
    alike it is: ground that lies a cell off is no change. How sharply it chooses is learnt.
    """

    def __init__(self, width: int, forgiving: bool) -> None:
        super().__init__()
        self.layer = nn.Conv2d(4 * width, width, 1)
        # One number, as a vector: fully_shard splits no scalars.
        self.sharpness = nn.Parameter(torch.zeros(1)) if forgiving else None

    def forward(self, both: Tensor) -> Tensor:
        """both: [2 x pairs, width, height, width], all first dates first. Returns [pairs, width, height, width]."""
        one, two = both.chunk(2)
        came = two - (one if self.sharpness is None else _aligned(one, two, self.sharpness.exp()))
        return self.layer(torch.cat([one, two, came, came.abs()], 1))


@torch.compiler.disable(reason="its compiler takes the gradient of the padding to be laid out otherwise than it is")
def _aligned(one: Tensor, two: Tensor, sharpness: Tensor) -> Tensor:
    """In each cell the mean of `one` over the 3 x 3 around it, by likeness to `two`. All [pairs, width, rows, cols]."""
    rows, cols = one.shape[-2:]
    wide = nn.functional.pad(one, (1, 1, 1, 1), mode="replicate")
    around = [wide[..., y : y + rows, x : x + cols] for y in range(3) for x in range(3)]
    apart = torch.stack([(cell - two).square().mean(1) for cell in around])  # [9, pairs, rows, cols]
    shares = (-sharpness * apart).softmax(0)
    total = shares[0][:, None] * around[0]
    for share, cell in zip(shares[1:], around[1:], strict=True):
        total = torch.addcmul(total, share[:, None], cell)  # a sum of nine held at once takes three times as long
    return total


class Moved(nn.Module):
    """How the second date's features differ from the first's, place by place."""

    def __init__(self, features: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(features)
        self.layer = nn.Linear(features, width)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """[pairs, tokens, features] of both dates to [pairs, tokens, width]."""
        return self.layer(self.norm(second) - self.norm(first))


def unpatch(patches: Tensor, rows: int, cols: int, merge: int, patch: int) -> Tensor:
    """Qwen's flattened patches back as images.

    patches: [images, rows * cols * merge^2, 3 * time * patch^2], patches of one token together. A still image fills the
    time axis with itself. Returns [images, 3, rows * merge * patch, cols * merge * patch].
    """
    grid = patches.reshape(len(patches), rows, cols, merge, merge, 3, -1, patch, patch)[..., 0, :, :]
    return grid.permute(0, 5, 1, 3, 6, 2, 4, 7).reshape(len(patches), 3, rows * merge * patch, cols * merge * patch)


def look_of(cells: Tensor) -> Tensor:
    """What an image is like as a whole: the mean and the spread of each feature over its finest cells.

    Kinds of imagery differ in these long before a model's answers show it. cells: [images, width, height, width].
    Returns [images, 2 x width] float32.
    """
    flat = cells.flatten(2).float()
    mean = flat.mean(2)
    # The norm, for torch's own std takes ten times as long.
    spread = torch.linalg.vector_norm(flat - mean[..., None], dim=2) / math.sqrt(max(flat.shape[2] - 1, 1))
    return torch.cat([mean, spread], 1)


class ChangeMap(DifferencePath):
    """Says cell by cell whether and what changed, and adds what and where to the second image's tokens.

    tokens: width of the merged visual tokens. merge, patch: patches a token and pixels a patch, a side.
    width: of a cell. align: whether the comparison forgives ground that lies a cell off. depths: layers of the vision
    tower whose difference is read beside that of its end (a trained tower knows surfaces that a small encoder has to
    learn); tower: the tower's width.
    The last projection starts at zero, so before the first step the visual tokens are the base model's bit for bit.
    """

    def __init__(
        self, tokens: int, merge: int, patch: int, width: int = 64, align: bool = True, depths: Sequence[int] = (),
        tower: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.merge, self.patch, self.depths = merge, patch, tuple(depths)
        # What a message is made of: features, place of the cell, facts, and the place of what happened there.
        self.parts = (width, ANCHORS**2, len(FACTS))
        self.tower = PixelTower(width)
        # Only the finest cells are so small that a shift of some pixels moves what is in them to the next.
        self.compare = nn.ModuleList(Comparison(wide, align and i == 0) for i, wide in enumerate(self.tower.widths))
        self.norm = nn.LayerNorm(tokens)
        self.tokens = nn.Linear(tokens, self.tower.widths[-1])
        self.within = nn.ModuleList(Moved(tower or tokens, self.tower.widths[-1]) for _ in self.depths)
        # From coarse to fine: each scale reads the one below it.
        self.up = nn.ModuleList(
            nn.Conv2d(coarse, fine, 1) for fine, coarse in zip(self.tower.widths, self.tower.widths[1:], strict=False)
        )
        self.blocks = nn.ModuleList(Block(wide) for wide in self.tower.widths)
        self.last = nn.GroupNorm(1, width)
        self.classes = nn.Conv2d(width, 1 + len(FACTS), 1)  # the first: nothing happened here
        # What changed starts as loud as where, else the place alone is learnt at first.
        self.what_norm = nn.LayerNorm(width, elementwise_affine=False)
        self.out = ZeroLinear(sum(self.parts) + ANCHORS**2, tokens)

    def forward(
        self,
        first: Tensor,
        second: Tensor,
        pixels_first: Tensor,
        pixels_second: Tensor,
        rows: int,
        cols: int,
        within: Sequence[tuple[Tensor, Tensor]] = (),
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """As in DifferencePath; a cell of the maps is MAP_STRIDE pixels a side."""
        pixels = unpatch(torch.cat([pixels_first, pixels_second]), rows, cols, self.merge, self.patch)
        cells = self.tower(pixels)
        scales = [compare(found) for compare, found in zip(self.compare, cells, strict=True)]
        moved = self.tokens(self.norm(second) - self.norm(first))  # [pairs, tokens, width]
        for read, (one, two) in zip(self.within, within, strict=True):
            moved = moved + read(one, two)
        moved = moved.transpose(1, 2).unflatten(2, (rows, cols))
        both = self.blocks[-1](scales[-1] + _fitted(moved, scales[-1]))
        for scale, up, block in zip(scales[-2::-1], list(self.up)[::-1], list(self.blocks)[-2::-1], strict=True):
            both = block(scale + _fitted(up(both), scale))
        both = nn.functional.gelu(self.last(both))  # [pairs, width, height, width] in cells
        classes = self.classes(both).float()  # [pairs, 1 + FACTS, height, width]
        # One softmax over nothing and every fact; a start at even odds, however many facts there are.
        logits = classes[:, 1:].logsumexp(1) - math.log(len(FACTS)) - classes[:, 0]
        facts = classes[:, 1:].log_softmax(1)
        chance = logits.sigmoid().to(both.dtype)[:, None]  # [pairs, 1, height, width]
        height, width = chance.shape[-2:]
        place = place_code(height, width, first.device).to(both.dtype).expand(len(first), -1, -1, -1)
        what = both - both.mean((2, 3), keepdim=True)  # against the rest of the image: see `place_code`
        held = facts.exp().to(both.dtype) * chance  # [pairs, FACTS, height, width]
        told = (what * chance, place * chance, held)  # apart, for all in one tensor is a copy more
        # The mean over what changed, whatever its size, as loud as the surest cell: nothing where nothing changed.
        pooled = torch.cat([part.sum((2, 3)) for part in told], 1) / (chance.sum((2, 3)) + 1e-3)
        local = torch.cat([nn.functional.adaptive_avg_pool2d(part, (rows, cols)) for part in told], 1)
        local = local.flatten(2).transpose(1, 2)  # [pairs, tokens, parts]
        sure = nn.functional.adaptive_avg_pool2d(chance, (rows, cols)).flatten(2).transpose(1, 2)  # [pairs, tokens, 1]
        # Of each fact its own place: a changed cell says where the whole of what happened there is, since "in the top
        # left" is true of a neighbourhood and not of each of its houses, and the mean over two changes is neither's.
        places = torch.einsum("pfhw,pahw->pfa", held, place) / (held.sum((2, 3)) + 1e-3)[..., None]
        added = self._message(pooled[:, None], places) * chance.amax((2, 3))[:, None]
        looks = torch.stack(look_of(cells[0].detach()).chunk(2), 1)
        return added + self._message(local, places) * sure, logits, facts, looks

    def _message(self, told: Tensor, places: Tensor) -> Tensor:
        """What is said to the language model of changed ground: [pairs, cells, parts] to [pairs, cells, tokens].

        places: of each fact, [pairs, FACTS, anchors].
        """
        what, place, named = told.split(self.parts, -1)
        # 12 makes a likely fact as loud as a place (norm about 8).
        return self.out(torch.cat([self.what_norm(what), place, 12 * named, named @ places], -1))


def _fitted(grid: Tensor, other: Tensor) -> Tensor:
    """A grid at the size of another."""
    return nn.functional.interpolate(grid, size=other.shape[-2:], mode="bilinear")


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


def fact_cells(objects: Tensor, rows: int, cols: int) -> Tensor:
    """The share of each cell's area in which each fact is true.

    objects: uint8 [2, height, width], what went and what came at each pixel, as `masks.decode` gives them.
    Returns [FACTS, rows, cols] in [0, 1].
    """
    numbers = objects.long()
    went, came = (
        torch.zeros(1 + len(OBJECTS), *numbers.shape[1:]).scatter_(0, one[None], 1.0)[1:] for one in numbers
    )  # [objects, height, width]
    pixels = torch.stack([came, went], 1).flatten(0, 1)  # in the order of FACTS: appear, then disappear, of each object
    return nn.functional.interpolate(pixels[None], (rows, cols), mode="area")[0]


def fact_loss(
    maps: list[Tensor], facts: list[Tensor], masks: list[Tensor | None], targets: list[Tensor | None]
) -> Tensor:
    """How far the map's facts are from those stated of the pair, mean over the pairs whose facts are known.

    With a mask: cross-entropy in each cell, weighted by the share of it that changed (where several facts are stated of
    a pair, all of them are even in every cell). Without one, the pair as a whole: the surest cell says whether anything
    changed, and the mean over cells, weighted by their chance of change, says what.
    maps, facts: as in DifferenceOutput. masks: as for `map_loss`. targets: `fact_target`s, or None where not known; or
    `fact_cells` where each cell's own facts are known: then the cross-entropy of those.
    Returns a scalar, zero (with a gradient of zero) where no facts are known.
    """
    losses = []
    for logits, told, mask, target in zip(maps, facts, masks, targets, strict=True):
        if target is None:
            continue
        wanted = target.to(told.device)
        if wanted.dim() == 3:
            losses.append(-(wanted * told).sum() / wanted.sum().clamp(min=1e-6))
            continue
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
