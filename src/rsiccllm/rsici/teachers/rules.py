"""The offline teacher: true sentences from what is known of a pair, varied in wording, the same everywhere.

It says what the prior says and nothing else. Where a mask gives places and no class, the sentences tell where something
changed and do not guess what; where a class is known and not which way it went, they say that it changed.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from rsiccllm.facts import RANGES, Known, Place
from rsiccllm.rsici.prior import THIRDS, Prior, Region
from rsiccllm.rsici.teachers.base import Ask, Failure

CAPTIONS = 3
"""Short captions a pair, of different wording."""

LISTED = 4
"""Regions a description tells one by one; of more it says how they lie."""

# One, several; a mass noun has one form.
NOUNS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "building": (("building", "house"), ("buildings", "houses")),
    "road": (("road",), ("roads",)),
    "tree": (("tree",), ("trees",)),
    "grass": (("grass",), ()),
    "bareland": (("bare land",), ()),
    "water": (("pond",), ("ponds",)),
    "pool": (("swimming pool",), ("swimming pools",)),
    "parking_lot": (("parking lot",), ("parking lots",)),
    "playground": (("playground",), ("playgrounds",)),
    "vehicle": (("car",), ("cars",)),
}
PLAIN = {"building": ("building", "buildings"), "tree": ("trees", "trees"), "water": ("water", "water")}
"""Nouns where only a class is known: a building need be no house, and a class of trees is never one tree."""

UNCOUNTED = {"grass", "bare land", "water"}

WHERE: dict[str, tuple[str, ...]] = {
    "top_left": ("in the top left", "in the upper left corner", "at the top left"),
    "top": ("at the top", "in the upper part", "at the top of the scene"),
    "top_right": ("in the top right", "in the upper right corner", "at the top right"),
    "left": ("on the left", "on the left side"),
    "center": ("in the center", "in the middle of the scene"),
    "right": ("on the right", "on the right side"),
    "bottom_left": ("in the bottom left", "in the lower left corner", "at the bottom left"),
    "bottom": ("at the bottom", "in the lower part", "at the bottom of the scene"),
    "bottom_right": ("in the bottom right", "in the lower right corner", "at the bottom right"),
    "along_road": ("along the road", "beside the road"),
}
# What is said of a change: (of one, of several) after "has been" / "have been", or a whole verb.
COME = ("{has} been built", "{has} been constructed", "{has} appeared")
GROWN = ("{has} appeared", "{has} newly appeared")
GONE = ("{has} been removed", "{has} disappeared", "{has} vanished")
SAID: dict[tuple[str, str], tuple[str, ...]] = {
    ("appear", "extend"): ("{has} been extended", "{has} been enlarged"),
    ("appear", "rebuild"): ("{has} been rebuilt", "{has} been renovated"),
    ("disappear", "reduce"): ("{has} been reduced", "{has} shrunk"),
}
# The same of what nobody makes: trees are not enlarged, nor is a lake renovated.
GREW: dict[tuple[str, str], tuple[str, ...]] = {
    ("appear", "extend"): ("{has} spread", "{has} expanded"),
    ("appear", "rebuild"): ("{has} changed", "{has} changed between the two dates"),
    ("disappear", "reduce"): ("{has} shrunk", "{has} decreased"),
}
DAMAGED = ("{has} been damaged",)
ALTERED = ("{has} changed", "{has} changed between the two dates")
MADE = frozenset({"building", "road", "pool", "parking_lot", "playground"})

SAME = (
    "There is no difference between the two images.",
    "Nothing has changed between the two dates.",
    "The scene is the same as before.",
    "No change has occurred.",
    "The two images show the same scene without any change.",
)
SAME_LONG = (
    "Light and season may differ, but everything on the ground is in its place, in the first image as in the second.",
    "Nothing has been built and nothing has been removed, and what is seen at the first date is still there.",
    "Everything is where it was, from the top of the scene to the bottom and from the left to the right.",
)
SAME_SCOPE = (
    "No {one} has changed between the two images.",
    "There is no change of any {one} between the two dates.",
    "Nothing has changed as far as {more} are concerned.",
    "There is no difference in the {more} of the two images.",
)
SAME_SCOPE_LONG = (
    "No {one} was added and no {one} was removed, so that any {one} of the first image is still there in the second.",
    "Not one {one} has come or gone between the first date and the second, in any part of the scene.",
)
REST = ("The rest of the scene looks as it did before.", "Everything around looks as it did at the first date.")
"""Said only where all that changed is known: a mask without a class may leave out the season, or a field."""

SIZES = ((0.02, "a small part"), (0.1, "a part"), (0.3, "a good part"), (1.1, "a large part"))
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


class RulesTeacher:
    """Answers at once, in the order of the asks. One ask in flight; no network, no randomness but the pair's id."""

    name = "rules"

    def answer_all(self, asks: Iterable[Ask]) -> Iterator[tuple[Ask, list[str] | Failure]]:
        """One description, up to CAPTIONS captions, or the kinds of change; a Failure where nothing is known."""
        for ask in asks:
            yield ask, answer(ask)


