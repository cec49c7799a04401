"""What changes between the two dates: things built, removed, replaced and extended."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np

from rsiccllm.facts import Direction, Fact, Object, Place, Quantity
from rsiccllm.sources.scenes.geometry import (
    SHIFT,
    WORLD,
    blob,
    circle,
    discs_along,
    discs_of,
    fixed,
    normal,
    place_of,
    rectangle,
    tangents,
    unit,
)
from rsiccllm.sources.scenes.items import Building, Item, Lot, Patch, Road, Trees, Water, When, Wing
from rsiccllm.sources.scenes.layout import (
    Site,
    Slot,
    add_hall,
    add_road,
    add_slots,
    building_discs,
    curve,
    grove,
    hall,
    house,
    item_discs,
    parking,
)


@dataclass(frozen=True)
class Change:
    """One thing that changes: the fact, and what else a sentence may truly say of it."""

    fact: Fact
    count: int
    kind: str  # house, hall, wing, road, trees, pond, pool, lot, bareland
    row: bool = False  # houses in one row
    beside_road: bool = False  # a road is there at both dates
    winding: bool = False


@dataclass(frozen=True)
class Event:
    """Changes that belong together; where `replaced`, the first change's things gave way to the others'."""

    changes: tuple[Change, ...]
    replaced: bool = False


def quantity(count: int) -> Quantity:
    """The canonical quantity of a count: one, two, three, several (4 or 5), many (6 or more)."""
    if count <= 3:
        return ("one", "two", "three")[count - 1]
    return "several" if count <= 5 else "many"


def footprint(item: Item) -> list[np.ndarray]:
    """The outlines (world units) of the ground that an item covers."""
    match item:
        case Building():
            parts = [rectangle(w.center, w.along, w.length, w.width) for w in item.wings]
            return parts + ([item.drive] if item.drive is not None else [])
        case Road():
            return item.outlines()
        case Trees():
            return [circle(c, r, 8) for c, r in zip(item.centers, item.radii, strict=True)]
        case Lot() | Water() | Patch():
            return [item.outline]
        case _:
            return []


def place(items: list[Item]) -> Place | None:
    """The place that holds most of the items' footprint inside the scene, None where it is spread."""
    canvas = np.zeros((96, 96), np.uint8)
    for item in items:
        for outline in footprint(item):
            cv2.fillPoly(canvas, [fixed(outline, 96)], 1, cv2.LINE_8, SHIFT)
    return place_of(canvas.reshape(3, 32, 3, 32).sum((1, 3), dtype=np.int64))


def visible(item: Item) -> bool:
    """Whether the middle of an item lies well inside the scene."""
    match item:
        case Building():
            x, y = item.wings[0].center.tolist()
        case Road():
            x, y = item.line.mean(0).tolist()
        case Lot() | Water() | Patch():
            x, y = item.outline.mean(0).tolist()
        case _:
            return False
    return 8 < x < WORLD - 8 and 8 < y < WORLD - 8


def _change(
    kind: str, what: Object, direction: Direction, verb: str, items: list[Item], count: int | None = None, **more: bool
) -> Change:
    number = len(items) if count is None else count
    where = place(items)
    if where is None and more.get("beside_road") and what == "building" and number >= 3:
        where = "along_road"
    fact = Fact(object=what, direction=direction, verb=verb, quantity=quantity(number), place=where)
    return Change(fact, number, kind, **more)


def _verb(when: When, made: str = "build") -> tuple[Direction, str]:
    return ("appear", made) if when == "after" else ("disappear", "remove")


def _when(site: Site, built: float) -> When:
    return "after" if site.dice.chance(built) else "before"


def _other(when: When) -> When:
    return "before" if when == "after" else "after"


def _trees_over(site: Site, items: list[Item], when: When, share: float) -> Change | None:
    """Trees that stood where the items come to stand (or, later, where they stood), with probability `share`."""
    if not site.dice.chance(share):
        return None
    discs = np.concatenate([item_discs(i) for i in items])
    inside = discs[(discs[:, :2].min(1) > 0) & (discs[:, :2].max(1) < WORLD)]
    if not len(inside):
        return None
    low, high = inside[:, :2].min(0), inside[:, :2].max(0)
    center = (low + high) / 2
    radius = float((high - low).max()) / 2 + 8
    trees = grove(site.dice, center, radius, when, inside)
    if len(trees.centers) < 4:
        return None
    site.items.append(trees)
    site.crowd.add(item_discs(trees))
    direction: Direction = "appear" if when == "after" else "disappear"
    return _change("trees", "tree", direction, "replace", [trees], len(trees.centers))


