"""What is asked, of the model and of the teacher. The words live in `prompts_v1.yaml`; samples record the version."""

from __future__ import annotations

import random
from functools import cache
from importlib import resources
from typing import Any

import yaml

from rsiccllm.facts import Known
from rsiccllm.rsici.prior import Prior, Region
from rsiccllm.rsici.teachers.base import Ask

FILE = "prompts_v1.yaml"
MOST_REGIONS = 12
"""A teacher's prompt lists the largest regions, at most so many; with more the list is longer than its use."""


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
    """The region facts as sentences for a teacher's prompt."""
    number = len(prior.regions)
    lines = [f"{number} separate area{'s' if number != 1 else ''}, {100 * prior.share:.1f} % of the image in all."]
    lines += [_region_line(region) for region in prior.regions[:MOST_REGIONS]]
    if number > MOST_REGIONS:
        lines.append(f"and {number - MOST_REGIONS} smaller ones.")
    if prior.scope:
        lines.append(f"Only changes of a {prior.scope} are among these areas.")
    if prior.known:
        lines.append("Known to have changed: " + ", ".join(_known_words(item) for item in prior.known) + ".")
    return " ".join(lines)


def _region_line(region: Region) -> str:
    what = f" ({', '.join(_known_words(item) for item in region.known)})" if region.known else ""
    return f"One at the {region.place.replace('_', ' ')}, {region.shape}, {100 * region.share:.1f} %{what}."


def _known_words(item: Known) -> str:
    verb = {"appear": "comes", "disappear": "goes", None: "changes"}[item.direction]
    return f"{item.object.replace('_', ' ')} {verb}"
