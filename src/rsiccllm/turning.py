"""Turning a pair: when its images are rotated or flipped, what is said of places in them turns along.

The eight ways to lay a square on itself. A caption's places ("in the upper left corner", "on the right", "northern")
become those of the turned image, by words of the same kind; "horizontal" and "vertical" change where the axes do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from PIL import Image

from rsiccllm.facts import Fact
from rsiccllm.pairs import OpenedPair
from rsiccllm.phrases import known_phrases
from rsiccllm.words import TOKEN, Words, load_words

Turn = Literal[
    "none", "rotate_90", "rotate_180", "rotate_270", "flip_left_right", "flip_top_bottom", "transpose", "transverse"
]
"""Rotations are counter-clockwise, as PIL's; transpose mirrors at the diagonal from the top left, transverse at the
other one."""

TURNS: tuple[Turn, ...] = get_args(Turn)

_PIL = {
    "rotate_90": Image.Transpose.ROTATE_90,
    "rotate_180": Image.Transpose.ROTATE_180,
    "rotate_270": Image.Transpose.ROTATE_270,
    "flip_left_right": Image.Transpose.FLIP_LEFT_RIGHT,
    "flip_top_bottom": Image.Transpose.FLIP_TOP_BOTTOM,
    "transpose": Image.Transpose.TRANSPOSE,
    "transverse": Image.Transpose.TRANSVERSE,
}

EDGE_NAMES = ("top", "bottom", "left", "right")

# Where each edge goes, in image axes: what was at the top is at the left after a quarter turn counter-clockwise.
_EDGES: dict[Turn, dict[str, str]] = {
    "none": {edge: edge for edge in EDGE_NAMES},
    "rotate_90": {"top": "left", "left": "bottom", "bottom": "right", "right": "top"},
    "rotate_180": {"top": "bottom", "bottom": "top", "left": "right", "right": "left"},
    "rotate_270": {"top": "right", "right": "bottom", "bottom": "left", "left": "top"},
    "flip_left_right": {"top": "top", "bottom": "bottom", "left": "right", "right": "left"},
    "flip_top_bottom": {"top": "bottom", "bottom": "top", "left": "left", "right": "right"},
    "transpose": {"top": "left", "left": "top", "bottom": "right", "right": "bottom"},
    "transverse": {"top": "right", "right": "top", "bottom": "left", "left": "bottom"},
}
_AXES_CHANGE = frozenset(turn for turn, edges in _EDGES.items() if edges["top"] in {"left", "right"})

# Words for the four edges that go together: top, bottom, left, right. The first row with a word decides what stands for
# the edges of the other axis, where the phrase itself has no word for that axis.
_ROWS = (
    ("top", "bottom", "left", "right"),
    ("upper", "lower", "left", "right"),
    ("uppermost", "bottommost", "leftmost", "rightmost"),
    ("northern", "southern", "western", "eastern"),
    ("north", "south", "west", "east"),
    ("top", "bottom", "left-hand", "right-hand"),
    ("top", "botom", "left", "right"),
)
_EDGE_OF = {word: edge for row in _ROWS for edge, word in zip(EDGE_NAMES, row, strict=True)}
_AXES = {"horizontal": "vertical", "horizontally": "vertically"}
_AXES |= {new: old for old, new in _AXES.items()}


def turn_pair(pair: OpenedPair, turn: Turn) -> OpenedPair:
    """Both images and the mask, turned. A quarter turn exchanges width and height."""
    if turn == "none":
        return pair
    how = _PIL[turn]
    mask = None if pair.mask is None else turn_pixels(pair.mask, turn)
    return OpenedPair(pair.before.transpose(how), pair.after.transpose(how), mask)


def turn_pixels(values: np.ndarray, turn: Turn) -> np.ndarray:
    """An array [height, width], bool or uint8, turned as `turn_pair` turns images."""
    return values if turn == "none" else np.asarray(Image.fromarray(values).transpose(_PIL[turn]), dtype=values.dtype)


def turn_place(place: str | None, turn: Turn) -> str | None:
    """A place of `facts.Place`, or None, in the turned image; "center" and "along_road" stay."""
    if place is None or place in {"center", "along_road"}:
        return place
    turned = [_EDGES[turn][part] for part in place.split("_")]
    return "_".join(sorted(turned, key=lambda part: part in {"left", "right"}))  # top or bottom first


def turn_fact(fact: Fact, turn: Turn) -> Fact:
    """The fact with its place in the turned image."""
    return Fact.model_validate({**fact.model_dump(), "place": turn_place(fact.place, turn)})


def turn_caption(caption: str, turn: Turn, words: Words | None = None) -> str:
    """What the caption says, of the turned image. Everything but words of place stays as it is written."""
    if turn == "none":
        return caption
    words = words or load_words()
    tokens = [(match.group().lower(), match.start(), match.end()) for match in TOKEN.finditer(caption)]
    edits: list[tuple[int, int, str]] = []
    for item, first, last in known_phrases(tokens, words):
        start, end = tokens[first][1], tokens[last - 1][2]
        if item.kind == "position" and not _no_place(tokens, first, last):
            edits.append((start, end, _turned(caption[start:end], turn)))
        elif item.kind == "word" and turn in _AXES_CHANGE and caption[start:end].lower() in _AXES:
            edits.append((start, end, _AXES[caption[start:end].lower()]))
    for start, end, new in reversed(edits):
        before, after = caption[:start], caption[end:]
        if caption[start].isupper():
            new = new[0].upper() + new[1:]
        caption = _with_article(before, new) + new + after
    return caption


_HAVE = {"have", "has", "had", "having"}
_BESIDE = {"next", "beside", "behind", "by", "along", "near", "at"}


def _no_place(tokens: Sequence[tuple[str, int, int]], first: int, last: int) -> bool:
    """Whether "left" is a verb ("many cars have left") or "right" says how near ("right next to the road")."""
    word = " ".join(token for token, _, _ in tokens[first:last])
    ahead = tokens[first - 1][0] if first else ""
    if word == "left":
        return ahead in _HAVE
    behind = tokens[last][0] if last < len(tokens) else ""
    return word == "right" and ahead not in {"the", "upper", "lower"} and behind in _BESIDE


def _turned(phrase: str, turn: Turn) -> str:
    """A phrase of places, such as "upper left", "left-bottom", "northwest", "middle right", turned."""
    low = phrase.lower()
    found = _cut(low)
    edges = [_EDGES[turn][_EDGE_OF[word]] for word in found]
    across = [word for word in found if _EDGE_OF[word] in {"left", "right"}]
    along = [word for word in found if word not in across]
    new = []
    for edge in edges:
        own, other = (across, along) if edge in {"left", "right"} else (along, across)
        row = next(row for row in _ROWS if (own or other)[0] in row)
        new.append(row[EDGE_NAMES.index(edge)])
    if len(found) == 2 and turn in _AXES_CHANGE:
        new.reverse()  # "upper left" and not "left upper": what stood first keeps its axis
    out, at = "", 0
    for word, turned in zip(found, new, strict=True):
        place = low.index(word, at)
        out += low[at:place] + turned
        at = place + len(word)
    return out + low[at:]


def _cut(phrase: str) -> list[str]:
    """The words for edges in a phrase, in order, longest first where several begin at one letter."""
    every = sorted(_EDGE_OF, key=len, reverse=True)
    found, at = [], 0
    while at < len(phrase):
        word = next((word for word in every if phrase.startswith(word, at)), None)
        if word:
            found.append(word)
        at += len(word) if word else 1
    return found


def _with_article(before: str, new: str) -> str:
    """The text before a new word, with "a" or "an" to fit it."""
    words = before.rstrip()
    gap = before[len(words) :]
    for old in ("an", "a"):
        if gap and words.lower().endswith(old) and (len(words) == len(old) or not words[-len(old) - 1].isalnum()):
            article = "an" if new[0] in "aeiou" else "a"
            if words[-len(old)].isupper():
                article = article.capitalize()
            return words[: -len(old)] + article + gap
    return before
