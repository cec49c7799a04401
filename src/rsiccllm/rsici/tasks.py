"""From accepted answers and the mask to instructions: eight tasks over one pair, each with several phrasings."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from rsiccllm.errors import InputError
from rsiccllm.records import ImagePair, Instruction, Turn
from rsiccllm.rsici.prior import Prior
from rsiccllm.rsici.prompts import question
from rsiccllm.rsici.teachers.rules import change_clause, in_words

TASKS = ("describe", "caption", "changed", "kind", "count", "where", "order", "dialogue")
"""describe: a long description (the paper's task). caption: a short one. changed: yes or no. kind: what kind of change.
count: how many areas. where: in words, and as boxes (`where_box`). order: which image is the earlier one. dialogue: the
source's own conversations, else one of several turns made of the answers above."""

PAPER_TASKS = ("describe",)
TAUGHT = ("describe", "caption", "kind")
"""The tasks whose answers a teacher writes. The others follow from the mask and what is known."""

MOST = 20
"""A pair with more regions is neither counted nor boxed: nobody counts so far by eye, and the answer would be long."""

Boxes = Literal["qwen2.5", "qwen3"]


@dataclass(frozen=True)
class TaskSettings:
    """Which tasks, how much of each, in which words.

    tasks: of TASKS. shares: for a task the share of pairs that get it, 0..1, 1 where not named. phrasings: how many of
    the prompt file's phrasings are used, 0 for all. boxes: "qwen2.5" gives pixels of the image as Qwen2.5-VL resizes
    it, "qwen3" thousandths of its sides. seed: draws other pairs for shares under 1 and other phrasings.
    """

    tasks: tuple[str, ...] = ("caption",)
    shares: Mapping[str, float] = field(default_factory=dict)
    phrasings: int = 0
    boxes: Boxes = "qwen2.5"
    seed: int = 0

    def __post_init__(self) -> None:
        for task in self.tasks:
            if task not in TASKS:
                raise InputError(f"--tasks: unknown task '{task}', expected one of {', '.join(TASKS)}, all or paper")
        if not self.tasks:
            raise InputError("--tasks: expected at least one task")
        for task, share in self.shares.items():
            if task not in self.tasks:
                raise InputError(f"--shares: '{task}' is not among the tasks {', '.join(self.tasks)}")
            if not 0 <= share <= 1:
                raise InputError(f"--shares: {task}={share}; expected a share from 0 to 1")

    def wants(self, task: str, pair: str) -> bool:
        """Whether a pair gets a task: by its share, the same draw for the same pair, task and seed everywhere."""
        if task not in self.tasks:
            return False
        share = self.shares.get(task, 1.0)
        digest = hashlib.sha256(f"{self.seed}:{task}:{pair}".encode()).digest()
        return int.from_bytes(digest[:8], "big") < share * 2**64


def read_tasks(text: str) -> tuple[str, ...]:
    """The tasks of `--tasks`: "all", "paper", or names with commas between them. Names are checked by TaskSettings."""
    names = {"all": TASKS, "paper": PAPER_TASKS}.get(text.strip())
    return names if names else tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def read_shares(text: str) -> dict[str, float]:
    """The shares of `--shares`, such as "caption=0.5,count=0.1". Raises InputError where a part is no share."""
    shares = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = part.partition("=")
        try:
            shares[name.strip()] = float(value)
        except ValueError:
            equals = ""
        if not equals:
            raise InputError(f"--shares: '{part}'; expected task=share, such as caption=0.5")
    return shares


@dataclass(frozen=True)
class Accepted:
    """Answers to one task that passed the gates: who wrote them, and the prompt a model was given."""

    answers: tuple[str, ...]
    teacher: str
    asked: str | None = None


def instructions(
    pair: ImagePair, source: str, prior: Prior, accepted: Mapping[str, Accepted], settings: TaskSettings
) -> Iterator[Instruction]:
    """Every instruction of a pair, in the order of TASKS.

    accepted: the taught tasks' answers; those the dialogue is made of may be there without being wanted themselves.
    """
    turns: list[Turn] = []
    key = f"{settings.seed}:{pair.id}"
    scope = prior.scope or ""

    def ask(task: str, **words: str) -> str:
        return question(task, key, settings.phrasings, **words)

    def ask_of(task: str) -> str:
        """Of what the masks mark: of buildings alone the answers tell nothing about the rest of the ground."""
        return ask(f"{task}_scope" if scope else task, scope=scope)

    def record(task: str, prompt: str, answer: Accepted, suffix: str = "", **more: Any) -> Instruction:
        fields: dict[str, Any] = {
            "id": f"{pair.id}/{suffix or task}", "pair": pair.id, "split": pair.split, "source": source, "task": task,
            "before": pair.before, "after": pair.after, "mask": pair.mask,
            "coded_mask": pair.coded_mask, "changed": pair.changed, "prompt": prompt,
            "answers": list(answer.answers), "facts": pair.facts, "teacher": answer.teacher, "asked": answer.asked,
        }  # fmt: skip
        return Instruction.model_validate(fields | more)

    for task in TAUGHT[:2]:
        if task in accepted and settings.wants(task, pair.id):
            yield record(task, ask(task), accepted[task])
    verdict = _verdict(prior)
    if verdict is not None:
        prompt = ask_of("changed")
        turns.append(Turn(question=prompt, answer=verdict))
        if settings.wants("changed", pair.id):
            yield record("changed", prompt, _ours(verdict))
    if "kind" in accepted:
        prompt = ask("kind")
        turns.append(Turn(question=prompt, answer=accepted["kind"].answers[0]))
        if settings.wants("kind", pair.id):
            yield record("kind", prompt, accepted["kind"])
    if prior.masked and settings.wants("count", pair.id) and (prior.regions or prior.empty):
        prompt = ask_of("count")
        if prior.empty or len(prior.regions) <= MOST:
            yield record("count", prompt, _ours(str(0 if prior.empty else len(prior.regions))))
    if prior.masked and (prior.regions or prior.empty):
        words = in_words(prior)
        prompt = ask_of("where")
        if not prior.empty:
            turns.append(Turn(question=prompt, answer=words))
        if settings.wants("where", pair.id):
            yield record("where", prompt, _ours(words))
            if prior.empty or len(prior.regions) <= MOST:
                yield record("where", ask_of("where_box"), _ours(boxes_of(prior, settings.boxes)), "where_box")
    change = change_clause(prior, key)
    if change and settings.wants("order", pair.id):
        swapped = random.Random(f"order:{key}").random() < 0.5
        more: dict[str, Any] = {"facts": None}
        if swapped:
            # What a coded mask says came has gone.
            more |= {"before": pair.after, "after": pair.before, "coded_mask": False}
        answer = f"The {'second' if swapped else 'first'} image is the earlier one."
        yield record("order", ask("order", change=change), _ours(answer), **more)
    if settings.wants("dialogue", pair.id):
        for number, dialogue in enumerate(pair.dialogues):
            *history, last = dialogue
            own = Accepted((last.answer,), "source")
            yield record("dialogue", last.question, own, f"dialogue/{number}", history=history)
        if not pair.dialogues and "describe" in accepted and turns:
            answer_ = accepted["describe"]
            yield record("dialogue", ask("describe"), answer_, history=turns)


def _ours(text: str) -> Accepted:
    return Accepted((text,), "rules")


def _verdict(prior: Prior) -> str | None:
    if prior.empty:
        return "No."
    known = prior.changed or prior.regions
    return "Yes." if known and (not prior.scope or prior.regions) else None


def boxes_of(prior: Prior, form: Boxes) -> str:
    """The regions as JSON in the form Qwen's models write: [{"bbox_2d": [left, top, right, bottom], "label": ...}].

    Qwen2.5-VL counts pixels of the image as its processor resizes it, Qwen3-VL thousandths of its sides.
    """
    if prior.empty:
        return "[]"
    if form == "qwen3":
        wide, high = 1000, 1000
    else:
        wide, high = qwen2_5_size(prior.width, prior.height)
    scale = (wide / prior.width, high / prior.height) * 2
    found = []
    for region in sorted(prior.regions, key=lambda region: (region.box[1], region.box[0])):
        label = region.known[0].object.replace("_", " ") if region.known else "change"
        box = [round(side * factor) for side, factor in zip(region.box, scale, strict=True)]
        found.append({"bbox_2d": box, "label": label})
    return json.dumps(found)


def qwen2_5_size(
    width: int, height: int, factor: int = 28, least: int = 56 * 56, most: int = 16384 * 28 * 28
) -> tuple[int, int]:
    """(width, height) to which Qwen2.5-VL's processor resizes an image: sides are multiples of `factor`.

    `least` and `most` are pixels, the defaults of Qwen2.5-VL's preprocessor_config.json (the formula is its
    `smart_resize`).
    """
    high, wide = (round(side / factor) * factor for side in (height, width))
    if high * wide > most:
        beta = (height * width / most) ** 0.5
        high, wide = (max(factor, int(side / beta / factor) * factor) for side in (height, width))
    elif high * wide < least:
        beta = (least / (height * width)) ** 0.5
        high, wide = (-int(-side * beta // factor) * factor for side in (height, width))
    return wide, high
