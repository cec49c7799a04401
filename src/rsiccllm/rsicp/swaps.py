"""Every single swap of a caption that keeps its grammar and that no reference of the pair supports."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from rsiccllm.facts import RANGES, Support, count_of, places_agree
from rsiccllm.grammar import Event, Reading
from rsiccllm.phrases import AND, NP, PLACE, PREP, STOP, THAT, VERB, WITH, Phrase
from rsiccllm.words import PLURAL, SINGULAR, Noun, Words, word_set

Kind = Literal["object", "direction", "place", "quantity", "verb"]
ORDER: tuple[Kind, ...] = ("object", "direction", "place", "quantity", "verb")

Span = tuple[int, int, tuple[str, ...]]
"""Tokens start..end and the words that stand there instead."""

ARTICLES = frozenset({"a", "an"})
POINTING = word_set("the this that these those its their some of")
# Said of what comes, and odd of what goes; and the other way round.
FRESH = word_set("new newly extra additional more another")
STALE = word_set("original former existing old all")
MANNER = word_set("neatly newly densely closely compactly evenly orderly sporadically")
NUMBER_WORDS = {"one": ["a"], "two": ["two"], "three": ["three"], "several": ["several", "some"], "many": ["many"]}
# Nobody says "two woods".
NUMBERS = word_set("two three four five six seven eight nine ten")
# Modifiers of one thing or of many; a noun that changes its number loses them.
OF_MANY = word_set(
    """
    neat neatly arranged scattered detached dense densely compact different various intersecting crossing
    crossed parallel crisscross staggered
    """
)
AGREE = {"is": "are", "has": "have", "was": "were"}
DISAGREE = {plural: singular for singular, plural in AGREE.items()}
SIDES = {"left": "right", "right": "left", "top": "bottom", "bottom": "top", "upper": "lower", "lower": "upper"}
VERTICAL = frozenset({"top", "bottom", "upper", "lower"})
OF_PLANTS = frozenset(["planted", "cut down", "cut", "grow", "grows", "grown", "felled"])
OF_VEHICLES = frozenset(["parked", "park", "parks"])
OF_STRUCTURES = frozenset(
    ["built", "constructed", "erected", "demolished", "torn down", "completed", "to build", "to construct"]
)
OF_ROADS = frozenset(["widen", "widens", "widened", "broadened", "narrowed", "lengthened", "shortened"])
OF_PLANS = frozenset(["extended", "expanded", "enlarged", "rebuilt", "renovated", "reconstructed", "repaired"])
OF_ANYTHING = frozenset(
    ["appear", "appears", "appeared", "disappear", "disappears", "disappeared", "removed", "vanish", "vanished"]
)
STRICT = OF_PLANTS | OF_VEHICLES | OF_STRUCTURES


@dataclass(frozen=True)
class Edit:
    """One swap: the tokens start..end become `new`.

    said: the words before and after, for the record. also: further spans that the grammar asks for (agreement).
    weight: how often this swap is drawn among those of its kind.
    """

    kind: Kind
    start: int
    end: int
    new: tuple[str, ...]
    said: tuple[str, str]
    also: tuple[Span, ...] = ()
    weight: float = 1.0

    @property
    def spans(self) -> list[Span]:
        """Every span the swap writes."""
        return [(self.start, self.end, self.new), *self.also]


def find_swaps(reading: Reading, known: Support, rng: random.Random, words: Words) -> dict[Kind, list[Edit]]:
    """Every single swap of the caption that is right in grammar and wrong in fact."""
    edits: dict[Kind, list[Edit]] = {kind: [] for kind in ORDER}
    roles: dict[int, list[tuple[Event, str]]] = {}
    events = [event for event in reading.events if not event.stay]
    for event in events:
        for direction, group in (("appear", event.appear), ("disappear", event.disappear)):
            for phrase in group:
                roles.setdefault(id(phrase), []).append((event, direction))
    for i, phrase in enumerate(reading.phrases):
        if phrase.kind == NP and id(phrase) in roles and not phrase.pronoun and phrase.rebuilt is None:
            edits["object"] += _objects(reading, i, roles[id(phrase)], known, rng, words)
            edits["quantity"] += _quantities(reading, phrase, roles[id(phrase)], known, words)
        if phrase.kind == PLACE or (phrase.kind == NP and phrase.place and id(phrase) in roles):
            edits["place"] += _places(reading, phrase, known, words)
    for event in events:
        if event.verb.kind != VERB:
            continue
        edits["direction"] += _directions(reading, event, known, words)
        edits["direction"] += _exchanged(reading, event, known)
        edits["verb"] += _verbs(reading, event, known, words)
    return edits


# Objects


def _objects(
    reading: Reading, i: int, roles: list[tuple[Event, str]], known: Support, rng: random.Random, words: Words
) -> list[Edit]:
    phrase = reading.phrases[i]
    directions = {direction for _, direction in roles}
    before = [token[0] for token in reading.tokens[phrase.start : phrase.noun_start]]
    noun = [token[0] for token in reading.tokens[phrase.noun_start : phrase.end]]
    if "and" in before or phrase.group or _belongs(reading, i):
        return []
    of = max((at for at, word in enumerate(before) if word == "of"), default=-1)
    if any(not _keep(word, words) for word in before[:of]):
        return []  # "the shape of the building": the word before "of" suits buildings only
    verbs = [event.verb for event, _ in roles if event.verb.kind == VERB]
    said = [" ".join(t[0] for t in reading.tokens[v.verb_start : v.end]) for v in verbs]
    edits = []
    for target in words.nouns:
        if target == phrase.object or not _safe(target, phrase, directions, known, words, reading):
            continue
        if not all(fits(target, phrase.object, verb, words) for verb in said):
            continue
        if words.measures & set(before) and target not in words.rows:
            continue
        nouns = [n for n in words.nouns[target] if n.write and _form(n, phrase, before) is not None]
        if not nouns:
            continue
        chosen = rng.choice(nouns)
        form = _form(chosen, phrase, before)
        assert form is not None
        kept = [w for w in before if _keep(w, words)]
        swap = (" ".join(noun), form)
        edits.append(Edit("object", phrase.start, phrase.end, (*kept, *form.split()), swap, weight=words.draw[target]))
    return edits


def _safe(target: str, phrase: Phrase, directions: set[str], known: Support, words: Words, reading: Reading) -> bool:
    """Whether no reference names or suggests that `target` came or went."""
    for direction in directions:
        same = {name for name, way in known.pairs if way == direction}
        if target in same or words.near[target] & same:
            return False
        # What is built stands on something: "in the woods" may be said of woods that went.
        if direction == "disappear" and target not in words.made and target in known.objects:
            return False
    return not any(p.kind == NP and p.object == target for p in reading.phrases)


def fits(target: str, old: str, verb: str, words: Words) -> bool:
    """Whether the verb can be said of the target: nobody builds a tree or parks a lake."""
    if verb in OF_PLANTS:
        return target in {"tree", "grass"}
    if verb in OF_VEHICLES:
        return target == "vehicle"
    if target == "vehicle" or old == "vehicle":
        return verb in OF_ANYTHING
    if verb in OF_STRUCTURES:
        return target in words.made
    if verb in OF_ROADS:
        return target == "road"
    if verb in OF_PLANS:
        return target in words.made
    name = next((item.value for phrase, item in words.phrases.get(verb.split()[0], ()) if " ".join(phrase) == verb), "")
    if name == "build":
        return verb == "added" or target in words.made
    return name in {"appear", "disappear", "remove", "replace"} and not verb.startswith(("run", "cross", "goes", "go "))


def _keep(word: str, words: Words) -> bool:
    """Words before a noun that stay when the noun becomes another."""
    return (
        word in ARTICLES or word in POINTING or word in words.quantity_tokens or word in words.adjectives
        or word in words.position_words or word in {"most", "half", "part", "all", "every", "corner", "end"}
    )  # fmt: skip


def _form(noun: Noun, phrase: Phrase, before: list[str]) -> str | None:
    """The form of `noun` that fits where the phrase stands, None where none does."""
    if phrase.number == PLURAL:
        counted = NUMBERS & set(before)
        return noun.plural if "much" not in before and (noun.singular or not counted) else None
    singular = noun.singular
    if singular is None:
        return None
    if ARTICLES & set(before) or {"one", "another", "single"} & set(before):
        return None if noun.mass else singular
    if {"the", "this", "its"} & set(before):
        return singular
    return singular if noun.mass else None


def _belongs(reading: Reading, i: int) -> bool:
    """Whether words after the phrase only suit its own object: "a road across the woods", "with villas built along"."""
    for phrase in reading.phrases[i + 1 :]:
        if phrase.kind in {AND, STOP}:
            return False
        if phrase.kind == PREP:
            words = [token[0] for token in reading.tokens[phrase.start : phrase.end]]
            if words[0] in {
                "across",
                "through",
                "connected",
                "connecting",
                "leading",
                "to",
                "from",
                "of",
                "surrounding",
            }:
                return True
        if phrase.kind in {WITH, THAT} or (phrase.kind == VERB and (not phrase.main or phrase.form == "weak")):
            return True
    return False


# Direction


def _tail(reading: Reading, verb: Phrase) -> list[Phrase]:
    """The phrases after a verb up to the end of its clause."""
    tail = []
    for phrase in reading.phrases[reading.phrases.index(verb) + 1 :]:
        if phrase.kind in {AND, STOP}:
            break
        tail.append(phrase)
    return tail


def _directions(reading: Reading, event: Event, known: Support, words: Words) -> list[Edit]:
    """ "are built" <-> "are removed", "appear" <-> "disappear"."""
    verb, subjects = event.verb, event.subjects
    changed = [*event.appear, *event.disappear]
    if not subjects or not changed or not verb.main or event.name == "replace" or event.weak:
        return []
    if verb.form == "done" and not (verb.be or verb.have):
        return []
    tail = _tail(reading, verb)
    if any(p.kind in {VERB, WITH} for p in tail) or any(_purpose(reading, p) for p in tail):
        return []
    coming = bool(event.appear)
    opposite = "disappear" if coming else "appear"
    if any((phrase.object, opposite) in known.pairs for phrase in changed):
        return []
    old = " ".join(token[0] for token in reading.tokens[verb.verb_start : verb.end])
    choices = [set(words.opposites.get(phrase.object, {}).get(old, ())) for phrase in changed]
    also = _fresh_or_stale(reading, event, coming)
    if also is None:
        return []
    also += _still_seen(reading, verb, coming)
    moved = _prepositions(reading, verb, coming)
    start, end = _with_manner(reading, verb)
    return [
        Edit("direction", start, end, tuple(new.split()), (old, new), (*also, *(moved if new != "demolished" else ())))
        for new in sorted(set.intersection(*choices))
        if not (new == "planted" and any(_ends(reading, phrase, "plants") for phrase in changed))
    ]


def _ends(reading: Reading, phrase: Phrase, word: str) -> bool:
    return reading.tokens[phrase.end - 1][0] == word


def _with_manner(reading: Reading, verb: Phrase) -> tuple[int, int]:
    """The verb's own words together with "neatly" and the like beside them, which do not suit the opposite."""
    tokens, start, end = reading.tokens, verb.verb_start, verb.end
    while start > verb.start and tokens[start - 1][0] in MANNER:
        start -= 1
    while end < len(tokens) and tokens[end][0] in MANNER:
        end += 1
    return start, end


