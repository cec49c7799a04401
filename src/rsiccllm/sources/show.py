"""`rsiccllm data show`: one page with pairs, masks and captions side by side."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from rsiccllm.errors import InputError
from rsiccllm.facts import Fact
from rsiccllm.page import Html, element, figure, join, overlay, write_page
from rsiccllm.progress import track
from rsiccllm.records import ImagePair
from rsiccllm.sources import Source, open_source

MAX_SIDE = 512
"""Pixels. Images are embedded at most this large, so that a page of a dozen pairs stays under a few megabytes."""


def show_source(spec: str, n: int, out: Path | str, split: str | None = None, seed: int = 0) -> Path:
    """Write an HTML page with `n` pairs of a source, drawn with `seed` and kept in the order of the set.

    Raises InputError for a wrong spec, an unknown split, a source without images and a pair that cannot be opened.
    """
    if n < 1:
        raise InputError(f"data show: n is {n}; expected at least 1")
    source = open_source(spec)
    pairs = source.select(split)
    chosen = sorted(random.Random(seed).sample(range(len(pairs)), min(n, len(pairs))))
    which = f"of the split {split}" if split else "of all splits"
    intro = element("p", f"{len(chosen)} of the {len(pairs):,} pairs {which}, drawn with seed {seed}.", css="quiet")
    cards = join(pair_card(source, pairs[index]) for index in track(chosen, "pairs", len(chosen)))
    return write_page(out, spec, join([intro, cards]))


def pair_card(source: Source, pair: ImagePair) -> Html:
    """One pair: both images, the second once more with the change outlined, and all that is said about it."""
    opened = source.open(pair)
    figures = [figure(opened.before, "before", MAX_SIDE), figure(opened.after, "after", MAX_SIDE)]
    badges = [pair.split, f"{opened.before.width} x {opened.before.height}"]
    changed = pair.changed
    if opened.mask is not None and opened.mask.any():
        changed = True if changed is None else changed  # an empty mask would prove nothing, see Source.changed
        share = f"{100 * opened.mask.mean():.1f}% of the pixels"
        figures.append(figure(overlay(opened.after, opened.mask), f"after, change outlined ({share})", MAX_SIDE))
    elif opened.mask is not None:
        badges.append("mask empty")
    badges.insert(1, {True: "changed", False: "unchanged", None: "change not stated"}[changed])
    words = element("div", *_words(pair), css="words")
    beside = len(figures) == 2  # the column that the outlined image would take
    return element(
        "section",
        element("div", element("h3", pair.id), *(element("span", badge, css="badge") for badge in badges), css="head"),
        element("div", *figures, *([words] if beside else []), css="figures"),
        *([] if beside else [words]),
        css="card",
    )


def _words(pair: ImagePair) -> Iterator[Html]:
    if pair.captions:
        yield _label("Captions")
        yield element("ol", *(element("li", text, css="text") for text in pair.captions))
    elif not pair.description:
        yield element("p", "no captions", css="quiet")
    if pair.description:
        yield _label("Description")
        yield element("p", pair.description, css="text")
    if pair.facts is not None:
        yield _label("Facts")
        yield element("ul", *([element("li", fact_line(fact)) for fact in pair.facts] or [element("li", "no change")]))


def fact_line(fact: Fact) -> str:
    """A fact in one line, such as "building, appear (build), two, top left"."""
    words = [fact.object, f"{fact.direction} ({fact.verb})", fact.quantity, fact.place]
    return ", ".join(word.replace("_", " ") for word in words if word)


def _label(text: str) -> Html:
    return element("div", text, css="label")
