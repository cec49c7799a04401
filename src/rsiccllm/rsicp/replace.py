"""Negatives by replacement: a right caption in which key words are swapped for others of their group.

A swap changes the object, the direction of change, the place, the quantity or the verb, and keeps the grammar: number,
articles and verb forms agree. It never becomes what any reference of the pair supports. Words that name the same thing
(house, villa, building) are one member of their group, so no swap goes between them. The finished negative is read
again by the facts parser, and is dropped unless everything it newly says is unsupported by all references.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping
from itertools import pairwise
from typing import Literal

from rsiccllm.facts import Support, facts_of, parse, support
from rsiccllm.grammar import Reading, read
from rsiccllm.keywords import similarity
from rsiccllm.phrases import STOP, VERB
from rsiccllm.records import Rejected
from rsiccllm.rsicp.swaps import ARTICLES, ORDER, STRICT, Edit, Kind, find_swaps, fits
from rsiccllm.words import Words, load_words

# The paper names the groups and not how often each is drawn. Object and direction carry a caption's meaning, so they
# come most; one swap comes more often than two, because a negative that differs in one word teaches that word.
WEIGHTS: dict[tuple[Kind, ...], float] = {
    ("object",): 3.0,
    ("direction",): 3.0,
    ("place",): 2.0,
    ("quantity",): 2.0,
    ("verb",): 1.0,
    ("object", "direction"): 0.5,
    ("object", "place"): 1.0,
    ("object", "quantity"): 0.5,
    ("direction", "place"): 0.5,
    ("direction", "quantity"): 0.5,
    ("place", "quantity"): 0.5,
}

AN = frozenset("aeiou")
EDGES = (
    "at the top",
    "at the bottom",
    "on the left",
    "on the right",
    "at the top left corner",
    "at the top right corner",
    "at the bottom left corner",
    "at the bottom right corner",
)


def replacements(
    references: list[str],
    count: int,
    seed: int,
    *,
    weights: Mapping[tuple[Kind, ...], float] | None = None,
    variant: Literal["paper", "ours"] = "paper",
    words: Words | None = None,
) -> list[Rejected]:
    """Up to `count` different negatives of `references[0]`, each wrong by all references.

    references: every right caption of the pair, the one to change first. weights: how often each combination of swaps
    is drawn (WEIGHTS). variant: "paper" swaps key words only; "ours" gives the last of two or more negatives to a
    no-change sentence where the pair changed ("no_change"), and invents a change where it did not ("invented").
    words: the word groups (`load_words(path)` adds a user's own). The same arguments give the same result everywhere.
    Fewer than `count` come back where the caption holds fewer swaps that are safely wrong; none is a valid result.
    """
    words = words or load_words()
    if not references or count < 1:
        return []
    rng = random.Random(f"{seed}:{references[0]}")
    known = support(references, words)
    right = {plain(reference) for reference in references}
    found: list[Rejected] = []
    changed = bool(known.facts)
    denied = any(parse(reference, words).changed is False for reference in references)
    room = count - 1 if variant == "ours" and changed and not denied and count > 1 else count
    if changed:
        found += _swapped(references, known, room, rng, dict(weights or WEIGHTS), words, right)
    if variant == "ours" and changed and not denied and (count > 1 or not found):
        text = _styled(rng.choice(words.no_change), references[0])
        found.append(rejected_answer(text, "no_change", [], references, words))
    if variant == "ours" and not changed and denied:
        for _ in range(count * 4):
            text = _styled(_invented(rng, words), references[0])
            if len(found) < count and plain(text) not in right:
                right.add(plain(text))
                found.append(rejected_answer(text, "invented", [], references, words))
    return found


def rejected_answer(text: str, kind: str, changed: list[str], references: list[str], words: Words) -> Rejected:
    """A negative with its similarity to the references."""
    return Rejected(text=text, kind=kind, changed=changed, similarity=round(similarity(text, references, words), 4))


def plain(text: str) -> str:
    """Lower case, single blanks, no full stops: what two texts that say the same word for word have in common."""
    return " ".join(text.lower().replace(".", " ").split())


def _styled(text: str, like: str) -> str:
    """`text` with the capital letter and full stop that `like` has."""
    text = text[0].upper() + text[1:] if like.strip()[:1].isupper() else text
    ending = " ." if like.rstrip().endswith(" .") else "." if like.rstrip().endswith(".") else ""
    return text + ending


def _swapped(
    references: list[str], known: Support, count: int, rng: random.Random,
    weights: dict[tuple[Kind, ...], float], words: Words, right: set[str],
) -> list[Rejected]:  # fmt: skip
    reference = references[0]
    reading = read(reference, words)
    own = frozenset(facts_of(reading, words).facts)
    edits = find_swaps(reading, known, rng, words)
    chances = {kinds: w for kinds, w in weights.items() if w > 0 and all(edits[kind] for kind in kinds)}
    plenty = _plenty(edits["object"])
    chances = {kinds: w * plenty if "object" in kinds else w for kinds, w in chances.items()}
    if not chances:
        return []
    # A description of many sentences takes several swaps, else most of it would stay right.
    sentences = 1 + sum(phrase.kind == STOP for phrase in reading.phrases[:-1])
    found: list[Rejected] = []
    for _ in range(count * 12):
        if len(found) == count:
            break
        kinds = list(rng.choices(list(chances), list(chances.values()))[0])
        for _ in range(rng.randint(sentences // 3, sentences // 2) if sentences > 2 else 0):
            kinds.append(rng.choice([kind for kind in ORDER if edits[kind]]))
        chosen = _choose(kinds, edits, rng)
        text = apply_edits(reading, reference, chosen)
        if not chosen or plain(text) in right or not _wrong(text, own, known, words):
            continue
        right.add(plain(text))
        name = "+".join(kind for kind in ORDER if any(edit.kind == kind for edit in chosen))
        changed = [f"{edit.said[0]} -> {edit.said[1]}" for edit in chosen]
        found.append(rejected_answer(text, f"replace:{name}", changed, references, words))
    return found


def _plenty(edits: list[Edit]) -> float:
    """How much choice of objects there is, 0..1.

    Where the references support all common objects only rare ones are left. Drawn as often as the others they would
    be negatives nearly always, and a model would learn that a pool is never right.
    """
    choice: dict[int, float] = defaultdict(float)
    for edit in edits:
        choice[edit.start] += edit.weight
    return min(1.0, max(choice.values(), default=0.0) / 4)


def _choose(kinds: list[Kind], edits: dict[Kind, list[Edit]], rng: random.Random) -> list[Edit]:
    """One edit of each kind, none touching the words of another; [] where the first kinds cannot be had together."""
    chosen: list[Edit] = []
    taken: set[int] = set()
    for kind in kinds:
        free = [e for e in edits[kind] if not any(taken & set(range(s, t)) for s, t, _ in e.spans)]
        if not free:
            continue
        edit = rng.choices(free, [e.weight for e in free])[0]
        chosen.append(edit)
        for start, end, _ in edit.spans:
            taken.update(range(start, end))
    chosen.sort(key=lambda edit: edit.start)
    return chosen if set(kinds[:1]) <= {edit.kind for edit in chosen} else []


def apply_edits(reading: Reading, text: str, chosen: list[Edit]) -> str:
    """The text with every swap made, right to left so that offsets stay true."""
    original = text
    spans = sorted((span for edit in chosen for span in edit.spans), reverse=True)
    tokens = reading.tokens
    for start, end, new in spans:
        begin, stop = tokens[start][1], tokens[end - 1][2]
        words = " ".join(new)
        if text[begin].isupper() and words:
            words = words[0].upper() + words[1:]
        if not words:  # the blank goes with the word
            begin -= begin > 0 and text[begin - 1] == " "
        text = text[:begin] + words + text[stop:]
    return _articles(text.strip(), original)


def _articles(text: str, original: str) -> str:
    """a / an by the first letter of the next word, where that is another than in the original ("an H-shaped")."""
    written = set(pairwise(original.lower().split(" ")))
    parts = text.split(" ")
    for i, word in enumerate(parts[:-1]):
        if word.lower() in ARTICLES and parts[i + 1] and (word.lower(), parts[i + 1].lower()) not in written:
            an = parts[i + 1][0].lower() in AN and not parts[i + 1].lower().startswith(("u-", "one", "uni"))
            parts[i] = (word[0] + "n") if an else word[0]
    return " ".join(parts)


def _wrong(text: str, own: frozenset[object], known: Support, words: Words) -> bool:
    """Whether the negative newly says something, and all it newly says is unsupported by every reference."""
    reading = read(text, words)
    new = [fact for fact in facts_of(reading, words).facts if fact not in own]
    if not new or any(known.supports(fact) for fact in new):
        return False
    # Two swaps together can part a verb from its object: "some houses are planted".
    said = [
        (phrase.object, " ".join(token[0] for token in reading.tokens[event.verb.verb_start : event.verb.end]))
        for event in reading.events
        if event.verb.kind == VERB and event.name != "replace"
        for phrase in (*event.appear, *event.disappear)
        if not phrase.pronoun
    ]
    return all(fits(name, name, verb, words) for name, verb in said if verb in STRICT)


def _invented(rng: random.Random, words: Words) -> str:
    """A short caption of a change, from the word groups; for pairs in which nothing changed."""
    name = rng.choice(["building", "building", "road", "tree", "parking_lot", "water", "pool", "vehicle"])
    many = rng.random() < 0.5
    nouns = [n for n in words.nouns[name] if n.write and (n.plural if many else n.singular and not n.mass)]
    noun = rng.choice(nouns)
    quantity = rng.choice(["two", "several", "some", "many"]) if many else "a"
    form = noun.plural if many else noun.singular
    coming = rng.random() < 0.6
    if name in words.made and name != "vehicle":
        verb = rng.choice(["built", "constructed"] if coming else ["removed", "demolished"])
        verb = f"{'are' if many else 'is'} {verb}"
    else:
        verb = ("appear" if coming else "disappear") + ("" if many else "s")
    if rng.random() < 0.3:
        verb = ("appear" if coming else "disappear") + ("" if many else "s")
    where = rng.choice(["", "", " along the road", " in the center", *(f" {place}" for place in EDGES)])
    if name == "road" and where == " along the road":
        where = ""
    return _articles(f"{quantity} {form} {verb}{where}", "")
