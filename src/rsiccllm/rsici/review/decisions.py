"""What reviewers decided: a file that only grows, what stands at its end, and how far they agree."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rsiccllm.agreement import Agreement, agreement
from rsiccllm.errors import InputError
from rsiccllm.files import describe_validation
from rsiccllm.journal import read_journal
from rsiccllm.records import Instruction, Text

REVIEWS = "reviews.jsonl"
"""The file in a built folder that holds every decision."""

Choice = Literal["accept", "edit", "reject"]
CHOICES: tuple[Choice, ...] = get_args(Choice)


class Decision(BaseModel):
    """One decision of one reviewer.

    item: the instruction's id. answers: the texts that were shown. edited: the texts in their place, for "edit" alone.
    note: why. at: when, in UTC, as 2026-01-31T12:00:00Z.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    item: Text
    reviewer: Text
    choice: Choice
    answers: list[Text] = Field(min_length=1)
    edited: list[Text] | None = None
    note: str = ""
    at: str


@dataclass
class Reviews:
    """The decisions on one folder that still stand: a reviewer's last one on each item, as long as the item's answers
    are those that were shown."""

    by_item: dict[str, dict[str, Decision]] = field(default_factory=lambda: defaultdict(dict))

    def add(self, decision: Decision) -> None:
        """Take a further decision; it replaces the reviewer's own earlier one on the item."""
        own = self.by_item[decision.item]
        own.pop(decision.reviewer, None)  # the latest stands last: times are whole seconds
        own[decision.reviewer] = decision

    def of(self, reviewer: str, item: str) -> Decision | None:
        """What a reviewer decided on an item."""
        return self.by_item.get(item, {}).get(reviewer)

    @property
    def reviewers(self) -> list[str]:
        """Everyone who decided anything, sorted."""
        return sorted({name for own in self.by_item.values() for name in own})

    def counts(self) -> dict[str, Counter[str]]:
        """{reviewer: how often each choice}."""
        found: dict[str, Counter[str]] = defaultdict(Counter)
        for own in self.by_item.values():
            for name, decision in own.items():
                found[name][decision.choice] += 1
        return dict(sorted(found.items()))

    def agreement(self, keep_or_not: bool = False) -> Agreement:
        """Agreement over the three choices, or, if `keep_or_not`, over "reject" against the other two."""
        ratings: dict[str, dict[str, str | int | float]] = defaultdict(dict)
        for item, own in self.by_item.items():
            for name, decision in own.items():
                kept = "reject" if decision.choice == "reject" else "keep"
                ratings[name][item] = kept if keep_or_not else decision.choice
        return agreement(ratings)

    def apply(self, records: Iterable[Instruction]) -> list[Instruction]:
        """The records that reviewers leave: without those that at least half of their reviewers reject; with the words
        of the latest edit where there is one. Records that nobody looked at stay as they are."""
        kept = []
        for record in records:
            own = list(self.by_item.get(record.id, {}).values())
            if own and 2 * sum(decision.choice == "reject" for decision in own) >= len(own):
                continue
            edits = sorted((d for d in own if d.edited), key=lambda decision: decision.at)
            kept.append(record.model_copy(update={"answers": edits[-1].edited}) if edits else record)
        return kept


def read_reviews(root: Path, records: Sequence[Instruction]) -> Reviews:
    """The decisions in a folder on these records; those on answers that are no longer there are passed over.

    Raises InputError for a line that is no decision. A last line that was not written to its end, by a kill, is none.
    """
    answers = {record.id: record.answers for record in records}
    reviews = Reviews()
    if (root / REVIEWS).exists():
        for number, line in enumerate(read_journal(root / REVIEWS), start=1):
            try:
                decision = Decision.model_validate(line)
            except ValidationError as error:
                raise InputError(f"{root / REVIEWS}:{number}: {describe_validation(error)}") from None
            if answers.get(decision.item) == decision.answers:
                reviews.add(decision)
    return reviews