def _fresh_or_stale(reading: Reading, event: Event, coming: bool) -> list[Span] | None:
    """Drop "new" of things that now go, and "original" of things that now come; None where that leaves no sense."""
    spans: list[Span] = []
    drop = FRESH if coming else STALE
    for phrase in event.subjects:
        before = [token[0] for token in reading.tokens[phrase.start : phrase.noun_start]]
        if phrase.pronoun or phrase.rebuilt or {"most", "half", "part"} & set(before):
            return None
        for i, word in enumerate(before):
            if word in drop:
                at = phrase.start + i
                spans.append((at, at + 1, ("a",) if word == "another" else ()))
    return spans


def _prepositions(reading: Reading, verb: Phrase, coming: bool) -> list[Span]:
    """Things are built in the woods and removed from them."""
    index = reading.phrases.index(verb)
    if index + 2 >= len(reading.phrases):
        return []
    prep, noun = reading.phrases[index + 1 : index + 3]
    word = reading.tokens[prep.start][0]
    if prep.kind != PREP or noun.kind != NP or prep.end - prep.start > 1 or prep.start > verb.end:
        return []
    if coming and word in {"in", "on", "to"}:
        return [(prep.start, prep.end, ("from",))]
    if not coming and word == "from":
        return [(prep.start, prep.end, ("in",))]
    return []


