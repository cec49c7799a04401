"""`rsici:DIR`: the pairs of a folder that `rsici build` wrote."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rsiccllm.files import read_jsonl
from rsiccllm.records import PAIRS, ImagePair
from rsiccllm.sources.base import ChangeMask, Fault, Source, is_file, refuse


class RSICI(Source):
    """Our own form: `pairs.jsonl`, one ImagePair a line, and the images it names, under one folder."""

    name = "rsici"
    layout = "pairs.jsonl and the images it names, as `rsiccllm rsici build` writes them"

    def __init__(self, root: Path, fault: Fault = refuse) -> None:
        if not (root / PAIRS).is_file():
            raise self.absent(root, f"no {PAIRS}")
        super().__init__(root, _present(root, fault), fault)

    def classes(self, pair: ImagePair) -> ChangeMask | None:
        """The mask; None for an empty one of a pair whose flag is open: it may have been a mask of buildings alone."""
        mask = super().classes(pair)
        return None if mask is not None and pair.changed is None and not mask.values.any() else mask


def _present(root: Path, fault: Fault) -> Iterator[ImagePair]:
    for pair in read_jsonl(root / PAIRS, ImagePair):
        missing = [path for path in (pair.before, pair.after, pair.mask) if path and not is_file(root / path)]
        if missing:
            fault(f"{root / missing[0]}: no such file, named by pair '{pair.id}' in {PAIRS}")
        else:
            yield pair
