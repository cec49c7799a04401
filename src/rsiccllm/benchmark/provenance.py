"""What a checkpoint has seen, and whether that forbids scoring it on a split.

A checkpoint that was trained on the test split, or picked by its score there, has no honest score on it (two published
repositories pick theirs so). Training writes what it saw into the model's configuration; this reads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rsiccllm.errors import InputError
from rsiccllm.records import ImagePair
from rsiccllm.sources.base import Source


def parts_of(source: Source, pairs: Iterable[ImagePair]) -> frozenset[str]:
    """ "set/split" of pairs of a source; a built folder's pairs are of the sets that it was built from."""
    return frozenset(f"{source_name(source, pair)}/{pair.split}" for pair in pairs)


def source_name(source: Source, pair: ImagePair) -> str:
    """The set that a pair comes from: of a built folder, the one in its path (images/levir-cc/...)."""
    parts = pair.before.split("/")
    name = parts[1] if source.name == "rsici" and len(parts) > 2 else source.name
    return "levir-cc" if name in {"levir-mci", "levir-cc-captions"} else name  # the same pairs under other names


def check_unseen(
    model: str, provenance: Mapping[str, Any] | None, source: Source, pairs: Iterable[ImagePair]
) -> str | None:
    """Refuse, with InputError, a model whose training saw these pairs' split, unless it is "train".

    provenance: its "seen" holds "set/split" for all that this stage of training and every one before it saw. Returns
    one line to be shown where the split is "train" and was trained on, else None. A model without a record of what it
    saw (one of others) passes.
    """
    both = sorted(set((provenance or {}).get("seen", ())) & parts_of(source, pairs))
    if not both:
        return None
    if all(part.endswith("/train") for part in both):
        return f"{model} was trained on {', '.join(both)}: these are scores on its own training data"
    raise InputError(
        f"{model}: its training saw {', '.join(both)}, so it has no honest score there; "
        "score it on another split, or train without that one"
    )
