"""Rendered scenes: a procedural aerial world whose truth is known, for tests, trials and the demo."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rsiccllm.facts import Fact
from rsiccllm.sources.scenes.plan import plan_scene
from rsiccllm.sources.scenes.render import paint_scene
from rsiccllm.sources.scenes.source import ScenesSource
from rsiccllm.sources.scenes.words import captions, description, single

__all__ = ["Scene", "ScenesSource", "render_scene"]


@dataclass(frozen=True)
class Scene:
    """A rendered pair and everything that is true of it.

    before, after: uint8 [size, size, 3], RGB. mask: bool [size, size], the pixels whose surface changed; a shadow or
    the light is no surface. facts: empty where nothing changed. captions: five short ones, lower case, no full stop.
    description: 60 to 90 words. single: a caption for each date alone.
    """

    before: np.ndarray
    after: np.ndarray
    mask: np.ndarray
    changed: bool
    facts: list[Fact]
    captions: list[str]
    description: str
    single: tuple[str, str]


def render_scene(seed: int, index: int, size: int = 256, easy: bool = False) -> Scene:
    """Render scene `index` of `seed`, both at least 0, at `size` pixels a side (64 to 1024).

    Exactly one of the scenes 2k and 2k + 1 changes. Facts, captions and masks are the same on every machine, and facts
    and captions at every size; pixels are within one grey level. `easy`: at most one event, clearly visible, inside one
    of the nine places, under milder differences of light.
    """
    plan = plan_scene(seed, index, easy)
    before, after, mask = paint_scene(plan, size)
    return Scene(before, after, mask, plan.changed, plan.facts, captions(plan), description(plan), single(plan))