def answer(ask: Ask) -> list[str] | Failure:
    """What the rules say to one ask; other words for another attempt."""
    prior, dice = ask.prior, random.Random(f"{ask.pair.id}:{ask.task}:{ask.attempt}")
    if prior.silent:
        return Failure("nothing_to_say", "neither a mask nor facts say what changed")
    writer = _Writer(prior, dice)
    if ask.task == "describe":
        return [writer.description()]
    if ask.task == "kind":
        text = writer.kinds()
        return [text] if text else Failure("nothing_to_say", "no class is known")
    texts = dict.fromkeys(writer.caption() for _ in range(4 * CAPTIONS))
    return list(texts)[:CAPTIONS]


def change_clause(prior: Prior, key: str) -> str:
    """A known change in one clause ("two houses have been built in the top left"), for a question that tells it.

    "" where nothing changed or the direction of no change is known. The same key gives the same words.
    """
    if prior.empty or not prior.known:
        return ""
    return _Writer(prior, random.Random(f"change:{key}")).change()


def in_words(prior: Prior) -> str:
    """Where the regions lie, in words, from the top left to the bottom right."""
    if prior.empty:
        return f"Nowhere: no {prior.scope} changed." if prior.scope else "Nowhere: nothing changed."
    held = {region.place for region in prior.regions}
    return _sentence(_joined([WHERE[place][0] for place in THIRDS if place in held]))


@dataclass(frozen=True)
class _Part:
    """One thing to be said: what changed, with its subject and verb found, and where."""

    subject: str
    many: bool
    verbs: tuple[str, ...]
    places: tuple[Place, ...]
    directed: bool = False