def _purpose(reading: Reading, phrase: Phrase) -> bool:
    """ "to join the old road" says what a thing was built for; nothing is removed for that."""
    return phrase.kind == PREP and phrase.end - phrase.start > 1 and reading.tokens[phrase.start][0] == "to"


def _still_seen(reading: Reading, verb: Phrase, coming: bool) -> list[Span]:
    """ "is removed and can no longer be seen" -> "is built and can now be seen"."""
    tokens = [token[0] for token in reading.tokens]
    for i in range(verb.end, len(tokens) - 1):
        if tokens[i] == ".":
            break
        if not coming and tokens[i : i + 2] == ["no", "longer"]:
            return [(i, i + 2, ("now",))]
    return []


def _exchanged(reading: Reading, event: Event, known: Support) -> list[Edit]:
    """ "The trees are replaced by houses" -> "the houses are replaced by trees": both nouns change their places."""
    verb = event.verb
    if event.name != "replace" or verb.form not in {"active", "passive", "becomes"}:
        return []
    if len(event.appear) != 1 or len(event.disappear) != 1:
        return []
    at = reading.phrases.index(verb)
    if not 0 < at < len(reading.phrases) - 1:
        return []
    first, second = reading.phrases[at - 1], reading.phrases[at + 1]
    if {id(first), id(second)} != {id(event.appear[0]), id(event.disappear[0])} or first.pronoun or second.pronoun:
        return []
    if at > 1 and reading.phrases[at - 2].kind not in {AND, STOP}:
        return []
    after = reading.phrases[at + 2] if at + 2 < len(reading.phrases) else None
    if after is not None and (after.kind in {WITH, THAT, VERB, AND} or after.word in {"of", "side_of"}):
        return []
    if (event.appear[0].object, "disappear") in known.pairs or (event.disappear[0].object, "appear") in known.pairs:
        return []
    if first.object == second.object:
        return []
    tokens = [token[0] for token in reading.tokens]
    one, two = tuple(tokens[first.start : first.end]), tuple(tokens[second.start : second.end])
    if {"most", "half", "part", "all"} & {*one, *two} or verb.start != first.end:
        return []
    agreed = _agreed(reading, verb, _is_plural(second))
    if agreed is None:
        return []
    middle = tuple(tokens[verb.start : verb.end])
    for start, end, new in agreed:
        middle = (*middle[: start - verb.start], *new, *middle[end - verb.start :])
    return [Edit("direction", first.start, second.end, (*two, *middle, *one), (" ".join(one), " ".join(two)))]


