"""Rendered scenes as a source of image pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from rsiccllm.errors import InputError
from rsiccllm.pairs import OpenedPair
from rsiccllm.records import ImagePair
from rsiccllm.sources.base import Source
from rsiccllm.sources.scenes.dice import Dice
from rsiccllm.sources.scenes.parallel import SceneFiles
from rsiccllm.sources.scenes.plan import Plan, plan_scene
from rsiccllm.sources.scenes.raster import change_mask
from rsiccllm.sources.scenes.render import paint_scene
from rsiccllm.sources.scenes.words import captions, description

SPLIT = 5  # a stream of random numbers of its own


class ScenesSource(Source):
    """`count` rendered pairs of `size` pixels, whose captions, facts and masks are known.

    Pairs are planned, not painted, until they are opened. Of each block of ten neighbouring twos (scenes 2k and 2k + 1,
    of which one changes) one is the split val and one test, unless `split` names one split for all.

    Raises InputError where count is under 1, size is not 64 to 1024, or seed is negative.
    """

    name = "scenes"
    layout = "nothing: scenes are rendered"
    licence = "Apache-2.0, as this project"
    on_disk = False

    def __init__(
        self, count: int, seed: int = 0, size: int = 256, easy: bool = False, split: str | None = None
    ) -> None:
        if count < 1:
            raise InputError(f"scenes: expected a count of at least 1, got {count}")
        if not 64 <= size <= 1024:
            raise InputError(f"scenes: expected size from 64 to 1024, got {size}")
        if seed < 0:
            raise InputError(f"scenes: expected a seed of at least 0, got {seed}")
        self.count, self.seed, self.size, self.easy, self.split = count, seed, size, easy, split
        super().__init__(Path(), map(self._pair, range(count)))

    def open(self, pair: ImagePair) -> OpenedPair:
        """Paint a pair of this source."""
        before, after, mask = paint_scene(self._plan(pair), self.size)
        return OpenedPair(Image.fromarray(before), Image.fromarray(after), mask)

    def files(self, pair: ImagePair, before: Path, after: Path, mask: Path) -> SceneFiles:
        """A pair of this source and the files it shall become, for `write_scenes`."""
        return SceneFiles(self.seed, _index(pair), self.size, self.easy, before, after, mask)

    def size_of(self, pair: ImagePair) -> tuple[int, int]:
        """(width, height) in pixels; nothing is painted."""
        return self.size, self.size

    def mask(self, pair: ImagePair) -> np.ndarray:
        """The mask alone, which needs no painting."""
        return change_mask(self._plan(pair).items, self.size)

    def _plan(self, pair: ImagePair) -> Plan:
        return plan_scene(self.seed, _index(pair), self.easy)

    def _pair(self, index: int) -> ImagePair:
        plan = plan_scene(self.seed, index, self.easy)
        name = f"scene_{self.seed}_{index:06d}"
        return ImagePair(
            id=name,
            split=self.split or split_of(self.seed, index),
            before=f"before/{name}.png",
            after=f"after/{name}.png",
            mask=f"mask/{name}.png",
            coded_mask=True,
            changed=plan.changed,
            captions=captions(plan),
            description=description(plan),
            facts=plan.facts,
        )


def _index(pair: ImagePair) -> int:
    return int(pair.id.rpartition("_")[2])


def split_of(seed: int, index: int) -> str:
    """The split of a scene: of each block of ten twos, one is val and one test, chosen by the seed."""
    two = index // 2
    dice = Dice(seed, two // 10, SPLIT)
    val = dice.integer(0, 9)
    test = (val + dice.integer(1, 9)) % 10
    return {val: "val", test: "test"}.get(two % 10, "train")
