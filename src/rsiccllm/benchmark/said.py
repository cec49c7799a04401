"""What any model of the benchmark answers with."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Said(NamedTuple):
    """What a model says of a pair.

    probability: geometric mean of its tokens' probabilities, 0..1; change_map: [height, width] in 0..1, where the model
    saw change. Both None where a model does not give them.
    """

    caption: str
    probability: float | None = None
    change_map: np.ndarray | None = None
