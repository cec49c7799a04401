"""The pages of a review: who is there, one item, and what was decided. All that data or people wrote is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rsiccllm.facts import parse
from rsiccllm.page import Html, element, figure, join, overlay, page, table
from rsiccllm.pairs import OpenedPair
from rsiccllm.records import Instruction
from rsiccllm.rsici.review.decisions import CHOICES, Decision, Reviews
from rsiccllm.sources.show import fact_line

MAX_SIDE = 640


def _read(name: str) -> str:
    return resources.files("rsiccllm.rsici.review").joinpath(name).read_text(encoding="utf-8")


def document(title: str, *body: Html) -> Html:
    """A page with the style and the keys of the review."""
    return page(title, join(body), _read("review.css"), _read("keys.js"))


@dataclass(frozen=True)
class Shown:
    """What is shown of one item besides its record. region_facts: what the mask says, in words. gates: what the gates
    say now, one line a reason; none: it passes. before: answers that were rejected when the set was built."""

    opened: OpenedPair
    region_facts: str
    gates: Sequence[str]
    before: Sequence[dict[str, Any]]


def item_page(
    record: Instruction,
    shown: Shown,
    place: int,
    total: int,
    done: int,
    reviewer: str,
    own: Decision | None,
    token: str,
) -> Html:
    """One item with its buttons. place: from 0. done: items the reviewer decided on. own: what they decided here."""
    opened = shown.opened
    figures = [figure(opened.before, "before", MAX_SIDE), figure(opened.after, "after", MAX_SIDE)]
    badges = [record.task, record.split, record.source, f"by {record.teacher}"]
    if opened.mask is not None and opened.mask.any():
        figures.append(figure(overlay(opened.after, opened.mask), "after, mask outlined", MAX_SIDE))
    elif opened.mask is not None:
        badges.append("mask empty")
    if own is not None:
        badges.append(f"you: {own.choice}")
    answers = own.edited if own is not None and own.edited else record.answers
    several = len(record.answers) > 1
    gates = [element("li", line, css="bad") for line in shown.gates] or [element("li", "passes all")]
    facts = list(dict.fromkeys(fact_line(fact) for answer in answers for fact in parse(answer).facts))
    link = f"/item/{{}}?by={quote(reviewer, safe='')}"
    moves = [
        _link("back", link.format(place - 1), "←") if place > 0 else Html(""),
        _link("on", link.format(place + 1), "→") if place + 1 < total else Html(""),
    ]
    form = element(
        "form",
        _hidden("token", token),
        _hidden("by", reviewer),
        element("div", "Edit (one answer a line)" if several else "Edit", css="label"),
        element("textarea", "\n".join(answers), attributes={"name": "text", "rows": 7 if several else 5}),
        element("div", "Note", css="label"),
        _input(type="text", name="note", value=own.note if own else "", maxlength=500),
        element(
            "div",
            _button("accept", "accept", "Accept", "a"),
            _button("edit", "save", "Save the edit", "Ctrl Enter"),
            _button("reject", "reject", "Reject", "r"),
            element("span", "edit", element("kbd", "e"), css="quiet"),
            element("span", *moves, css="push"),
            css="bar",
        ),
        attributes={"method": "post", "action": f"/item/{place}", "autocomplete": "off"},
    )
    head = element("div", element("h3", record.id), *(element("span", b, css="badge") for b in badges), css="head")
    words = element(
        "div",
        element("div", "Asked", css="label"),
        element("p", record.prompt, css="text"),
        element("div", "Answered", css="label"),
        *(element("p", answer, css="text said") for answer in answers),
        element("div", "Gates", css="label"),
        element("ul", *gates),
        element("div", "Read in it", css="label"),
        element("ul", *([element("li", fact) for fact in facts] or [element("li", "no fact")])),
        element("div", "Mask", css="label"),
        element("p", shown.region_facts or "no mask"),
        *_before(shown.before),
        css="words",
    )
    card = element("section", head, element("div", *figures, css="figures"), words, form, css="card")
    status = element(
        "p",
        f"{place + 1} of {total}, {done} decided by {reviewer}. ",
        _link("", "/report", "What was decided"),
        css="quiet",
    )
    return document("Review", status, card)


def _before(notes: Sequence[dict[str, Any]]) -> list[Html]:
    if not notes:
        return []
    rows = [[note["attempt"] + 1, note["gate"], note["reason"], note["detail"], note["text"]] for note in notes]
    label = element("div", "Rejected when the set was built", css="label")
    return [label, table(["attempt", "gate", "reason", "detail", "answer"], rows)]


def name_page(reviewers: Sequence[str], wrong: str = "") -> Html:
    """Asks who is there."""
    field = _input(type="text", name="by", maxlength=60, autofocus="", required="")
    form = element("form", field, element("div", element("button", "Begin"), css="bar"), attributes={"action": "/"})
    known = [_link("", f"/?by={quote(name, safe='')}", name) for name in reviewers]
    parts = [element("p", wrong, css="bad")] if wrong else []
    parts += [element("p", "Your name, so that decisions of several people can be told apart:"), form]
    parts += [element("p", "Here before: ", *(join([link, " "]) for link in known))] if known else []
    return document("Review", *parts)


def report_page(reviews: Reviews, total: int, root: Path) -> Html:
    """Who decided what, and how far they agree."""
    return document("What was decided", *report_parts(reviews, total), element("p", str(root), css="quiet"))


def report_parts(reviews: Reviews, total: int) -> list[Html]:
    """The table of choices and the lines on agreement."""
    rows = [[name, *(counts[choice] for choice in CHOICES)] for name, counts in reviews.counts().items()]
    return [
        table(["reviewer", *CHOICES], rows) if rows else element("p", "nothing yet"),
        *(element("p", line) for line in report_lines(reviews, total)),
    ]


def report_lines(reviews: Reviews, total: int) -> list[str]:
    """For the page and the terminal."""
    return [
        f"{sum(bool(own) for own in reviews.by_item.values())} of {total} items looked at by "
        f"{len(reviews.reviewers)} reviewers",
        f"accept, edit or reject: {reviews.agreement()}",
        f"keep or reject: {reviews.agreement(keep_or_not=True)}",
    ]


def done_page(reviewer: str) -> Html:
    """Nothing is left for this reviewer."""
    back = _link("back", f"/item/0?by={quote(reviewer, safe='')}", "Look again")
    return document("Review", element("p", f"{reviewer} has decided on every item."), element("p", back),
                    element("p", _link("", "/report", "What was decided")))  # fmt: skip


def _hidden(name: str, value: str) -> Html:
    return _input(type="hidden", name=name, value=value)


def _input(**attributes: object) -> Html:
    return Html(element("input", attributes=attributes).removesuffix("</input>"))  # the element has no end tag


def _button(value: str, key: str, words: str, shown: str) -> Html:
    attributes = {"name": "choice", "value": value, "data-key": key}
    return element("button", words, element("kbd", shown), attributes=attributes)


def _link(key: str, target: str, words: str) -> Html:
    attributes = {"href": target, **({"data-key": key} if key else {})}
    return element("a", words, css="button" if key else "", attributes=attributes)
