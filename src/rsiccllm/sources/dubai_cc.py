"""DUBAI-CC: captions of coarse pairs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import StrictInt

from rsiccllm.records import ImagePair
from rsiccllm.sources.base import Fault, Source, images_in, listing, refuse
from rsiccllm.sources.levir_cc import Entry, read_annotations

ANNOTATIONS = "description_jsontr_te_val"
DATES = ("500_2000", "500_2010")
SPLITS = {"train": "train", "validation": "val", "val": "val", "test": "test"}


class DubaiEntry(Entry):
    """An entry of DUBAI-CC's JSON files; the split stands in the name of the file."""

    filepath: str = "RGB"
    changeflag: StrictInt | None = None


class DubaiCC(Source):
    """DUBAI-CC: Landsat pairs of Dubai, 2000 and 2010, with five captions each.

    Format: `description_jsontr_te_val/{Train,Validation,Test}_*.json` in LEVIR-CC's schema, and images under
    `imgs_tiles/RGB/500_2000/` and `500_2010/` (or `RGB/...`), matched by name whatever their ending; 500 pairs of 50 x
    50 pixels of 30 m, 300 / 50 / 150.
    Classes: none; whether a pair changed stands in its captions alone ("Nothing has changed").
    Licence: see the page of the set.
    Paper: Hoxha et al., "Change Captioning: A New Paradigm for Multitemporal Remote Sensing Image Analysis", IEEE TGRS
    2022.
    """

    name = "dubai-cc"
    layout = (
        "description_jsontr_te_val/{Train,Validation,Test}_*.json and imgs_tiles/RGB/{500_2000,500_2010}/ "
        "(or RGB/{500_2000,500_2010}/)"
    )
    home = "disi.unitn.it/~melgani/datasets.html"
    licence = "see the page of the set"

    def __init__(self, root: Path, fault: Fault = refuse) -> None:
        super().__init__(root, self._read(root, fault), fault)

    def _read(self, root: Path, fault: Fault) -> Iterator[ImagePair]:
        if not root.is_dir():
            raise self.absent(root, "no such folder")
        if (root / "datasetDubaiCCPublic").is_dir():
            inner = "datasetDubaiCCPublic/"
        else:
            inner = ""
        files = [name for name in listing(root / inner / ANNOTATIONS) if name.endswith(".json")]
        if not files:
            raise self.absent(root / inner / ANNOTATIONS, "holds no JSON file")
        places = [f"{inner}{place}" for place in ("imgs_tiles/RGB", "RGB")]
        base = next((place for place in places if (root / place / DATES[0]).is_dir()), None)
        if base is None:
            raise self.absent(root / places[0] / DATES[0], "no such folder")
        dates = [images_in(root / base / date, fault, self.notes) for date in DATES]
        for file in sorted(files, key=lambda name: list(SPLITS).index(_split_word(name))):
            path = root / inner / ANNOTATIONS / file
            split = SPLITS[_split_word(file)]
            for pair in read_annotations(path, fault, DubaiEntry):
                stem, update = Path(pair.before).stem, {"split": split, "id": f"{split}_{pair.id}"}
                for role, date, names in zip(("before", "after"), DATES, dates, strict=True):
                    if stem not in names:
                        fault(f"{root / base / date / stem}: no such image, named in {path}")
                    update[role] = f"{base}/{date}/{names.get(stem, stem)}"
                yield pair.model_copy(update=update)


def _split_word(name: str) -> str:
    word = name.partition("_")[0].lower()
    return word if word in SPLITS else "train"
