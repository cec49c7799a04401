"""A pair asked about in both orders of its dates: what came one way has gone the other, so each checks the other.

Maps of the two orders are averaged, and an answer about the swapped dates is turned round with them. What is said of a
pair and what is said of it with swapped dates are then chosen from the same answers by the same map.
"""

from __future__ import annotations

from typing import get_args

import torch

from rsiccllm.facts import Direction, parse
from rsiccllm.model.difference import FACTS
from rsiccllm.model.generate import Answer
from rsiccllm.rsicp.dates import reversed_caption

FLOOR = 1e-6
"""Chance of change under which a cell's facts weigh nothing."""

_COME, _GONE = get_args(Direction)
TURNED = [FACTS.index((thing, _GONE if way == _COME else _COME)) for thing, way in FACTS]
"""Where each of FACTS stands when the dates are swapped."""


def turned_text(text: str) -> str | None:
    """What an answer about the swapped dates says of the pair itself; None where it cannot be turned round.

    A text that denies any change says the same of both orders.
    """
    return text if parse(text).changed is False else reversed_caption(text)


def mean_maps(forth: Answer, back: Answer) -> Answer:
    """`forth` with the mean of both answers' maps: of change in each cell, and of each fact in what changed there.

    back: the answer about the swapped dates; its facts are turned round. Returns `forth` itself where there is no map.
    """
    if forth.change_map is None or back.change_map is None:
        return forth
    one, other = forth.change_map.float(), back.change_map.float()
    change, facts = (one + other) / 2, None
    if forth.fact_maps is not None and back.fact_maps is not None:
        weighed = one * forth.fact_maps.float() + other * back.fact_maps.float()[TURNED]
        facts = (weighed / (one + other).clamp(min=FLOOR)).to(torch.float16)
    return forth._replace(change_map=change.to(forth.change_map.dtype), fact_maps=facts)
