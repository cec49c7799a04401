"""SYSU-CD: change masks of every kind of change."""

from __future__ import annotations

from rsiccllm.sources.split_folders import SplitFolders


class SysuCD(SplitFolders):
    """SYSU-CD: aerial pairs of Hong Kong, 2007 to 2014, with a mask of all that changed.

    Format: `{train,val,test}/{time1,time2,label}/*.png`, 256 x 256 pixels of 0.5 m, 12,000 / 4,000 / 4,000 pairs.
    Classes: mask 0 nothing, 255 changed: new urban buildings, suburban dilation, groundwork before construction, change
    of vegetation, road expansion and sea construction are not told apart. `changed`: see `Source.changed`.
    Licence: for academic use; see the page of the set.
    Paper: Shi et al., "A Deeply Supervised Attention Metric-Based Network and an Open Aerial Image Dataset for Remote
    Sensing Change Detection", IEEE TGRS 2022.
    """

    name = "sysu-cd"
    layout = "{train,val,test}/{time1,time2,label}/*.png, at least one split"
    home = "github.com/liumency/SYSU-CD"
    licence = "academic use, see the page of the set"
    sides = ("time1", "time2", "label")
