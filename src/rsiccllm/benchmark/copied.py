"""Captions that stand word for word among the training captions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rsiccllm.benchmark.tokenise import tokenise


@dataclass(frozen=True)
class Copied:
    """copied: captions that are some training caption, of `captions`. changed_copied, changed: the same of the changed
    pairs alone (five sentences say that nothing changed, so of unchanged pairs nearly all are copies), None where it is
    not known which changed. distinct: different captions. most: the commonest copies on changed pairs (else on all).
    """

    copied: int
    captions: int
    changed_copied: int | None
    changed: int | None
    distinct: int
    most: tuple[tuple[str, int], ...]

    @property
    def changed_share(self) -> float | None:
        """Copies among the captions of changed pairs, in per cent; None where that is not known or there are none."""
        return 100 * self.changed_copied / self.changed if self.changed_copied is not None and self.changed else None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "most": [list(entry) for entry in self.most]}


def training_captions(captions: Iterable[str]) -> frozenset[str]:
    """Training captions in the form in which they are compared: lower case, no final full stop."""
    return frozenset(" ".join(tokenise(caption)) for caption in captions)


def count_copied(
    predictions: Mapping[str, str], training: frozenset[str], changed: Mapping[str, bool] | None, most: int = 3
) -> Copied:
    """Compare captions by pair id with `training_captions`. An empty caption is never a copy."""
    said = {name: " ".join(tokenise(caption)) for name, caption in predictions.items()}
    copies = {name: text for name, text in said.items() if text and text in training}
    moved = copies if changed is None else {name: text for name, text in copies.items() if changed[name]}
    return Copied(
        copied=len(copies),
        captions=len(said),
        changed_copied=None if changed is None else len(moved),
        changed=None if changed is None else sum(changed[name] for name in said),
        distinct=len(set(said.values())),
        most=tuple(Counter(moved.values()).most_common(most)),
    )
