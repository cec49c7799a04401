"""What a review asks people about: the instructions of a built folder, each with its images and what the gates say."""

from __future__ import annotations

import json
import random
import threading
from collections import defaultdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from rsiccllm.errors import InputError
from rsiccllm.files import read_jsonl, read_text
from rsiccllm.journal import Journal
from rsiccllm.page import Html
from rsiccllm.people.server import Items, Refused, now
from rsiccllm.records import INSTRUCTIONS, Instruction
from rsiccllm.rsici.gates import check
from rsiccllm.rsici.prior import Prior, prior_of
from rsiccllm.rsici.prompts import facts_in_words
from rsiccllm.rsici.review.decisions import CHOICES, REVIEWS, Decision, read_reviews
from rsiccllm.rsici.review.pages import TITLE, Shown, item_page, report_lines, report_page
from rsiccllm.sources import open_source

REJECTED = "rejected.jsonl"
GATED = ("describe", "caption", "kind")
"""The tasks whose answers a teacher writes and the gates judge; the others follow from the mask by rule."""


class Review(Items):
    """What is reviewed: the instructions of a built folder, in an order that is the same for all reviewers.

    Args:
        root: a folder that `rsici build` wrote. tasks: which are shown. split: only this one. n: how many, drawn with
            `seed`; None: all.

    Raises InputError for a folder that is none, and where nothing is left to review.
    """

    title = TITLE

    def __init__(
        self, root: Path, tasks: tuple[str, ...] = GATED, split: str | None = None, n: int | None = None, seed: int = 0
    ) -> None:
        self.root = root
        self.source = open_source(f"rsici:{root}")
        self._pairs = {pair.id: pair for pair in self.source.pairs}
        every = read_jsonl(root / INSTRUCTIONS, Instruction)
        records = [r for r in every if r.task in tasks and split in {None, r.split} and r.pair in self._pairs]
        if not records:
            raise InputError(f"{root / INSTRUCTIONS}: no record of the tasks {', '.join(tasks)} to review")
        random.Random(seed).shuffle(records)
        self.records = records[:n]
        self.place = {record.id: place for place, record in enumerate(self.records)}
        self._before: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        if (root / REJECTED).exists():
            for number, line in enumerate(read_text(root / REJECTED).split("\n"), start=1):
                if not line:
                    continue
                try:
                    note = json.loads(line)
                    self._before[note["pair"], note["task"]].append(note)
                except (ValueError, KeyError, TypeError):
                    raise InputError(f"{root / REJECTED}:{number}: not a line that `rsici build` writes") from None
        self._journal = Journal(root / REVIEWS)  # its lock first: nobody else decides from here on
        try:
            self.reviews = read_reviews(root, self.records)
        except InputError:
            self._journal.close()
            raise
        self._lock = threading.Lock()
        self.shown = lru_cache(maxsize=32)(self._shown)

    def close(self) -> None:
        """Let go of the file of decisions."""
        self._journal.close()

    def decide(self, decision: Decision) -> None:
        """Keep a decision: on disk first, then in what is shown."""
        with self._lock:
            self._journal.append(decision.model_dump(mode="json", exclude_none=True))
            self.reviews.add(decision)

    def __len__(self) -> int:
        return len(self.records)

    @property
    def people(self) -> list[str]:
        """Everyone who decided anything."""
        with self._lock:
            return self.reviews.reviewers

    def said(self, person: str, place: int) -> bool:
        """Whether a person has decided on an item."""
        return self.reviews.of(person, self.records[place].id) is not None

    def show(self, place: int, person: str, token: str) -> Html:
        """The page of an item. Raises InputError where an image went away since the start."""
        record = self.records[place]
        own = self.reviews.of(person, record.id)
        return item_page(record, self.shown(place), place, len(self), self.done(person), person, own, token)

    def take(self, place: int, person: str, fields: dict[str, str]) -> None:
        """Keep accept, edit or reject, as the form has it."""
        record = self.records[place]
        if fields.get("choice") not in CHOICES:
            raise Refused("Expected accept, edit or reject.")
        edited = None
        if fields["choice"] == "edit":
            texts = [fields.get(f"text{number}", "") for number in range(len(record.answers))]
            edited = [text.replace("\r\n", "\n").strip() for text in texts if text.strip()]
            if not edited:
                raise Refused("The edit is empty; reject the item instead.")
        self.decide(
            Decision(
                item=record.id,
                reviewer=person,
                choice=fields["choice"],
                answers=record.answers,
                edited=edited,
                note=fields.get("note", "")[:500],
                at=now(),
            )
        )

    def report(self) -> Html:
        """Who decided what, and how far they agree."""
        with self._lock:  # another reviewer may be deciding
            return report_page(self.reviews, len(self), self.root)

    def lines(self) -> list[str]:
        """How many were looked at, and how far people agree."""
        with self._lock:
            return report_lines(self.reviews, len(self))

    def _shown(self, place: int) -> Shown:
        record = self.records[place]
        pair = self._pairs[record.pair]
        # The texts are what is judged: what they say must not pass for what is known.
        prior: Prior = prior_of(self.source, pair.model_copy(update={"captions": [], "description": None}))
        found = [item for answer in record.answers for item in check(answer, record.task, prior)]
        gates = list(dict.fromkeys(f"{item.gate}: {item.reason} ({item.detail})" for item in found))
        facts = facts_in_words(prior) if prior.regions or prior.known else ""
        return Shown(self.source.open(pair), facts, gates, self._before[record.pair, record.task])
