"""Several answers about one pair, and the best of them: half are asked with the dates swapped, and turned round.

What came one way has gone the other, so each order of the dates checks the other: the maps of both are averaged, and
what is said of a pair and what is said of it with swapped dates are chosen from the same answers by the same map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from rsiccllm.caption.borne_out import borne_out
from rsiccllm.caption.result import Caption
from rsiccllm.facts import OPPOSITE, Parsed, parse
from rsiccllm.model.difference import FACTS
from rsiccllm.model.generate import Answer, Encoded
from rsiccllm.pairs import OpenedPair
from rsiccllm.rsici.prompts import PROMPTS
from rsiccllm.rsicp.dates import reversed_caption

if TYPE_CHECKING:
    from rsiccllm.caption.captioner import Captioner

FLOOR = 1e-6
"""Chance of change under which a cell's facts weigh nothing."""

Texts = list[tuple[str, float]]
"""Each with the geometric mean of its tokens' probabilities; "" for one that was cut short."""

TURNED = [FACTS.index((thing, OPPOSITE[way])) for thing, way in FACTS]
"""Where each of FACTS stands when the dates are swapped."""


class Others(NamedTuple):
    """Further answers to a question. judge: the answer whose maps choose among them.

    texts: "" for one that was cut short, or could not be turned round.
    """

    texts: Texts
    judge: Answer

    def ranked(self, answer: Answer) -> Texts:
        """`answer` and all texts that differ, the best borne out first; as they come where the judge has no maps."""
        first = {answer.text: answer.probability}
        for text, chance in self.texts:
            if text:
                first[text] = max(chance, first.get(text, 0.0))
        if self.judge.change_map is None or self.judge.fact_maps is None:
            return list(first.items())
        seen, named = self.judge.change_map.numpy(), self.judge.fact_maps.numpy()
        worth = {text: borne_out(Caption(text, chance, None, seen, (), named)) for text, chance in first.items()}
        return sorted(first.items(), key=lambda item: worth[item[0]], reverse=True)

    def agreement(self, answer: Answer, said: str) -> float:
        """How far the other answers, with `answer` among them, say what `said` does: the mean over them, 0..1.

        Of two answers: of the objects that either says came or went, the share that both do (Jaccard); 1 for two that
        deny any change. An answer that agrees with nothing else is more often wrong (Wang et al. 2023, on sampled
        answers in general).
        """
        every = [answer.text, *(text for text, _ in self.texts)]
        every.remove(said)
        told = {text: parse(text) for text in {said, *every}}
        return sum(_alike(told[said], told[text]) for text in every) / len(every)


def others_of(captioner: Captioner, pairs: Sequence[OpenedPair], prompt: str, prompts: Sequence[Encoded],
              answers: Sequence[Answer], max_new_tokens: int, candidates: int, seed: int) -> list[Others]:  # fmt: skip
    """What else is said of each pair, up to `candidates` with the likeliest answer.

    prompts, answers: what the captioner was asked of the pairs, and said. An answer to a question of the user's own
    cannot be turned round, nor is there anything to judge by without maps: all are then asked of the pair as it is.
    """

    def drawn(asked: Sequence[Encoded], count: int) -> list[Texts]:
        if not count:
            return [[] for _ in asked]
        rows = captioner.draw(asked, [seed] * len(asked), count, max_new_tokens)
        return [[(one.text if one.ended else "", one.probability) for one in row] for row in rows]

    turned = candidates // 2 if prompt in PROMPTS.values() and answers[0].change_map is not None else 0
    forth = candidates - turned - 1
    if not turned:
        return [Others(texts, answer) for texts, answer in zip(drawn(prompts, forth), answers, strict=True)]
    swapped = [captioner.encode(OpenedPair(pair.after, pair.before, None), prompt) for pair in pairs]
    back = captioner.answer_encoded(swapped, max_new_tokens)
    # Both orders at once: a sample depends on its question's seed and on its number, not on what is beside it.
    texts = drawn([*prompts, *swapped], forth) if turned > 1 else [*drawn(prompts, forth), *([] for _ in pairs)]
    found = []
    for said, answer, other, more in zip(texts[: len(pairs)], answers, back, texts[len(pairs) :], strict=True):
        about = [(other.text, other.probability), *more[: turned - 1]]
        others = [*said, *((turned_text(text) or "", chance) for text, chance in about)]
        found.append(Others(others, mean_maps(answer, other)))
    return found


def _alike(one: Parsed, other: Parsed) -> float:
    here, there = ({(fact.object, fact.direction) for fact in said.facts} for said in (one, other))
    if here or there:
        return len(here & there) / len(here | there)
    return float(one.changed is False and other.changed is False)


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
