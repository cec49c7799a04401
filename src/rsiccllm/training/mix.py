"""A mix of data sets: how often each is drawn from, whatever their sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler


def shares(sizes: Sequence[int], weights: Sequence[float]) -> list[int]:
    """How many samples of an epoch come from each set: an epoch is as long as all sets together.

    Rounded so that they sum up exactly (largest remainders).
    """
    wanted = np.array(weights) / sum(weights) * sum(sizes)
    counts = np.floor(wanted).astype(int)
    for at in np.argsort(counts - wanted, kind="stable")[: sum(sizes) - counts.sum()]:
        counts[at] += 1
    return [int(count) for count in counts]


class MixSampler(Sampler[int]):
    """Indices into sets laid end to end. Each set is gone through in a random order, again and again where its share is
    larger than it; what its share leaves out is left out at random, another part each epoch.

    The order depends on the seed and the epoch alone, so a stopped run goes on with the same one.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float], seed: int) -> None:
        self.sizes = list(sizes)
        self.counts = shares(sizes, weights)
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader at the start of each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return sum(self.counts)

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng([self.seed, self.epoch])
        chosen: list[int] = []
        start = 0
        for size, count in zip(self.sizes, self.counts, strict=True):
            passes = [random.permutation(size) for _ in range(-(-count // size))]
            chosen += [start + int(index) for index in np.concatenate([*passes, np.empty(0, int)])[:count]]
            start += size
        return iter([chosen[index] for index in random.permutation(len(chosen))])