class _Writer:
    """Sentences about one prior. Every call draws other words from `dice`."""

    def __init__(self, prior: Prior, dice: random.Random) -> None:
        self.prior, self.dice = prior, dice

    # Short answers

    def caption(self) -> str:
        """One sentence on everything that is known, without capital letter and full stop as the field writes them."""
        if self.prior.empty:
            return self._same().rstrip(".").lower()
        parts = self._parts()[:3]
        most = {1: LISTED, 2: 2}.get(len(parts), 1)  # a short sentence names the main places of each
        clauses = [self._clause(replace(part, places=part.places[:most])) for part in parts]
        return _joined(clauses)

    def kinds(self) -> str:
        """The kinds of change, without places and numbers; "" where none is known."""
        if self.prior.empty:
            return self._same()
        clauses = []
        for item in self.prior.known:
            noun, many = _noun(item, plain=True)
            clauses.append(self._verb(_verbs(item), many).format(noun if many or noun in UNCOUNTED else f"a {noun}"))
        return _sentence(_joined(list(dict.fromkeys(clauses)))) if clauses else ""

    def change(self) -> str:
        """The first change whose direction is known, in one clause; "" where none is."""
        told = {item.object for item in self.prior.known if item.direction}
        parts = [part for part in self._parts() if part.directed] if told else []
        return self._clause(parts[0]) if parts else ""

    # The long description

    def description(self) -> str:
        """A paragraph: how much changed, what, where, how it lies, and what is as it was."""
        if self.prior.empty:
            return self._unchanged()
        sentences = [self._opening()] if self.prior.masked else ["The two images differ by a change on the ground."]
        sentences += [_sentence(self._clause(part)) for part in self._parts()]
        if self.prior.regions:
            sentences += self._layout()
        if self.prior.scope and not self.prior.specks:  # what is too small to tell of has changed too
            sentences.append(f"No other {self.prior.scope} has changed.")
        elif self.prior.complete:
            sentences.append(self.dice.choice(REST))
        return " ".join(sentences)

    def _opening(self) -> str:
        size = next(word for limit, word in SIZES if self.prior.share < limit)
        return self.dice.choice(
            (
                f"Between the two dates {size} of the scene has changed.",
                f"{size[0].upper()}{size[1:]} of the scene has changed between the first image and the second.",
                f"In the time between the two images {size} of the scene has changed.",
            )
        )

    def _layout(self) -> list[str]:
        """How the regions lie and what they look like."""
        regions = self.prior.regions
        largest = f"{self._where(regions[0].place)} and is {_shape(regions[0])}"
        if len(regions) == 1:
            return [f"The changed part is {largest}."]
        spread = {
            "clustered": "close together",
            "grouped": "partly close together and partly apart",
            "scattered": "at some distance from each other",
            "throughout": "all over the scene",
        }[self.prior.spread]
        if self.prior.known:
            found = [f"The change is in {_number(len(regions))} parts of the scene, {spread}."]
        else:
            found = [f"These parts are {spread}."]
        found.append(f"The largest part is {largest}.")
        others = list(dict.fromkeys(r.place for r in regions[1 : LISTED + 1] if r.place != regions[0].place))
        if others and self.prior.known:
            who = "The other part is" if len(regions) == 2 else "Other parts are"
            found.append(f"{who} {_joined([self._where(place) for place in others])}.")
        return found

    def _unchanged(self) -> str:
        if self.prior.scope:
            one = self.prior.scope
            return " ".join(
                self.dice.choice(texts).format(one=one, more=f"{one}s") for texts in (SAME_SCOPE, SAME_SCOPE_LONG)
            )
        return f"{self._same()} {self.dice.choice(SAME_LONG)}"

    def _same(self) -> str:
        if self.prior.scope:
            return self.dice.choice(SAME_SCOPE).format(one=self.prior.scope, more=f"{self.prior.scope}s")
        return self.dice.choice(SAME)

    # Clauses

    def _parts(self) -> list[_Part]:
        """What there is to say, the most certain first."""
        if not self.prior.known:
            return [self._somewhere()]
        swaps = self._replacements()
        parts = []
        for item in self.prior.known:
            if swaps and item.verb == "replace":
                continue
            plain = any(item in region.known for region in self.prior.regions) or item.direction is None
            subject, many = self._counted(item, plain)
            places = self._places_of(item)
            parts.append(_Part(subject, many, _verbs(item), places, item.direction is not None))
        return [*swaps, *parts]

    def _somewhere(self) -> _Part:
        """A change of which only the place is known."""
        places = tuple(dict.fromkeys(region.place for region in self.prior.regions))[:LISTED]
        number = len(self.prior.regions)
        if number == 1:
            return _Part("one part of the scene", False, ALTERED, places)
        return _Part(f"{_number(number)} parts of the scene", True, ALTERED, places)

    def _replacements(self) -> list[_Part]:
        """Regions whose classes say what gave way to what, one part for each two classes."""
        found: dict[tuple[str, str], list[Region]] = {}
        for region in self.prior.regions:
            if len(region.known) == 2 and region.known[0].verb == "replace":
                found.setdefault((region.known[1].object, region.known[0].object), []).append(region)
        parts = []
        for (gone, come), regions in found.items():
            old, many, new = _class_name(gone), gone not in _MASS | {"water"}, _class_name(come)
            verbs = (f"{{has}} been replaced by {new}", f"{{has}} given way to {new}")
            places = tuple(dict.fromkeys(region.place for region in regions))[:LISTED]
            parts.append(_Part(old, many, verbs, places, True))
        return parts

    def _counted(self, item: Known, plain: bool) -> tuple[str, bool]:
        """The subject with its number, and whether it is a plural."""
        noun, many = _noun(item, plain)
        if noun in UNCOUNTED:
            return noun, False
        exact = next((name for name, bounds in RANGES.items() if bounds == (item.fewest, item.most)), None)
        if exact == "one":
            return f"a {noun}", False
        if exact is not None:
            return f"{exact} {noun}", True
        if item.fewest >= 2 and many:
            return f"{'several' if item.fewest < 4 else 'many'} {noun}", True
        return (noun, True) if many else (f"a {noun}", False)

    def _places_of(self, item: Known) -> tuple[Place, ...]:
        if item.place:
            return (item.place,)
        regions = [region for region in self.prior.regions if any(_may_mean(known, item) for known in region.known)]
        if not regions and not self.prior.complete and len(self.prior.known) == 1:
            regions = list(self.prior.regions)
        places = tuple(dict.fromkeys(region.place for region in regions))
        # "A building has been built", says a caption over a mask of four parts: which of them is not known.
        return places[:LISTED] if len(places) <= item.most else ()

    def _clause(self, part: _Part) -> str:
        text = self._verb(part.verbs, part.many).format(part.subject)
        if part.places:
            text += " " + _joined([self._where(place) for place in part.places])
        return text

    def _verb(self, verbs: tuple[str, ...], many: bool) -> str:
        verb = self.dice.choice(verbs).format(has="have" if many else "has")
        return f"{{}} {verb}"

    def _where(self, place: str) -> str:
        return self.dice.choice(WHERE[place])


