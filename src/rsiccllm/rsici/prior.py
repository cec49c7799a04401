"""The mask prior: what a change mask says in words and numbers, before anybody has described the pair.

A mask is a free, exact statement of where something changed. It is read as regions (connected components, specks
dropped), each with its share of the image, its box, its place in words and its shape; where the mask has classes, or
the set states facts, also with what changed there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rsiccllm.facts import Known, Place

Shape = Literal["compact", "elongated", "irregular"]
Spread = Literal["none", "single", "clustered", "scattered", "throughout"]


@dataclass(frozen=True, slots=True)
class Region:
    """One connected region of a mask.

    share: of the image's pixels, 0..1. box: (left, top, right, bottom) in pixels, right and bottom exclusive. place:
    the one of nine that holds most of it. shape: "elongated" where it is at least three times as long as wide,
    "irregular" where it fills less than half of its tilted box, else "compact". known: what changed there, where the
    mask's classes say it; empty where they do not.
    """

    share: float
    box: tuple[int, int, int, int]
    place: Place
    shape: Shape
    known: tuple[Known, ...] = ()


@dataclass(frozen=True, slots=True)
class Prior:
    """What is known of the change in a pair before it is described.

    width, height: of the images, pixels. share: of the pixels that the mask marks, specks included, 0..1. regions:
    largest first. specks: components under the threshold, not among the regions. spread: how the regions lie. zones:
    for each of the nine places the share of all marked pixels that lies in it; 0 for those where nothing changed.
    known: every change that is known, of the whole pair; from the mask's classes, from facts that the set states, or
    from its captions. complete: nothing else changed than what `known` says. scope: the only kind of object that the
    set's masks mark ("building"), None where they mark every change. changed: None where an empty mask proves nothing.
    """

    width: int
    height: int
    share: float = 0.0
    regions: tuple[Region, ...] = ()
    specks: int = 0
    spread: Spread = "none"
    zones: tuple[tuple[Place, float], ...] = ()
    known: tuple[Known, ...] = ()
    complete: bool = False
    scope: str | None = None
    changed: bool | None = None
    masked: bool = False
    """Whether there is a mask at all: with none, places and counts come from `known` alone."""
