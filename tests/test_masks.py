from __future__ import annotations

import numpy as np

from rsiccllm.masks import OBJECTS, decode, encode


def test_every_pair_of_objects_comes_back() -> None:
    # What went and what came, each of the ten objects or none, one pixel each.
    objects = np.stack(np.meshgrid(range(len(OBJECTS) + 1), range(len(OBJECTS) + 1), indexing="ij")).astype(np.uint8)
    changed = np.ones(objects.shape[1:], bool)
    values = encode(changed, objects)
    assert values.min() > 0, "a changed pixel is never 0"
    assert values[0, 0] == 255, "changed, and nobody knows what"
    assert len(np.unique(values)) == values.size
    np.testing.assert_array_equal(decode(values), objects)


def test_by_hand() -> None:
    # A tree (third) went and a building (first) came: 1 + 11 x 3 + 1.
    objects = np.array([[[3, 3]], [[1, 1]]], np.uint8)
    assert encode(np.array([[True, False]]), objects).tolist() == [[35, 0]]
    assert decode(np.array([[35, 0, 255, 122, 200]], np.uint8)).tolist() == [[[3, 0, 0, 0, 0]], [[1, 0, 0, 0, 0]]]
