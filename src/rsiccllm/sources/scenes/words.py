"""What is said of a plan: five short captions, one long description, and a caption for each date alone."""

from __future__ import annotations

from rsiccllm.facts import Place
from rsiccllm.sources.scenes.dice import Dice
from rsiccllm.sources.scenes.events import Change, Event, place, visible
from rsiccllm.sources.scenes.geometry import WORLD
from rsiccllm.sources.scenes.items import Building, Item, Lot, Patch, Road, Trees, Water, stands
from rsiccllm.sources.scenes.plan import WORDS, Plan
from rsiccllm.sources.scenes.raster import Date

UNCHANGED = (
    "there is no difference",
    "the two scenes seem identical",
    "the scene is the same as before",
    "no change has occurred",
    "almost nothing has changed",
)
"""The sentences of LEVIR-CC for a pair without a change."""

WHERE: dict[Place, tuple[str, ...]] = {
    "top_left": ("at the top left corner", "in the top left", "in the upper left corner of the scene"),
    "top": ("at the top", "at the top of the scene"),
    "top_right": ("at the top right corner", "in the top right", "in the upper right corner of the scene"),
    "left": ("on the left", "on the left of the scene"),
    "center": ("in the center", "in the middle of the scene", "in the center of the scene"),
    "right": ("on the right", "on the right of the scene"),
    "bottom_left": ("at the bottom left corner", "in the bottom left", "in the lower left corner of the scene"),
    "bottom": ("at the bottom", "at the bottom of the scene"),
    "bottom_right": ("at the bottom right corner", "in the bottom right", "in the lower right corner of the scene"),
    "along_road": ("along the road", "beside the road", "by the road"),
}
THEMES = {
    "suburb": "a residential area",
    "open": "open land",
    "woods": "a wooded area",
    "farm": "farmland",
    "commercial": "a built-up area beside a wide road",
    "desert": "bare land",
}
NUMBERS = {"one": "one", "two": "two", "three": "three", "several": "several", "many": "many"}

# what each kind of thing is called: (one, more)
NAMES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "house": (("a house", "a house", "a villa", "a building"), ("houses", "houses", "villas", "buildings")),
    "hall": (("a large building", "a big building"), ("large buildings",)),
    "lot": (("a parking lot",), ("parking lots",)),
    "road": (("a road",), ("roads",)),
    "pond": (("a pond",), ("ponds",)),
    "trees": (("a tree",), ("trees",)),
    "bareland": (("bareland", "a bareland"), ("bareland",)),
}
MADE = ("is built", "is constructed", "appears", "has been built", "has been constructed")
GONE = ("is removed", "disappears", "has been removed")
VERBS: dict[tuple[str, str], tuple[str, ...]] = {
    ("pond", "appear"): ("appears", "has appeared", "shows up"),
    ("pond", "disappear"): ("disappears", "has disappeared", "is removed"),
    ("trees", "appear"): ("appears", "is planted", "has been planted"),
    ("trees", "disappear"): ("is removed", "has been removed", "disappears", "is cut down"),
    ("house", "disappear"): ("is removed", "disappears", "has been removed", "is demolished"),
    ("hall", "disappear"): ("is removed", "disappears", "has been removed", "is demolished"),
    ("bareland", "appear"): ("appears", "shows up"),
}


def captions(plan: Plan) -> list[str]:
    """Five captions of a plan, as five people would write them; no-change sentences where nothing changes.

    Each fact is left out of at most one of the five, so that each is in at least four.
    """
    dice = plan.dice(WORDS)
    if not plan.changed:
        return dice.shuffled(UNCHANGED)
    changes = [c for e in plan.events for c in e.changes]
    drops = dice.shuffled(range(5)) if len(changes) > 1 else []
    written = []
    for person in range(5):
        dropped = None
        for change, who in zip(changes, drops, strict=False):
            if who == person and dice.chance(0.5):
                dropped = change
        clauses = []
        for event in dice.shuffled(plan.events):
            kept = tuple(c for c in event.changes if c is not dropped)
            if kept:
                whole = event.replaced and len(kept) == len(event.changes)
                clauses.append(_clause(Event(kept, whole), dice, len(changes), alone=len(plan.events) == 1))
        caption = " and ".join(clauses)
        if len(plan.events) == 1:
            caption += _ground(plan, dice)
        written.append(caption)
    return written


