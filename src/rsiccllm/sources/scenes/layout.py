"""The parts of a scene that stay: ground, roads, rows of houses, halls, ponds, trees."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from rsiccllm.sources.scenes.dice import Dice
from rsiccllm.sources.scenes.geometry import (
    WORLD,
    blob,
    discs_along,
    discs_of,
    normal,
    rectangle,
    tangents,
    unit,
)
from rsiccllm.sources.scenes.items import (
    Building,
    Car,
    Cover,
    Fence,
    Item,
    Lawn,
    Lot,
    Patch,
    Road,
    Trees,
    Water,
    When,
    Wing,
)

Theme = Literal["suburb", "open", "woods", "farm", "commercial", "desert"]
CENTER = np.array([WORLD / 2, WORLD / 2])


class Crowd:
    """The room that is taken, as discs. Plain arithmetic, so that whether something fits never hangs on a pixel."""

    def __init__(self) -> None:
        self._discs = np.zeros((0, 3))

    def copy(self) -> Crowd:
        """The same room taken, apart from what is added later."""
        other = Crowd()
        other._discs = self._discs
        return other

    def add(self, discs: np.ndarray) -> None:
        """Take the room of discs [M, 3]."""
        self._discs = np.concatenate([self._discs, discs])

    def gaps(self, discs: np.ndarray) -> np.ndarray:
        """Distance [M] from each disc's edge to the nearest taken disc's edge, negative where they overlap."""
        if not len(self._discs) or not len(discs):
            return np.full(len(discs), np.inf)
        x = discs[:, 0, None] - self._discs[:, 0]
        y = discs[:, 1, None] - self._discs[:, 1]
        return (np.sqrt(x * x + y * y) - self._discs[:, 2]).min(1) - discs[:, 2]

    def clear(self, discs: np.ndarray, gap: float = 0.0) -> bool:
        """Whether no disc comes nearer than `gap` to what is taken."""
        return bool(self.gaps(discs).min() >= gap)


@dataclass(frozen=True)
class Slot:
    """Room for one house beside a road: its centre, directions along and away from the road, and its scale."""

    center: np.ndarray
    along: np.ndarray
    away: np.ndarray
    edge: float  # distance from the centre to the road's edge
    scale: float
    row: int  # slots of one row stand on one side of one road


@dataclass
class Site:
    """A scene while it is being laid out."""

    dice: Dice
    theme: Theme
    base: Cover = "dry"
    mixed: Cover = "bare"
    items: list[Item] = field(default_factory=list)
    crowd: Crowd = field(default_factory=Crowd)
    slots: list[Slot] = field(default_factory=list)
    style: int = 0  # roofs of one neighbourhood look alike

    def spot(self, radius: float, inset: float, tries: int = 40) -> np.ndarray | None:
        """A centre [2] with clear room of the given radius, at least `inset` from the sides; None if none is found."""
        places = inset + self.dice.units(tries, 2) * (WORLD - 2 * inset)
        gaps = self.crowd.gaps(np.concatenate([places, np.full((tries, 1), radius)], 1))
        found = np.flatnonzero(gaps >= 0)
        return places[found[0]] if len(found) else None


def curve(
    dice: Dice, through: np.ndarray, angle: float, bend: float, back: float = 200, ahead: float = 200
) -> np.ndarray:
    """A smooth line [N, 2] through a point, with distances before and after it, that bends by up to `bend` units."""
    steps = np.linspace(-back, ahead, max(6, int((back + ahead) / 12)))
    arc, wave = bend * dice.uniform(-1, 1), bend * dice.uniform(-0.6, 0.6)
    off = arc * (steps / 128) ** 2 + wave * (steps / 128) ** 3
    along = unit(angle)
    return through + steps[:, None] * along + off[:, None] * normal(along)


def add_road(site: Site, road: Road) -> Road:
    """Put a road into the scene and take its room."""
    site.items.append(road)
    site.crowd.add(discs_along(road.line, road.half_width + 2))
    for i, radius in enumerate(road.ends):
        if radius:
            site.crowd.add(np.array([[*road.line[-i], radius + 2]]))
    return road


def add_slots(site: Site, road: Road, scale: float, row: int) -> None:
    """Mark the room for houses on both sides of a road."""
    dice = site.dice
    steps = np.sqrt((np.diff(road.line, axis=0) ** 2).sum(1))
    length = np.concatenate([[0], np.cumsum(steps)])
    heads = tangents(road.line)
    lot = 37 * scale * dice.uniform(0.95, 1.2)
    edge = (6 + 17) * scale + 3
    taken = [(float(s.center[0]), float(s.center[1]), s.scale) for s in site.slots]
    for side in (-1.0, 1.0):
        reach = np.arange(dice.uniform(10, 10 + lot), length[-1] - 10, lot)
        if not len(reach):
            continue
        table = np.concatenate([road.line, heads], 1)
        here, along = np.split(np.stack([np.interp(reach, length, column) for column in table.T], 1), 2, axis=1)
        along = along / np.sqrt((along * along).sum(1, keepdims=True))
        away = np.stack([-along[:, 1], along[:, 0]], 1) * side
        center = here + away * (road.half_width + edge)
        near = ((center > -16) & (center < WORLD + 16)).all(1)
        near &= site.crowd.gaps(np.concatenate([center, np.full((len(center), 1), 17 * scale)], 1)) >= 0
        for k in np.flatnonzero(near):
            x, y = float(center[k, 0]), float(center[k, 1])
            if all((x - a) ** 2 + (y - b) ** 2 >= (17 * scale + 18 * c) ** 2 for a, b, c in taken):
                taken.append((x, y, scale))
                site.slots.append(Slot(center[k], along[k], away[k], edge, scale, 2 * row + (side > 0)))


def house(dice: Dice, slot: Slot, style: int, when: When = "both") -> Building:
    """A house on its slot, with a drive to the road."""
    s = slot.scale * dice.uniform(0.9, 1.05)
    turn = dice.uniform(-0.06, 0.06)
    along = slot.along + turn * slot.away
    along = along / math.sqrt(float((along**2).sum()))
    away = normal(along) * (1.0 if float(normal(along) @ slot.away) > 0 else -1.0)
    length, width = dice.uniform(12.5, 16) * s, dice.uniform(8, 11) * s
    center = slot.center + away * dice.uniform(-1, 3)
    gable = dice.chance(0.25)
    wings = [Wing(center, along, length, width, gable)]
    hand = dice.sign()
    front = center - away * (width + 1.0 * s) + along * hand * length * 0.48  # the garage juts out to the road
    if dice.chance(0.85):
        wings.append(Wing(front + away * 3 * s, away, dice.uniform(7.5, 9.5) * s, dice.uniform(5, 6.5) * s, gable))
    if dice.chance(0.65):
        back = center + away * width * dice.uniform(0.6, 0.9) - along * hand * length * dice.uniform(0.2, 0.5)
        wings.append(Wing(back, away, dice.uniform(7, 10) * s, dice.uniform(4.5, 6.5) * s, gable))
    start = center + along * hand * length * 0.48 - away * (width + 2 * s)
    reach = max(float((start - slot.center) @ -away), 0)
    end = start - away * max(slot.edge - reach + 0.5, 4)
    middle, half = (start + end) / 2, math.sqrt(float(((start - end) ** 2).sum())) / 2
    drive = rectangle(middle, away, half, dice.uniform(3.2, 4.8) * s)
    roof = style if dice.chance(0.7) else dice.integer(0, 7)
    return Building(tuple(wings), dice.uniform(4.5, 6) * s, roof, False, drive, when)


def building_discs(building: Building) -> np.ndarray:
    """Discs [M, 3] that cover a building and its drive."""
    parts = [discs_of(rectangle(w.center, w.along, w.length, w.width)) for w in building.wings]
    if building.drive is not None:
        parts.append(discs_of(building.drive))
    return np.concatenate(parts)


def hall(dice: Dice, center: np.ndarray, angle: float, length: float, width: float, when: When = "both") -> Building:
    """A large building with a flat roof, half `length` by half `width`, sometimes in two wings."""
    along = unit(angle)
    wings = [Wing(center, along, length, width)]
    if dice.chance(0.45):
        shift = along * length * 0.55 * dice.sign() + normal(along) * width * 0.5 * dice.sign()
        wings.append(Wing(center + shift, along, length * 0.45, width * 0.85))
    return Building(tuple(wings), dice.uniform(6, 9), dice.integer(0, 7), True, None, when)


def parking(dice: Dice, center: np.ndarray, along: np.ndarray, length: float, width: float, when: When = "both") -> Lot:
    """A parking lot, half `length` along by half `width`, with cars in some of its stalls."""
    rows = [-width + 5.5, width - 5.5] if width < 18 else [-width + 5.5, -1.0, width - 5.5]
    stalls = np.arange(-length + 4, length - 3, 5.2)
    spots = np.array([center + along * x + normal(along) * y for y in rows for x in stalls]).reshape(-1, 2)
    draw = dice.units(len(spots), 2)
    full = draw[:, 0] < dice.uniform(0.15, 0.75)
    cars = np.concatenate([spots, draw[:, 1:]], 1)[full]
    return Lot(rectangle(center, along, length, width), along, cars, dice.uniform(0.1, 0.9), when)


def grove(dice: Dice, center: np.ndarray, radius: float, when: When, near: np.ndarray | None = None) -> Trees:
    """Trees close together within a wobbly outline, or with `near` [M, 3] over those discs instead."""
    low, high = (4.5, 7.5) if near is not None or radius < 45 else (5.5, 9.5)
    count = int(3.0 * radius * radius / (high * high)) + 4
    spots = center + (dice.units(count, 2) * 2 - 1) * radius
    sizes = low + (high - low) * dice.units(count)
    if near is None:
        inside = ((spots - center) ** 2).sum(1) < (radius - sizes) ** 2
    else:
        x, y = spots[:, 0, None] - near[:, 0], spots[:, 1, None] - near[:, 1]
        inside = (np.sqrt(x * x + y * y) - near[:, 2]).min(1) < 2.0
    spots, sizes = spots[inside], sizes[inside]
    keep = _apart(spots, sizes, 0.62)
    return Trees(spots[keep], sizes[keep], dice.units(len(keep)), when)


def _apart(spots: np.ndarray, sizes: np.ndarray, share: float) -> list[int]:
    """The trees that, taken in order, do not stand in an earlier one: centres at least `share` of both radii apart."""
    keep: list[int] = []
    x = spots[:, 0, None] - spots[None, :, 0]
    y = spots[:, 1, None] - spots[None, :, 1]
    near = x * x + y * y < (share * (sizes[:, None] + sizes[None, :])) ** 2
    free = np.ones(len(spots), bool)
    for i in range(len(spots)):
        if free[i]:
            keep.append(i)
            free &= ~near[i]
    return keep


def lay_ground(site: Site) -> None:
    """Choose the covers of the scene and its fields."""
    dice = site.dice
    mixes: dict[Theme, list[tuple[tuple[Cover, Cover], float]]] = {
        "suburb": [(("dry", "grass"), 5), (("grass", "dry"), 3), (("bare", "dry"), 2)],
        "open": [(("dry", "grass"), 4), (("dry", "bare"), 3), (("grass", "dry"), 2), (("bare", "dry"), 2)],
        "woods": [(("floor", "dry"), 4), (("dry", "floor"), 3)],
        "farm": [(("field", "crop"), 3), (("crop", "field"), 3)],
        "commercial": [(("dry", "grass"), 3), (("grass", "dry"), 2), (("bare", "dry"), 2)],
        "desert": [(("desert", "bare"), 3), (("bare", "desert"), 2)],
    }
    site.base, site.mixed = dice.weigh(mixes[site.theme])
    patches: list[Cover] = ["dry", "grass", "bare"]
    if site.theme == "farm":
        patches = ["field", "crop", "dry"]
    if site.theme == "desert":
        patches = ["bare", "dry"]
    count = dice.weigh([(0, 3), (1, 3), (2, 2)]) if site.theme != "farm" else dice.integer(1, 3)
    for _ in range(count):
        cover = dice.pick([c for c in patches if c != site.base])
        angle = dice.uniform(0, math.pi)
        if site.theme == "farm" or dice.chance(0.4):
            # a field that runs out of the scene on one side
            edge = CENTER + unit(angle) * dice.uniform(20, 120)
            outline = rectangle(edge + unit(angle) * 200, unit(angle), 200, dice.uniform(80, 260))
        else:
            center = dice.units(2) * WORLD
            outline = blob(center, dice.uniform(35, 90), dice.units(6), dice.uniform(0.8, 1.4), angle)
        site.items.append(Patch(outline, cover, "both", angle + dice.pick([0.0, math.pi / 2])))


def lay_roads(site: Site) -> None:
    """Lay the roads that are there at both dates, around what already stands, and mark the slots beside them."""
    dice = site.dice
    scale = dice.uniform(0.76, 1.1)
    tone = dice.uniform(0, 1)
    axis = dice.uniform(0, math.pi) if dice.chance(0.6) else dice.pick([0.0, math.pi / 2]) + dice.uniform(-0.08, 0.08)
    if site.theme in {"suburb", "desert"}:
        half = dice.uniform(5.5, 7.5)
        spacing = 2 * half + 2 * 46 * scale + 6 + dice.uniform(0, 22)
        bend = dice.weigh([(4, 3), (30, 4), (60, 2)])
        across = normal(unit(axis))
        first = dice.uniform(0, spacing)
        shape = dice.integer(0, 2**31 - 1)
        turning = dice.chance(0.3)
        for row in range(-3, 4):
            offset = first + row * spacing - spacing / 2
            if abs(offset) > 170:
                continue
            back, ahead, ends = 210.0, 210.0, (0.0, 0.0)
            if turning and dice.chance(0.6):
                ahead, ends = dice.uniform(20, 90), (0.0, dice.uniform(12, 16))
            # one shape for all rows keeps them parallel
            line = curve(Dice(shape), CENTER + across * offset, axis, bend, back, ahead)
            _static_road(site, Road(line, half, tone, ends, walk=dice.chance(0.35)), scale, row + 3)
        if dice.chance(0.5):
            through = CENTER + unit(axis) * dice.uniform(-80, 80)
            _static_road(site, Road(curve(dice, through, axis + math.pi / 2, 10), half, tone), scale, 9)
    elif site.theme == "commercial":
        wide = dice.uniform(7, 10)
        through = CENTER + normal(unit(axis)) * dice.uniform(-90, 90)
        _static_road(site, Road(curve(dice, through, axis, 15), wide, tone, marked=True, walk=True), scale, 0)
        if dice.chance(0.5):
            through = CENTER + unit(axis) * dice.uniform(-90, 90)
            _static_road(site, Road(curve(dice, through, axis + math.pi / 2, 8), wide * 0.8, tone), scale, 1)
    elif dice.chance(0.65):
        through = CENTER + normal(unit(axis)) * dice.uniform(-100, 100)
        marked = dice.chance(0.4)
        half = dice.uniform(4.5, 8)
        _static_road(site, Road(curve(dice, through, axis, 45), half, tone, marked=marked), scale, 0)
    if site.theme != "suburb" and dice.chance(0.5):
        for _ in range(dice.integer(1, 2)):
            line = curve(dice, dice.units(2) * WORLD, dice.uniform(0, math.pi), 70)
            road = Road(line, dice.uniform(0.9, 2.2), trail=True)
            if site.crowd.clear(discs_along(line, 3)) or not any(isinstance(i, Building | Water) for i in site.items):
                site.items.append(road)


def _static_road(site: Site, road: Road, scale: float, row: int) -> None:
    """Add a road where it keeps clear of everything but other roads, and its slots."""
    blocked = Crowd()
    for item in site.items:
        if item.when != "both" or not isinstance(item, Road | Patch):
            blocked.add(item_discs(item))
    if not blocked.clear(discs_along(road.line, road.half_width), 5):
        return
    add_road(site, road)
    add_slots(site, road, scale, row)


def item_discs(item: Item) -> np.ndarray:
    """Discs [M, 3] that cover an item."""
    match item:
        case Building():
            return building_discs(item)
        case Road():
            ends = [np.array([[*item.line[-i], r]]) for i, r in enumerate(item.ends) if r]
            return np.concatenate([discs_along(item.line, item.half_width), *ends])
        case Trees():
            return np.concatenate([item.centers, item.radii[:, None]], 1)
        case Lot():
            return discs_of(item.outline)
        case Water() | Patch():
            center = item.outline.mean(0)
            reach = math.sqrt(float(((item.outline - center) ** 2).sum(1).max()))
            return np.array([[*center, reach]])
        case _:
            return np.zeros((0, 3))


def fill(site: Site, easy: bool) -> None:
    """Build on the slots that are left, and add halls, ponds, cars, fences and trees around everything else."""
    dice = site.dice
    density = {"suburb": 0.85, "desert": 0.12, "commercial": 0.3, "open": 0.2, "woods": 0.15, "farm": 0.15}[site.theme]
    density = density * dice.uniform(0.7, 1.15) * (0.8 if easy else 1)
    fences = dice.chance(0.6)
    rooms = np.array([(*s.center, 13 * s.scale) for s in site.slots]).reshape(-1, 3)
    free = site.crowd.gaps(rooms) >= 2  # slots keep clear of each other
    for slot, room in zip(site.slots, free, strict=True):
        if not room or not dice.chance(density):
            continue
        built = house(dice, slot, site.style)
        discs = building_discs(built)
        site.items.append(built)
        site.crowd.add(discs)
        if site.theme in {"suburb", "commercial"} or dice.chance(0.3):
            yard = slot.center + slot.away * (4.5 - slot.edge / 2 + 11 * slot.scale)
            outline = rectangle(yard, slot.along, 18 * slot.scale, 8 * slot.scale + slot.edge / 2)
            site.items.append(Lawn(outline, dice.uniform(0.0, 1.0)))
        if fences and site.theme == "suburb":
            corner = slot.center + slot.along * 17.5 * slot.scale
            site.items.append(Fence(np.stack([corner, corner + slot.away * 24 * slot.scale])))
            far = slot.center + slot.away * 23 * slot.scale
            site.items.append(Fence(np.stack([far - slot.along * 18 * slot.scale, far + slot.along * 18 * slot.scale])))
        if dice.chance(0.08):
            pool = slot.center + slot.away * 19 * slot.scale
            outline = blob(pool, 4.2 * slot.scale, dice.units(6), 1.2, dice.uniform(0, 3))
            if site.crowd.clear(np.array([[*pool, 5]]), 1):
                site.items.append(Water(outline, pool=True))
                site.crowd.add(np.array([[*pool, 5]]))
    if site.theme == "desert":
        for _ in range(dice.integer(1, 5)):
            line = curve(
                dice, dice.units(2) * WORLD, dice.uniform(0, math.pi), 60, dice.uniform(20, 90), dice.uniform(20, 90)
            )
            free = site.crowd.gaps(discs_along(line, 3)) > 0
            run = int(np.argmin(free)) if not free.all() else len(free)
            if run > 3:
                site.items.append(Fence(line[:run], furrow=True))
    if site.theme == "commercial":
        for _ in range(dice.integer(1, 3)):
            add_hall(site, dice.uniform(18, 40), dice.uniform(12, 24), dice.chance(0.7), "both")
    if dice.chance(0.14 if site.theme in {"open", "woods", "suburb"} else 0.05):
        radius = dice.uniform(18, 42)
        center = site.spot(radius + 6, 10)
        if center is not None:
            site.items.append(Water(blob(center, radius, dice.units(6), dice.uniform(1, 1.35), dice.uniform(0, 3))))
            site.crowd.add(np.array([[*center, radius * 1.3]]))
    _cars(site)
    _trees(site)


def add_hall(
    site: Site, length: float, width: float, lot: bool, when: When, at: np.ndarray | None = None
) -> list[Building | Lot] | None:
    """Add a large building and, with `lot`, its parking lot. Returns what was added, None where there is no room."""
    dice = site.dice
    lot_width = dice.uniform(13, 22) if lot else 0.0
    deep = width + lot_width
    reach = math.sqrt(length * length + deep * deep) + 3
    center = site.spot(reach * 0.86, min(40.0, 0.8 * reach)) if at is None else at
    if center is None:
        return None
    angle = dice.uniform(0, math.pi) if dice.chance(0.4) else dice.pick([0.0, math.pi / 2]) + dice.uniform(-0.1, 0.1)
    along, side = unit(angle), dice.sign()
    built = hall(dice, center - normal(along) * side * lot_width, angle, length, width, when)
    added: list[Building | Lot] = [built]
    if lot:
        added.append(parking(dice, center + normal(along) * side * width * 1.35, along, length * 1.1, lot_width, when))
        added.reverse()
    site.items.extend(added)
    site.crowd.add(np.array([[*center, reach * 0.9]]))
    return added


def _cars(site: Site) -> None:
    """A few cars on the roads and drives, the same at both dates."""
    dice = site.dice
    for item in list(site.items):
        if item.when != "both":
            continue
        if isinstance(item, Road) and not item.trail:
            heads = tangents(item.line)
            for _ in range(dice.integer(0, 2)):
                k = dice.integer(1, len(item.line) - 2)
                lane = normal(heads[k]) * item.half_width * 0.5 * dice.sign()
                site.items.append(Car(item.line[k] + lane, heads[k], dice.unit()))
        elif isinstance(item, Building) and item.drive is not None and dice.chance(0.3):
            along = item.drive[1] - item.drive[0]
            long = math.sqrt(float((along**2).sum()))
            if long > 9:
                site.items.append(Car(item.drive.mean(0), along / long, dice.unit()))


def _trees(site: Site) -> None:
    """Scatter trees in clumps and scrub, clear of what stands."""
    dice = site.dice
    amount = {"suburb": 95, "open": 125, "woods": 540, "farm": 30, "commercial": 45, "desert": 25}[site.theme]
    if site.theme == "open" and dice.chance(0.3):
        amount = 240
    count = int(amount * dice.uniform(0.4, 1.3))
    spots = dice.units(2 * count, 2) * (WORLD + 24) - 12
    clumps = dice.units(dice.integer(3, 9), 3) * np.array([WORLD, WORLD, 42]) + np.array([0, 0, 14])
    x, y = spots[:, 0, None] - clumps[:, 0], spots[:, 1, None] - clumps[:, 1]
    thick = (1 / (1 + (x * x + y * y) / clumps[:, 2] ** 2) ** 2).sum(1)
    loose = 0.45 if site.theme in {"woods", "suburb"} else 0.18
    spots = spots[dice.units(len(spots)) < loose * 0.6 + 1.1 * thick]
    spots = spots[:count]
    low, high = (2.8, 13.0) if site.theme in {"woods", "open", "suburb"} else (3.0, 9.5)
    sizes = low + (high - low) * dice.units(len(spots)) ** 2.6
    gaps = site.crowd.gaps(np.concatenate([spots, 0.55 * sizes[:, None]], 1))
    spots, sizes = spots[gaps > 1], sizes[gaps > 1]
    keep = _apart(spots, sizes, 0.42)
    scrub = dice.units(int(dice.uniform(0, 170)), 2) * WORLD
    gaps = site.crowd.gaps(np.concatenate([scrub, np.full((len(scrub), 1), 3.0)], 1))
    scrub = scrub[gaps > 1]
    spots = np.concatenate([scrub, spots[keep]])
    sizes = np.concatenate([1.1 + 2.0 * dice.units(len(scrub)) ** 2, sizes[keep]])
    site.items.append(Trees(spots, sizes, dice.units(len(spots))))
