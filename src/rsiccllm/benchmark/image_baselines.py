"""Two rows that look at the images and know nothing: the caption of the nearest training pair, and a threshold on how
much the pixels differ with one fixed sentence above it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from rsiccllm.benchmark.baselines import DIFFERENCE, NEAREST, Baseline
from rsiccllm.benchmark.scores import Job
from rsiccllm.benchmark.texts import changed_of, texts_of
from rsiccllm.pairs import OpenedPair
from rsiccllm.progress import track
from rsiccllm.records import ImagePair
from rsiccllm.sources.base import Source

CELLS = 16
"""Cells a side of the descriptor of an image."""

TRAINING_PAIRS = 2000
"""At most so many training pairs are opened, evenly spaced through the split; all of them would take minutes."""


@dataclass(frozen=True)
class Looked:
    """What is kept of pairs of images: `look` [pairs, 2 * CELLS^2 * 3] and `difference` [pairs], both float32."""

    look: np.ndarray
    difference: np.ndarray


def look(pair: OpenedPair) -> tuple[np.ndarray, float]:
    """A pair's descriptor, and how much its images differ, 0..2.

    The descriptor is both images at CELLS x CELLS, each colour with its own mean taken off and its own spread divided
    out, so that light does not count. The difference is one minus the correlation of the two, blurred and grey: on 48
    captioned real pairs it told changed from unchanged with an area under the curve of 0.91, mean |I1 - I2| with 0.50.
    """
    views = [np.asarray(image.resize((CELLS, CELLS), Image.Resampling.BOX), np.float32) for image in pair[:2]]
    flat = [((view - view.mean((0, 1))) / (view.std((0, 1)) + 1)).ravel() for view in views]
    grey = [_blurred(image) for image in pair[:2]]
    spread = float(grey[0].std() * grey[1].std())
    alike = float((grey[0] * grey[1]).mean()) / spread if spread > 0 else float(np.array_equal(grey[0], grey[1]))
    return np.concatenate(flat), 1 - alike


def _blurred(image: Image.Image) -> np.ndarray:
    radius = max(image.size) / 128
    small = image.convert("L").filter(ImageFilter.GaussianBlur(radius)).resize((64, 64), Image.Resampling.BOX)
    values = np.asarray(small, np.float32)
    return values - values.mean()


def look_at(source: Source, pairs: Sequence[ImagePair], what: str) -> Looked:
    """Open pairs and keep what `look` finds. Raises InputError for an image that cannot be opened."""
    found = [look(source.open(pair)) for pair in track(pairs, what, len(pairs))]
    return Looked(np.stack([view for view, _ in found]), np.array([value for _, value in found], np.float32))


def image_baselines(
    source: Source, pairs: Sequence[ImagePair], no_change: str, change: str, test_split: str, task: str = "caption"
) -> tuple[list[Baseline], list[str]]:
    """The two rows for `pairs`, whose references are their texts of `task`, and one line on each that cannot be had.

    Both learn from the split "train": the nearest pair is looked for there, and the threshold is the one with the best
    balanced accuracy there. Nothing is learnt from the split that is scored, so scoring "train" itself leaves both out.
    """
    train = [pair for pair in source.pairs if pair.split == "train" and texts_of(pair, task)]
    if not source.has_images:
        return [], [f"{NEAREST} and {DIFFERENCE} are absent: the references are captions without images"]
    if test_split == "train" or not train:
        why = "they learn from it" if test_split == "train" else "there is no such split with captions"
        return [], [f"{NEAREST} and {DIFFERENCE} are absent: they need another split 'train', and {why}"]
    step = -(-len(train) // TRAINING_PAIRS)
    train = train[::step]
    known = look_at(source, train, "training pairs")
    here = look_at(source, pairs, f"pairs of {test_split}")
    references: Mapping[str, Sequence[str]] = {pair.id: texts_of(pair, task) for pair in pairs}
    chosen = nearest(here.look, known.look)
    said = {pair.id: texts_of(train[row], task)[0] for pair, row in zip(pairs, chosen, strict=True)}
    rows = [
        Baseline(
            NEAREST,
            f"the first caption of the training pair whose images are most alike, of {len(train)}",
            Job(said, references),
        )
    ]
    flags = [changed_of(pair, texts_of(pair, task)) for pair in train]
    if True not in flags or False not in flags:
        return rows, [f"{DIFFERENCE} is absent: the training split does not say of changed and unchanged pairs which"]
    sure = [row for row, flag in enumerate(flags) if flag is not None]
    threshold = best_threshold(known.difference[sure], np.array([flags[row] is True for row in sure]))
    said = {
        pair.id: change if value > threshold else no_change for pair, value in zip(pairs, here.difference, strict=True)
    }
    legend = f'"{change}" where one minus the correlation of the blurred images is over {threshold:.2f} (from train)'
    return [*rows, Baseline(DIFFERENCE, legend, Job(said, references))], []


def nearest(ours: np.ndarray, theirs: np.ndarray, block: int = 256) -> np.ndarray:
    """For each row of `ours` [n, d], the row of `theirs` [m, d] at the smallest Euclidean distance, [n]."""
    squares = (theirs**2).sum(1)
    rows = [(squares - 2 * ours[start : start + block] @ theirs.T).argmin(1) for start in range(0, len(ours), block)]
    return np.concatenate(rows)


def best_threshold(values: np.ndarray, positive: np.ndarray) -> float:
    """The threshold with the best balanced accuracy of "above it is positive", half-way between two values [n]."""
    order = np.sort(np.unique(values))
    candidates = np.concatenate([[order[0] - 1], (order[1:] + order[:-1]) / 2])
    above = np.sort(values[positive])
    below = np.sort(values[~positive])
    hits = 1 - np.searchsorted(above, candidates, side="right") / len(above)
    rests = np.searchsorted(below, candidates, side="right") / len(below)
    return float(candidates[(hits + rests).argmax()])