def _with_trees(trees: Change | None, changes: list[Change]) -> Event:
    if trees is None:
        return Event(tuple(changes))
    renamed = [
        Change(c.fact.model_copy(update={"verb": "replace"}), c.count, c.kind, c.row, c.beside_road, c.winding)
        for c in changes
    ]
    return Event((trees, *renamed), True)


def _houses_on(site: Site, slots: list[Slot], when: When, beside_road: bool) -> tuple[list[Item], Change] | None:
    built: list[Item] = []
    for slot in slots:
        home = house(site.dice, slot, site.style, when)
        if visible(home) and site.crowd.clear(np.array([[*slot.center, 14 * slot.scale]]), 2):
            built.append(home)
            site.crowd.add(building_discs(home) + np.array([0, 0, 2.5]))
    if not built:
        return None
    site.items.extend(built)
    row = len(built) >= 3 and len({s.row for s in slots}) == 1
    direction, verb = _verb(when)
    return built, _change("house", "building", direction, verb, built, None, row=row, beside_road=beside_road)


def houses(site: Site) -> Event | None:
    """Houses built on empty slots of a road, or removed from them; where built, sometimes in place of trees."""
    slots = [s for s in site.slots if s.center.min() > 14 and s.center.max() < WORLD - 14]
    if not slots:
        return None
    dice = site.dice
    number = dice.weigh([(1, 3), (2, 3), (3, 2), (4, 2), (5, 1), (7, 2), (10, 1)])
    first = dice.pick(slots)
    near = sorted(
        slots, key=lambda s: float(((s.center - first.center) ** 2).sum()) + (4000 if s.row != first.row else 0)
    )
    when = _when(site, 0.78)
    made = _houses_on(site, near[:number], when, True)
    if made is None:
        return None
    trees = _trees_over(site, made[0], "before", 0.3) if when == "after" else None
    return _with_trees(trees, [made[1]])


def estate(site: Site) -> Event | None:
    """A whole neighbourhood built on open ground or woods, often with its roads: what the LEVIR sets are full of."""
    dice = site.dice
    slots = [s for s in site.slots if s.center.min() > 14 and s.center.max() < WORLD - 14]
    streets = [i for i in site.items if isinstance(i, Road) and not i.trail and i.when == "both"]
    if len(slots) < 6 or not streets:
        return None
    new_roads = dice.chance(0.55)
    number = dice.integer(6, len(slots))
    first = dice.pick(slots)
    near = sorted(slots, key=lambda s: float(((s.center - first.center) ** 2).sum()))
    made = _houses_on(site, near[:number], "after", not new_roads)
    if made is None:
        return None
    changes = [made[1]]
    built: list[Item] = list(made[0])
    if new_roads:
        later: list[Item] = [replace(street, when="after") for street in streets]
        site.items = [item for item in site.items if not any(item is street for street in streets)] + later
        changes.insert(0, _change("road", "road", "appear", "build", later))
        built += later
        site.slots = []  # a house that stands at both dates would stand before its road
    return _with_trees(_trees_over(site, built, "before", 0.5), changes)


def large_building(site: Site) -> Event | None:
    """A large building, often with a parking lot, built or removed; where built, sometimes in place of trees."""
    dice = site.dice
    when = _when(site, 0.75)
    made = add_hall(site, dice.uniform(16, 36), dice.uniform(11, 22), dice.chance(0.6), when)
    if made is None:
        return None
    direction, verb = _verb(when)
    changes = []
    for item in made:
        if isinstance(item, Lot):
            changes.append(_change("lot", "parking_lot", direction, verb, [item]))
        else:
            changes.insert(0, _change("hall", "building", direction, verb, [item]))
    trees = _trees_over(site, list(made), "before", 0.3) if when == "after" else None
    return _with_trees(trees, changes)


