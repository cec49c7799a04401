"""From a plan to pixels."""

from __future__ import annotations

import cv2
import numpy as np

from rsiccllm.sources.scenes.paint import Painter, photograph
from rsiccllm.sources.scenes.plan import Plan
from rsiccllm.sources.scenes.raster import change_mask


def paint_scene(plan: Plan, size: int, nuisance: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both dates uint8 [size, size, 3] (RGB) and the mask bool [size, size].

    Without `nuisance` both dates have the first one's light and season and no camera: they differ in the mask and in
    the shadows of what changed, and nowhere else.
    """
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # the pictures are small: more threads cost more than they bring
    try:
        painter = Painter(plan, size)
        looks = plan.looks if nuisance else (plan.looks[0], plan.looks[0])
        before = photograph(painter.paint("before", looks[0]), looks[0], size, nuisance)
        after = photograph(painter.paint("after", looks[1]), looks[1], size, nuisance)
        return before, after, change_mask(plan.items, size)
    finally:
        cv2.setNumThreads(threads)
