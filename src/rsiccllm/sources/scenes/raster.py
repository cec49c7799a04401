"""Drawing a plan's items on canvases, and the exact mask of what changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import cv2
import numpy as np

from rsiccllm.facts import Fact, Object
from rsiccllm.masks import OBJECTS, encode
from rsiccllm.sources.scenes.geometry import SHIFT, WORLD, fixed, rectangle
from rsiccllm.sources.scenes.items import Building, Item, Lot, Patch, Road, Trees, Water, stands
from rsiccllm.sources.scenes.textures import CROWNS, crown

CURB = 1.1  # world units

Date = Literal["before", "after"]


def polygon(
    canvas: np.ndarray, outline: np.ndarray, color: object, size: int, margin: int, smooth: bool = True
) -> None:
    """Fill a polygon given in world units."""
    line = cv2.LINE_AA if smooth else cv2.LINE_8
    cv2.fillPoly(canvas, [fixed(outline, size, margin)], color, line, SHIFT)


def stamps(trees: Trees, size: int, margin: int) -> Iterator[tuple[int, int, int, int]]:
    """Row and column of the middle pixel of each tree, its radius in quarter pixels and its shape."""
    spots = fixed(trees.centers, size, margin) + (1 << (SHIFT - 1)) >> SHIFT
    radii = np.maximum(np.rint(trees.radii * 64).astype(np.int64) * size * 4 // (WORLD * 64), 3)
    shapes = (trees.shapes * CROWNS).astype(np.int64)
    yield from zip(spots[:, 1].tolist(), spots[:, 0].tolist(), radii.tolist(), shapes.tolist(), strict=True)


def stamp(canvas: np.ndarray, row: int, column: int, sprite: np.ndarray, cover: np.ndarray) -> None:
    """Copy the covered pixels of a sprite [odd, odd] onto the canvas around a pixel, cut at the canvas's sides."""
    half = cover.shape[0] // 2
    top, left = row - half, column - half
    if top >= 0 and left >= 0 and top + 2 * half < canvas.shape[0] and left + 2 * half < canvas.shape[1]:
        cv2.copyTo(sprite, cover, canvas[top : top + 2 * half + 1, left : left + 2 * half + 1])
        return
    r0, c0 = max(-top, 0), max(-left, 0)
    r1, c1 = min(canvas.shape[0] - top, 2 * half + 1), min(canvas.shape[1] - left, 2 * half + 1)
    if r1 > r0 and c1 > c0:
        target = canvas[top + r0 : top + r1, left + c0 : left + c1]
        np.copyto(target, sprite[r0:r1, c0:c1], where=cover[r0:r1, c0:c1] > 0)


def in_order(items: Iterable[Item]) -> list[Item]:
    """Items as they are drawn: those that change first, so that what stays lies unbroken on top of them."""
    return sorted(items, key=lambda item: item.when == "both")


def _labels(items: list[Item], date: Date, size: int) -> np.ndarray:
    """What lies on top at each pixel: a number for each material, and one of its own for each building, int16."""
    canvas = np.zeros((size, size), np.int16)
    here = [item for item in items if stands(item, date)]

    def fill(outlines: Iterable[np.ndarray], label: int) -> None:
        for outline in outlines:
            polygon(canvas, outline, label, size, 0, smooth=False)

    fill((i.outline for i in here if isinstance(i, Patch) and i.when != "both"), 1)
    fill((i.outline for i in here if isinstance(i, Water) and not i.pool), 2)
    fill((i.outline for i in here if isinstance(i, Lot)), 3)
    roads = [i for i in here if isinstance(i, Road) and not i.trail]
    fill((o for r in roads for o in r.outlines(CURB)), 4)
    fill((o for r in roads for o in r.outlines()), 5)
    fill((i.drive for i in here if isinstance(i, Building) and i.drive is not None), 6)
    fill((i.outline for i in here if isinstance(i, Water) and i.pool), 7)
    for number, item in enumerate(items):
        if isinstance(item, Building) and stands(item, date):
            fill((rectangle(w.center, w.along, w.length, w.width) for w in item.wings), 100 + number)
    for item in here:
        if isinstance(item, Trees):
            label = np.int16(8 if item.when == "both" else 9)
            for row, column, radius, shape in stamps(item, size, 0):
                cover = crown(radius, shape, 0)[1]
                stamp(canvas, row, column, np.full(cover.shape, label), cover)
    return canvas


_OBJECTS: dict[int, Object] = {
    1: "bareland", 2: "water", 3: "parking_lot", 4: "road", 5: "road", 6: "building", 7: "pool", 8: "tree", 9: "tree",
}  # fmt: skip
"""What the numbers of `_labels` under 100 are; a drive comes and goes with its building."""


def coded_mask(items: Iterable[Item], facts: Iterable[Fact], size: int) -> np.ndarray:
    """`change_mask`, and in it which object went and which came, of those that the facts name (`masks.encode`)."""
    ordered, stated = in_order(items), {(fact.object, fact.direction) for fact in facts}
    if not stated:
        return np.zeros((size, size), np.uint8)
    labels = [_labels(ordered, date, size) for date in ("before", "after")]
    changed = labels[0] != labels[1]
    objects = np.zeros((2, size, size), np.uint8)
    for row, direction in enumerate(("disappear", "appear")):
        for label in np.unique(labels[row][changed]).tolist():
            what = "building" if label >= 100 else _OBJECTS.get(label)
            if what is not None and (what, direction) in stated:
                objects[row][labels[row] == label] = 1 + OBJECTS.index(what)
    return encode(changed, objects)


def change_mask(items: Iterable[Item], size: int) -> np.ndarray:
    """Where the surface on top differs between the dates, bool [size, size]. Shadows and light are no change."""
    ordered = in_order(items)
    if all(item.when == "both" for item in ordered):
        return np.zeros((size, size), bool)
    return _labels(ordered, "before", size) != _labels(ordered, "after", size)
