"""CDD: seasons that differ, and changes of every kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rsiccllm.files import inside
from rsiccllm.pairs import open_classes
from rsiccllm.records import ImagePair
from rsiccllm.sources.base import ChangeMask, Fault, refuse
from rsiccllm.sources.split_folders import SplitFolders

INNER = ("ChangeDetectionDataset/Real/subset", "Real/subset", "subset")
THRESHOLD = 127


class CDD(SplitFolders):
    """CDD: pairs from Google Earth taken in different seasons, with a mask of what was built, removed or moved.

    Format: `{train,val,test}/{A,B,OUT}/*.jpg`, 256 x 256 pixels of 0.03 to 1 m, 10,000 / 3,000 / 3,000 pairs; the
    folder as unpacked (`ChangeDetectionDataset`, with `Real/subset` in it) is read too.
    Classes: `OUT` 0 nothing, 255 changed, stored as JPEG: values above 127 count. `changed`: see `Source.changed`.
    Licence: not stated by its authors.
    Paper: Lebedev et al., "Change Detection in Remote Sensing Images Using Conditional Adversarial Networks", ISPRS
    Archives 2018.
    """

    name = "cdd"
    layout = "{train,val,test}/{A,B,OUT}/*.jpg, perhaps under ChangeDetectionDataset/Real/subset, at least one split"
    home = "the paper of Lebedev et al., ISPRS Archives XLII-2, 2018"
    licence = "not stated by its authors"
    sides = ("A", "B", "OUT")
    plain_mask = False

    def __init__(self, root: Path, fault: Fault = refuse) -> None:
        inner = (root / path for path in INNER if (root / path).is_dir())
        super().__init__(next(inner, root), fault)

    def classes(self, pair: ImagePair) -> ChangeMask | None:
        """The mask without the shades that JPEG leaves around its edges."""
        if pair.mask is None:
            return None
        return ChangeMask((open_classes(inside(self.root, pair.mask)) > THRESHOLD).astype(np.uint8))
