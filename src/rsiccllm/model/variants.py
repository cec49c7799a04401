"""The names of the difference paths, for recipes and configurations; no torch here, so that help stays quick."""

from typing import Literal, get_args

Variant = Literal["none", "paper", "paper-no-pixel", "paper-no-texture", "paper-mean-texture", "ours"]
"""none: plain fine-tuning. paper and its ablations: fusion.py. ours: the change map of difference.py."""

VARIANTS: tuple[str, ...] = get_args(Variant)
