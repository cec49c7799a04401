"""The order in which rows of shards are trained on: random, and yet a few shards at a time, each process its own.

Shards are laid end to end in a random order, the groups of each in a random order too, and cut into equal lanes. In a
lane rows are shuffled within windows. Batches are taken from the lanes in turn, so that with as many processes, or
processes and loader workers, as divide the number of lanes each of them reads its own lanes alone. What the lanes leave
over comes last.

The order depends on the seed, the epoch and the batch size, and not on the number of processes: a stopped run goes on
with the same one, and with another number of processes too.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
from torch.utils.data import Sampler

from rsiccllm.training.shards import Index

MOST_LANES = 64

WINDOW = 128
"""Rows that are shuffled together in a lane, which a process holds in memory for each of its lanes."""


def lane_count(index: Index) -> int:
    """The largest power of two that is no more than the shards there are, and MOST_LANES."""
    return 1 << (min(len(index.shards), MOST_LANES).bit_length() - 1)


class ShardSampler(Sampler[int]):
    """Indices into the rows of shards, or into `times` views of each: row x times + view, as in `Views`.

    Views are gone through pass by pass: each takes every row in one of its views, and all passes take all of them.
    """

    def __init__(self, index: Index, seed: int, batch_size: int, times: int = 1) -> None:
        self.index, self.seed, self.batch_size, self.times = index, seed, batch_size, times
        self.starts = np.cumsum([0, *(shard.rows for shard in index.shards)])  # [shards + 1]
        self.lanes = lane_count(index)
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader at the start of each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.times * int(self.starts[-1])

    def __iter__(self) -> Iterator[int]:
        batches = int(self.starts[-1]) // (self.lanes * self.batch_size)  # of each lane in a pass
        rows = batches * self.batch_size
        # Bits reversed: lanes whose turns are a power of two apart lie side by side, and share what shards they cut.
        turns = sorted(range(self.lanes), key=lambda lane: f"{lane:06b}"[::-1])
        for number in range(self.times):
            lanes = [self._stretch(number, lane * rows, (lane + 1) * rows) for lane in turns]
            for _ in range(batches):
                for lane in lanes:
                    yield from islice(lane, self.batch_size)
        # Behind all passes, so that batches stay in step with the lanes.
        for number in range(self.times):
            yield from self._stretch(number, self.lanes * rows, int(self.starts[-1]))

    def _stretch(self, number: int, begin: int, end: int) -> Iterator[int]:
        """Places `begin` to `end` of the shards as pass `number` lays them, shuffled within windows."""
        key = [self.seed, self.epoch, number]
        random = np.random.default_rng([*key, 0, begin])
        held = np.empty(0, int)
        start = 0
        for shard in np.random.default_rng([*key, 1]).permutation(len(self.index.shards)).tolist():
            stop = start + self.index.shards[shard].rows
            if start < end and stop > begin:
                held = np.concatenate([held, self._laid(shard, number)[max(begin - start, 0) : end - start]])
                while len(held) >= WINDOW:
                    yield from random.permutation(held[:WINDOW]).tolist()
                    held = held[WINDOW:]
            start = stop
        yield from random.permutation(held).tolist()

    def _laid(self, shard: int, number: int) -> np.ndarray:
        """[rows of a shard] indices: its groups in a random order, each row in its view of this pass."""
        rows, group = self.index.shards[shard].rows, self.index.group
        groups = np.random.default_rng([self.seed, self.epoch, number, 2, shard]).permutation(-(-rows // group))
        local = (groups[:, None] * group + np.arange(group)).ravel()
        local = local[local < rows]
        first = np.random.default_rng([self.seed, self.epoch, 3, shard]).integers(self.times, size=rows)
        return (self.starts[shard] + local) * self.times + (first[local] + number) % self.times
