"""Groups the words of a caption into noun phrases, verbs, places, prepositions and conjunctions, by fixed rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rsiccllm.words import MASS, PLURAL, SINGULAR, Item, Words

NP, VERB, PLACE, PREP, AND, STOP, WITH, THAT = "np", "verb", "place", "prep", "and", "stop", "with", "that"

# Kinds of words after which a participle describes the noun that follows.
BEFORE_NOUN = frozenset(
    ["the", "a", "quantity", "adjective", "adverb", "start", "word", "prep", "and", "position", "verb", "with", "of"]
)

Token = tuple[str, int, int]  # (lower case, start, end)
Known = tuple[Item, int, int]  # (what it is, first token, token after the last)


@dataclass(slots=True)
class Phrase:
    """One group of words. `start`, `end` are token indices; the fields below `place` are for one kind only."""

    kind: str
    start: int
    end: int
    place: str | None = None
    # Noun phrase. noun_start..noun_end is the noun itself, start..noun_start what stands before it.
    object: str = ""
    number: str = SINGULAR
    group: bool = False
    quantity: str | None = None
    definite: bool = False
    pronoun: bool = False
    absent: bool = False
    road: bool = False  # beside a road; `place` is the one in the image
    rebuilt: str | None = None
    noun_start: int = 0
    # Verb. `form` as in words.yaml; `be`, `have`: an auxiliary before it; main: not a reduced relative clause.
    verb: str = ""
    form: str = ""
    be: bool = False
    have: bool = False
    negated: bool = False
    verb_start: int = 0
    main: bool = True
    # Preposition: its words. Conjunction: whether it is "or".
    word: str = ""


def known_phrases(tokens: list[Token], words: Words) -> list[Known]:
    """Every phrase of the tokens, the longest known one first. Unknown words become Item("word")."""
    table, low, found, i, n = words.phrases, [token[0] for token in tokens], [], 0, len(tokens)
    unknown = Item("word")
    while i < n:
        for phrase, item in table.get(low[i], ()):
            size = len(phrase)
            if size == 1 or (i + size <= n and tuple(low[i : i + size]) == phrase):
                found.append((item, i, i + size))
                i += size
                break
        else:
            found.append((unknown, i, i + 1))
            i += 1
    return found


def _is_adjective(items: list[Known], i: int, aux: bool) -> bool:
    """A participle before a noun with nothing but adjectives between: "newly built roads", "the abandoned house"."""
    if aux:
        return False
    j = i + 1
    while j < len(items) and items[j][0].kind in {"adjective", "word", "adverb"}:
        j += 1
    if j >= len(items) or items[j][0].kind != "noun" or j > i + 3:
        return False
    before = items[i - 1][0].kind if i else "start"
    return before in BEFORE_NOUN


def _past(tokens: list[Token], items: list[Known], i: int) -> bool:
    """A word that may be a participle or a past tense, after an article or a number: "an extended road"."""
    return tokens[items[i][1]][0].endswith("ed") and bool(i) and items[i - 1][0].kind in {"a", "the", "quantity"}


def _state(items: list[Known], i: int) -> tuple[str, int] | None:
    """After "becomes" or "is" at i: (verb, next index) where adjectives of growth or decline follow and no noun."""
    less, state, after, also, j = False, "", i + 1, 0, i + 1
    while j < len(items) and j < i + 7:
        item = items[j][0]
        if item.kind == "adjective" and item.value:
            state, after = state or item.value, j + 1
        elif item.kind == "verb" and item.value in {"extend", "reduce"} and item.extra in {"done", "does"}:
            state, after = state or ("growth" if item.value == "extend" else "decline"), j + 1
        elif item.kind == "no_longer":
            less = True
        elif item.kind == "and" and (state or j == i + 1 or items[j - 1][0].kind == "adjective"):
            also = also or (j if state else 0)
        elif not (item.kind in {"adverb", "word", "adjective"} or (item.kind == "a" and (state or j == i + 1))):
            break
        j += 1
    if not state:
        return None
    k = after
    while k < len(items) and items[k][0].kind in {"adjective", "word"}:
        k += 1
    if k < len(items) and items[k][0].kind == "noun":
        while k < len(items) and items[k][0].kind == "noun":
            k += 1
        if not (also and k < len(items) and items[k][0].kind in {"verb", "be", "have"}):
            return None
        after = also  # "become dense and wide lanes appear": the second half has a noun and a verb of its own
    return ("reduce" if less or state == "decline" else "extend"), after


class _Builder:
    """Collects the words before a noun until the noun comes."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.start = -1
        self.quantity: str | None = None
        self.article = False
        self.definite = False
        self.absent = False
        self.place: str | None = None
        self.rebuilt: str | None = None
        self.loose = False

    def open(self, start: int) -> None:
        if self.start < 0:
            self.start = start


