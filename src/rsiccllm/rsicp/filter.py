"""Which wrong-looking captions are surely wrong, and which of them are near enough to the truth to teach something.

The paper keeps a sample of the model where tau1 < S < tau2, S its likeness to the references by key words
(`rsiccllm.keywords`). Below is noise, above is as good as the truth. Likeness alone lets through captions that are
right in other words, so every negative is read for its facts first: it must say something that no reference supports.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rsiccllm.facts import Fact, Parsed, Support, parse, places_agree, support
from rsiccllm.keywords import similarity
from rsiccllm.words import Words, load_words

ALIKE = 0.9
"""Likeness from which two negatives of a pair count as one. Above it they differ in less than one key word of ten."""


class Truth(NamedTuple):
    """What the references of one pair say, read once. parsed: each reference's."""

    references: list[str]
    known: Support
    parsed: list[Parsed]

    @property
    def denied(self) -> bool:
        """Whether any reference says that nothing changed."""
        return any(said.changed is False for said in self.parsed)

    def of(self, fact: Fact) -> list[list[Fact]]:
        """What each reference that names this object with this direction says of it."""
        found = [
            [f for f in said.facts if (f.object, f.direction) == (fact.object, fact.direction)] for said in self.parsed
        ]
        return [facts for facts in found if facts]


class Window(NamedTuple):
    """Bounds of S, both exclusive."""

    low: float
    high: float

    def holds(self, similarity: float) -> bool:
        """Whether low < similarity < high."""
        return self.low < similarity < self.high


def truth_of(references: list[str], words: Words | None = None) -> Truth:
    """Read the references of a pair."""
    words = words or load_words()
    return Truth(references, support(references, words), [parse(reference, words) for reference in references])


def is_wrong(text: str, truth: Truth, words: Words | None = None) -> bool:
    """Whether the caption surely contradicts the references: by a change where there is none, by none where there is
    one, or by at least one fact that is surely wrong. False where it cannot be told."""
    words = words or load_words()
    said = parse(text, words)
    if said.changed is False:
        return bool(truth.known.facts) and not truth.denied
    if not truth.known.facts:
        return truth.denied and bool(said.facts)
    return any(surely_wrong(fact, truth, words) for fact in said.facts)


def surely_wrong(fact: Fact, truth: Truth, words: Words) -> bool:
    """Whether no reference supports the fact, and it is not merely a matter of words or of what a person left out.

    An object that nobody names with this direction is wrong, unless people confuse it with one that is named (grass and
    trees). What is built stands on something, so that "the grass disappears" may be true where grass is named at all.
    A known object is wrong by its place or its quantity where every reference that states one contradicts it, and two
    do (or there is one reference alone): one person may speak of another thing. "A house" where several came leaves
    something out and is not wrong. The verb decides nothing: one person's "rebuilt" is another's "built".
    """
    known = truth.known
    same = {name for name, way in known.pairs if way == fact.direction}
    if fact.object not in same:
        if words.near[fact.object] & same:
            return False
        natural = fact.object not in words.made
        return not (fact.direction == "disappear" and natural and fact.object in known.objects)
    witnesses = truth.of(fact)
    enough = min(2, len(truth.references))
    if fact.place and fact.place != "along_road":
        said = [places for facts in witnesses if (places := {f.place for f in facts} - {None, "along_road"})]
        if len(said) >= enough and not any(places_agree(fact.place, str(p)) for places in said for p in places):
            return True
    if fact.quantity in {None, "one"} or len(witnesses) < enough:
        return False
    return not known.supports(fact.model_copy(update={"place": None, "verb": witnesses[0][0].verb}))


def distinct(texts: Iterable[str], taken: Sequence[str] = (), words: Words | None = None) -> list[str]:
    """The texts in order, without those that are as good as one before them or as one of `taken`."""
    kept: list[str] = []
    for text in texts:
        if similarity(text, [*taken, *kept], words) < ALIKE:
            kept.append(text)
    return kept


def window_for(similarities: Sequence[float], share: float) -> Window:
    """The narrowest window around the middle of the data in which at least `share` of it lies.

    share: in (0, 1]. The bounds are just outside the quantiles (1 - share) / 2 and (1 + share) / 2, so that equal
    values fall on one side together and no less than the share survives.
    """
    values = sorted(similarities)
    cut = math.floor(len(values) * (1 - share) / 2 + 1e-9)  # left out at each end
    return Window(math.nextafter(values[cut], -1), math.nextafter(values[len(values) - 1 - cut], 2))
