"""Of several answers about one pair, the one that the model's own map bears out best.

The map knows where a thing happened better than the words do: many captions name no place and some a wrong one, where
most of the fact's map lies in one ninth of the image. `bench/embedded.py --candidates` measures the gain.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from rsiccllm.caption.result import Caption
from rsiccllm.rsici.prior import THIRDS

LEAST = 1e-3
"""What a share or a chance counts as at least: a logarithm needs one."""

COVER = 8.0
"""How much it counts that what changed is named, beside that what is named changed."""

RIGHT, WRONG = 1.5, -1.5
"""For each place that the map bears out, and for each that it denies. Chosen, as COVER, on 240 scenes of seed 96."""

MOST = 0.55
"""The share of a fact's map that a ninth must hold for the fact to be there: what scenes ask of it to say a place."""


def borne_out(said: Caption) -> float:
    """How well the map bears out a caption with maps; higher is better, and compares answers about one pair alone.

    The log probability of the text, the log of the highest value of each named fact's own map, COVER times the log of
    the share of all change that the named facts make up, and RIGHT or WRONG for each place. Of a text that denies any
    change, the log of one minus the map's highest value stands for all but the first; one that tells of a change and
    names none has LEAST of everything.
    """
    assert said.change_map is not None
    total = math.log(max(said.probability or 0.0, LEAST))
    if said.changed is False:
        return total + (1 + COVER) * math.log(max(1 - float(said.change_map.max()), LEAST))
    if not said.facts:
        return total + (1 + COVER) * math.log(LEAST)
    maps = {(fact.object, fact.direction): said.map_of(fact.object, fact.direction) for fact in said.facts}
    named = 0.0
    for seen in maps.values():
        assert seen is not None
        total += math.log(max(float(seen.max()), LEAST))
        named += float(seen.sum())
    total += COVER * math.log(min(max(named / (float(said.change_map.sum()) + LEAST), LEAST), 1.0))
    for fact in said.facts:
        seen = maps[fact.object, fact.direction]
        if fact.place in THIRDS and seen is not None:
            total += RIGHT if _share(seen, THIRDS.index(fact.place)) >= MOST else WRONG
    return total


def _share(seen: np.ndarray, ninth: int) -> float:
    """How much of a fact's map, where it is not faint, lies in a ninth of the image: 0..1; 0 for an empty map."""
    strong = np.where(seen > 0.1 * seen.max(), seen, 0)
    cells = cv2.resize(strong, (3, 3), interpolation=cv2.INTER_AREA)
    whole = float(cells.sum())
    return float(cells.flat[ninth]) / whole if whole else 0.0