def parking_lot(site: Site) -> Event | None:
    """A parking lot built or removed."""
    dice = site.dice
    length, width = dice.uniform(18, 34), dice.uniform(13, 21)
    center = site.spot(length + 3, 26)
    if center is None:
        return None
    when = _when(site, 0.75)
    lot = parking(dice, center, unit(dice.uniform(0, math.pi)), length, width, when)
    site.items.append(lot)
    site.crowd.add(discs_of(lot.outline) + np.array([0, 0, 3]))
    direction, verb = _verb(when)
    return Event((_change("lot", "parking_lot", direction, verb, [lot]),))


def road(site: Site) -> Event | None:
    """A road built (rarely removed): through the scene or as a branch; with houses, through trees, or alone."""
    dice = site.dice
    streets = [i for i in site.items if isinstance(i, Road) and not i.trail and i.when == "both"]
    half, tone = dice.uniform(5, 7.5), dice.uniform(0.1, 1)
    bend = dice.weigh([(3, 2), (40, 2), (75, 2)])
    for _ in range(8):
        if streets and dice.chance(0.7):
            street = dice.pick(streets)
            k = dice.integer(2, len(street.line) - 3)
            start = street.line[k]
            if start.min() < 20 or start.max() > WORLD - 20:
                continue
            head = tangents(street.line)[k]
            away = normal(head) * dice.sign()
            angle = math.atan2(float(away[1]), float(away[0])) + dice.uniform(-0.15, 0.15)
            reach = dice.pick([70.0, 100.0, 260.0])
            line = curve(dice, start, angle, bend, 0, reach)
            ends = (0.0, dice.uniform(11, 15)) if reach < 200 and dice.chance(0.6) else (0.0, 0.0)
            half, tone = street.half_width * 0.95, street.tone
            tested = line[3:]
        else:
            line = curve(dice, 60 + dice.units(2) * (WORLD - 120), dice.uniform(0, math.pi), bend)
            ends, tested = (0.0, 0.0), line
        when = _when(site, 0.88)
        crossings = [i for i in site.items if isinstance(i, Road) and i.when == "both"]
        blocked = site.crowd.gaps(discs_along(tested, half + 4)) < 0
        over = np.zeros(len(tested), bool)
        for other in crossings:
            x = tested[:, None] - other.line[None]
            over |= np.sqrt((x**2).sum(2)).min(1) < other.half_width + half + 14
        if (blocked & ~over).any() or over.mean() > (0.25 if streets else 0.0):
            continue
        built = add_road(site, Road(line, half, tone, ends, when=when))
        site.slots = [s for s in site.slots if site.crowd.clear(np.array([[*s.center, 15 * s.scale]]))]
        direction, verb = _verb(when)
        changes = [_change("road", "road", direction, verb, [built], winding=bend > 50)]
        with_houses = when == "after" and dice.chance(0.5)
        trees = None if with_houses else _trees_over(site, [built], "before", 0.35 if when == "after" else 0)
        if with_houses:
            row = 20 + len(site.slots)
            add_slots(site, built, dice.uniform(0.72, 0.95), row)
            beside = [s for s in site.slots if s.row >= 2 * row]
            made = _houses_on(site, dice.shuffled(beside)[: dice.integer(2, 9)], when, True) if beside else None
            if made:
                changes.append(made[1])
            # what is left of the new road's slots must stay empty: a house there would stand before its road
            site.slots = [s for s in site.slots if s.row < 2 * row]
        return _with_trees(trees, changes)
    return None


def longer_road(site: Site) -> Event | None:
    """A road that ended in the scene is extended."""
    dice = site.dice
    for _ in range(8):
        line = curve(dice, 70 + dice.units(2) * (WORLD - 140), dice.uniform(0, 2 * math.pi), 30)
        half = dice.uniform(5, 7.5)
        if not site.crowd.clear(discs_along(line, half), 6):
            continue
        cut = len(line) // 2
        tone = dice.uniform(0, 1)
        add_road(site, Road(line[: cut + 1], half, tone))
        far = line[cut:] if dice.chance(0.5) else line[cut : cut + 8]
        added = add_road(site, Road(far, half, tone, when="after"))
        return Event((_change("road", "road", "appear", "extend", [added]),))
    return None


