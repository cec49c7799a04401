"""Which of a pair's texts an answer is held against."""

from __future__ import annotations

from rsiccllm.records import ImagePair


def texts_of(pair: ImagePair, task: str) -> list[str]:
    """What people say of a pair when asked for `task`: "caption" its captions, "describe" its description."""
    if task == "caption":
        return list(pair.captions)
    return [pair.description] if pair.description else []
