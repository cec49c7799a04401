"""WHU-CDC: captions and building masks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import StrictInt

from rsiccllm.records import ImagePair
from rsiccllm.sources.base import ChangeMask, Fault, Source
from rsiccllm.sources.levir_cc import Entry, LevirCC, read_annotations


class WhuEntry(Entry):
    """An entry of whuCCcaptions.json; its split stands in `filepath`."""

    changeflag: StrictInt | None = None


class WhuCDC(LevirCC):
    """WHU-CDC: pairs of Christchurch, 2012 and 2016, with five captions and a mask of the changed buildings.

    Format: `whuCCcaptions.json` in LEVIR-CC's schema (split in `filepath`) and `images/<split>/{A,B,label}/*.png`,
    256 x 256 pixels, 7,434 pairs.
    Classes: changeflag 0 / 1 where given (`changed`); masks are boolean, True where a building changed.
    Licence: see the page of the set.
    Paper: Shi et al., "A Multitask Network and Two Large-Scale Datasets for Change Detection and Captioning in Remote
    Sensing Images", IEEE TGRS 2024.
    """

    name = "whu-cdc"
    layout = "whuCCcaptions.json and images/<split>/{A,B,label}/*.png"
    home = "huggingface.co/datasets/hygge10111/RS-CDC"
    licence = "see the page of the set"
    annotations = "whuCCcaptions.json"
    scope = "building"

    def _entries(self, root: Path, fault: Fault) -> Iterator[ImagePair]:
        return read_annotations(root / self.annotations, fault, WhuEntry)

    def classes(self, pair: ImagePair) -> ChangeMask | None:
        """The mask: a building changed, which way is not said."""
        return Source.classes(self, pair)
