"""S2Looking: buildings built and demolished, seen from the side."""

from __future__ import annotations

import numpy as np

from rsiccllm.facts import Known
from rsiccllm.files import inside
from rsiccllm.pairs import open_mask
from rsiccllm.records import ImagePair
from rsiccllm.sources.base import ChangeMask, is_file
from rsiccllm.sources.split_folders import SplitFolders

BUILT, DEMOLISHED, BOTH = 1, 2, 3


class S2Looking(SplitFolders):
    """S2Looking: satellite pairs of rural areas at side-looking angles, with a mask of changed buildings.

    Format: `{train,val,test}/{Image1,Image2,label}/*.png`, 1024 x 1024 pixels of 0.5 to 0.8 m, 3,500 / 500 / 1,000
    pairs; `label1` (built) and `label2` (demolished) beside `label` are read where they are there.
    Classes: `label` 0 nothing, 255 a building changed; with `label1` and `label2` also which way.
    Licence: see the page of the set.
    Paper: Shen et al., "S2Looking: A Satellite Side-Looking Dataset for Building Change Detection", Remote Sensing
    2021.
    """

    name = "s2looking"
    layout = "{train,val,test}/{Image1,Image2,label}/*.png, optional label1/ and label2/, at least one split"
    home = "github.com/S2Looking/Dataset"
    licence = "see the page of the set"
    sides = ("Image1", "Image2", "label")
    scope = "building"

    def classes(self, pair: ImagePair) -> ChangeMask | None:
        """The mask, and which way each building changed where `label1` and `label2` say it."""
        whole = super().classes(pair)
        if whole is None or pair.mask is None:
            return whole
        ways = []
        for folder in ("label1", "label2"):
            path = pair.mask.replace("/label/", f"/{folder}/")
            if not is_file(self.root / path):
                return whole
            other = open_mask(inside(self.root, path))
            if other.shape != whole.values.shape:
                return whole
            ways.append(other)
        new, old = ways
        values = np.where(new & old, BOTH, np.where(new, BUILT, np.where(old, DEMOLISHED, whole.values * BOTH)))
        built = Known("building", "appear", "build")
        gone = Known("building", "disappear", "remove")
        return ChangeMask(values.astype(np.uint8), {BUILT: (built,), DEMOLISHED: (gone,), BOTH: (Known("building"),)})
