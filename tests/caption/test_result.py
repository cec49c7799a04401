from __future__ import annotations

import numpy as np

from rsiccllm.caption.result import Caption
from rsiccllm.model.difference import FACTS


def test_maps_of_facts_by_hand() -> None:
    chance = np.full((2, 4), 0.5, np.float32)
    named = np.zeros((len(FACTS), 1, 2), np.float16)
    named[FACTS.index(("building", "appear"))] = [[0.5, 0]]
    named[FACTS.index(("building", "disappear"))] = [[0.25, 0]]
    named[FACTS.index(("tree", "disappear"))] = [[0.25, 1]]
    caption = Caption("a house is built", 0.9, change_map=chance, fact_maps=named)
    came, either, trees = (caption.map_of(*what) for what in (("building", "appear"), ("building",), ("tree",)))
    assert came is not None
    assert came.shape == chance.shape
    # Two cells over four columns: the outer ones are a cell's own, the others a quarter of the way to the next.
    np.testing.assert_allclose(came, [[0.25, 0.1875, 0.0625, 0]] * 2, atol=1e-6)
    np.testing.assert_allclose(either, [[0.375, 0.28125, 0.09375, 0]] * 2, atol=1e-6)
    np.testing.assert_allclose(either + trees, chance, atol=1e-6)  # type: ignore[operator]
    assert Caption("a house is built", 0.9).map_of("building") is None