def _ground(plan: Plan, dice: Dice) -> str:
    """Where in the world a single event took place ("on the grassland"), where that is beyond doubt."""
    event = plan.events[0]
    if event.replaced or any(c.kind in {"trees", "bareland", "wing"} for c in event.changes) or not dice.chance(0.45):
        return ""
    if plan.theme == "suburb":
        return " in the residential area"
    grounds = {plan.base, plan.mixed} | {i.cover for i in plan.items if isinstance(i, Patch)}
    for covers, name in ((_GRASSY, "on the grassland"), (_SANDY, "on the bareland")):
        if grounds <= covers and event.changes[0].fact.direction == "appear":
            return f" {name}"
    return ""


_GRASSY, _SANDY = {"dry", "grass"}, {"bare", "desert"}


def description(plan: Plan) -> str:
    """A description of 60 to 90 words: what is seen, what changed, where and how many, what stayed the same."""
    first, second = plan.looks
    views = [_inventory(plan, date) for date in ("before", "after")]
    sentences = [f"Both images show {THEMES[plan.theme]} from above."]
    if plan.changed:
        for event in plan.events:
            sentences += [_sentence(s) for s in _long(event)]
    else:
        sentences.append("Nothing has been built and nothing has been removed between the two dates.")
        sentences.append("Every building, road and tree that is seen in the first image is still there in the second.")
    after = _sentence(f"in the second image there {views[1]}")
    before = _sentence(f"in the first image there {views[0]}")
    light = "The light and the season differ between the two images, but this is not a change of the ground."
    if abs(first.gain - second.gain) > 0.2:
        word = "darker" if second.gain < first.gain else "brighter"
        light = (
            f"The second image is {word} than the first, which is due to the light and is not a change of the ground."
        )
    options = [
        light,
        before,
        after,
        "No other change can be seen in the scene.",
        "Apart from this the two images agree.",
    ]
    if plan.changed:
        sentences.append(_kept(plan))
    else:
        sentences.append("The position and the number of all objects are the same.")
        options = [light, before, "The scene as a whole stays the same.", "A small shift between the two may be seen."]
    for extra in options:
        if _count(sentences) >= 66:
            break
        if _count(sentences) + len(extra.split()) <= 90:
            sentences.append(extra)
    return " ".join(sentences)


def single(plan: Plan) -> tuple[str, str]:
    """One short caption for each date alone: what is seen, not what changes."""
    return _one(plan, "before"), _one(plan, "after")


def _count(sentences: list[str]) -> int:
    return sum(len(s.split()) for s in sentences)


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def _plural(verb: str) -> str:
    head, _, rest = verb.partition(" ")
    head = {"is": "are", "has": "have"}.get(head, head.removesuffix("s"))
    return f"{head} {rest}".strip()


def _subject(change: Change, dice: Dice) -> tuple[str, bool]:
    """How a change's things are called, and whether that is a plural."""
    if change.kind == "wing":
        return "the building", False
    one, more = NAMES[change.kind]
    if change.kind == "bareland":
        return "bareland", False
    if change.count == 1:
        return dice.pick(one), False
    number = change.fact.quantity
    if number in {"two", "three"}:
        return f"{number} {dice.pick(more)}", True
    if change.row and dice.chance(0.35):
        return f"a row of {dice.pick(more)}", False
    words = ("several", "some", "several") if number == "several" else ("many", "many", "some", "lots of")
    return f"{dice.pick(words)} {dice.pick(more)}", True