def longer_building(site: Site) -> Event | None:
    """A large building gets a new wing."""
    dice = site.dice
    length, width = dice.uniform(16, 26), dice.uniform(11, 17)
    center = site.spot(2.1 * length, 46)
    if center is None:
        return None
    angle = dice.uniform(0, math.pi)
    along = unit(angle)
    base = Building((Wing(center, along, length, width),), 8, dice.integer(0, 7), True)
    side = dice.sign()
    if dice.chance(0.5):
        more = dice.uniform(11, 17)
        wing = Wing(center + along * side * (length + more), along, more, width * dice.uniform(0.6, 1))
    else:
        more = dice.uniform(8, 13)
        wing = Wing(center + normal(along) * side * (width + more), along, length * dice.uniform(0.5, 0.9), more)
    added = Building((wing,), base.height - 1.5, base.roof, True, when="after")
    site.items += [base, added]
    site.crowd.add(building_discs(base) + np.array([0, 0, 3]))
    site.crowd.add(building_discs(added) + np.array([0, 0, 3]))
    return Event((_change("wing", "building", "appear", "extend", [added]),))


def trees(site: Site) -> Event | None:
    """A group of trees removed or planted, or cleared down to bare land."""
    dice = site.dice
    radius = dice.uniform(24, 58)
    center = site.spot(radius, 0.7 * radius)
    if center is None:
        return None
    when = _when(site, 0.22)
    group = grove(dice, center, radius, when)
    if len(group.centers) < 4:
        return None
    direction: Direction = "appear" if when == "after" else "disappear"
    count = len(group.centers)
    site.crowd.add(np.array([[*center, radius + 4]]))
    if when == "before" and site.base != "bare" and dice.chance(0.3):
        outline = blob(center, radius * 0.98, dice.units(6))
        cleared = Patch(outline, "bare", "after", dice.uniform(0, 3))
        site.items += [cleared, group]
        gone = _change("trees", "tree", direction, "replace", [group], count)
        return Event((gone, _change("bareland", "bareland", "appear", "replace", [cleared])), True)
    site.items.append(group)
    return Event((_change("trees", "tree", direction, _verb(when, "appear")[1], [group], count),))


def pond(site: Site) -> Event | None:
    """A pond appears or disappears."""
    dice = site.dice
    radius = dice.uniform(18, 40)
    center = site.spot(radius * 1.25, radius)
    if center is None:
        return None
    when = _when(site, 0.6)
    water = Water(blob(center, radius, dice.units(6), dice.uniform(1, 1.3), dice.uniform(0, 3)), when=when)
    site.items.append(water)
    site.crowd.add(np.array([[*center, radius * 1.35]]))
    direction: Direction = "appear" if when == "after" else "disappear"
    return Event((_change("pond", "water", direction, direction, [water]),))


Maker = Callable[[Site], Event | None]


def change_site(site: Site) -> list[Event]:
    """Make one to three events. Falls back on simpler ones where there is no room, and never returns none."""
    weights: dict[str, list[tuple[Maker, float]]] = {
        "suburb": [
            (houses, 7),
            (estate, 5),
            (large_building, 1),
            (road, 1.5),
            (trees, 1.5),
            (pond, 0.5),
            (longer_road, 0.3),
        ],
        "desert": [(houses, 5), (estate, 3), (large_building, 2), (road, 3), (parking_lot, 1), (longer_road, 1)],
        "commercial": [(large_building, 5), (parking_lot, 3), (longer_building, 2.5), (houses, 1), (trees, 1)],
        "open": [
            (houses, 3),
            (estate, 2),
            (large_building, 2),
            (road, 3.5),
            (trees, 2.5),
            (pond, 2),
            (longer_road, 1.5),
        ],
        "woods": [(houses, 2), (estate, 2), (road, 4), (trees, 3.5), (large_building, 2), (pond, 1)],
        "farm": [(houses, 2), (large_building, 2), (road, 3), (pond, 1.5), (longer_road, 1), (trees, 1.5)],
    }
    wanted = site.dice.weigh([(1, 0.68), (2, 0.32)])
    makers = weights[site.theme]
    events: list[Event] = []
    for attempt in range(24):
        if attempt == 12:  # no room for what belongs here: try everything that can be made on open ground
            makers = [(trees, 3), (houses, 2), (parking_lot, 1), (pond, 1), (large_building, 1)]
        kept = (list(site.items), list(site.slots), site.crowd.copy())
        made = site.dice.weigh(makers)(site)
        if made is not None and not _share_an_object(events, made):
            events.append(made)
        else:
            site.items, site.slots, site.crowd = kept
        if len(events) == wanted or (events and attempt >= 12):
            break
    return events


