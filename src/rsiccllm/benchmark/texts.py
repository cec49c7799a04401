"""Which of a pair's texts an answer is held against, and whether the pair changed."""

from __future__ import annotations

from collections.abc import Sequence

from rsiccllm.facts import parse
from rsiccllm.records import ImagePair


def texts_of(pair: ImagePair, task: str) -> list[str]:
    """What people say of a pair when asked for `task`: "caption" its captions, "describe" its description."""
    if task == "caption":
        return list(pair.captions)
    return [pair.description] if pair.description else []


def changed_of(pair: ImagePair, texts: Sequence[str]) -> bool | None:
    """Whether a pair changed: what its set says, else what most of its texts say; None where neither does.

    Sets without flags (DUBAI-CC, WHU-CDC, RSCC) say it in their texts alone. A mask is not asked: an empty one of
    buildings proves nothing, and what counts here is what the references say.
    """
    if pair.changed is not None:
        return pair.changed
    said = [parse(text).changed for text in texts]
    yes, no = said.count(True), said.count(False)
    return None if yes == no else yes > no