def phrases(tokens: list[Token], words: Words) -> list[Phrase]:
    """Group the tokens of a caption into phrases, in order."""
    return _Reader(tokens, words).read()


class _Reader:
    """Goes over a caption once: words before a noun wait for it in `pending`, auxiliaries for their verb."""

    def __init__(self, tokens: list[Token], words: Words) -> None:
        self.tokens, self.words = tokens, words
        self.items = known_phrases(tokens, words)
        self.found: list[Phrase] = []
        self.pending = _Builder()
        self.i = 0
        self._forget_auxiliary()
        # By the kind of an item; each takes the item, moves `i` to its last one, and may leave an auxiliary forgotten.
        self._rules: dict[str, Callable[[Item, int, int], None]] = {
            "noun": self._noun, "quantity": self._quantity, "a": self._a, "the": self._the, "of": self._of,
            "pronoun": self._pronoun, "nothing": self._nothing, "prep": self._preposition, "roadside": self._roadside,
            "and": self._and, "stop": self._border, "with": self._border, "that": self._border, "scene": self._scene,
        }  # fmt: skip

    def read(self) -> list[Phrase]:
        """Every phrase, in order."""
        while self.i < len(self.items):
            item, start, end = self.items[self.i]
            if item.kind in {"be", "have"}:
                self._auxiliary(item, start)
            elif item.kind in {"no", "no_longer"}:
                self._no(item, start)
            elif item.kind == "verb":
                self._verb(item, start, end)
            elif item.kind == "adverb" or (item.kind == "word" and self.aux_start >= 0):
                if self.aux_start < 0:
                    self.pending.open(start)
            else:
                if item.kind != "adjective":
                    # "is" with no verb: "there is a house", "the road is next to ..."; the noun rules take over.
                    self._forget_auxiliary()
                if item.kind == "position":
                    self.i = _position(self.items, self.i, self.tokens, self.found, self.pending, self.words)
                    continue
                self._rules.get(item.kind, self._other)(item, start, end)
            self.i += 1
        return self.found

    def _forget_auxiliary(self) -> None:
        self.be = self.have = self.negated = False
        self.aux_start = -1

    def _follows(self) -> str:
        """The kind of the next item; empty at the end."""
        return self.items[self.i + 1][0].kind if self.i + 1 < len(self.items) else ""

    def _begins(self) -> bool:
        """Whether what is read now begins a part of the sentence."""
        return not self.found or self.found[-1].kind in {AND, STOP}

    def _auxiliary(self, item: Item, start: int) -> None:
        be = item.kind == "be"
        if be and self.pending.quantity and self.pending.start >= 0 and self.found and self._begins():
            self.found.append(_pronoun(self.pending, start))
        self.pending.clear()
        if be and self._grows_or_declines(start):
            return
        if self.aux_start < 0:
            self.aux_start = start
        self.be, self.have = self.be or be, self.have or not be
        word = self.tokens[start][0]
        self.negated = self.negated or (word.endswith("t") and "'" in word)

    def _grows_or_declines(self, start: int) -> bool:
        """ "is larger", "becomes dense": one verb, with all its adjectives."""
        be = self.items[self.i][0].kind == "be"
        if not (state := _state(self.items, self.i)):
            return False
        verb, after = state
        end = self.items[after - 1][2]
        self.found.append(Phrase(VERB, start, end, verb=verb, form="does", be=be, verb_start=start))
        self.pending.clear()
        self.i = after - 1
        if be:
            self.be = self.have = False
            self.aux_start = -1
        else:
            self._forget_auxiliary()
        return True

    def _no(self, item: Item, start: int) -> None:
        if self.aux_start >= 0 or item.kind == "no_longer":
            self.negated = True
        else:
            self.pending.open(start)
            self.pending.absent = True

    def _verb(self, item: Item, start: int, end: int) -> None:
        aux, form = self.aux_start >= 0, item.extra
        if self._describes(item, start):
            newly = self.i > 0 and self.tokens[self.items[self.i - 1][1]][0] == "newly"
            if (newly and form == "done") or item.value in {"rebuild", "extend"}:
                self.pending.rebuilt = item.value
            self.pending.open(start)
            return
        if form == "weak" and self.pending.article and not aux:
            return  # "in a straight line": a noun that we have no use for
        if form == "becomes" and self._grows_or_declines(start):
            return
        begin = self.aux_start if aux else start
        if self.pending.quantity and self.pending.start >= 0 and self._begins():
            self.found.append(_pronoun(self.pending, begin))
        self.pending.clear()
        self.found.append(
            Phrase(
                VERB, begin, end, verb=item.value, form=form, be=self.be, have=self.have, negated=self.negated,
                verb_start=start,
            )
        )  # fmt: skip
        self._forget_auxiliary()

    def _describes(self, item: Item, start: int) -> bool:
        """Whether this verb is no verb but a participle before its noun: "newly built roads"."""
        if item.extra not in {"done", "weak", "active", "stay"} and not (
            item.extra == "does" and _past(self.tokens, self.items, self.i)
        ):
            return False
        # Right after a noun it is a verb: "trees replaced bare land".
        after_noun = bool(self.found) and self.found[-1].kind == NP and self.pending.start < 0
        return not after_noun and _is_adjective(self.items, self.i, self.aux_start >= 0)

    def _noun(self, item: Item, start: int, end: int) -> None:
        self.pending.open(start)
        last, noun_end, value = item, end, item.value
        # A compound's head is its last noun, unless that noun is a filler: "factory building", "forest land".
        while self._follows() == "noun" and self.items[self.i + 1][1] == noun_end:
            head = self.items[self.i + 1][0]
            filler = _filler(self.tokens, self.items[self.i + 1], self.words)
            if last.extra[0] == PLURAL and head.value != last.value and not filler:
                break
            if not filler:
                value = head.value
            self.i += 1
            last, noun_end = head, self.items[self.i][2]
        number, group = last.extra
        quantity = self.pending.quantity
        if group or number == MASS or (quantity == "one" and number == PLURAL):
            quantity = None
        elif quantity is None and self.pending.article and number == SINGULAR:
            quantity = "one"
        elif quantity in {"several", "many"} and number == SINGULAR and not self.pending.loose:
            quantity = None
        self.found.append(
            Phrase(
                NP, self.pending.start, noun_end, place=self.pending.place, object=value, number=number, group=group,
                quantity=quantity, definite=self.pending.definite, absent=self.pending.absent,
                rebuilt=self.pending.rebuilt, noun_start=start,
            )
        )  # fmt: skip
        self.pending.clear()

    def _quantity(self, item: Item, start: int, end: int) -> None:
        self.pending.open(start)
        if self._follows() == "of" and item.value == "one":
            self.pending.quantity = None
        else:
            self.pending.quantity, self.pending.loose = item.value, end - start > 1 or item.value == "one"

    def _a(self, item: Item, start: int, end: int) -> None:
        self.pending.open(start)
        self.pending.article = True

    def _the(self, item: Item, start: int, end: int) -> None:
        self.pending.open(start)
        self.pending.definite = True

    def _of(self, item: Item, start: int, end: int) -> None:
        if self.pending.start >= 0:
            self.pending.article = False
        else:
            self.found.append(Phrase(PREP, start, end, word="of"))

    def _pronoun(self, item: Item, start: int, end: int) -> None:
        self.pending.open(start)
        self.found.append(_pronoun(self.pending, end))
        self.pending.clear()

    def _nothing(self, item: Item, start: int, end: int) -> None:
        self.pending.clear()
        self.found.append(Phrase(NP, start, end, pronoun=True, absent=True, noun_start=start))

    def _preposition(self, item: Item, start: int, end: int) -> None:
        self.pending.clear()
        word = item.value or " ".join(token[0] for token in self.tokens[start:end])
        self.found.append(Phrase(PREP, start, end, word=word))

    def _roadside(self, item: Item, start: int, end: int) -> None:
        self.pending.clear()
        self.found.append(Phrase(PLACE, start, end, place="along_road"))

    def _and(self, item: Item, start: int, end: int) -> None:
        if self.pending.start >= 0 and self._follows() == "adjective" == self.items[self.i - 1][0].kind:
            return  # "large and small houses": the words before the noun go on after the conjunction
        if self.pending.quantity and self.found and self._begins():
            self.found.append(_pronoun(self.pending, start))
        self.pending.clear()
        if self.found and self.found[-1].kind == AND:
            self.found[-1].end = end
        else:
            self.found.append(Phrase(AND, start, end, word=self.tokens[start][0]))

    def _border(self, item: Item, start: int, end: int) -> None:
        self.pending.clear()
        kind = {"stop": STOP, "with": WITH, "that": THAT}[item.kind]
        self.found.append(Phrase(kind, start, end, word=self.tokens[start][0]))

    def _scene(self, item: Item, start: int, end: int) -> None:
        self.pending.clear()

    def _other(self, item: Item, start: int, end: int) -> None:
        """Adjectives and unknown words."""
        self.pending.open(start)


