"""Images that show the same pixels: whole or in part, turned, mirrored, resized, recompressed, brightened.

Two ways to find candidates, one way to be sure.

1. A hash of the whole: the signs of the 63 lowest frequencies of the discrete cosine transform. Mirroring an image
   turns the signs of the odd frequencies and transposing swaps rows and columns, so all eight ways to lay an image
   follow from one hash exactly.
2. Hashes of corners (ORB, Rublee et al. 2011: 256 bits for the surroundings of each), for images that are cuts of one
   another. They follow rotation and size; mirrored images are hashed once more. Equal parts of the bits bring corners
   together; images that share several are candidates.
3. Each candidate is laid over the other by the transform that its corners agree on (or one of the eight ways) and is a
   duplicate if the pixels correlate, coarse and fine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

HASH_DISTANCE = 10
"""Bits of the 63 that may differ between two hashes of a whole, to look closer."""
CELL, CORNERS = 64, 12
"""Corners hashed in every cell of so many pixels a side: the strongest of each, so that a plain part of a large image
has as many as it has alone."""
CORNER_DISTANCE = 40
"""Bits of the 256 that may differ between two corners taken for one."""
VOTES, VOTE_SHARE = 4, 0.02
"""Corners two images must share to look closer: at least so many, and this part of those of the one with fewer."""
INLIERS = 7
"""Corners that must agree on one transform."""
COARSE, FINE = 0.85, 0.6
"""Least correlation of grey values, and of what is left of them without the slow variation, over the shared part."""
MIN_OVERLAP = 0.1
"""Least part of the smaller image that the other must show."""
FLAT = 2.0
"""Standard deviation of grey values (0..255) under which an image shows nothing to know it by."""
MAX_SIDE = 1024
"""Pixels; a larger image is looked at in this size."""

_TABLES, _BITS, _BUCKET = 6, 20, 64


@dataclass(frozen=True, slots=True)
class Corners:
    """points: [n, 2] float32, x and y in pixels. descriptors: [n, 32] uint8, 256 bits for the surroundings of each."""

    points: np.ndarray
    descriptors: np.ndarray


@dataclass(frozen=True, slots=True)
class Signature:
    """What is kept of an image. whole: [8] uint64, its hash in the eight ways to lay it. corners, mirrored: those of
    the image and of its mirror image. flat: it shows nothing to know it by."""

    whole: np.ndarray
    corners: Corners
    mirrored: Corners
    flat: bool


@dataclass(frozen=True, slots=True)
class Overlap:
    """How two images overlap. share: the part of the smaller one that the other shows, 0..1. correlation: of the grey
    values there, -1..1. mirrored: one is a mirror image. scale: sides of the second for one of the first."""

    share: float
    correlation: float
    mirrored: bool
    scale: float


def grey(pixels: np.ndarray) -> np.ndarray:
    """[height, width] uint8 of RGB [height, width, 3], no side over `MAX_SIDE`."""
    image = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY) if pixels.ndim == 3 else pixels
    scale = MAX_SIDE / max(image.shape)
    if scale < 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return image


def sign(image: np.ndarray) -> Signature:
    """The signature of a grey image [height, width] uint8."""
    flat = float(image.std()) < FLAT
    small = cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small)[:8, :8]  # rows: vertical frequencies
    whole = np.array([_bits(way) for way in _ways(low)], dtype=np.uint64)
    return Signature(whole, _corners(image), _corners(image[:, ::-1]), flat)


def _ways(low: np.ndarray) -> list[np.ndarray]:
    """The low frequencies [8, 8] of an image laid in each of the eight ways."""
    odd = np.where(np.arange(8) % 2, -1.0, 1.0)
    ways = []
    for turned in (low, low.T):
        for rows in (np.ones(8), odd):
            for columns in (np.ones(8), odd):
                ways.append(turned * rows[:, None] * columns[None, :])
    return ways


def _bits(low: np.ndarray) -> int:
    signs = (low.ravel()[1:] > 0).tolist()  # without the mean
    return sum(1 << place for place, positive in enumerate(signs) if positive)


def _corners(image: np.ndarray) -> Corners:
    """The strongest corners of a grey image."""
    image = np.ascontiguousarray(image)
    cells = math.ceil(image.shape[0] / CELL) * math.ceil(image.shape[1] / CELL)
    orb = cv2.ORB.create(nfeatures=4 * CORNERS * cells, fastThreshold=5, edgeThreshold=15)
    found = orb.detect(image, None)
    if not found:
        return Corners(np.zeros((0, 2), np.float32), np.zeros((0, 32), np.uint8))
    column, row = (np.array(cv2.KeyPoint.convert(found)) // CELL).astype(np.int64).T
    cell = row * math.ceil(image.shape[1] / CELL) + column
    order = np.lexsort((-np.array([point.response for point in found]), cell))  # by cell, the strongest first
    first = np.searchsorted(cell[order], cell[order])  # where each one's cell begins
    kept = [found[place] for place in order[np.arange(len(order)) - first < CORNERS]]
    points, descriptors = orb.compute(image, kept)
    if descriptors is None:
        return Corners(np.zeros((0, 2), np.float32), np.zeros((0, 32), np.uint8))
    return Corners(np.array([point.pt for point in points], np.float32), descriptors)


def candidates(signatures: Sequence[Signature], groups: Sequence[int]) -> list[tuple[int, int]]:
    """Pairs (i < j) of images of different groups that may be duplicates. Images that show nothing are left out."""
    shown = [i for i, signature in enumerate(signatures) if not signature.flat]
    if len(shown) < 2:
        return []
    # Equal images go as one: a first date that stands in a hundred pairs would hide its own corners, for what so many
    # share is passed over below.
    equal: dict[tuple[bytes, ...], list[int]] = {}
    for i in shown:
        one = signatures[i]
        parts = (one.whole, one.corners.points, one.corners.descriptors)
        equal.setdefault(tuple(part.tobytes() for part in parts), []).append(int(i))
    alike = list(equal.values())
    # Those of several groups are compared with every other: a group of their own.
    several = [len({groups[i] for i in own}) > 1 for own in alike]
    group = np.array([-1 - at if several[at] else groups[own[0]] for at, own in enumerate(alike)])
    kept = [signatures[own[0]] for own in alike]
    found = _alike_as_a_whole(kept, group) | _alike_in_corners(kept, group)
    pairs = [(i, j) for one, other in found for i in alike[one] for j in alike[other]]
    pairs += [(i, j) for own in alike for place, i in enumerate(own) for j in own[place + 1 :]]
    return sorted((min(pair), max(pair)) for pair in pairs if groups[pair[0]] != groups[pair[1]])


def _alike_as_a_whole(signatures: Sequence[Signature], group: np.ndarray) -> set[tuple[int, int]]:
    hashes = np.stack([signature.whole for signature in signatures])  # [n, 8]
    found = set()
    for i in range(len(hashes) - 1):
        later = hashes[i + 1 :, 0]
        near = np.bitwise_count(hashes[i][:, None] ^ later[None, :]).min(axis=0) <= HASH_DISTANCE
        for j in np.flatnonzero(near & (group[i + 1 :] != group[i])):
            found.add((i, i + 1 + int(j)))
    return found


def _alike_in_corners(signatures: Sequence[Signature], group: np.ndarray) -> set[tuple[int, int]]:
    parts = [s.corners.descriptors for s in signatures] + [s.mirrored.descriptors for s in signatures]
    every = np.concatenate(parts)  # [corners, 32]
    if not len(every):
        return set()
    # An image's mirror image has the owner of the image, plus the number of images.
    owner = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    count = len(signatures)
    words = np.ascontiguousarray(every).view(np.uint64)  # [corners, 4]
    random = np.random.default_rng(0)
    votes: list[np.ndarray] = []
    for _ in range(_TABLES):
        chosen = random.choice(256, _BITS, replace=False)
        key = np.zeros(len(every), np.int64)
        for place, bit in enumerate(chosen):
            key |= ((every[:, bit // 8] >> (bit % 8)) & 1).astype(np.int64) << place
        order = np.argsort(key, kind="stable")
        ordered = key[order]
        # Large buckets hold what every image has (edges of nothing in particular): they are passed over.
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        sizes = np.diff(np.r_[starts, len(ordered)])
        order = order[np.repeat(sizes <= _BUCKET, sizes)]
        ordered = key[order]
        for step in range(1, min(_BUCKET, len(order))):
            same = ordered[:-step] == ordered[step:]
            if not same.any():
                break
            a, b = order[:-step][same], order[step:][same]
            one, two = owner[a], owner[b]
            # Mirror image against mirror image says nothing that the images themselves do not.
            keep = (group[one % count] != group[two % count]) & ((one < count) | (two < count))
            a, b = a[keep], b[keep]
            near = np.bitwise_count(words[a] ^ words[b]).sum(axis=1) <= CORNER_DISTANCE
            a, b = a[near], b[near]
            votes.append(np.stack([np.minimum(a, b), np.maximum(a, b)], axis=1))
    if not sum(map(len, votes)):
        return set()
    matches = np.unique(np.concatenate(votes), axis=0)  # a pair of corners met in several tables counts once
    one, two = owner[matches[:, 0]], owner[matches[:, 1]]
    way = (one >= count) | (two >= count)
    first, second = np.minimum(one % count, two % count), np.maximum(one % count, two % count)
    pairs, number = np.unique(np.stack([first, second, way], axis=1), axis=0, return_counts=True)
    corners = np.array([len(part) for part in parts[:count]])
    least = np.maximum(VOTES, VOTE_SHARE * np.minimum(corners[pairs[:, 0]], corners[pairs[:, 1]]))
    return {(int(i), int(j)) for i, j, _ in pairs[number >= least]}


def overlap(first: np.ndarray, second: np.ndarray, one: Signature, two: Signature) -> Overlap | None:
    """How two grey images overlap, given their signatures; None where they show different pixels."""
    best: Overlap | None = None
    for transform, mirrored in (*_whole_transforms(first, second, one, two), *_corner_transforms(first, one, two)):
        found = _compare(first, second, transform, mirrored)
        if found is not None and (best is None or (found.share, found.correlation) > (best.share, best.correlation)):
            best = found
    return best


Transforms = list[tuple[np.ndarray, bool]]
"""Affine maps [2, 3] of the first image's pixels to the second's, and whether each mirrors."""


def _whole_transforms(first: np.ndarray, second: np.ndarray, one: Signature, two: Signature) -> Transforms:
    """The ways to lay all of `first` over all of `second` whose hashes agree."""
    found = []
    for way in np.flatnonzero(np.bitwise_count(one.whole ^ two.whole[0]) <= HASH_DISTANCE):
        transposed, rows, columns = bool(way & 4), bool(way & 2), bool(way & 1)
        # Unit square to unit square, pixel centres at halves: transpose, then mirror rows and columns.
        matrix = np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, 1]]) if transposed else np.eye(3)
        if columns:
            matrix = np.array([[-1.0, 0, 1], [0, 1, 0], [0, 0, 1]]) @ matrix
        if rows:
            matrix = np.array([[1.0, 0, 0], [0, -1, 1], [0, 0, 1]]) @ matrix
        (height, width), (high, wide) = first.shape, second.shape
        into = np.array([[1 / width, 0, 0.5 / width], [0, 1 / height, 0.5 / height], [0, 0, 1]])
        out = np.array([[wide, 0, -0.5], [0, high, -0.5], [0, 0, 1]])
        found.append(((out @ matrix @ into)[:2], transposed ^ rows ^ columns))
    return found


def _corner_transforms(first: np.ndarray, one: Signature, two: Signature) -> Transforms:
    """The transforms of `first`, or of its mirror image, that enough corners agree on."""
    matcher = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True)
    back = np.array([[-1.0, 0, first.shape[1] - 1], [0, 1, 0], [0, 0, 1]])
    found = []
    for own, mirrored in ((one.corners, False), (one.mirrored, True)):
        if not len(own.points) or not len(two.corners.points):
            continue
        matches = [m for m in matcher.match(own.descriptors, two.corners.descriptors) if m.distance <= CORNER_DISTANCE]
        if len(matches) < INLIERS:
            continue
        a, b = own.points[[m.queryIdx for m in matches]], two.corners.points[[m.trainIdx for m in matches]]
        cv2.setRNGSeed(0)
        transform, inside = cv2.estimateAffinePartial2D(a, b, method=cv2.RANSAC, ransacReprojThreshold=3.0)
        if transform is not None and int(inside.sum()) >= INLIERS:
            found.append((transform @ back if mirrored else transform, mirrored))
    return found


def _compare(first: np.ndarray, second: np.ndarray, transform: np.ndarray, mirrored: bool) -> Overlap | None:
    """Lay `first` over `second` by `transform` [2, 3] and correlate what both show."""
    scale = float(np.sqrt(abs(np.linalg.det(transform[:, :2]))))
    if not 0.05 < scale < 20:
        return None
    # Compared in the coarser of the two sizes, where neither has detail that the other cannot have.
    shrink = min(1.0, 1 / scale)
    if shrink < 1:
        second = cv2.resize(second, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
        transform = transform * shrink
    elif scale < 1:
        first = cv2.GaussianBlur(first, (0, 0), 0.5 / scale)
    size = (second.shape[1], second.shape[0])
    laid = cv2.warpAffine(first, transform, size, flags=cv2.INTER_LINEAR)
    shown = cv2.warpAffine(np.full(first.shape, 255, np.uint8), transform, size, flags=cv2.INTER_NEAREST) > 0
    area = int(shown.sum())
    smaller = min(second.size, first.size * scale**2 * shrink**2)
    if area < 32 * 32 or area < MIN_OVERLAP * smaller:
        return None
    coarse = _correlation(laid.astype(np.float32), second.astype(np.float32), shown)
    if coarse < COARSE or _correlation(_detail(laid, shown), _detail(second, shown), shown) < FINE:
        return None
    return Overlap(min(1.0, area / smaller), coarse, mirrored, scale)


def _detail(image: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """What varies over 1 to 8 pixels, [height, width] float32; outside of `shown` the mean stands in."""
    filled = np.where(shown, image, image[shown].mean()).astype(np.float32)
    return cv2.GaussianBlur(filled, (0, 0), 1.0) - cv2.GaussianBlur(filled, (0, 0), 8.0)


def _correlation(one: np.ndarray, other: np.ndarray, shown: np.ndarray) -> float:
    a, b = one[shown], other[shown]
    if a.std() < FLAT / 4 or b.std() < FLAT / 4:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])
