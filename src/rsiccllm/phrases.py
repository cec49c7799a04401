"""Groups the words of a caption into noun phrases, verbs, places, prepositions and conjunctions, by fixed rules."""

from __future__ import annotations

from dataclasses import dataclass

from rsiccllm.words import MASS, PLURAL, SINGULAR, Item, Words

NP, VERB, PLACE, PREP, AND, STOP, WITH, THAT = "np", "verb", "place", "prep", "and", "stop", "with", "that"

# Kinds of words after which a participle describes the noun that follows.
BEFORE_NOUN = frozenset(
    ["the", "a", "quantity", "adjective", "adverb", "start", "word", "prep", "and", "position", "verb", "with", "of"]
)


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


def known_phrases(tokens: list[tuple[str, int, int]], words: Words) -> list[tuple[Item, int, int]]:
    """(what it is, first token, token after the last) of every phrase, the longest known one first.

    tokens: (lower case, start, end). Unknown words become Item("word").
    """
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


def _is_adjective(items: list[tuple[Item, int, int]], i: int, aux: bool) -> bool:
    """A participle before a noun with nothing but adjectives between: "newly built roads", "the abandoned house"."""
    if aux:
        return False
    j = i + 1
    while j < len(items) and items[j][0].kind in {"adjective", "word", "adverb"}:
        j += 1
    if j >= len(items) or items[j][0].kind != "noun" or j > i + 3:
        return False
    before = items[i - 1][0].kind if i else "start"
    return before in {
        "the",
        "a",
        "quantity",
        "adjective",
        "adverb",
        "start",
        "word",
        "prep",
        "and",
        "position",
        "verb",
        "with",
        "of",
    }


def _past(tokens: list[tuple[str, int, int]], items: list[tuple[Item, int, int]], i: int) -> bool:
    """A word that may be a participle or a past tense, after an article or a number: "an extended road"."""
    return tokens[items[i][1]][0].endswith("ed") and bool(i) and items[i - 1][0].kind in {"a", "the", "quantity"}


def _state(items: list[tuple[Item, int, int]], i: int, words: Words) -> tuple[str, int] | None:
    """After "becomes" or "is" at i: (verb, next index) where adjectives of growth or decline follow and no noun."""
    less, state, after, j = False, "", i + 1, i + 1
    while j < len(items) and j < i + 7:
        item = items[j][0]
        if item.kind == "adjective" and item.value:
            state, after = state or item.value, j + 1
        elif item.kind == "verb" and item.value in {"extend", "reduce"} and item.extra in {"done", "does"}:
            state, after = state or ("growth" if item.value == "extend" else "decline"), j + 1
        elif item.kind == "no_longer":
            less = True
        elif not (
            item.kind in {"adverb", "word", "adjective"} or (item.kind in {"and", "a"} and (state or j == i + 1))
        ):
            break
        j += 1
    k = after
    while k < len(items) and items[k][0].kind in {"adjective", "word"}:
        k += 1
    if not state or (k < len(items) and items[k][0].kind == "noun"):
        return None
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