def _share_an_object(events: list[Event], made: Event) -> bool:
    """Whether an earlier event changed the same kind of thing: a sentence could then say which only by its place."""
    known = {c.fact.object for e in events for c in e.changes}
    return any(c.fact.object in known for c in made.changes)


def easy_change(site: Site) -> list[Event]:
    """One event of clearly visible size inside one of the nine places."""
    dice = site.dice
    cell = dice.integer(0, 8)
    third = WORLD / 3
    center = np.array([(cell % 3 + 0.5) * third, (cell // 3 + 0.5) * third])
    what = dice.weigh([("house", 4), ("hall", 2), ("lot", 1.5), ("road", 3), ("trees", 3), ("pond", 2.5)])
    when = _when(site, 0.55)
    direction, verb = _verb(when)
    items: list[Item]
    changes: list[Change]
    if what == "house":
        count = dice.weigh([(1, 4), (2, 3), (3, 2)])
        along = unit(dice.pick([0.0, math.pi / 2, math.pi, 1.5 * math.pi]) + dice.uniform(-0.12, 0.12))
        spots = {1: [(0.0, 0.0)], 2: [(-19.0, 0.0), (19.0, 0.0)], 3: [(-18.0, -18.0), (18.0, -18.0), (0.0, 19.0)]}[
            count
        ]
        scale = 1.25 if count == 1 else 0.86 if count == 2 else 0.76
        items = []
        for x, y in spots:
            slot = Slot(center + along * x + normal(along) * y, along, normal(along), 14 * scale, scale, 0)
            home = house(dice, slot, site.style, when)
            items.append(Building(home.wings, home.height, home.roof, False, None, when))
        changes = [_change("house", "building", direction, verb, items)]
    elif what in {"hall", "lot"}:
        spot = center + (dice.units(2) - 0.5) * 8
        angle = dice.pick([0.0, math.pi / 2]) + dice.uniform(-0.1, 0.1)
        length, width = dice.uniform(24, 32), dice.uniform(15, 20)
        if what == "lot":
            lot = parking(dice, spot, unit(angle), length, width, when)
            items, changes = [lot], [_change("lot", "parking_lot", direction, verb, [lot])]
        elif dice.chance(0.5):
            shift = normal(unit(angle)) * dice.sign()
            built = Building(
                (Wing(spot - shift * 13, unit(angle), length, 14),), 8, dice.integer(0, 7), True, None, when
            )
            lot = parking(dice, spot + shift * 15, unit(angle), length, 12, when)
            items = [lot, built]
            changes = [
                _change("hall", "building", direction, verb, [built]),
                _change("lot", "parking_lot", direction, verb, [lot]),
            ]
        else:
            built = hall(dice, spot, angle, length * 0.85, width, when)
            items, changes = [built], [_change("hall", "building", direction, verb, [built])]
    elif what == "road":
        line = curve(dice, center, dice.uniform(0, math.pi), 20, 36, 36)
        ends = (0.0, 0.0) if dice.chance(0.5) else (0.0, 11.0)
        if ends[1]:
            line = line - tangents(line)[len(line) // 2] * 6
        built_road = Road(line, dice.uniform(5.5, 8), dice.uniform(0.2, 1), ends, when=when)
        items, changes = [built_road], [_change("road", "road", direction, verb, [built_road])]
    elif what == "trees":
        group = grove(dice, center, dice.uniform(28, 40), when)
        items = [group]
        changes = [_change("trees", "tree", direction, _verb(when, "appear")[1], [group], len(group.centers))]
    else:
        water = Water(blob(center, dice.uniform(23, 32), dice.units(6), 1.1, dice.uniform(0, 3)), when=when)
        items, changes = [water], [_change("pond", "water", direction, direction, [water])]
    site.items.extend(items)
    site.crowd.add(np.array([[*center, 46.0]]))
    return [Event(tuple(changes))]