def _is_plural(phrase: Phrase) -> bool:
    return phrase.number == PLURAL


def _agreed(reading: Reading, verb: Phrase, plural: bool) -> list[Span] | None:
    """The swaps that make a verb agree with a subject of this number, None where its form is not known."""
    tokens = [token[0] for token in reading.tokens]
    for i in range(verb.start, verb.end):
        table = AGREE if plural else DISAGREE
        if tokens[i] in AGREE or tokens[i] in DISAGREE:
            return [(i, i + 1, (table[tokens[i]],))] if tokens[i] in table else []
    if verb.be or verb.have:
        return []
    word, wanted = tokens[verb.verb_start], ""
    if word in PRESENT and not plural:
        wanted = PRESENT[word]
    elif word in PRESENT_S and plural:
        wanted = PRESENT_S[word]
    elif word not in PRESENT and word not in PRESENT_S and not word.endswith(("ed", "came", "grew", "rose")):
        return None
    return [(verb.verb_start, verb.verb_start + 1, (wanted,))] if wanted else []


BASES = word_set(
    """
    appear emerge show disappear vanish fade replace become turn extend expand widen increase decrease
    shrink rise grow occur arise spring come give make take develop convert change transform replace
    occupy form
    """
)
PRESENT = {word: word + ("es" if word.endswith(("sh", "ch", "ss")) else "s") for word in sorted(BASES)}
PRESENT_S = {singular: plural for plural, singular in PRESENT.items()}


