"""RSCC: long captions of pairs around disasters."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from rsiccllm.files import read_text, validation_faults
from rsiccllm.records import ImagePair
from rsiccllm.sources.base import Fault, Source, is_file, listing, make_pair, refuse


class Entry(BaseModel):
    """One line of RSCC's JSONL."""

    model_config = ConfigDict(strict=True)

    pre_image: str
    post_image: str
    change_caption: str


class RSCC(Source):
    """RSCC: pairs of xBD and EBD before and after a disaster, with a long caption written by a model.

    Format: `*.jsonl` with `{pre_image, post_image, change_caption, model_id, inference_type}` a line; paths relative to
    the root (`EBD/`, `xbd/images-w512-h512/`, `xbdsubset/`), 512 x 512 pixels, 62,351 pairs. Where several models wrote
    of one pair the first caption is its description and the others are left out, with a note.
    Classes: none. Splits: pairs in `xbdsubset/` (also `xbd_subset/`, `xBD_subset/`), the paper's benchmark, are "test";
    the others go by the name of the file, "train" unless it names test or val.
    Licence: of the captions see the page of the set; images under xBD's (CC BY-NC-SA 4.0) and EBD's terms.
    Paper: Chen et al., "RSCC: A Large-Scale Remote Sensing Change Caption Dataset for Disaster Events", NeurIPS 2025.
    """

    name = "rscc"
    layout = "*.jsonl with pre_image, post_image and change_caption, and the images these name"
    home = "huggingface.co/datasets/BiliSakura/RSCC"
    licence = "captions see the page of the set, images xBD terms (CC BY-NC-SA 4.0)"

    def __init__(self, root: Path, fault: Fault = refuse) -> None:
        self._left_out = 0
        super().__init__(root, self._read(root, fault), fault)
        if self._left_out:
            self.notes.append(f"{root}: {self._left_out:,} further captions of pairs that have one are not read")

    def _read(self, root: Path, fault: Fault) -> Iterator[ImagePair]:
        if not root.is_dir():
            raise self.absent(root, "no such folder")
        files = [name for name in listing(root) if name.endswith(".jsonl")]
        if not files:
            raise self.absent(root, "holds no .jsonl file")
        seen: set[tuple[str, str]] = set()
        for file in files:
            split = next((word for word in ("test", "val") if word in file.lower()), "train")
            for number, line in enumerate(read_text(root / file).split("\n"), start=1):
                if not line.strip():
                    continue
                where = f"{root / file}:{number}"
                try:
                    entry = Entry.model_validate_json(line)
                except ValidationError as error:
                    for text in validation_faults(error):
                        fault(f"{where}: {text}")
                    continue
                if (entry.pre_image, entry.post_image) in seen:
                    self._left_out += 1
                    continue
                seen.add((entry.pre_image, entry.post_image))
                for path in (entry.pre_image, entry.post_image):
                    if not is_file(root / path):
                        fault(f"{where}: no such file {root / path}")
                subset = entry.post_image.split("/")[0].lower().replace("_", "") == "xbdsubset"
                yield from make_pair(
                    where, fault, id=entry.post_image.removesuffix(Path(entry.post_image).suffix),
                    split="test" if subset else split,
                    before=entry.pre_image, after=entry.post_image, description=entry.change_caption.strip(),
                )  # fmt: skip
