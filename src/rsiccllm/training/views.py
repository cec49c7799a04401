"""Every way to look at a pair: turned, mirrored, and with its dates swapped, while what is said of it stays true."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset

from rsiccllm.facts import OPPOSITE
from rsiccllm.pairs import OpenedPair
from rsiccllm.training.data import Rows
from rsiccllm.training.packing import Sample
from rsiccllm.training.shards import Index
from rsiccllm.turning import TURNS, Turn, turn_caption, turn_pair, turn_pixels

TURNED_TASKS = frozenset({"caption", "describe", "changed", "kind", "count"})
"""Tasks whose questions name no place and whose answers are words alone, which turn with the image; a box does not."""


class View(NamedTuple):
    """One way to look at a pair."""

    turn: Turn
    swapped: bool = False

    def of(self, sample: Sample) -> Sample:
        """The sample seen so: images, mask, the places in its answers; with swapped dates the directions of its facts.

        What a caption says of swapped dates is not known to be true, so then there are no answers.
        """
        before, after, mask = turn_pair(OpenedPair(sample.images[0], sample.images[1], sample.mask), self.turn)
        objects = None if sample.objects is None else np.stack([turn_pixels(o, self.turn) for o in sample.objects])
        if not self.swapped:
            answers = [turn_caption(answer, self.turn) for answer in sample.answers]
            return replace(sample, images=[before, after], answers=answers, mask=mask, objects=objects)
        objects = None if objects is None else objects[::-1]
        facts = None if sample.facts is None else [(thing, OPPOSITE[direction]) for thing, direction in sample.facts]
        return replace(sample, images=[after, before], answers=[], mask=mask, objects=objects, facts=facts)


class Views(Dataset):
    """Every view of every pair of a dataset: 8 times as long, or 16 with swapped dates.

    An index names pair and view, so a stopped run that goes on sees what it would have seen.
    """

    def __init__(self, pairs: Rows, swapped: bool) -> None:
        self.pairs = pairs
        self.views = [View(turn, dates) for turn in TURNS for dates in ((False, True) if swapped else (False,))]

    @property
    def seen(self) -> frozenset[str]:
        """As in PairDataset."""
        return self.pairs.seen

    @property
    def times(self) -> int:
        """How many ways each pair is seen in: an epoch sees as many pairs as there are, drawn with
        their ways from all of them: some twice, about a third not at all."""
        return len(self.views)

    @property
    def index(self) -> Index | None:
        """As in PairDataset."""
        return self.pairs.index

    @property
    def sizes(self) -> list[int]:
        """As in PairDataset, counted in views."""
        return [len(self.views) * size for size in self.pairs.sizes]

    @property
    def weights(self) -> list[float]:
        """As in PairDataset."""
        return self.pairs.weights

    def __len__(self) -> int:
        return len(self.views) * len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        number, view = divmod(index, len(self.views))
        sample = self.pairs[number]
        # A dialogue's earlier turns would have to be turned with it; a box cannot be by its words.
        fixed = sample.answers and (sample.history or sample.task not in TURNED_TASKS)
        return sample if fixed else self.views[view].of(sample)
