"""Parts of pairs for the difference path, which looks at a place and its surroundings and never at a whole image."""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from rsiccllm.masks import OBJECTS
from rsiccllm.model.processor import PairProcessor
from rsiccllm.training.data import Rows
from rsiccllm.training.nuisance import disturb
from rsiccllm.training.packing import Sample
from rsiccllm.training.shards import Index
from rsiccllm.training.views import Views

ON_CHANGE = 0.7
"""Share of crops of a changed pair that are laid on a pixel of its change; the others lie anywhere."""

ZOOM = 0.35
"""A crop shows up to exp(ZOOM) times as much ground a side, or as little: sets differ in metres a pixel."""


class Crops(Dataset):
    """Pairs or their views, each cut to a square and disturbed, by the index and the seed alone.

    side: of the square in pixels, None for whole images; a smaller image stays whole. nuisance: strength of `disturb`.
    processor: the pixels of `side` are those of an image as it brings it to the model, which may be of another size.
    """

    def __init__(
        self, views: Views | Rows, side: int | None, nuisance: float, seed: int, processor: PairProcessor
    ) -> None:
        self.views, self.side, self.nuisance, self.seed, self.processor = views, side, nuisance, seed, processor
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
    def index(self) -> Index | None:
        """As in PairDataset."""
        return self.views.index

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
            sample = crop(sample, self.side, random, self._scale(sample.images[0]))
        if self.nuisance:
            sample = replace(sample, images=[disturb(image, random, self.nuisance) for image in sample.images])
        return sample

    def _scale(self, image: Image.Image) -> float:
        """Pixels of the processed image for one of this, a side."""
        processor = self.processor.image_processor
        patches = processor.get_number_of_image_patches(image.height, image.width)
        return math.sqrt(patches * processor.patch_size**2 / (image.height * image.width))


def crop(sample: Sample, side: int, random: np.random.Generator, scale: float = 1.0) -> Sample:
    """A square of a pair with what is true inside it, zoomed to `side` pixels.

    scale: pixels of the processed image for one of this: `side` of them show side / scale of these.
    Facts stay those of the pair where the mask marks anything inside and says not what; where it says what, they are
    those; where it marks nothing inside, none. Without a mask the pair stays whole: nobody knows where its change is.
    """
    width, height = sample.images[0].size
    if sample.mask is None or min(width, height) * scale <= side:
        return sample
    shown = min(round(side / scale * np.exp(random.uniform(-ZOOM, ZOOM))), width, height)
    top, left = (int(random.integers(0, extent - shown + 1)) for extent in (height, width))
    rows, columns = np.nonzero(sample.mask)
    if len(rows) and random.random() < ON_CHANGE:
        at = int(random.integers(len(rows)))
        top = int(np.clip(rows[at] - random.integers(shown), 0, height - shown))
        left = int(np.clip(columns[at] - random.integers(shown), 0, width - shown))
    part = slice(top, top + shown), slice(left, left + shown)
    # Masks take the nearest pixel: a number between two objects is a third.
    at_pixel = (np.arange(side) + 0.5) * shown // side
    inside = np.ix_(at_pixel.astype(int), at_pixel.astype(int))
    mask = sample.mask[part][inside]
    objects = None if sample.objects is None else np.stack([one[part][inside] for one in sample.objects])
    facts = sample.facts
    if not mask.any():
        facts = None if facts is None else []
    elif objects is not None and objects.any():
        facts = [
            (OBJECTS[number - 1], direction)
            for direction, what in zip(("disappear", "appear"), objects, strict=True)
            for number in np.unique(what[what > 0]).tolist()
        ]
    images: list[Image.Image] = [
        image.crop((left, top, left + shown, top + shown)).resize((side, side), Image.Resampling.BICUBIC)
        for image in sample.images
    ]
    return replace(sample, images=images, mask=mask, objects=objects, facts=facts)