# Verb


def _verbs(reading: Reading, event: Event, known: Support, words: Words) -> list[Edit]:
    """ "is built" -> "is widened": a change of another kind to the same thing."""
    verb = event.verb
    changed = [*event.appear, *event.disappear]
    if verb.form != "done" or not verb.be or not verb.main or not event.subjects:
        return []
    if any(p.kind in {VERB, WITH} for p in _tail(reading, verb)):
        return []
    if _still_seen(reading, verb, False):
        return []
    old = " ".join(token[0] for token in reading.tokens[verb.verb_start : verb.end])
    choices = [set(words.other_verbs.get(phrase.object, {}).get(old, ())) for phrase in changed]
    also = _fresh_or_stale(reading, event, bool(event.appear)) if choices else None
    if also is None:
        return []
    start, end = _with_manner(reading, verb)
    return [
        Edit("verb", start, end, tuple(new.split()), (old, new), tuple(also))
        for new in sorted(set.intersection(*choices))
    ]


# Quantity


def _quantities(
    reading: Reading, phrase: Phrase, roles: list[tuple[Event, str]], known: Support, words: Words
) -> list[Edit]:
    tokens = [token[0] for token in reading.tokens]
    before = tokens[phrase.start : phrase.noun_start]
    if phrase.quantity is None or phrase.definite or phrase.group or "and" in before:
        return []
    at = reading.phrases.index(phrase)
    if at and reading.phrases[at - 1].kind == PREP:
        return []
    of = max((i for i, word in enumerate(before) if word == "of"), default=-1)
    if of >= 0 and any(w not in words.quantity_tokens and w not in {"a", "an"} for w in before[:of]):
        return []
    noun = _noun_of(tokens[phrase.noun_start : phrase.end], phrase.object, words)
    if noun is None or noun.singular is None or noun.plural is None:
        return []
    compound = tokens[
        phrase.noun_start : phrase.end - len((noun.singular if phrase.number == SINGULAR else noun.plural).split())
    ]
    rest = [w for i, w in enumerate(before) if i > of and w not in words.quantity_tokens and w not in ARTICLES]
    pairs = {(phrase.object, direction) for _, direction in roles}
    said = {f.place for f in known.facts if (f.object, f.direction) in pairs and f.place not in {None, "along_road"}}
    if any(not places_agree(a or "", b or "") for a in said for b in said):
        return []  # one at the top and one at the bottom, told by two people, may be two
    edits = []
    for target, ways in NUMBER_WORDS.items():
        low, high = RANGES[target]
        counts = {r for _, d in roles for r in known.counts.get((phrase.object, d), ())} | {count_of(phrase)}
        if any(max(low, a) <= min(high, b) for a, b in counts):
            continue
        plural = target != "one"
        if (not plural and _spread(reading, at)) or (
            plural != (phrase.number == PLURAL) and _spoken_of(reading, phrase)
        ):
            continue
        also = _subject_agreement(reading, phrase, [event for event, _ in roles], plural)
        if also is None:
            continue
        left = [w for w in rest if not (w in OF_MANY or w == "more") or (plural and phrase.number == PLURAL)]
        form = noun.plural if plural else noun.singular
        old = " ".join(w for w in before if w not in rest) + f" {' '.join(tokens[phrase.noun_start : phrase.end])}"
        for way in ways:
            new = (way, *left, *compound, *form.split())
            swap = (old, f"{way} {' '.join((*compound, form))}")
            edits.append(Edit("quantity", phrase.start, phrase.end, new, swap, tuple(also)))
    return edits