def phrases(tokens: list[tuple[str, int, int]], words: Words) -> list[Phrase]:
    """Group the tokens of a caption into phrases, in order."""
    items = known_phrases(tokens, words)
    found: list[Phrase] = []
    pending = _Builder()
    be = have = negated = False
    aux_start = -1
    i, n = 0, len(items)
    while i < n:
        item, start, end = items[i]
        kind = item.kind
        following = items[i + 1][0] if i + 1 < n else None
        if kind in {"be", "have"}:
            if kind == "be" and pending.quantity and pending.start >= 0 and found and found[-1].kind in {AND, STOP}:
                found.append(_pronoun(pending, start))
            pending.clear()
            state = _state(items, i, words) if kind == "be" else None
            if state:
                name, i = state
                verb_end = items[i - 1][2]
                found.append(
                    Phrase(VERB, start, verb_end, verb=name, form="does", be=True, negated=False, verb_start=start)
                )
                be = have = False
                aux_start = -1
                continue
            if aux_start < 0:
                aux_start = start
            be, have = be or kind == "be", have or kind == "have"
            negated = negated or (tokens[start][0].endswith("t") and "'" in tokens[start][0])
            i += 1
            continue
        if kind in {"no", "no_longer"}:
            if aux_start >= 0 or kind == "no_longer":
                negated = True
            else:
                pending.open(start)
                pending.absent = True
            i += 1
            continue
        if kind == "verb":
            aux = aux_start >= 0
            form = item.extra
            if (form in {"done", "weak", "active", "stay"} or (form == "does" and _past(tokens, items, i))) and (
                _is_adjective(items, i, aux)
            ):
                earlier = found[-1].kind if found else None
                transitive = earlier == NP and pending.start < 0 and found[-1].end == start
                if not (transitive or (form in {"active", "weak"} and earlier == NP and pending.start < 0)):
                    newly = i and items[i - 1][0].kind == "adverb" and tokens[items[i - 1][1]][0] == "newly"
                    if (newly and form == "done") or item.value in {"rebuild", "extend"}:
                        pending.rebuilt = item.value
                    pending.open(start)
                    i += 1
                    continue
            if form == "weak" and pending.article and not aux:
                i += 1  # "in a straight line": a noun that we have no use for
                continue
            if form == "becomes":
                state = _state(items, i, words)
                if state:
                    name, i = state
                    found.append(Phrase(VERB, start, items[i - 1][2], verb=name, form="does", verb_start=start))
                    pending.clear()
                    be = have = negated = False
                    aux_start = -1
                    continue
            if pending.quantity and pending.start >= 0 and (not found or found[-1].kind in {AND, STOP}):
                found.append(_pronoun(pending, aux_start if aux else start))
            pending.clear()
            found.append(
                Phrase(
                    VERB, aux_start if aux else start, end, verb=item.value, form=form, be=be, have=have,
                    negated=negated, verb_start=start,
                )
            )  # fmt: skip
            be = have = negated = False
            aux_start = -1
            i += 1
            continue
        if kind == "adverb" or (kind == "word" and aux_start >= 0):
            if aux_start < 0:
                pending.open(start)
            i += 1
            continue
        if aux_start >= 0 and kind not in {"adjective"}:
            # "is" with no verb: "there is a house", "the road is next to ..."; the noun rules take over.
            be = have = negated = False
            aux_start = -1
        if kind == "noun":
            pending.open(start)
            last, noun_start, noun_end, value = item, start, end, item.value
            # A compound's head is its last noun, unless that noun is a filler: "factory building", "forest land".
            while i + 1 < n and items[i + 1][0].kind == "noun" and items[i + 1][1] == noun_end:
                head = items[i + 1][0]
                if last.extra[0] == PLURAL and head.value != last.value and not _filler(tokens, items[i + 1], words):
                    break
                if not _filler(tokens, items[i + 1], words):
                    value = head.value
                last, noun_end, i = head, items[i + 1][2], i + 1
            number, group = last.extra
            quantity = pending.quantity
            if group or number == MASS or (quantity == "one" and number == PLURAL):
                quantity = None
            elif quantity is None and pending.article and number == SINGULAR:
                quantity = "one"
            elif quantity in {"several", "many"} and number == SINGULAR and not pending.loose:
                quantity = None
            found.append(
                Phrase(
                    NP, pending.start, noun_end, place=pending.place, object=value, number=number, group=group,
                    quantity=quantity, definite=pending.definite, absent=pending.absent, rebuilt=pending.rebuilt,
                    noun_start=noun_start,
                )
            )  # fmt: skip
            pending.clear()
        elif kind == "position":
            i = _position(items, i, tokens, found, pending, words)
            continue
        elif kind == "quantity":
            pending.open(start)
            if following is not None and following.kind == "of" and item.value == "one":
                pending.quantity = None
            else:
                pending.quantity, pending.loose = item.value, end - start > 1 or item.value == "one"
        elif kind == "a":
            pending.open(start)
            pending.article = True
        elif kind == "the":
            pending.open(start)
            pending.definite = True
        elif kind == "of":
            if pending.start >= 0:
                pending.article = False
                pending.open(start)
            else:
                found.append(Phrase(PREP, start, end, word="of"))
        elif kind == "pronoun" or (kind == "quantity" and following is None):
            pending.open(start)
            found.append(_pronoun(pending, end))
            pending.clear()
        elif kind == "nothing":
            pending.clear()
            found.append(Phrase(NP, start, end, pronoun=True, absent=True, noun_start=start))
        elif kind == "prep":
            pending.clear()
            found.append(Phrase(PREP, start, end, word=item.value or " ".join(t[0] for t in tokens[start:end])))
        elif kind == "roadside":
            pending.clear()
            found.append(Phrase(PLACE, start, end, place="along_road"))
        elif kind == "and":
            # "large and small houses": the words before the noun go on after the conjunction.
            if (
                following is not None
                and pending.start >= 0
                and following.kind == "adjective"
                and items[i - 1][0].kind == "adjective"
            ):
                i += 1
                continue
            if pending.quantity and found and found[-1].kind in {AND, STOP}:
                found.append(_pronoun(pending, start))
            pending.clear()
            if found and found[-1].kind == AND:
                found[-1].end = end
            else:
                found.append(Phrase(AND, start, end, word=tokens[start][0]))
        elif kind in {"stop", "with", "that"}:
            pending.clear()
            found.append(Phrase({"stop": STOP, "with": WITH, "that": THAT}[kind], start, end, word=tokens[start][0]))
        elif kind == "scene":
            pending.clear()
        else:  # adjectives and unknown words
            if found and pending.start < 0 and found[-1].kind == NP and following is not None and kind == "word":
                # An unknown word after a noun may be a verb of ours that we do not know; it begins nothing.
                pending.open(start)
            else:
                pending.open(start)
            if kind == "word" and tokens[start][0] in {"one"}:
                found.append(_pronoun(pending, end))
        i += 1
    return found


def _filler(tokens: list[tuple[str, int, int]], entry: tuple[Item, int, int], words: Words) -> bool:
    return entry[2] - entry[1] == 1 and tokens[entry[1]][0] in words.filler


def _pronoun(pending: _Builder, end: int) -> Phrase:
    return Phrase(
        NP, pending.start, end, quantity=pending.quantity, definite=pending.definite, pronoun=True,
        noun_start=end, number=SINGULAR if pending.quantity == "one" else PLURAL, absent=pending.absent,
        place=pending.place,
    )  # fmt: skip


def _position(
    items: list[tuple[Item, int, int]], i: int, tokens: list[tuple[str, int, int]], found: list[Phrase],
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


def _noun_ahead(items: list[tuple[Item, int, int]], j: int) -> bool:
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
