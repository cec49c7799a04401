"""From bytes to JSON documents that are nearly right: a valid one, with a few of its parts replaced.

Random bytes hardly ever get past a JSON parser; what is behind it is reached by documents of the right shape.
"""

from __future__ import annotations

import copy
import json
from typing import Any

TEXTS = (
    "", " ", "x", "train", "../x", "/etc/passwd", "a/b.png", "\0", "\u2028", "\ud800", "é" * 300, "1e999", "<script>",
    "nan", "a house is built", "{}", "\\", "x" * 5000, "data:image/png;base64,AAAA", "data:image/png;base64,====",
    "%s", "{0}",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**63, -(2**70), 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf"), [], {}, [[]],
    [None], {"": None}, {"x": {"y": []}}, *TEXTS,
)  # fmt: skip


class Reader:
    """Choices, one after another, from bytes; zeros where they are used up."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def number(self, below: int) -> int:
        """0 to below - 1."""
        if below <= 1:
            return 0
        taken = self.data[self.at : self.at + 2]
        self.at += 2
        return int.from_bytes(taken, "little") % below

    def rest(self, most: int) -> bytes:
        """The next bytes, at most so many."""
        taken = self.data[self.at : self.at + most]
        self.at += most
        return taken


def _value(reader: Reader) -> Any:
    kind = reader.number(len(VALUES) + 3)
    if kind < len(VALUES):
        return copy.deepcopy(VALUES[kind])
    if kind == len(VALUES):
        return reader.rest(reader.number(40)).decode("utf-8", "surrogateescape")
    if kind == len(VALUES) + 1:
        return reader.number(60_000) - 30_000
    depth, value = reader.number(300), copy.deepcopy(VALUES[reader.number(len(VALUES))])
    for _ in range(depth):
        value = [value]
    return value


def _parts(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of every part of a document."""
    found = []
    waiting = [value]
    while waiting:
        item = waiting.pop()
        for key in item if isinstance(item, dict) else range(len(item)) if isinstance(item, list) else ():
            found.append((item, key))
            waiting.append(item[key])
    return found


def mutated(seed: Any, reader: Reader) -> Any:
    """`seed` with one to four parts replaced, removed, doubled or added, as `reader` chooses."""
    document = [copy.deepcopy(seed)]
    for _ in range(1 + reader.number(4)):
        parts = _parts(document)
        container, key = parts[reader.number(len(parts))]
        act = reader.number(5)
        if act < 2:
            container[key] = _value(reader)
        elif act == 2 and container is not document:
            del container[key]
        elif act == 3 and isinstance(container, list):
            container.insert(reader.number(len(container) + 1), copy.deepcopy(container[key]))
        elif isinstance(container, dict):
            container[TEXTS[reader.number(len(TEXTS))]] = _value(reader)
    return document[0]


def as_json(value: Any) -> bytes:
    """The document as bytes, with numbers that JSON has not and halves of surrogate pairs where it holds some."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
