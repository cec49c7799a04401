"""The mask prior: what a change mask says in words and numbers, before anybody has described the pair.

A mask is a free, exact statement of where something changed. It is read as regions (connected components, specks
dropped), each with its share of the image, its box, its place in words and its shape; where the mask has classes, or
the set states facts, also with what changed there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import cv2
import numpy as np

from rsiccllm.facts import RANGES, Direction, Fact, Known, Object, Parsed, Place, parse
from rsiccllm.records import ImagePair
from rsiccllm.sources.base import ChangeMask, Source

Shape = Literal["compact", "elongated", "irregular"]
Spread = Literal["none", "single", "clustered", "grouped", "scattered", "throughout"]


@dataclass(frozen=True, slots=True)
class Region:
    """One connected region of a mask.

    share: of the image's pixels, 0..1. box: (left, top, right, bottom) in pixels, right and bottom exclusive. place:
    the one of nine that holds most of it. shape: "elongated" where it is at least three times as long as wide,
    "irregular" where it fills less than four fifths of its convex hull, else "compact". known: what changed there,
    where the mask's classes say it; empty where they do not.
    """

    share: float
    box: tuple[int, int, int, int]
    place: Place
    shape: Shape
    known: tuple[Known, ...] = ()


@dataclass(frozen=True, slots=True)
class Prior:
    """What is known of the change in a pair before it is described.

    width, height: of the images, pixels. share: of the pixels that the mask marks, specks included, 0..1. regions:
    largest first. specks: components under the threshold, and slivers, not among the regions. spread: how the regions
    lie. zones: for each of the nine places the share of all marked pixels in its zone (ZONES); 0 where nothing changed.
    known: every change that is known, of the whole pair; from the mask's classes, from facts that the set states, or
    from its captions. complete: nothing else changed than what `known` says. scope: the only kind of object that the
    set's masks mark ("building"), None where they mark every change. changed: None where an empty mask proves nothing.
    """

    width: int
    height: int
    share: float = 0.0
    regions: tuple[Region, ...] = ()
    specks: int = 0
    spread: Spread = "none"
    zones: tuple[tuple[Place, float], ...] = ()
    known: tuple[Known, ...] = ()
    complete: bool = False
    scope: str | None = None
    changed: bool | None = None
    masked: bool = False
    """Whether there is a mask at all: with none, places and counts come from `known` alone."""

    @property
    def empty(self) -> bool:
        """Nothing changed, or nothing of the kind that the masks mark."""
        return self.changed is False or (self.changed is None and self.masked and self.share == 0)

    @property
    def silent(self) -> bool:
        """Neither a change nor its absence is known: no mask, text or facts, or specks alone."""
        return not self.empty and not self.regions and not self.known

    def zone(self, place: str) -> float:
        """The share of the marked pixels that lies in a place's zone; 1 where there is no mask to ask."""
        return dict(self.zones).get(place, 1.0)  # type: ignore[call-overload]


SPECK_PIXELS = 24
"""Components of fewer pixels are specks: at 0.5 m a square of 2.5 m, smaller than any building."""

ELONGATED = 3.0
"""Long side over short side of the tilted box, from which a region is called elongated."""

SLIVER_PIXELS = 6
"""A component that the border of the image cuts off is a speck where less than this much of it reaches into the image:
at 0.5 m less than 3 m, of which nobody can say what it is."""

IRREGULAR = 0.8
"""Share of its convex hull that a region fills, under which it is called irregular: arcs, and rows with gaps."""

GAP = 1 / 8
"""Share of the image's longer side up to which the gap between two regions' boxes counts as close."""

ROOMY = 0.05
"""Share of the image above which one region may hold any number of things."""

THROUGHOUT = 6
"""Of the nine places, how many must hold a region for the change to be throughout."""

REPORT = 60
"""Words above which a caption is a report, of which no facts are taken: it tells of both dates, of what is not there
and of what it is not sure of, which the parser of captions was not made for."""

# Where each place is looked for, as (left, top, right, bottom) in quarters of the image: wide enough that no person's
# "at the top left" falls outside. A zone without one marked pixel is a place where nothing changed.
ZONES: dict[Place, tuple[int, int, int, int]] = {
    "top_left": (0, 0, 2, 2),
    "top": (0, 0, 4, 2),
    "top_right": (2, 0, 4, 2),
    "left": (0, 0, 2, 4),
    "center": (1, 1, 3, 3),
    "right": (2, 0, 4, 4),
    "bottom_left": (0, 2, 2, 4),
    "bottom": (0, 2, 4, 4),
    "bottom_right": (2, 2, 4, 4),
}
THIRDS: tuple[Place, ...] = (
    "top_left", "top", "top_right", "left", "center", "right", "bottom_left", "bottom", "bottom_right",
)  # fmt: skip


