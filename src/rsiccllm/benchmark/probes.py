"""Probes: the same pairs, disturbed in one way and to a known degree, with what is then true of them.

A probe turns a case (a pair, its references, its facts) at a strength into another. Light, season, blur, compression,
a shift, a gap in the data change nothing on the ground: a good model's scores stay flat. Swapped dates, the same image
twice, rotations and flips change the truth in a known way, and the truth turns along. What disturbs the image alone is
done to the second image, as between two dates.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageFilter

from rsiccllm.benchmark.texts import changed_of
from rsiccllm.facts import OPPOSITE, Fact, parse
from rsiccllm.pairs import OpenedPair
from rsiccllm.records import ImagePair
from rsiccllm.turning import Turn, turn_caption, turn_fact, turn_pair
from rsiccllm.words import load_words


@dataclass(frozen=True)
class Case:
    """A pair and what is true of it.

    references: right captions, () where none is known. facts: what changed, [] for nothing, None where it is not known.
    changed: None where it is not known.
    """

    pair: OpenedPair
    references: tuple[str, ...]
    facts: tuple[Fact, ...] | None
    changed: bool | None


def case_of(record: ImagePair, opened: OpenedPair) -> Case:
    """A pair as it is. Its facts are the planted ones, else all that its captions state."""
    facts: tuple[Fact, ...] | None = None
    if record.facts is not None:
        facts = tuple(record.facts)
    changed = changed_of(record, record.captions)
    if record.facts is None and record.captions and changed is not None:
        stated = [fact for text in record.captions for fact in parse(text).facts]
        facts = tuple(dict.fromkeys(stated)) if changed else ()
    return Case(opened, tuple(record.captions), facts, changed)


@dataclass(frozen=True)
class Probe:
    """One way to disturb a pair.

    what: one line. unit: of the strength. strengths: all above 0; 0 is the pair as it is. turn: (case, strength,
    another case, for probes that need another pair) -> the disturbed case.
    """

    name: str
    what: str
    unit: str
    strengths: tuple[float, ...]
    turn: Callable[[Case, float, Case], Case]


def swap_dates(case: Case, strength: float, other: Case) -> Case:
    """After as before: what appeared disappears. The references say the opposite of the truth and are dropped."""
    before, after, mask = case.pair
    references = case.references if case.changed is False else ()
    facts = None if case.facts is None else tuple(map(undone, case.facts))
    return replace(case, pair=OpenedPair(after, before, mask), references=references, facts=facts)


def undone(fact: Fact) -> Fact:
    """What the change is when the dates are swapped."""
    verb = {"build": "remove", "remove": "build", "appear": "disappear", "disappear": "appear", "extend": "reduce",
            "reduce": "extend"}.get(fact.verb, fact.verb)  # fmt: skip
    return Fact.model_validate({**fact.model_dump(), "direction": OPPOSITE[fact.direction], "verb": verb})


def same_twice(case: Case, strength: float, other: Case) -> Case:
    """The first image as both: nothing changed."""
    before, _, mask = case.pair
    nothing = None if mask is None else np.zeros_like(mask)
    return Case(OpenedPair(before, before, nothing), load_words().no_change, (), False)


def unrelated(case: Case, strength: float, other: Case) -> Case:
    """Another pair's second image: it is not known what changed, but not nothing."""
    second = other.pair.after
    if second.size != case.pair.before.size:
        second = second.resize(case.pair.before.size, Image.Resampling.BICUBIC)
    return Case(OpenedPair(case.pair.before, second, None), (), None, True)


def rotate(case: Case, strength: float, other: Case) -> Case:
    """Both images by 90, 180 or 270 degrees counter-clockwise; places in captions and facts turn along."""
    turns: dict[float, Turn] = {90: "rotate_90", 180: "rotate_180", 270: "rotate_270"}
    return _turned(case, turns[strength])


def flip(case: Case, strength: float, other: Case) -> Case:
    """Both images mirrored: 1 left to right, 2 top to bottom; places in captions and facts turn along."""
    return _turned(case, "flip_left_right" if strength == 1 else "flip_top_bottom")


def light(case: Case, strength: float, other: Case) -> Case:
    """The second image darker: its values times 1 - strength."""
    return _second(case, np.asarray(case.pair.after, np.float32) * (1 - strength))


def season(case: Case, strength: float, other: Case) -> Case:
    """The second image's colours towards a dry season: red gains, blue and green fade."""
    scale = 1 + strength * np.array([0.30, -0.10, -0.35], np.float32)
    return _second(case, np.asarray(case.pair.after, np.float32) * scale)


def blur(case: Case, strength: float, other: Case) -> Case:
    """A Gaussian blur of the second image."""
    before, after, mask = case.pair
    return replace(case, pair=OpenedPair(before, after.filter(ImageFilter.GaussianBlur(strength)), mask))


def jpeg(case: Case, strength: float, other: Case) -> Case:
    """The second image written as JPEG of quality 100 - strength and read again."""
    buffer = io.BytesIO()
    case.pair.after.save(buffer, "JPEG", quality=round(100 - strength))
    before, _, mask = case.pair
    return replace(case, pair=OpenedPair(before, Image.open(buffer).convert("RGB"), mask))


def shift(case: Case, strength: float, other: Case) -> Case:
    """The second image moved to the right by some pixels; what it leaves behind repeats its edge."""
    pixels = np.asarray(case.pair.after)
    step = round(strength)
    moved = np.concatenate([np.repeat(pixels[:, :1], step, axis=1), pixels[:, : pixels.shape[1] - step]], axis=1)
    return _second(case, moved)


def black(case: Case, strength: float, other: Case) -> Case:
    """A gap in the second image: its right part, this share of the width, is black. A gap is no change."""
    pixels = np.asarray(case.pair.after).copy()
    pixels[:, round(pixels.shape[1] * (1 - strength)) :] = 0
    return _second(case, pixels)


PROBES = (
    Probe("swapped_dates", "the second image first: what was built is now removed", "0 or 1", (1,), swap_dates),
    Probe("same_twice", "the first image as both: nothing changed", "0 or 1", (1,), same_twice),
    Probe("unrelated", "another pair's second image", "0 or 1", (1,), unrelated),
    Probe("rotation", "both images turned, places along", "degrees", (90, 180, 270), rotate),
    Probe("flip", "both images mirrored, places along", "1 left-right, 2 top-bottom", (1, 2), flip),
    Probe("light", "second image darker", "share of light lost", (0.1, 0.2, 0.4, 0.6), light),
    Probe("season", "second image's colours of a dry season", "share of the cast", (0.25, 0.5, 1), season),
    Probe("blur", "second image blurred", "radius, pixels", (1, 2, 4), blur),
    Probe("jpeg", "second image compressed", "100 - quality", (10, 30, 50, 70, 90), jpeg),
    Probe("shift", "second image moved to the right", "pixels", (1, 2, 4, 8), shift),
    Probe("black_part", "right part of the second image black", "share of the width", (0.25, 0.5), black),
)


def _turned(case: Case, turn: Turn) -> Case:
    return Case(
        turn_pair(case.pair, turn),
        tuple(turn_caption(text, turn) for text in case.references),
        None if case.facts is None else tuple(turn_fact(fact, turn) for fact in case.facts),
        case.changed,
    )


def _second(case: Case, values: np.ndarray) -> Case:
    """The case with another second image, [height, width, 3], rounded and cut to 0..255."""
    image = Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))
    return replace(case, pair=OpenedPair(case.pair.before, image, case.pair.mask))