def _verb(change: Change, dice: Dice) -> str:
    if change.fact.verb == "extend":
        return dice.pick(("is extended", "has been extended"))
    default = MADE if change.fact.direction == "appear" else GONE
    return dice.pick(VERBS.get((change.kind, change.fact.direction), default))


def _where(change: Change, dice: Dice, often: float) -> str:
    where = change.fact.place
    if where is not None and dice.chance(often):
        return " " + dice.pick(WHERE[where])
    if change.beside_road and dice.chance(0.5):
        return " " + dice.pick(("beside the road", "along the road", "by the road"))
    return ""


def _clause(event: Event, dice: Dice, total: int, alone: bool) -> str:
    """One event in a few words. `total`: changes in the whole caption. `alone`: no other event is told beside it."""
    often = {1: 0.9, 2: 0.85, 3: 0.55}.get(total, 0.3)
    # "replaced by a building and a road is removed" would read as if the road were one of the new things
    if event.replaced and (alone or len(event.changes) == 2) and dice.chance(0.6):
        old, *new = event.changes
        olds = dice.pick(("the trees", "trees", "some trees", _subject(old, dice)[0]))
        names = [_subject(c, dice) for c in new]
        joined = " and ".join(n for n, _ in names)
        where = _where(new[0], dice, often)
        if dice.chance(0.5):
            many = len(new) > 1 or names[0][1]
            return f"{joined} {'replace' if many else 'replaces'} {olds}{where}"
        return f"{olds} {dice.pick(('are replaced by', 'have been replaced by'))} {joined}{where}"
    changes = dice.shuffled(event.changes) if not event.replaced else list(event.changes)
    parts: list[str] = []
    wheres = [c.fact.place for c in changes]
    same_verb = len({(c.fact.direction, c.fact.verb) for c in changes}) == 1 and len(changes) > 1
    if same_verb and (wheres[0] == wheres[1] or None in wheres) and dice.chance(0.6):
        first, second = (_subject(c, dice)[0] for c in changes[:2])
        joint = "with" if {c.kind for c in changes} == {"hall", "lot"} and changes[0].kind == "hall" else "and"
        placed = _where(changes[0], dice, often) if wheres[0] == wheres[1] else ""
        if joint == "with":
            return f"{first} with {second} {_verb(changes[0], dice)}{placed}"
        verb = "appear" if changes[0].fact.direction == "appear" else "disappear"
        verb = dice.pick((verb, "are built" if verb == "appear" else "are removed"))
        return f"{first} and {second} {verb}{placed}"
    for change in changes:
        name, many = _subject(change, dice)
        verb = _verb(change, dice)
        parts.append(f"{name} {_plural(verb) if many else verb}{_where(change, dice, often)}")
    return " and ".join(parts)


def _long_where(change: Change) -> str:
    if change.fact.place is not None:
        return WHERE[change.fact.place][0]
    if change.kind == "road":
        return "across the scene"
    return "in the scene" if change.count == 1 else "in several parts of the scene"


def _long_name(change: Change) -> tuple[str, bool]:
    one, more = NAMES[change.kind]
    if change.kind == "bareland":
        return "bareland", False
    if change.count == 1:
        return one[0], False
    return f"{NUMBERS[change.fact.quantity or 'many']} {more[0]}", True


def _long(event: Event) -> list[str]:
    """One event in full sentences, without capitals and full stops."""
    sentences = []
    for change in event.changes:
        where = _long_where(change)
        if change.kind == "wing":
            sentences.append(f"the large building {where} is extended by a new part in the second image")
            continue
        if change.fact.verb == "extend":
            sentences.append(f"the road is extended by a new piece, which is seen {where} in the second image")
            continue
        name, many = _long_name(change)
        come = change.fact.direction == "appear"
        if come:
            made = {"trees": "planted", "pond": "made"}.get(change.kind, "built")
            verb = "appear" if many else "appears"
            ending = f"has been {made}" if not many else f"have been {made}"
            if change.kind == "bareland":
                sentences.append(f"bareland appears {where} where the trees stood before")
            elif event.replaced:
                sentences.append(f"{name} {ending} {where} where the trees stood before")
            else:
                sentences.append(f"{name} {verb} {where} in the second image")
        else:
            verb = "are" if many else "is"
            sentences.append(f"{name} {where} {verb} removed and can no longer be seen in the second image")
    return sentences


