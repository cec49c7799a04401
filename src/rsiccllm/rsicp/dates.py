"""The same two images in the other order: what came has gone, and the caption can be turned round with them."""

from __future__ import annotations

import random

from rsiccllm.facts import OPPOSITE, Fact, Support, facts_of, parse
from rsiccllm.grammar import read
from rsiccllm.rsicp.replace import apply_edits
from rsiccllm.rsicp.swaps import Edit, find_swaps
from rsiccllm.words import Words, load_words

_NOTHING = Support(frozenset(), frozenset(), frozenset(), {})


def reversed_caption(text: str, words: Words | None = None) -> str | None:
    """The caption for the two dates swapped: every direction turned, all else kept. None where that cannot be done.

    "Two houses are built on the left" becomes "two houses are removed on the left". The result is read again: it must
    say the same objects, quantities and places, each with the other direction.
    """
    words = words or load_words()
    reading = read(text, words)
    facts = facts_of(reading, words).facts
    if not facts:
        return None
    by_start: dict[int, list[Edit]] = {}
    for edit in find_swaps(reading, _NOTHING, random.Random(0), words)["direction"]:
        by_start.setdefault(edit.start, []).append(edit)
    rng = random.Random(text)
    chosen = [rng.choice(options) for _, options in sorted(by_start.items())]
    turned = apply_edits(reading, text, chosen)
    wanted = sorted(map(_said, facts), key=str)
    found = sorted(
        ((thing, OPPOSITE[way], *rest) for thing, way, *rest in map(_said, parse(turned, words).facts)), key=str
    )
    return turned if found == wanted else None


def _said(fact: Fact) -> tuple[str, str, str | None, str | None]:
    return fact.object, fact.direction, fact.quantity, fact.place