def prior_of(source: Source, pair: ImagePair, speck: int = SPECK_PIXELS) -> Prior:
    """The prior of a pair of `source`. Decodes its mask and no image.

    speck: components of fewer pixels are dropped, and slivers; 0 keeps all. Raises InputError where the mask cannot be
    read.
    """
    mask = source.classes(pair)
    if mask is None:
        width, height = source.size_of(pair) if source.has_images else (0, 0)
        prior = Prior(width, height)
    else:
        prior = mask_prior(mask, speck, source.scope)
    known, complete, said = prior.known, False, None
    if pair.facts is not None:
        known, complete, said = tuple(_known(fact) for fact in pair.facts), True, bool(pair.facts)
    elif captions := [text for text in pair.captions if len(text.split()) <= REPORT]:
        parsed = [parse(caption) for caption in captions]
        told = consensus(parsed)
        covered = {item.object for item in told}
        known = (*told, *(item for item in known if item.object not in covered))
        denied = sum(item.changed is False for item in parsed)
        said = True if told else False if 2 * denied > len(parsed) else None
    if pair.changed is None and said is False and prior.regions:
        return replace(prior, regions=(), known=(), changed=None)  # people deny what the mask marks: neither is known
    changed = next((value for value in (pair.changed, said, prior.changed) if value is not None), None)
    if changed is False:
        known = ()
    return replace(prior, known=known, complete=complete, changed=changed)


def mask_prior(mask: ChangeMask, speck: int = SPECK_PIXELS, scope: str | None = None) -> Prior:
    """The prior of a mask alone. mask.values: [height, width] uint8. Deterministic."""
    values = mask.values
    height, width = values.shape
    marked = values > 0
    total = int(marked.sum())
    if not total:
        return Prior(width, height, scope=scope, changed=None if scope else False, masked=True)
    regions: list[Region] = []
    specks = 0
    for value in np.unique(values[marked]).tolist():
        found, small = _regions(values == value, mask.meaning.get(value, ()), speck)
        regions += found
        specks += small
    regions.sort(key=lambda region: (-region.share, region.box))
    return Prior(
        width,
        height,
        share=total / marked.size,
        regions=tuple(regions),
        specks=specks,
        spread=_spread(regions, width, height),
        zones=_zones(marked, total),
        known=_sum_up(regions),
        scope=scope,
        changed=True if regions else None,
        masked=True,
    )


def consensus(parsed: Sequence[Parsed]) -> tuple[Known, ...]:
    """What several people say of one pair: each (object, direction) that two of them name, or one of at most two.

    Of its verbs, quantities and places the one named most often; a place and a quantity need two who name it where
    there are more than two captions.
    """
    least = 1 if len(parsed) <= 2 else 2
    said: dict[tuple[Object, Direction], list[Fact]] = {}
    for item in parsed:
        first: dict[tuple[Object, Direction], Fact] = {}
        for fact in item.facts:
            first.setdefault((fact.object, fact.direction), fact)
        for pair, fact in first.items():
            said.setdefault(pair, []).append(fact)
    found = []
    for (name, direction), facts in said.items():
        if len(facts) < least:
            continue
        quantity = _most([fact.quantity for fact in facts], least)
        low, high = RANGES[quantity] if quantity else (1.0, float("inf"))
        found.append(
            Known(name, direction, _most([f.verb for f in facts], 1), _most([f.place for f in facts], least), low, high)
        )
    return tuple(found)


Value = TypeVar("Value", bound=str)


def _most(values: Sequence[Value | None], least: int) -> Value | None:
    """The commonest value that is not None, the first of equals; None where it occurs fewer than `least` times."""
    counts = Counter(value for value in values if value is not None)
    value, number = counts.most_common(1)[0] if counts else (None, 0)
    return value if number >= least else None


def _known(fact: Fact) -> Known:
    low, high = RANGES[fact.quantity] if fact.quantity else (1.0, float("inf"))
    return Known(fact.object, fact.direction, fact.verb, fact.place, low, high)


