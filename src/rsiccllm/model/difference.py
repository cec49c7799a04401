"""What differs between two images, put into the visual tokens of the second.

`change_map` is our first form of the difference path. A score for each visual token says how sure it is that its place
changed; the scores are trained from change masks where a pair has one. The tokens are pooled by these scores, with
their positions, and the pooled token is added to every token of the second image: so the language model reads what
changed and where in one place. Without the trained map, places stay at chance (docs/choices.md).
"""

from __future__ import annotations

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
"""What can have happened, as the fact head names it: (object, direction)."""


class DifferenceOutput(NamedTuple):
    """features: one [tokens, dim] an image, the second of each pair changed. maps: one logit grid a pair.

    facts: [pairs, 1 + FACTS] logits, the first for "nothing changed".
    """

    features: list[Tensor]
    maps: list[Tensor]
    facts: Tensor


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
    """Says where the images differ, cell by cell, and adds what and where to the second image's tokens.

    tokens: width of the merged visual tokens. merge, patch: patches a token and pixels a patch, a side. width: inner.
    The last projection starts at zero, so before the first step the visual tokens are the base model's bit for bit.
    """

    def __init__(self, tokens: int, merge: int, patch: int, width: int = 128) -> None:
        super().__init__()
        self.merge, self.patch, self.width = merge, patch, width
        cells = width // 2
        self.tower = PixelTower(cells)
        self.compare = nn.Conv2d(4 * cells, cells, 1)
        self.compare_norm = nn.GroupNorm(1, cells)
        self.spread = nn.Conv2d(cells, cells, 3, padding=2, dilation=2)
        self.score = nn.Conv2d(cells, 1, 1)
        self.norm = nn.LayerNorm(tokens)
        self.tokens = nn.Linear(tokens, cells)
        # What changed starts as loud as where, else the place alone is learnt at first.
        self.what_norm = nn.LayerNorm(2 * cells, elementwise_affine=False)
        self.fact = nn.Linear(width, 1 + len(FACTS))
        self.out = ZeroLinear(width + ANCHORS**2 + 1 + len(FACTS), tokens)

    def forward(
        self, first: Tensor, second: Tensor, pixels_first: Tensor, pixels_second: Tensor, rows: int, cols: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """first, second: [pairs, tokens, dim]. pixels_*: [pairs, patches, numbers], normalised as the processor does.

        Returns what is added to the second image's tokens [pairs, tokens, dim], the map's logits
        [pairs, height / MAP_STRIDE, width / MAP_STRIDE], and the facts' [pairs, 1 + FACTS].
        """
        pairs = len(first)
        pixels = unpatch(torch.cat([pixels_first, pixels_second]), rows, cols, self.merge, self.patch)
        one, two = self.tower(pixels).chunk(2)  # [pairs, cells, height, width] in cells
        both = self.compare(torch.cat([one, two, two - one, (two - one).abs()], 1))
        both = nn.functional.gelu(self.compare_norm(both))
        both = nn.functional.gelu(both + self.spread(both))
        logits = self.score(both)  # [pairs, 1, height, width]
        chance = logits.float().sigmoid().to(both.dtype)
        height, width = logits.shape[-2:]
        place = place_code(height, width, first.device).to(both.dtype).expand(pairs, -1, -1, -1)
        what = both - both.mean((2, 3), keepdim=True)  # against the rest of the image: see `place_code`
        told = torch.cat([what, place], 1) * chance  # [pairs, cells + anchors, height, width]
        # The mean over what changed, whatever its size, as loud as the surest cell: nothing where nothing changed.
        pooled = told.sum((2, 3)) / (chance.sum((2, 3)) + 1e-3)
        local = nn.functional.adaptive_avg_pool2d(told, (rows, cols)).flatten(2).transpose(1, 2)
        sure = nn.functional.adaptive_avg_pool2d(chance, (rows, cols)).flatten(2).transpose(1, 2)  # [pairs, tokens, 1]
        moved = self.tokens(self.norm(second) - self.norm(first))
        changed = (moved * sure).sum(1) / (sure.sum(1) + 1e-3)
        added, facts = self._tell(pooled[:, None], changed[:, None])
        nearby, _ = self._tell(local, moved)
        return added * chance.amax((2, 3))[:, None] + nearby * sure, logits[:, 0], facts[:, 0]

    def _tell(self, told: Tensor, moved: Tensor) -> tuple[Tensor, Tensor]:
        """What is said of changed ground: [pairs, places, tokens] to add and [pairs, places, 1 + FACTS] logits."""
        what, place = told.split([self.width // 2, ANCHORS**2], -1)
        what = self.what_norm(torch.cat([what, moved], -1))
        facts = self.fact(what)
        # As clear a code as the place's, one number a fact; 12 makes a likely fact as loud as a place (norm about 8).
        named = 12 * facts.float().softmax(-1).to(what.dtype)
        return self.out(torch.cat([what, place, named], -1)), facts

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
        told: list[Tensor] = list(maps)
        for rows, cols in sorted(set(grids)):
            chosen = [i for i in range(0, len(grids), 2) if grids[i] == (rows, cols)]
            first, second, pixels_first, pixels_second = (
                torch.stack([source[i + step] for i in chosen])
                for source, step in ((features, 0), (features, 1), (pixels, 0), (pixels, 1))
            )
            added, logits, facts = self(first, second, pixels_first, pixels_second, rows, cols)
            for at, image in enumerate(chosen):
                enhanced[image + 1] = features[image + 1] + added[at]
                maps[image // 2] = logits[at]
                told[image // 2] = facts[at]
        return DifferenceOutput(enhanced, maps, torch.stack(told))


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
    """A distribution over "nothing" and FACTS: all on "nothing" without facts, else even over those stated."""
    target = torch.zeros(1 + len(FACTS))
    for fact in set(facts):
        target[1 + FACTS.index(fact)] = 1
    if not target.any():
        target[0] = 1
    return target / target.sum()


def fact_loss(facts: Tensor, targets: list[Tensor | None]) -> Tensor:
    """Cross-entropy of [pairs, 1 + FACTS] logits against `fact_target`s, mean over the pairs that have one."""
    known = [row for row, target in enumerate(targets) if target is not None]
    if not known:
        return facts.sum() * 0
    wanted = torch.stack([target for target in targets if target is not None]).to(facts.device)
    return nn.functional.cross_entropy(facts[known].float(), wanted)
