"""The pages of a review: one item, and what was decided. All that data or people wrote is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsiccllm.facts import parse
from rsiccllm.page import Html, element, figure, overlay, table
from rsiccllm.pairs import OpenedPair
from rsiccllm.people.pages import button, document, field_of, item_form, moves, status
from rsiccllm.records import Instruction
from rsiccllm.rsici.review.decisions import CHOICES, Decision, Reviews
from rsiccllm.sources.show import fact_line

TITLE = "Review"
MAX_SIDE = 640


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
    # An edit may have dropped some of the answers: their fields are empty then.
    texts = [*answers, *[""] * (len(record.answers) - len(answers))]
    fields = [
        element("textarea", text, attributes={"name": f"text{at}", "rows": 2 if several else 5}
                | ({"data-focus": "e"} if at == 0 else {}))
        for at, text in enumerate(texts)
    ]  # fmt: skip
    form = item_form(
        place,
        reviewer,
        token,
        element("div", "Edit (an empty answer is left out)" if several else "Edit", css="label"),
        *fields,
        element("div", "Note", css="label"),
        field_of(type="text", name="note", value=own.note if own else "", maxlength=500),
        element(
            "div",
            button("a", "Accept", "a", "main", name="choice", value="accept"),
            button("Control Enter", "Save the edit", "Ctrl Enter", name="choice", value="edit"),
            button("r", "Reject", "r", name="choice", value="reject"),
            element("span", "edit", element("kbd", "e"), css="quiet"),
            moves(place, total, reviewer),
            css="bar",
        ),
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
    return document(TITLE, status(place, total, done, reviewer), card)


def _before(notes: Sequence[dict[str, Any]]) -> list[Html]:
    if not notes:
        return []
    rows = [[note["attempt"] + 1, note["gate"], note["reason"], note["detail"], note["text"]] for note in notes]
    label = element("div", "Rejected when the set was built", css="label")
    return [label, table(["attempt", "gate", "reason", "detail", "answer"], rows)]


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