def _regions(marked: np.ndarray, known: tuple[Known, ...], speck: int) -> tuple[list[Region], int]:
    """Components of `marked` [height, width] bool that are no specks, and how many are.

    Corners do not connect: houses whose masks touch at a corner are two.
    """
    height, width = marked.shape
    count, labels, stats, _ = cv2.connectedComponentsWithStats(marked.astype(np.uint8), connectivity=4)
    regions = []
    for label in range(1, count):
        left, top, wide, high, area = (int(value) for value in stats[label])
        if area < speck or (speck and _is_sliver(left, top, wide, high, width, height)):
            continue
        part = labels[top : top + high, left : left + wide] == label
        box = (left, top, left + wide, top + high)
        regions.append(
            Region(area / marked.size, box, _place(part, left, top, width, height), _shape(part, area), known)
        )
    return regions, count - 1 - len(regions)


def _is_sliver(left: int, top: int, wide: int, high: int, width: int, height: int) -> bool:
    """Whether a border of the image cuts the box off with hardly any of it left."""
    sides = left == 0 or left + wide == width
    ends = top == 0 or top + high == height
    return (sides and wide < min(SLIVER_PIXELS, width)) or (ends and high < min(SLIVER_PIXELS, height))


def _place(part: np.ndarray, left: int, top: int, width: int, height: int) -> Place:
    """The ninth of the image that holds most of `part`, which begins at (left, top)."""
    rows = [round(height * k / 3) - top for k in range(4)]
    columns = [round(width * k / 3) - left for k in range(4)]
    cells = [
        int(part[max(rows[r], 0) : max(rows[r + 1], 0), max(columns[c], 0) : max(columns[c + 1], 0)].sum())
        for r in range(3)
        for c in range(3)
    ]
    return THIRDS[cells.index(max(cells))]


def _shape(part: np.ndarray, area: int) -> Shape:
    contours, _ = cv2.findContours(part.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    outline = max(contours, key=len)
    _, sides, _ = cv2.minAreaRect(outline)
    long, short = max(sides) + 1, min(sides) + 1  # contours run through the middle of the border's pixels
    if long >= ELONGATED * short:
        return "elongated"
    hull = cv2.fillConvexPoly(np.zeros(part.shape, np.uint8), cv2.convexHull(outline), 1)
    return "irregular" if area < IRREGULAR * int(hull.sum()) else "compact"


def _spread(regions: Sequence[Region], width: int, height: int) -> Spread:
    """ "clustered": one can go from any region to any other over gaps no wider than GAP; "scattered": no two are that
    close; "grouped": some are and some are not; "throughout": in most parts of the image."""
    if len(regions) < 2:
        return "single" if regions else "none"
    if len({region.place for region in regions}) >= THROUGHOUT:
        return "throughout"
    left, top, right, bottom = np.array([region.box for region in regions]).T
    gaps = [
        np.maximum(low[:, None], low) - np.minimum(high[:, None], high) for low, high in ((left, right), (top, bottom))
    ]
    close = np.hypot(*(np.maximum(gap, 0) for gap in gaps)) <= GAP * max(width, height)  # [regions, regions]
    if close.sum() == len(regions):  # each to itself alone
        return "scattered"
    reached, more = close[0], close[close[0]].any(axis=0)
    while (more != reached).any():
        reached, more = more, close[more].any(axis=0)
    return "clustered" if reached.all() else "grouped"


def _zones(marked: np.ndarray, total: int) -> tuple[tuple[Place, float], ...]:
    height, width = marked.shape
    rows = np.add.reduceat(marked, [height * k // 4 for k in range(4)], axis=0, dtype=np.int64)
    quarters = np.add.reduceat(rows, [width * k // 4 for k in range(4)], axis=1)  # [4, 4] marked pixels
    return tuple(
        (place, float(quarters[top:bottom, left:right].sum()) / total)
        for place, (left, top, right, bottom) in ZONES.items()
    )


def _sum_up(regions: Sequence[Region]) -> tuple[Known, ...]:
    """One Known for each kind of change that the regions state, the kind with the most area first.

    A region holds at least one thing of its class; how many more is not known, so `most` stays open. One compact
    region of a building that is no larger than ROOMY is one building.
    """
    groups: dict[tuple[Object, Direction | None, str | None], list[Region]] = {}
    for region in regions:
        for item in region.known:
            groups.setdefault((item.object, item.direction, item.verb), []).append(region)
    found = []
    for (name, direction, verb), members in groups.items():
        places = {region.place for region in members}
        place = places.pop() if len(places) == 1 else None
        alone = len(members) == 1 and name == "building"
        single = alone and members[0].shape == "compact" and members[0].share <= ROOMY
        found.append(Known(name, direction, verb, place, len(members), 1 if single else float("inf")))
    return tuple(found)
