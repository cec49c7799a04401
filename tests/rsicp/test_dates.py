from __future__ import annotations

import pytest

from rsiccllm.facts import parse
from rsiccllm.rsicp.dates import reversed_caption
from rsiccllm.sources import open_source


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("two cars appear on the left", {"two cars disappear on the left", "two cars vanish on the left"}),
        ("the trees are replaced by houses", {"houses are replaced by the trees"}),
    ],
)
def test_turned_round(text: str, expected: set[str]) -> None:
    assert reversed_caption(text) in expected


@pytest.mark.parametrize("text", ["there is no difference", "the road", "", "a road with houses built along appears"])
def test_what_cannot_be_turned_is_left_alone(text: str) -> None:
    assert reversed_caption(text) is None


def test_rendered_captions_turn_to_the_planted_facts_reversed() -> None:
    other = {"appear": "disappear", "disappear": "appear"}
    turned = changed = 0
    for pair in open_source("scenes:80,seed=3,size=64").pairs:
        right = {(fact.object, other[fact.direction]) for fact in pair.facts or []}
        for caption in pair.captions if pair.changed else ():
            changed += 1
            text = reversed_caption(caption)
            if text is not None:
                turned += 1
                assert {(fact.object, fact.direction) for fact in parse(text).facts} <= right
    assert turned > 0.5 * changed
