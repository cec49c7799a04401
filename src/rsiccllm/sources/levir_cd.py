"""LEVIR-CD: building change masks."""

from __future__ import annotations

from rsiccllm.sources.split_folders import SplitFolders


class LevirCD(SplitFolders):
    """LEVIR-CD: pairs with a mask of the buildings that were built or removed, as published or cut into crops.

    Format: `{train,val,test}/{A,B,label}/*.png`, 1024 x 1024 pixels of 0.5 m, 445 / 64 / 128 pairs; often cut to
    256 x 256 (`train_36_0512_0512.png`). Splits that are absent are passed over as long as one is there.
    Classes: mask 0 nothing, 255 a building changed. `changed` is not set at loading: see `Source.changed`.
    Licence: for academic use; see the page of the set.
    Paper: Chen and Shi, "A Spatial-Temporal Attention-Based Method and a New Dataset for Remote Sensing Image Change
    Detection", Remote Sensing 2020.
    """

    name = "levir-cd"
    layout = "{train,val,test}/{A,B,label}/*.png, at least one split"
    home = "justchenhao.github.io/LEVIR"
    licence = "academic use, see the page of the set"
    scope = "building"
