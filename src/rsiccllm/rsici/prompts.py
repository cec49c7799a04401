"""What is asked, of the model and of the teacher. The words live in `prompts_v1.yaml`; samples record the version."""

from __future__ import annotations

import random
from functools import cache
from importlib import resources
from typing import Any

import yaml

from rsiccllm.facts import Known
from rsiccllm.rsici.prior import Prior
from rsiccllm.rsici.teachers.base import Ask

FILE = "prompts_v1.yaml"


@cache
def prompt_table() -> dict[str, Any]:
    """The prompt file as a mapping. Do not change it."""
    text = resources.files("rsiccllm.rsici").joinpath(FILE).read_text(encoding="utf-8")
    table: dict[str, Any] = yaml.safe_load(text)
    return table


VERSION: str = prompt_table()["version"]

PROMPTS: dict[str, str] = {task: prompt_table()["questions"][task][0] for task in ("caption", "describe")}
"""The question the captioner and the benchmark ask, by task: the first phrasing."""


def question(task: str, key: str, phrasings: int = 0, **words: str) -> str:
    """A phrasing of a task's question, chosen by `key`: the same key gives the same words everywhere.

    phrasings: how many of the file's phrasings are used, 0 for all. words: what stands for {scope} and the like.
    """
    texts = prompt_table()["questions"][task]
    chosen: str = random.Random(f"{task}:{key}").choice(texts[: phrasings or None])
    return chosen.format(**words)


def teacher_prompt(ask: Ask, look: str = "outline") -> tuple[str, str]:
    """(system message, user message) for a model that is asked.

    look: how the teacher is shown where the change is: "outline" (drawn on the second image), "mask" (a third image) or
    "none". The user message changes with every attempt: another length, other examples, and the hint.
    """
    table = prompt_table()["teacher"]
    samples: list[str] = table["samples"][ask.task]
    dice = random.Random(f"{ask.pair.id}:{ask.task}:{ask.attempt}")
    chosen = dice.sample(samples, min(table["examples"][ask.attempt], len(samples)))
    parts = [
        table["look"][look] if ask.prior.masked else "",
        table["tasks"][ask.task].format(words=table["words"][ask.task][ask.attempt]),
        table["facts"].format(facts=facts_in_words(ask.prior)) if ask.prior.regions or ask.prior.known else "",
        *(table["example"].format(example=text.strip()) for text in chosen),
        table["hint"].format(hint=ask.hint) if ask.hint else "",
    ]
    return table["system"].strip(), "\n\n".join(part.strip() for part in parts if part)


def prompt_name(ask: Ask) -> str:
    """What a sample records of the prompt its teacher was given."""
    return f"{VERSION}/{ask.task}/{ask.attempt}"


def hint_for(reasons: list[str]) -> str:
    """The words that tell a teacher why its answer was rejected."""
    table = prompt_table()["teacher"]["hints"]
    return "; ".join(table[reason] for reason in dict.fromkeys(reasons))


def facts_in_words(prior: Prior) -> str:
    """The region facts as sentences for a teacher's prompt. The largest regions are listed: with all of many, the list
    is longer than its use."""
    words, number, lines = prompt_table()["teacher"]["areas"], len(prior.regions), []
    if number:
        lines.append(words["one" if number == 1 else "many"].format(number=number, share=100 * prior.share))
    for region in prior.regions[: words["most"]]:
        what = ", ".join(_known_words(item) for item in region.known)
        place, share = region.place.replace("_", " "), 100 * region.share
        lines.append(words["each"].format(place=place, shape=region.shape, share=share, what=what and f": {what}"))
    if number > words["most"]:
        lines.append(words["rest"].format(number=number - words["most"]))
    if prior.scope:
        lines.append(words["scope"].format(scope=prior.scope))
    if prior.known:
        lines.append(words["known"].format(known=", ".join(_known_words(item) for item in prior.known)))
    return " ".join(lines)


def _known_words(item: Known) -> str:
    ways: dict[str, str] = prompt_table()["teacher"]["areas"]["ways"]
    return ways[item.direction or "open"].format(object=item.object.replace("_", " "))
