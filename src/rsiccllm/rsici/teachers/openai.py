"""A teacher behind any OpenAI-compatible endpoint: it sees both images, where the change is, and what the mask says."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import PIL.Image

from rsiccllm.endpoint import (
    Budget,
    Client,
    Endpoint,
    NoReply,
    Request,
    Usage,
    estimate_tokens,
    image_part,
    text_part,
)
from rsiccllm.files import inside
from rsiccllm.near_duplicates.texts import words_of
from rsiccllm.page import Html, element, figure, join, overlay, table, write_page
from rsiccllm.pairs import open_pair
from rsiccllm.rsici.prompts import prompt_name, teacher_prompt
from rsiccllm.rsici.teachers.base import MAX_ATTEMPTS, Ask, Failure

JOURNAL = "teacher.jsonl"
"""The file in the built folder that holds every request sent and every answer received."""

DRY_RUN = "dry_run.html"
"""The page in the built folder that a dry run writes."""

MAX_SIDE = 1024
"""Pixels; larger images are shrunk to it before they are sent."""

MAX_TOKENS = 400
"""Of an answer. A description of 90 words takes some 130; what runs on is cut off and refused."""

ECHO = 10
"""Words in a row that an answer may not have from its prompt: a model that copies an example tells of another place."""

TOKENS_A_WORD = 1.4
"""Of English, for estimates."""

ANSWER_WORDS = 90
"""Words of an answer, for estimates: the most that a first prompt asks for."""

Look = Literal["outline", "mask", "none"]

PASSING = {"timeout", "connection", "rate limit", "server error", "broken body", "empty", "budget"}
"""Failures after which the same ask may succeed in a later run."""


class Shown(NamedTuple):
    """An image that goes into a prompt, and the words before it."""

    words: str
    image: PIL.Image.Image


class OpenAITeacher:
    """Asks a vision-language model, one request an ask.

    Args:
        root: the folder being built; the paths of asked pairs are relative to it, and its `JOURNAL` keeps the answers.
        endpoint: where to ask. budget: what may be used up, all runs together.
        look: how the teacher is shown where the change is: "outline" (its borders drawn on the second image), "mask" (a
            third image, white where something changed) or "none" (words alone).
        temperature: of the sampling. max_tokens: of an answer.

    Attributes:
        name: recorded with every sample: the model and how it is shown where the change is.

    Use as a context manager: it holds the journal while it lives.
    """

    def __init__(
        self,
        root: Path,
        endpoint: Endpoint,
        budget: Budget | None = None,
        look: Look = "outline",
        temperature: float = 0.2,
        max_tokens: int = MAX_TOKENS,
    ) -> None:
        self.name = f"openai:{endpoint.model}/{look}"
        self.root = root
        self.look = look
        self.endpoint = endpoint
        self._budget = budget
        self.settings: dict[str, Any] = {"temperature": temperature, "max_tokens": max_tokens}
        self._client: Client | None = None
        self._usage = Usage()

    def __enter__(self) -> OpenAITeacher:
        return self

    def __exit__(self, *_: object) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    @property
    def usage(self) -> Usage:
        """What the job has used, all runs on this folder together; see `rsiccllm.endpoint.Usage`."""
        return self._usage

    def answer_all(self, asks: Iterable[Ask]) -> Iterator[tuple[Ask, list[str] | Failure]]:
        """Answer every ask once, as answers come. Raises InputError where an image cannot be opened, and where the
        endpoint cannot be worked with at all (see `Client.ask_all`)."""
        if self._client is None:  # not before: a folder that another build holds must not gain a file
            self._client = Client(self.endpoint, self.root / JOURNAL, self._budget)
            self._usage = self._client.usage
        requests = (make_request(self.root, ask, self.look, self.settings) for ask in asks)
        for outcome in self._client.ask_all(requests):
            ask: Ask = outcome.request.tag
            if isinstance(outcome, NoReply):
                final = outcome.reason not in PASSING
                yield ask, Failure(outcome.reason.replace(" ", "_"), outcome.detail, final)
            elif outcome.finish == "length":
                yield ask, Failure("cut_off", f"longer than {self.settings['max_tokens']} tokens")
            elif outcome.finish in {"refusal", "content_filter"}:
                yield ask, Failure("refusal", " ".join(outcome.text.split())[:200])
            elif echo := _echo(outcome.text, self._told(ask)):
                yield ask, Failure("echo", f"repeats its prompt: {echo}")
            else:
                yield ask, [outcome.text.strip()]

    def _told(self, ask: Ask) -> str:
        return "\n".join(teacher_prompt(ask, _look(ask, self.look)))


def _echo(answer: str, prompt: str) -> str:
    """A run of `ECHO` words that the answer has from its prompt (an example, the instructions); "" where none is."""
    said, told = words_of(answer), words_of(prompt)
    runs = {told[place : place + ECHO] for place in range(len(told) - ECHO + 1)}
    return next((" ".join(said[i : i + ECHO]) for i in range(len(said) - ECHO + 1) if said[i : i + ECHO] in runs), "")


def _look(ask: Ask, look: Look) -> Look:
    """How the prompt speaks of the change: a prompt that speaks of outlines over an image without any is a riddle."""
    return look if ask.prior.share > 0 else "none"


def shown(root: Path, ask: Ask, look: Look) -> list[Shown]:
    """The images of a prompt in their order. Raises InputError where one cannot be opened."""
    mask = inside(root, ask.pair.mask) if ask.pair.mask and ask.prior.masked else None
    pair = open_pair(inside(root, ask.pair.before), inside(root, ask.pair.after), mask)
    after, extra = pair.after, list[Shown]()
    if pair.mask is not None and pair.mask.any():
        if look == "outline":
            after = overlay(after, pair.mask)
        elif look == "mask":
            extra = [Shown("Map of the changed areas:", PIL.Image.fromarray(pair.mask))]
    return [Shown("First image:", pair.before), Shown("Second image:", after), *extra]


def make_request(root: Path, ask: Ask, look: Look, settings: dict[str, Any]) -> Request:
    """The request for an ask. The same ask, images and settings give the same bytes."""
    images = shown(root, ask, look)
    system, user = teacher_prompt(ask, _look(ask, look))
    content = [part for item in images for part in (text_part(item.words), image_part(item.image, MAX_SIDE))]
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": system},
        {"role": "user", "content": [*content, text_part(user)]},
    ]
    return Request(messages, settings, tag=ask)


def dry_run(teacher: OpenAITeacher, asks: Sequence[Ask], total: int, shown_first: int = 8) -> list[str]:
    """Ask nothing: write a page with the first prompts and their images, and say what the whole job would cost.

    asks: the first ones of the job. total: how many it has, first attempts alone. The cost is scaled from `asks`:
    images as Qwen2.5-VL counts them, four characters a token. Returns lines to print.
    """
    requests: list[Request] = []
    cards: list[Html] = []
    for ask in asks:
        requests.append(make_request(teacher.root, ask, teacher.look, teacher.settings))
        if len(cards) < shown_first:
            cards.append(_card(teacher.root, ask, teacher.look))
    lines = _cost(requests, total, teacher.endpoint, teacher.settings["max_tokens"])
    head = element("p", *(join([line, Html("<br>")]) for line in lines))
    title = f"{len(cards)} of {total:,} prompts to {teacher.endpoint.model}"
    return [*lines, str(write_page(teacher.root / DRY_RUN, title, join([head, *cards])))]


def _cost(requests: Sequence[Request], total: int, endpoint: Endpoint, most: int) -> list[str]:
    if not requests:
        return ["nothing to ask"]
    prompt = sum(estimate_tokens(request)[0] for request in requests) / len(requests)
    answer = ANSWER_WORDS * TOKENS_A_WORD
    rows = [
        ("every first answer passes", 1.0, answer),
        ("every ask is made three times, to the last token", 3.0, most),
    ]
    lines = [f"{total:,} asks, {prompt:,.0f} prompt tokens each"]
    for words, times, completion in rows:
        used = [math.ceil(total * times * part) for part in (prompt, completion)]
        money = endpoint.cost(*used)
        price = f", {money:,.2f} money units" if endpoint.price_in or endpoint.price_out else ""
        lines.append(f"if {words}: {total * times:,.0f} requests, {used[0]:,} + {used[1]:,} tokens{price}")
    return lines


def _card(root: Path, ask: Ask, look: Look) -> Html:
    system, user = teacher_prompt(ask, _look(ask, look))
    badges = [f"{ask.task}, attempt {ask.attempt + 1} of {MAX_ATTEMPTS}", prompt_name(ask)]
    head = element("div", element("h3", ask.pair.id), *(element("span", b, css="badge") for b in badges), css="head")
    figures = element("div", *(figure(item.image, item.words) for item in shown(root, ask, look)), css="figures")
    told = [("system", system), ("user, after the images", element("div", user, css="text"))]
    rows = table(["message", "text"], told)
    return element("section", head, figures, rows, css="card")