def _spread(reading: Reading, at: int) -> bool:
    """Whether what follows phrase `at` needs several things: "on both sides", "at the corners"."""
    several = {"both", "sides", "corners", "edges", "either"}
    for phrase in reading.phrases[at + 1 :]:
        if phrase.kind in {AND, STOP}:
            break
        if {t[0] for t in reading.tokens[phrase.start : phrase.end]} & several:
            return True
    return False


def _spoken_of(reading: Reading, phrase: Phrase) -> bool:
    """Whether "it" or "them" follows in the sentence, which would have to change with the number."""
    for token, _, _ in reading.tokens[phrase.end :]:
        if token in {"it", "its", "them", "their", "they"}:
            return True
        if token == ".":
            break
    return False


def _noun_of(tokens: list[str], name: str, words: Words) -> Noun | None:
    """The noun of words.yaml that ends these tokens."""
    text = f" {' '.join(tokens)}"
    for noun in words.nouns[name]:
        if any(form and text.endswith(f" {form}") for form in (noun.singular, noun.plural)):
            return noun
    return None


def _subject_agreement(reading: Reading, phrase: Phrase, events: list[Event], plural: bool) -> list[Span] | None:
    spans: list[Span] = []
    for event in events:
        if event.verb.kind != VERB or not event.verb.main or not any(s is phrase for s in event.subjects):
            continue
        agreed = _agreed(reading, event.verb, plural or len(event.subjects) > 1)
        if agreed is None:
            return None
        spans += [span for span in agreed if span not in spans]
    return spans


# Place


def _places(reading: Reading, phrase: Phrase, known: Support, words: Words) -> list[Edit]:
    """left <-> right, top <-> bottom, or both, where no reference names a place that agrees with the new one."""
    tokens = [token[0] for token in reading.tokens]
    end = phrase.noun_start if phrase.kind == NP else phrase.end
    spots = [i for i in range(phrase.start, end) if set(tokens[i].split("-")) & SIDES.keys()]
    old_place = phrase.place
    if not spots or old_place in {None, "along_road", "center"}:
        return []
    edits = []
    axes = {word in VERTICAL for i in spots for word in tokens[i].split("-") if word in SIDES}
    for flip in ({True}, {False}, {True, False}):
        if not flip <= axes:
            continue
        new_tokens = {
            i: "-".join(SIDES[w] if w in SIDES and (w in VERTICAL) in flip else w for w in tokens[i].split("-"))
            for i in spots
        }
        new_place = "_".join(
            SIDES[part] if (part in VERTICAL) in flip else part for part in (old_place or "").split("_")
        )
        if any(places_agree(new_place, place) for place in known.places):
            continue
        start, stop = spots[0], spots[-1] + 1
        new = tuple(new_tokens.get(i, tokens[i]) for i in range(start, stop))
        edits.append(Edit("place", start, stop, new, (" ".join(tokens[start:stop]), " ".join(new))))
    return edits
