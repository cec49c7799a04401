"""What a caption or a mask says, in canonical words: object, direction of change, verb, quantity, place.

The same words serve RSICI's gates, RSICP's negatives and the benchmark's fact scores. This module holds the
canonical names; the surface words that stand for each live in `words.yaml` beside it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Literal

from pydantic import BaseModel, ConfigDict

from rsiccllm.grammar import Reading, read
from rsiccllm.phrases import NP, PREP, Phrase
from rsiccllm.words import MASS, SINGULAR, Words, load_words

Object = Literal[
    "building", "road", "tree", "grass", "bareland", "water", "pool", "parking_lot", "playground", "vehicle"
]
Direction = Literal["appear", "disappear"]
Quantity = Literal["one", "two", "three", "several", "many"]
Place = Literal[
    "top_left", "top", "top_right", "left", "center", "right", "bottom_left", "bottom", "bottom_right", "along_road"
]


class Fact(BaseModel):
    """One change. "The trees are replaced by two houses at the top" is two facts: tree disappears, building appears.

    `direction` is the coarse sense (built, added and extended things appear; removed and demolished ones disappear).
    `verb` is the canonical verb ("build", "remove", "replace", "extend", "appear", "disappear").
    `quantity` and `place` are None where nothing is said. `place` is in image axes: top is the first row.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    object: Object
    direction: Direction
    verb: str
    quantity: Quantity | None = None
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """A change of which not everything need be known: a class of a mask ("a building, built or removed"), or a fact.

    direction, verb, place: None where not known. fewest, most: how many things changed.
    """

    object: Object
    direction: Direction | None = None
    verb: str | None = None
    place: Place | None = None
    fewest: float = 1
    most: float = float("inf")


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a caption says.

    changed: False where it says that nothing changed, True where it names a change, None where it says neither.
    facts: in the order they are said, none twice. places: every place said of an object, (object, place); more than
    the facts hold where one thing has two ("along the road at the top": the fact keeps the place in the image).
    objects: every object named, changed or not.
    """

    changed: bool | None
    facts: list[Fact]
    places: frozenset[tuple[str, str]] = frozenset()
    objects: frozenset[str] = frozenset()


_BUT = r"(?:except(?:ing)?(?: for| that)?|apart from|aside from|other than|besides)"
EXCEPTED = re.compile(
    rf"^{_BUT} (?P<before>.*?)(?:,| (?=(?:the|both|these|nothing|no) ))|\b{_BUT} (?P<after>.+)$", re.IGNORECASE
)
"""What a denial leaves out: at the head of the sentence, or behind the denial. Of a text with single blanks."""

GONE = {"demolished", "removed", "destroyed", "felled", "missing", "vanished", "lost"}
"""Before a noun without a verb, that the thing went: "two demolished houses"."""

OPPOSITE: dict[str, str] = {"appear": "disappear", "disappear": "appear"}
"""What each direction is when the dates are swapped."""


@cache
def _fact(object_: str, direction: str, verb: str, quantity: str | None, place: str | None) -> Fact:
    # Captions repeat a few thousand facts; building a validated model for each again would take most of the time.
    return Fact.model_validate(
        {"object": object_, "direction": direction, "verb": verb, "quantity": quantity, "place": place}
    )


def parse(caption: str, words: Words | None = None) -> Parsed:
    """Read the facts of a caption by fixed rules (no model, the same everywhere).

    `words`: the vocabulary, `words.yaml` if None. Never raises; an unknown word is passed over.
    """
    return read_facts(caption, words or load_words())[1]


def read_facts(caption: str, words: Words) -> tuple[Reading, Parsed]:
    """How a caption was read, and its facts. "Nothing changed except a new road" tells of the road."""
    reading = read(caption, words)
    found = facts_of(reading, words)
    if found.changed is False and not found.facts and (match := EXCEPTED.search(" ".join(caption.split()))):
        rest = read(match["after"] or match["before"], words)
        other = facts_of(rest, words)
        if other.facts:
            return rest, other
    return reading, found


def facts_of(reading: Reading, words: Words) -> Parsed:
    """The facts of a caption that is already read."""
    events = [event for event in reading.events if not event.stay]
    strong = [event for event in events if not event.weak]
    chosen = [e for e in events if not e.weak or not strong or any(not n.definite for n in (*e.appear, *e.disappear))]
    facts: dict[Fact, None] = {}
    places: set[tuple[str, str]] = set()
    for event in chosen:
        appear = {phrase.object for phrase in event.appear}
        gone = {phrase.object for phrase in event.disappear}
        # "The dirt road becomes a cement road" is one road rebuilt, not one gone and another come.
        same = event.verb.form == "becomes" and len(appear & gone) == 1
        for direction, group in (("appear", event.appear), ("disappear", event.disappear)):
            for phrase in group:
                if not phrase.object or phrase.absent:
                    continue
                verb = event.name
                if same and phrase.object in appear & gone:
                    if direction == "disappear":
                        continue
                    verb = "rebuild"
                place = phrase.place or event.place
                if same and place is None:  # "the road on the left becomes a cement road"
                    place = next((gone.place for gone in event.disappear if gone.object == phrase.object), None)
                # "The trees are replaced by houses along the road" says where the houses are.
                turned = direction == "disappear" and event.verb.form in {"passive", "becomes"}
                road = event.road and phrase.object != "road" and not turned
                road = road or phrase.road
                if road:
                    places.add((phrase.object, "along_road"))
                if place is None and road:
                    place = "along_road"
                if place:
                    places.add((phrase.object, place))
                facts[_fact(phrase.object, direction, verb, phrase.quantity, place)] = None
    # "Removed and no longer to be seen" is one thing that went, said twice.
    facts = {f: None for f in facts if f.verb != "disappear" or f.model_copy(update={"verb": "remove"}) not in facts}
    if not facts and not reading.denied and not events:
        # "A new building near the forest": no verb at all, and something that is not known already.
        for phrase in reading.phrases:
            if phrase.kind == PREP:
                break
            if phrase.kind == NP and phrase.object and not phrase.definite and not phrase.absent:
                place = phrase.place or ("along_road" if phrase.road else None)
                gone = GONE & {token for token, _, _ in reading.tokens[phrase.start : phrase.noun_start]}
                way = "disappear" if gone else "appear"
                facts[_fact(phrase.object, way, way, phrase.quantity, place)] = None
    changed = True if facts else False if reading.denied else True if reading.mentioned else None
    objects = frozenset(phrase.object for phrase in reading.phrases if phrase.kind == NP and phrase.object)
    return Parsed(changed, list(facts), frozenset(places), objects)


# How many things each quantity may mean. Two quantities contradict each other where their ranges do not meet.
RANGES: dict[str, tuple[float, float]] = {
    "one": (1, 1),
    "two": (2, 2),
    "three": (3, 3),
    "several": (2, 9),
    "many": (4, float("inf")),
}
# Verbs that say the same of a thing that comes, and of one that goes; the others say something of their own.
KINDS = {
    "build": "come",
    "appear": "come",
    "remove": "go",
    "disappear": "go",
    "extend": "alter",
    "rebuild": "alter",
}


def verb_kind(fact: Fact) -> str:
    """The sense of a fact's verb: "come", "go", "alter" (one person's "widened" is another's "rebuilt") or "reduce"."""
    if fact.verb == "replace":
        return "come" if fact.direction == "appear" else "go"
    return KINDS.get(fact.verb, fact.verb)


