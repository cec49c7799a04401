"""Large pairs cut into square tiles, as the field cuts LEVIR-CD's 1024 x 1024 pixels into 256 x 256."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from rsiccllm.errors import InputError
from rsiccllm.pairs import MIN_SIDE, OpenedPair
from rsiccllm.records import ImagePair
from rsiccllm.sources.base import ChangeMask, Source


class Tiles(Source):
    """Another source, in which each pair larger than `side` pixels is cut into tiles of that size.

    Tiles lie edge to edge from the top left; the last of a row or column is moved back so that it ends at the border,
    and every pixel is in a tile. Ids gain the tile's top left corner, row first (`train_36_0512_0256`). Pairs that
    carry text stay whole: what is said of a whole pair may be false of a part of it.
    """

    def __init__(self, inner: Source, side: int) -> None:
        if side < MIN_SIDE:
            raise InputError(f"--tile: {side} pixels; expected at least {MIN_SIDE}, or 0 to keep pairs whole")
        self.inner, self.side = inner, side
        self.name, self.layout, self.home, self.licence = inner.name, inner.layout, inner.home, inner.licence
        self.has_images, self.scope, self.plain_mask = inner.has_images, inner.scope, inner.plain_mask
        self.on_disk = inner.on_disk
        self._corner: dict[str, tuple[ImagePair, int, int]] = {}
        self._open = lru_cache(maxsize=1)(lambda name: inner.open(self._corner[name][0]))
        self._classes = lru_cache(maxsize=1)(lambda name: inner.classes(self._corner[name][0]))
        super().__init__(inner.root, self._cut())
        self.notes = inner.notes

    def _cut(self) -> Iterator[ImagePair]:
        for pair in self.inner.pairs:
            if not self.inner.on_disk or pair.captions or pair.description or pair.dialogues or pair.facts is not None:
                yield pair
                continue
            width, height = self.inner.size_of(pair)
            rows, columns = _starts(height, self.side), _starts(width, self.side)
            if len(rows) == len(columns) == 1:
                yield pair
                continue
            for top in rows:
                for left in columns:
                    name = f"{pair.id}_{top:04d}_{left:04d}"
                    self._corner[name] = (pair, top, left)
                    # That something changed in the whole says nothing of a part.
                    changed = None if pair.changed else pair.changed
                    yield pair.model_copy(update={"id": name, "changed": changed})

    def is_tile(self, pair: ImagePair) -> bool:
        """Whether the pair is a part of a larger one, so that its files cannot be linked."""
        return pair.id in self._corner

    def open(self, pair: ImagePair) -> OpenedPair:
        """Decode the whole pair once and cut the tile out of it."""
        if pair.id not in self._corner:
            return self.inner.open(pair)
        whole, top, left = self._corner[pair.id]
        opened = self._open(self._first(whole))
        width, height = opened.before.size
        box = (left, top, min(left + self.side, width), min(top + self.side, height))
        mask = None if opened.mask is None else opened.mask[box[1] : box[3], box[0] : box[2]]
        return OpenedPair(opened.before.crop(box), opened.after.crop(box), mask)

    def size_of(self, pair: ImagePair) -> tuple[int, int]:
        """(width, height) in pixels."""
        if pair.id not in self._corner:
            return self.inner.size_of(pair)
        width, height = self.inner.size_of(self._corner[pair.id][0])
        return min(width, self.side), min(height, self.side)

    def whole_size_of(self, pair: ImagePair) -> tuple[int, int]:
        """(width, height) of the pair that a tile was cut from; of the pair itself where it is whole."""
        return self.inner.size_of(self._corner[pair.id][0] if pair.id in self._corner else pair)

    def mask(self, pair: ImagePair) -> np.ndarray | None:
        """The mask of a pair or tile."""
        classes = self.classes(pair)
        return None if classes is None else classes.values > 0

    def classes(self, pair: ImagePair) -> ChangeMask | None:
        """The mask with its meaning, decoded once for all tiles of a pair."""
        if pair.id not in self._corner:
            return self.inner.classes(pair)
        whole, top, left = self._corner[pair.id]
        classes = self._classes(self._first(whole))
        if classes is None:
            return None
        values = classes.values[top : top + self.side, left : left + self.side]
        return ChangeMask(np.ascontiguousarray(values), classes.meaning)

    def _first(self, whole: ImagePair) -> str:
        """The name of a pair's first tile, which stands for the pair in the caches."""
        return f"{whole.id}_0000_0000"


def _starts(length: int, side: int) -> list[int]:
    """Where tiles of `side` pixels begin along `length`; one at 0 where they do not fit."""
    if length <= side:
        return [0]
    starts = list(range(0, length - side + 1, side))
    return starts if starts[-1] + side == length else [*starts, length - side]
