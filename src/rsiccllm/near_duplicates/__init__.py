"""The same image or text in two data sets or two splits: found, reported, and kept out of training.

    found = find_near_duplicates([(source, pair) for source in sources for pair in source.pairs])
    drop = found.training_leaks()

LEVIR-CC is LEVIR-CD cut into tiles, so training on the one and testing on the other is testing on what was learnt. Both
dates of a pair count: the first date of one pair may be the second of another.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from rsiccllm.near_duplicates.images import Overlap, Signature, candidates, grey, overlap, sign
from rsiccllm.near_duplicates.texts import Alike, alike
from rsiccllm.progress import track
from rsiccllm.records import ImagePair
from rsiccllm.sources.base import Source

__all__ = ["Found", "Item", "Match", "Overlap", "blind", "find_near_duplicates", "group_of"]

Item = tuple[Source, ImagePair]

ROLES = ("before", "after")


@dataclass(frozen=True, slots=True)
class Match:
    """Two pairs of different groups with an image in common: places in the list of items, which date of each, how."""

    first: int
    second: int
    roles: tuple[str, str]
    overlap: Overlap


@dataclass(frozen=True)
class Found:
    """What was found among `items`. images: one match for every two pairs, the largest overlap. texts: see `Alike`."""

    items: Sequence[Item]
    images: list[Match]
    texts: list[Alike]

    def training_leaks(self, texts: bool = True) -> set[int]:
        """Items of a split "train" that share an image (or a long text, unless texts is False) with an item of another
        split, of any set: training without them is training on nothing that is tested on."""

        def trains(item: int) -> bool:
            return self.items[item][1].split == "train"

        together: list[tuple[int, ...]] = [(match.first, match.second) for match in self.images]
        together += [one.items for one in self.texts] if texts else []
        return {item for items in together if not all(map(trains, items)) for item in items if trains(item)}

    def between(self) -> Counter[tuple[str, str]]:
        """How many pairs of pairs share an image, by the two groups."""
        return Counter((self._group(match.first), self._group(match.second)) for match in self.images)

    def _group(self, item: int) -> str:
        return group_of(self.items[item])


def group_of(item: Item) -> str:
    """The set and split of an item, such as "levir-cc:data/LEVIR-CC, train"."""
    source, pair = item
    return f"{source.name}:{source.root}, {pair.split}"


def blind(items: Sequence[Item]) -> list[str]:
    """The groups whose images are not compared, for they have annotations alone."""
    return list(dict.fromkeys(group_of(item) for item in items if not item[0].has_images))


def find_near_duplicates(items: Sequence[Item], images: bool = True, texts: bool = True) -> Found:
    """Compare every pair with all pairs of other groups (another set, another split). Within a group nothing is
    compared: there a duplicate gives nothing away.

    Images of a source that has annotations alone are not compared (`blind`). Decodes every image once, and candidates
    again. Raises InputError where one cannot be opened.
    """
    groups = [group_of(item) for item in items]
    several = len(set(groups)) > 1
    said = [(i, text) for i, (_, pair) in enumerate(items) for text in (pair.description, *pair.captions) if text]
    found = [one for one in alike(said) if len({groups[i] for i in one.items}) > 1] if texts and several else []
    return Found(items, _shared_images(items, groups) if images and several else [], found)


def _shared_images(items: Sequence[Item], groups: Sequence[str]) -> list[Match]:
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    signatures: list[Signature] = []  # of both dates of every item that has images, in turn
    shown = [place for place, (source, _) in enumerate(items) if source.has_images]
    for both in track(_in_threads([items[place] for place in shown]), "looking for near-duplicates", len(shown)):
        signatures += both
    owners = [item for item in shown for _ in ROLES]
    close = candidates(signatures, [numbers[groups[owner]] for owner in owners])

    @lru_cache(maxsize=64)
    def opened(item: int) -> tuple[np.ndarray, np.ndarray]:
        return _grey_pair(items[item])

    best: dict[tuple[int, int], Match] = {}
    for i, j in track(close, "comparing", len(close)) if close else close:
        one, two = owners[i], owners[j]
        found = overlap(opened(one)[i % 2], opened(two)[j % 2], signatures[i], signatures[j])
        if found is not None:
            match, held = Match(one, two, (ROLES[i % 2], ROLES[j % 2]), found), best.get((one, two))
            if held is None or _rank(held) < _rank(match):
                best[one, two] = match
    return list(best.values())


def _rank(match: Match) -> tuple[float, float]:
    return round(match.overlap.share, 2), match.overlap.correlation


def _in_threads(items: Sequence[Item]) -> Iterator[tuple[Signature, Signature]]:
    """Signatures of both dates, in order. Decoding and hashing let go of the interpreter lock."""

    def both(item: Item) -> tuple[Signature, Signature]:
        before, after = _grey_pair(item)
        return sign(before), sign(after)

    workers = min(8, os.cpu_count() or 1)
    cv2_threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # the images are the unit of work
    try:
        with ThreadPoolExecutor(workers) as pool:
            # In slices, so that a stop does not wait for all of them.
            for start in range(0, len(items), 16 * workers):
                yield from pool.map(both, items[start : start + 16 * workers])
    finally:
        cv2.setNumThreads(cv2_threads)


def _grey_pair(item: Item) -> tuple[np.ndarray, np.ndarray]:
    opened = item[0].open(item[1])
    return grey(np.asarray(opened.before)), grey(np.asarray(opened.after))
