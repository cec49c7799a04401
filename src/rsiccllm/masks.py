"""What a mask can say beyond where: which object went and which came, pixel by pixel, in one grey PNG.

A coded mask is 0 where nothing changed and 255 where something did that is not known. Any other value is
1 + 11 x (number of what went) + (number of what came), the number of an object being its place in `facts.Object`, from
1, and 0 for none. So a coded mask is still non-zero exactly where something changed.
"""

from __future__ import annotations

from typing import get_args

import numpy as np

from rsiccllm.facts import Object

OBJECTS: tuple[Object, ...] = get_args(Object)
_BASE = len(OBJECTS) + 1
UNKNOWN = 255


def encode(changed: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """A coded mask, uint8 [height, width].

    changed: bool [height, width]. objects: uint8 [2, height, width], what went and what came: 1 + index in OBJECTS,
    0 for none or not known; read only where `changed`.
    """
    known = objects.any(0)
    code = (1 + objects[0].astype(np.uint16) * _BASE + objects[1]).astype(np.uint8)
    return np.where(changed, np.where(known, code, UNKNOWN), 0).astype(np.uint8)


def decode(values: np.ndarray) -> np.ndarray:
    """The objects of a coded mask, uint8 [2, height, width] as for `encode`; 0 where nothing changed or is known."""
    code = np.where((values == 0) | (values > _BASE**2), 1, values) - 1
    return np.stack([code // _BASE, code % _BASE]).astype(np.uint8)