def _kept(plan: Plan) -> str:
    """A sentence on what is there at both dates."""
    static = [i for i in plan.items if i.when == "both" and (isinstance(i, Trees | Road) or visible(i))]
    names = []
    if sum(isinstance(i, Building) for i in static) > 1:
        names.append("buildings")
    if any(isinstance(i, Road) and not i.trail and _crosses(i) for i in static):
        names.append("roads")
    if any(isinstance(i, Trees) and len(i.centers) > 5 for i in static):
        names.append("trees")
    if not names:
        return "The rest of the scene stays the same."
    listed = names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
    return f"The other {listed} and the ground around them stay the same."


def _trees_in_view(trees: Trees) -> int:
    """How many trees, not counting scrub, stand inside the scene."""
    inside = ((trees.centers > 0) & (trees.centers < WORLD)).all(axis=1)
    return int((inside & (trees.radii > 3.2)).sum())


def _crosses(road: Road) -> bool:
    """Whether some of a road lies inside the scene."""
    return bool(((road.line > 4) & (road.line < WORLD - 4)).all(axis=1).any())


def _counted(items: list[Item], one: str, more: str) -> str:
    count = len(items)
    if count == 1:
        where = place(items)
        return f"{one} {WHERE[where][0]}" if where else one
    number = {2: "two", 3: "three"}.get(count, "several" if count <= 5 else "many")
    return f"{number} {more}"


def _seen(plan: Plan, date: Date) -> list[str]:
    """The things that are seen at a date, the most telling first."""
    here = [i for i in plan.items if stands(i, date)]
    halls = [i for i in here if isinstance(i, Building) and i.flat and visible(i)]
    homes = [i for i in here if isinstance(i, Building) and not i.flat and visible(i)]
    lots: list[Item] = [i for i in here if isinstance(i, Lot) and visible(i)]
    ponds: list[Item] = [i for i in here if isinstance(i, Water) and not i.pool and visible(i)]
    roads = [i for i in here if isinstance(i, Road) and not i.trail and _crosses(i)]
    trees = sum(_trees_in_view(i) for i in here if isinstance(i, Trees))
    found = []
    if halls:
        found.append(_counted(list(halls), "a large building", "large buildings"))
    if homes:
        found.append(_counted(list(homes), "a house", "houses"))
    if lots:
        found.append(_counted(lots, "a parking lot", "parking lots"))
    if ponds:
        found.append(_counted(ponds, "a pond", "ponds"))
    if roads:
        found.append("a road" if len(roads) == 1 else "some roads")
    if trees:
        found.append("many trees" if trees > 30 else "some trees" if trees > 3 else "a few trees")
    return found


def _inventory(plan: Plan, date: Date) -> str:
    found = _seen(plan, date)[:4]
    if not found:
        return "is open ground"
    listed = found[0] if len(found) == 1 else ", ".join(found[:-1]) + " and " + found[-1]
    verb = "is" if found[0].startswith(("a ", "one ")) else "are"
    return f"{verb} {listed}"


GROUND = {
    "dry": "dry grassland",
    "grass": "grassland",
    "bare": "bareland",
    "desert": "the desert",
    "field": "farmland",
    "crop": "farmland",
    "floor": "wooded land",
}


def _one(plan: Plan, date: Date) -> str:
    found = _seen(plan, date)[:4]
    ground = GROUND[plan.base]
    if not found:
        return f"there is nothing but {ground}"
    listed = " and ".join(found)
    verb = "is" if found[0].startswith("a ") else "are"
    return f"there {verb} {listed} {'in' if plan.base == 'desert' else 'on'} {ground}"