def _filler(tokens: list[Token], entry: Known, words: Words) -> bool:
    return entry[2] - entry[1] == 1 and tokens[entry[1]][0] in words.filler


def _pronoun(pending: _Builder, end: int) -> Phrase:
    return Phrase(
        NP, pending.start, end, quantity=pending.quantity, definite=pending.definite, pronoun=True,
        noun_start=end, number=SINGULAR if pending.quantity == "one" else PLURAL, absent=pending.absent,
        place=pending.place,
    )  # fmt: skip


def _position(
    items: list[Known], i: int, tokens: list[Token], found: list[Phrase],
    pending: _Builder, words: Words,
) -> int:  # fmt: skip
    """Read a place that begins with the position word at i; returns the index after it.

    "in the top left corner of the scene" is a place, "the lower-right road" gives its noun one, "on the left of the
    road" is beside the road, "on the left of the lake" is no place in the image.
    """
    place: str | None = items[i][0].value
    start, n = items[i][1], len(items)
    if pending.start >= 0:
        start = pending.start
    j = i + 1
    while j < n and items[j][0].kind == "position":  # "left bottom", "top ... left"
        place = _join(place, items[j][0].value)
        j += 1
    while j < n and items[j][0].kind == "tail":
        j += 1
    if j == i + 1 and j < n and items[j][0].kind in {"noun", "adjective", "word"} and _noun_ahead(items, j):
        pending.open(start)
        pending.place = place
        return j
    placed = bool(found) and found[-1].kind in {PREP, PLACE} and found[-1].end == start
    if j < n and items[j][0].kind == "of" and not placed and _noun_ahead(items, j + 1):
        # "the left half of the forest": the noun goes on, with its place
        pending.open(start)
        pending.place, pending.article, pending.definite = place, False, True
        return j + 1
    pending.clear()
    if found and found[-1].kind == PREP and found[-1].end == start:
        start = found.pop().start
    end = items[j - 1][2]
    if j < n and items[j][0].kind == "of":
        k = j + 1
        while k < n and items[k][0].kind in {"the", "a", "word", "adjective", "quantity", "adverb", "position"}:
            k += 1
        if k < n and items[k][0].kind == "scene":
            j, end = k + 1, items[k][2]
        elif k < n and items[k][0].kind == "noun":
            road = any(item.kind == "noun" and item.value == "road" for item, _, _ in items[k : k + 1])
            found.append(Phrase(PREP, start, items[j][2], word="side_of" if road else "of"))
            return j + 1
    if found and found[-1].kind == PLACE and found[-1].place != "along_road" and tokens[found[-1].end][0] in {"to"}:
        return j
    found.append(Phrase(PLACE, start, end, place=place))
    return j


def _noun_ahead(items: list[Known], j: int) -> bool:
    while j < len(items) and items[j][0].kind in {"adjective", "word", "adverb", "the", "a"}:
        j += 1
    return j < len(items) and items[j][0].kind == "noun"


def _join(first: str | None, second: str) -> str | None:
    pair = {first, second}
    for vertical in ("top", "bottom"):
        for horizontal in ("left", "right"):
            if pair == {vertical, horizontal}:
                return f"{vertical}_{horizontal}"
    if "center" in pair:
        return next(iter(pair - {"center"}), "center")
    return first
