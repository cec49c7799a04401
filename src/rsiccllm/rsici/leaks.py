"""Training pairs, and texts, that give away what another split or set is tested on: found, noted, and left out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from rsiccllm.files import read_jsonl, write_jsonl
from rsiccllm.near_duplicates import Found, Item, find_near_duplicates
from rsiccllm.near_duplicates.texts import alike

DUPLICATES = "duplicates.jsonl"
"""The file in a built folder that names every near-duplicate across splits and sets."""

Handling = Literal["drop", "report", "ignore"]


class Duplicate(BaseModel):
    """One finding. kind: "image", or "text" (of the sources' own long texts). pairs: the ids that share it. groups: the
    set and split of each. alike: for images the part of the smaller one that the other shows, for texts the share of
    three-word runs in common; 0..1. dropped: those of `pairs` that were left out of training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["image", "text"]
    pairs: list[str]
    groups: list[str]
    alike: float
    dropped: list[str] = []


def find_leaks(
    items: Sequence[Item], ids: Sequence[str], labels: Sequence[str], out: Path, handling: Handling
) -> set[str]:
    """The ids to leave out of a build, once `DUPLICATES` is in `out`; where it is there, no image is opened.

    ids, labels: of the items and their sources in the set that is built. Rendered scenes are not compared: they are
    made to be different. Raises InputError where an image cannot be opened.
    """
    if handling == "ignore":
        return set()
    path = out / DUPLICATES
    if not path.exists():
        places = [place for place, (source, _) in enumerate(items) if source.on_disk]
        found = find_near_duplicates([items[place] for place in places])
        groups = [f"{labels[place]}, {items[place][1].split}" for place in places]
        write_jsonl(path, _lines(found, [ids[place] for place in places], groups, handling))
    return {name for line in read_jsonl(path, Duplicate) for name in line.dropped}


def _lines(found: Found, ids: Sequence[str], groups: Sequence[str], handling: Handling) -> list[Duplicate]:
    leaks = found.training_leaks() if handling == "drop" else set()
    kinds: list[tuple[Literal["image", "text"], tuple[int, ...], float]] = [
        ("image", (match.first, match.second), match.overlap.share) for match in found.images
    ]
    kinds += [("text", one.items, one.similarity) for one in found.texts]
    return [
        Duplicate(
            kind=kind,
            pairs=[ids[item] for item in items],
            groups=[groups[item] for item in items],
            alike=round(alike, 3),
            dropped=[ids[item] for item in items if item in leaks],
        )
        for kind, items, alike in kinds
    ]


def repeated_texts(texts: Sequence[tuple[str, str, str]]) -> dict[str, str]:
    """{id in training: an id of another split that carries nearly the same long text}.

    texts: (id, split, text), what a model wrote. The rules' own texts do not belong here: two pairs whose masks say the
    same have the same text rightly.
    """
    found = {}
    for one in alike([(place, text) for place, (_, _, text) in enumerate(texts)]):
        elsewhere = [texts[item][0] for item in one.items if texts[item][1] != "train"]
        if elsewhere:
            found.update({texts[item][0]: elsewhere[0] for item in one.items if texts[item][1] == "train"})
    return found
