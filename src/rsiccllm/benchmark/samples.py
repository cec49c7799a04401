"""The browser of samples: a card a pair, every model's caption with its facts right, wrong and missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from rsiccllm.benchmark.fact_scores import KINDS
from rsiccllm.benchmark.results import Board, ModelResult, data_of
from rsiccllm.benchmark.texts import changed_of, texts_of
from rsiccllm.caption.overlay import redden
from rsiccllm.errors import InputError
from rsiccllm.facts import Fact, parse
from rsiccllm.page import Html, element, figure, overlay
from rsiccllm.pairs import open_image
from rsiccllm.records import ImagePair
from rsiccllm.sources.base import Source

# What is judged of a caption: an object and which way it went is one thing.
JUDGED = ("object_direction", "verb", "quantity", "place")
SIDE = 256


class Reading(NamedTuple):
    """What one caption gets right of one pair. right, wrong, missing: (kind, value) in words.

    errors: the names that the filter knows, [] where nothing is wrong.
    """

    right: list[tuple[str, str]]
    wrong: list[tuple[str, str]]
    missing: list[tuple[str, str]]
    errors: list[str]


def read_caption(caption: str, pair: ImagePair, texts: Sequence[str]) -> Reading:
    """Hold a caption against a pair and its references, `texts`.

    True is what the planted facts say, else what any reference says. Missing is what the planted facts or at least half
    of the references say and the caption does not: one person in five may name what nobody else does.
    """
    parsed = parse(caption)
    stated = [parse(text).facts for text in texts]
    true = _values(pair.facts if pair.facts is not None else [fact for facts in stated for fact in facts])
    if pair.facts is not None:
        expected = true
    else:
        counts = Counter(value for facts in stated for value in _values(facts))
        expected = {value: None for value, number in counts.items() if 2 * number >= len(stated)}
    said = _values(parsed.facts)
    right = [value for value in said if value in true]
    wrong = [value for value in said if value not in true]
    missing = [value for value in expected if value not in said]
    errors = []
    changed = changed_of(pair, texts)
    if changed is False and parsed.changed:
        errors.append("invented change")
    if changed and not parsed.changed:
        errors.append("missed change")
    if changed is not False and parsed.changed:
        errors += dict.fromkeys(f"wrong {_kind(kind)}" for kind, _ in wrong)
        errors += dict.fromkeys(f"missing {_kind(kind)}" for kind, _ in missing)
    if parsed.changed is None:
        errors.append("says neither")
    return Reading(right, wrong, missing, errors)


def choose(board: Board, pairs: Sequence[ImagePair], count: int) -> list[ImagePair]:
    """`count` pairs that show every kind of error: by turns one of each (model, error) and one without any."""
    groups: dict[tuple[str, str], list[ImagePair]] = {}
    for pair in pairs:
        for result in board.results:
            for error in _reading(result, pair).errors or ["nothing wrong"]:
                groups.setdefault((result.name, error), []).append(pair)
    chosen: dict[str, ImagePair] = {}
    for turn in range(len(pairs)):
        for members in groups.values():
            if turn < len(members) and len(chosen) < count:
                chosen.setdefault(members[turn].id, members[turn])
        if len(chosen) >= min(count, len(pairs)):
            break
    return [pair for pair in pairs if pair.id in chosen]


def browser(board: Board, count: int) -> Html:
    """Filters and cards for `count` pairs of a board; one line instead where its data is not here any more."""
    try:
        source, every = data_of(board)
        pairs = [pair for pair in every if all(pair.id in result.said for result in board.results)]
        chosen = choose(board, pairs, count)
        cards = [_card(board, source, pair) for pair in chosen]
    except InputError as error:
        return element("p", f"No samples: the data cannot be read here ({error}).", css="quiet")
    errors = sorted({error for pair in chosen for r in board.results for error in _reading(r, pair).errors})
    controls = element(
        "div",
        _select("model", "any model", [result.name for result in board.results]),
        _select("error", "any answer", ["nothing wrong", *errors]),
        _select("change", "changed or not", ["changed", "unchanged"]),
        element("output", f"{len(cards)} of {len(pairs):,} pairs", css="quiet", attributes={"data-of": len(pairs)}),
        css="filters",
    )
    legend = element(
        "p",
        *(element("span", word, css=f"chip {css}") for word, css in
          (("right", "right"), ("wrong", "wrong"), ("missing", "missing"))),
        " against the planted facts where they are known, else: right is what any reference says, missing what at "
        "least half of them say.",
        css="quiet",
    )  # fmt: skip
    return element("div", legend, controls, *cards, css="browser")


def _card(board: Board, source: Source, pair: ImagePair) -> Html:
    opened = source.open(pair)
    figures = [figure(opened.before, "before", SIDE), figure(opened.after, "after", SIDE)]
    if opened.mask is not None and opened.mask.any():
        figures.append(figure(overlay(opened.after, opened.mask), "what changed, by the mask", SIDE))
    for result in board.results:
        if name := result.said[pair.id].get("change_map"):
            seen = _change_map(result.folder / name, opened.after.size)
            figures.append(figure(redden(opened.after, seen), f"where {result.name} saw change", SIDE))
    texts = texts_of(pair, board.settings["task"])
    state = {True: "changed", False: "unchanged", None: "change not stated"}[changed_of(pair, texts)]
    found = [
        f"{result.name}|{error}"
        for result in board.results
        for error in _reading(result, pair).errors or ["nothing wrong"]
    ]
    return element(
        "section",
        element("div", element("h3", pair.id), element("span", state, css="badge"), css="head"),
        element("div", *figures, css="figures four"),
        element("div", "References", css="label"),
        element("ol", *(element("li", text, css="text") for text in texts)),
        *(_answer(result, pair) for result in board.results),
        css="card sample",
        attributes={"data-found": "\n".join(found), "data-change": state},
    )


def _answer(result: ModelResult, pair: ImagePair) -> Html:
    caption = result.said[pair.id]["caption"]
    reading = _reading(result, pair)
    chips = [
        element("span", _chip(kind, text), css=f"chip {css}", attributes={"title": f"{css}: {_kind(kind)}"})
        for css, values in (("right", reading.right), ("wrong", reading.wrong), ("missing", reading.missing))
        for kind, text in values
    ]
    flag = [
        element("span", error, css="chip wrong") for error in reading.errors if error.endswith(("change", "neither"))
    ]
    return element(
        "div",
        element("div", result.name, css="label"),
        element("p", caption.strip() or "(nothing)", css="text"),
        element("p", *flag, *chips) if flag or chips else "",
        css="answer",
        attributes={"data-model": result.name},
    )


def _reading(result: ModelResult, pair: ImagePair) -> Reading:
    return read_caption(result.said[pair.id]["caption"], pair, texts_of(pair, result.settings["task"]))


def _values(facts: Sequence[Fact]) -> dict[tuple[str, str], None]:
    """(kind, value in words) of facts, each once, in the order in which they are said."""
    return {(kind, text): None for fact in facts for kind in JUDGED for text in _words(fact, kind)}


def _words(fact: Fact, kind: str) -> Iterator[str]:
    value = KINDS[kind](fact)
    if value is not None:
        yield " ".join(map(str, value) if isinstance(value, tuple) else [str(value)]).replace("_", " ")


def _chip(kind: str, text: str) -> str:
    return {"verb": "verb: ", "quantity": "how many: ", "place": "where: "}.get(kind, "") + text


def _kind(kind: str) -> str:
    return "object" if kind == "object_direction" else kind


def _select(name: str, every: str, options: Sequence[str]) -> Html:
    choices = [element("option", every, attributes={"value": ""}), *(element("option", text) for text in options)]
    return element("select", *choices, attributes={"name": name, "aria-label": name})


def _change_map(path: Path, size: tuple[int, int]) -> np.ndarray:
    image = open_image(path).convert("L")
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR), dtype=np.float32) / 255