_MASS = frozenset(name for name, (_, more) in NOUNS.items() if not more)


def _class_name(name: str) -> str:
    """A class as a whole: "trees", "water", "roads"."""
    one, more = NOUNS[name]
    return PLAIN[name][1] if name in PLAIN else (more or one)[0]


def _may_mean(known: Known, item: Known) -> bool:
    """Whether a region's class is the known change, or leaves open what that says ("a building", built or removed)."""
    return known.object == item.object and known.direction in {None, item.direction} and known.verb in {None, item.verb}


def _noun(item: Known, plain: bool) -> tuple[str, bool]:
    """The noun for a known change and whether it is a plural."""
    one, more = NOUNS[item.object]
    if item.object in _MASS:
        return one[0], False
    if item.object == "water" and item.most == float("inf"):
        return PLAIN["water"][0], False  # a lake, a river or a flood: only what was counted is a pond
    many = not (item.fewest == item.most == 1)
    if plain and item.object in PLAIN:
        return PLAIN[item.object][many], item.object == "tree" or (many and item.object != "water")
    if item.fewest == 1 and item.most == float("inf"):
        return more[0], True  # how many is not known: a bare plural says the least
    return (more[0], True) if many else (one[0], False)


def _verbs(item: Known) -> tuple[str, ...]:
    if item.direction is None:
        return ALTERED
    if item.object == "building" and item.direction == "disappear" and item.verb == "reduce":
        return DAMAGED
    special = (SAID if item.object in MADE else GREW).get((item.direction, item.verb or ""))
    if special:
        return special
    if item.direction == "disappear":
        return GONE
    return COME if item.object in MADE else GROWN


def _number(count: int) -> str:
    return NUMBERS[count] if count < len(NUMBERS) else "many"


def _shape(region: Region) -> str:
    return {"compact": "compact", "elongated": "long and narrow", "irregular": "of irregular shape"}[region.shape]


def _joined(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + ("" if text.endswith(".") else ".")