def places_agree(one: str, other: str) -> bool:
    """Whether two places can be said of one thing: equal, or one a part of the other ("top", "top_left")."""
    return one == other or "along_road" in (one, other) or one in other.split("_") or other in one.split("_")


def quantities_agree(one: str, other: str) -> bool:
    """Whether two quantities can be said of the same things ("two" and "several" can, "one" and "many" cannot)."""
    (a, b), (c, d) = RANGES[one], RANGES[other]
    return max(a, c) <= min(b, d)


@dataclass(frozen=True, slots=True)
class Support:
    """What the references of one pair say together.

    facts: of any of them. objects: every object any of them names, changed or not. settings: objects that stand after
    a preposition, so that what was built stands on them. places: every image place named. counts: for each
    (object, direction) the ranges (fewest, most) in which the references count it.
    """

    facts: frozenset[Fact]
    objects: frozenset[str]
    places: frozenset[str]
    counts: dict[tuple[str, str], frozenset[tuple[float, float]]]

    @property
    def pairs(self) -> frozenset[tuple[str, str]]:
        """Every (object, direction) that some reference names."""
        return frozenset((fact.object, fact.direction) for fact in self.facts)

    def supports(self, fact: Fact) -> bool:
        """Whether some reference says this, or leaves open what this adds.

        False where no reference names the object with this direction, or where every one that does contradicts the
        kind of verb, the quantity, or the place.
        """
        own = [f for f in self.facts if f.object == fact.object and f.direction == fact.direction]
        if not any(verb_kind(f) == verb_kind(fact) for f in own):
            return False
        if fact.quantity is not None:
            low, high = RANGES[fact.quantity]
            ranges = self.counts.get((fact.object, fact.direction), frozenset())
            if ranges and not any(max(low, a) <= min(high, b) for a, b in ranges):
                return False
        said = [f.place for f in own if f.place and f.place != "along_road"]
        if fact.place and fact.place != "along_road" and said:
            return any(places_agree(fact.place, place) for place in said)
        return True


def support(references: list[str], words: Words | None = None) -> Support:
    """What any of the references says. Use `supports(fact)` to ask whether a fact contradicts all of them."""
    words = words or load_words()
    facts: set[Fact] = set()
    objects: set[str] = set()
    places: set[str] = set()
    counts: dict[tuple[str, str], set[tuple[float, float]]] = {}
    for reference in references:
        reading = read(reference, words)
        parsed = facts_of(reading, words)
        facts.update(parsed.facts)
        objects |= parsed.objects
        places |= {p.place for p in reading.phrases if p.place and p.place != "along_road"}
        places |= {place for _, place in parsed.places if place != "along_road"}
        for event in reading.events:
            if event.stay:
                continue
            for direction, group in (("appear", event.appear), ("disappear", event.disappear)):
                for phrase in group:
                    counts.setdefault((phrase.object, direction), set()).add(count_of(phrase))
    return Support(
        frozenset(facts), frozenset(objects), frozenset(places), {k: frozenset(v) for k, v in counts.items()}
    )


def count_of(phrase: Phrase) -> tuple[float, float]:
    """The fewest and the most things a noun phrase can mean: a bare plural two or more, a mass noun any number."""
    if phrase.quantity:
        return RANGES[phrase.quantity]
    if phrase.group or phrase.number == MASS:
        return (0, float("inf"))
    return (1, 1) if phrase.number == SINGULAR else (2, float("inf"))
