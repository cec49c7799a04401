"""What the captioner answers with: the text, how sure it is, where it saw change, and what the text says."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import PIL.Image

from rsiccllm.facts import Direction, Fact, Object, Parsed, parse

THRESHOLD = 0.5
"""A pixel of the change map counts as changed from here on; the benchmark's masks are held against the same."""

LOW = 0.5
"""Confidence under which a caption is more likely wrong than right; it is then shown as uncertain."""

STRANGE = 0.2
"""Familiarity under which images are said to be unlike those of training: four times as far off as is usual there; one
of a hundred pairs of training comes to 0.3."""

SPECK = 24
"""Parts of the map of fewer pixels get no box: at 0.5 m a square of 2.5 m, smaller than any building."""


class Box(NamedTuple):
    """A connected part of the change map: pixels of the image, right and bottom exclusive. score: its highest value."""

    left: int
    top: int
    right: int
    bottom: int
    score: float


@dataclass(frozen=True, eq=False)
class Caption:
    """What a model says of one pair.

    caption: the text. probability: geometric mean of its tokens' probabilities, 0..1, raw; None where the model does
    not give them. confidence: the chance that the caption is right, 0..1, by the calibration that came with the model;
    None without one. change_map: [height, width] float32 in 0..1, where the model saw change, of the first image's
    size, or None where the model has no map. candidates: the caption and other answers, where several were asked for.
    fact_maps: [FACTS, rows, cols] float16 in 0..1 in cells of the model's map, which fact it is where there is change
    (`rsiccllm.model.difference.FACTS`), or None; `map_of` reads it. agreement: of several answers, how far the others
    say the same, 0..1 (`rsiccllm.caption.others.Others.agreement`). familiarity: how like what the model was trained on
    the images are, 0..1, a half being usual (`rsiccllm.caption.familiarity`); None where the model does not know.
    """

    caption: str
    probability: float | None
    confidence: float | None = None
    change_map: np.ndarray | None = None
    candidates: tuple[str, ...] = ()
    fact_maps: np.ndarray | None = None
    agreement: float | None = None
    familiarity: float | None = None

    def map_of(self, thing: Object, direction: Direction | None = None) -> np.ndarray | None:
        """Where `thing` appeared or disappeared (None: either): [height, width] float32 in 0..1; None without a map."""
        from rsiccllm.model.difference import FACTS  # torch, which reading a stored caption needs not

        if self.change_map is None or self.fact_maps is None:
            return None
        chosen = [at for at, (named, way) in enumerate(FACTS) if named == thing and direction in (None, way)]
        share = PIL.Image.fromarray(self.fact_maps[chosen].sum(0, dtype=np.float32))
        height, width = self.change_map.shape
        wide = np.asarray(share.resize((width, height), PIL.Image.Resampling.BILINEAR))
        return self.change_map * wide.clip(0, 1)

    @property
    def clues(self) -> tuple[float, ...]:
        """What speaks for the text, each 0..1: its probability, and from a model with maps the support of its weakest
        fact and the share of it.

        Support: the highest value of the fact's own map (`map_of`). Share: of all that changed in the map, how much is
        that fact. Of a text that denies any change both are one minus the map's highest value; of one that names no
        fact, that value. Of several answers their agreement is a clue more, and so is the images' familiarity.
        """
        agreed = tuple(clue for clue in (self.agreement, self.familiarity) if clue is not None)
        if self.change_map is None or self.fact_maps is None:
            return self.probability or 0.0, *agreed
        highest = float(self.change_map.max())
        support = share = highest if self.changed else 1 - highest
        for thing, direction in {(fact.object, fact.direction) for fact in self.facts}:
            seen = self.map_of(thing, direction)
            assert seen is not None
            support = min(support, float(seen.max()))
            share = min(share, float(seen.sum() / (self.change_map.sum() + 1e-3)))
        return self.probability or 0.0, support, share, *agreed

    @cached_property
    def _parsed(self) -> Parsed:
        return parse(self.caption)

    @property
    def facts(self) -> list[Fact]:
        """What the text says, read by fixed rules (`rsiccllm.facts`)."""
        return self._parsed.facts

    @property
    def changed(self) -> bool | None:
        """Whether the text names a change (True), denies one (False), or neither (None)."""
        return self._parsed.changed

    @property
    def uncertain(self) -> bool:
        """Whether the calibrated confidence is low (under `LOW`). False where there is no calibration to ask."""
        return self.confidence is not None and self.confidence < LOW

    @property
    def strange(self) -> bool:
        """Whether the images are unlike what the model was trained on (`STRANGE`). False where it cannot tell."""
        return self.familiarity is not None and self.familiarity < STRANGE

    @cached_property
    def boxes(self) -> list[Box]:
        """Connected parts of the change map at `THRESHOLD`, largest first, without specks; empty without a map."""
        return [] if self.change_map is None else boxes_of(self.change_map)

    def to_dict(self) -> dict[str, Any]:
        """For JSON: all but the map itself."""
        return {
            "caption": self.caption,
            "changed": self.changed,
            "confidence": None if self.confidence is None else round(self.confidence, 4),
            "uncertain": self.uncertain,
            "probability": None if self.probability is None else round(self.probability, 4),
            "facts": [fact.model_dump() for fact in self.facts],
            "boxes": [[*box[:4], round(box.score, 4)] for box in self.boxes],
            **({} if self.agreement is None else {"agreement": round(self.agreement, 4)}),
            **(
                {} if self.familiarity is None else {"familiarity": round(self.familiarity, 4), "strange": self.strange}
            ),
            **({"candidates": list(self.candidates)} if self.candidates else {}),
        }


def boxes_of(change_map: np.ndarray, threshold: float = THRESHOLD, speck: int = SPECK) -> list[Box]:
    """Boxes of the connected parts of `change_map` [height, width] that reach `threshold`; corners do not connect."""
    import cv2  # 0.1 s that a caption without boxes need not wait for

    count, labels, stats, _ = cv2.connectedComponentsWithStats(
        (change_map >= threshold).astype(np.uint8), connectivity=4
    )
    found = []
    for label in range(1, count):
        left, top, width, height, area = (int(value) for value in stats[label])
        if area >= speck:
            part = np.s_[top : top + height, left : left + width]
            score = float(change_map[part][labels[part] == label].max())
            found.append((area, Box(left, top, left + width, top + height, score)))
    return [box for _, box in sorted(found, key=lambda item: (-item[0], item[1]))]
