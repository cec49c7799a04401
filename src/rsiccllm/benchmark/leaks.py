"""Test images and texts that stand in a model's training data too: such scores are not of unseen pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rsiccllm.errors import InputError
from rsiccllm.near_duplicates import blind, find_near_duplicates
from rsiccllm.records import ImagePair
from rsiccllm.sources import open_source
from rsiccllm.sources.base import Source

SHOWN = 3


@dataclass(frozen=True)
class Leaks:
    """Of the scored pairs, those that share an image, or a long text, with a training pair: id -> that pair's id.

    blind: sets and splits whose images were not compared, for they have annotations alone.
    """

    pairs: int
    training: int
    images: dict[str, str]
    texts: dict[str, str]
    blind: Sequence[str] = ()

    def lines(self, specs: Sequence[str]) -> list[str]:
        """What is to be said of it: a warning for each kind that was found, else that nothing was."""
        where = ", ".join(specs)
        found = [
            f"LEAK: {len(held)} of {self.pairs} scored pairs share {what} with training pairs of {where} "
            f"({_some(held)}): their scores are not of unseen pairs"
            for what, held in (("an image", self.images), ("a long text", self.texts))
            if held
        ]
        if not found:
            compared = "a long text" if self.blind else "an image or a long text"
            found = [f"no scored pair shares {compared} with the {self.training} training pairs of {where}"]
        return found + [f"images not compared, for it has annotations alone: {group}" for group in self.blind]


def find_leaks(source: Source, pairs: Sequence[ImagePair], specs: Sequence[str]) -> Leaks:
    """Compare the scored pairs with the pairs of split "train" of the sources that a model was trained on.

    Images are compared by the near-duplicate index (whole or in part, turned, recompressed), texts of 20 words or more
    by the words they share. Decodes every image once. Raises InputError for a source without a split "train".
    """
    items = [(source, pair) for pair in pairs] + training_pairs(specs)
    found = find_near_duplicates(items)
    count = len(pairs)
    images: dict[str, str] = {}
    texts: dict[str, str] = {}
    groups = [*(((match.first, match.second), images) for match in found.images),
              *((alike.items, texts) for alike in found.texts)]  # fmt: skip
    for members, held_by in groups:
        trained_on = [items[item][1].id for item in members if item >= count]
        for item in members:
            if item < count and trained_on:
                held_by.setdefault(items[item][1].id, trained_on[0])
    return Leaks(count, len(items) - count, images, texts, blind(items))


def training_pairs(specs: Sequence[str]) -> list[tuple[Source, ImagePair]]:
    """Every pair of split "train" of these sources. Raises InputError for a source that has none."""
    items: list[tuple[Source, ImagePair]] = []
    for spec in specs:
        source = open_source(spec)
        held = [(source, pair) for pair in source.pairs if pair.split == "train"]
        if not held:
            raise InputError(f"--training {spec}: no split 'train'; expected what the model was trained on")
        items += held
    return items


def _some(held: dict[str, str]) -> str:
    named = [f"{one} with {other}" for one, other in list(held.items())[:SHOWN]]
    return ", ".join(named) + (", ..." if len(held) > SHOWN else "")
