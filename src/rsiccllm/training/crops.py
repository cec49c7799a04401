"""Parts of pairs for the difference path, which looks at a place and its surroundings and never at a whole image."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from rsiccllm.masks import OBJECTS
from rsiccllm.training.data import PairDataset
from rsiccllm.training.nuisance import disturb
from rsiccllm.training.packing import Sample
from rsiccllm.training.views import Views

ON_CHANGE = 0.7
"""Share of crops of a changed pair that are laid on a pixel of its change; the others lie anywhere."""


class Crops(Dataset):
    """Pairs or their views, each cut to a square and disturbed, by the index and the seed alone.

    side: of the square in pixels, None for whole images; a smaller image stays whole. nuisance: strength of `disturb`.
    """

    def __init__(self, views: Views | PairDataset, side: int | None, nuisance: float, seed: int) -> None:
        self.views, self.side, self.nuisance, self.seed = views, side, nuisance, seed
        # Ends OpenCV's threads, before loader processes are forked: a fork would wait for threads that it has not got.
        cv2.setNumThreads(1)

    @property
    def seen(self) -> frozenset[str]:
        """As in PairDataset."""
        return self.views.seen

    @property
    def times(self) -> int:
        """As in Views, 1 where the pairs are not in views."""
        return self.views.times if isinstance(self.views, Views) else 1

    @property
    def sizes(self) -> list[int]:
        """As in Views."""
        return self.views.sizes

    @property
    def weights(self) -> list[float]:
        """As in PairDataset."""
        return self.views.weights

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, index: int) -> Sample:
        random = np.random.default_rng([self.seed, index])
        sample = self.views[index]
        if self.side is not None:
            sample = crop(sample, self.side, random)
        if self.nuisance:
            sample = replace(sample, images=[disturb(image, random, self.nuisance) for image in sample.images])
        return sample


def crop(sample: Sample, side: int, random: np.random.Generator) -> Sample:
    """A square of a pair with what is true inside it.

    Facts stay those of the pair where the mask marks anything inside and says not what; where it says what, they are
    those; where it marks nothing inside, none. Without a mask the pair stays whole: nobody knows where its change is.
    """
    width, height = sample.images[0].size
    if sample.mask is None or min(width, height) <= side:
        return sample
    top, left = (int(random.integers(0, extent - side + 1)) for extent in (height, width))
    rows, columns = np.nonzero(sample.mask)
    if len(rows) and random.random() < ON_CHANGE:
        at = int(random.integers(len(rows)))
        top = int(np.clip(rows[at] - random.integers(side), 0, height - side))
        left = int(np.clip(columns[at] - random.integers(side), 0, width - side))
    part = slice(top, top + side), slice(left, left + side)
    mask = sample.mask[part]
    objects = None if sample.objects is None else sample.objects[:, part[0], part[1]]
    facts = sample.facts
    if not mask.any():
        facts = None if facts is None else []
    elif objects is not None and objects.any():
        facts = [
            (OBJECTS[number - 1], direction)
            for direction, what in zip(("disappear", "appear"), objects, strict=True)
            for number in np.unique(what[what > 0]).tolist()
        ]
    images: list[Image.Image] = [image.crop((left, top, left + side, top + side)) for image in sample.images]
    return replace(sample, images=images, mask=mask, objects=objects, facts=facts)
