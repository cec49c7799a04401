"""What has been asked and answered, all runs on one journal together, and what that has used."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rsiccllm.endpoint.settings import Budget, Endpoint
from rsiccllm.errors import InputError
from rsiccllm.journal import Journal


@dataclass
class Usage:
    """What the job has used, all runs on one journal together, unless said otherwise.

    sent: requests, every attempt. answered: answers received in full. reused: answers taken from the journal, in this
    run. repeated: requests sent again because a run ended with them in flight. unreported: answers without token
    counts; theirs are estimated. money: by the endpoint's prices. faults: attempts that failed, by reason.
    given_up: requests that were given up, by reason, in this run.
    """

    sent: int = 0
    answered: int = 0
    reused: int = 0
    repeated: int = 0
    unreported: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    money: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    given_up: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        tokens = f"{self.prompt_tokens:,} + {self.completion_tokens:,} tokens"
        parts = [f"{self.answered:,} answers", f"{self.sent:,} requests", tokens]
        if self.money:
            parts.append(f"{self.money:.2f} money units")
        for name, value in (("reused", self.reused), ("repeated", self.repeated), ("unreported", self.unreported)):
            if value:
                parts.append(f"{value:,} {name}")
        for title, counts in (("failed attempts", self.faults), ("given up", self.given_up)):
            if counts:
                parts.append(f"{title}: " + ", ".join(f"{number:,} {name}" for name, number in sorted(counts.items())))
        return "; ".join(parts)


class Ledger:
    """The journal of one endpoint, and what stands in it: answers, totals, and how far the budget still reaches.

    Attributes:
        answers: lines of the journal by the digest of what was asked.
        usage: totals so far, those of earlier runs on this journal included.

    Raises InputError for a journal that is damaged or in use, and for a budget in money without prices.
    """

    def __init__(self, endpoint: Endpoint, journal: Path | str, budget: Budget) -> None:
        if budget.money is not None and not (endpoint.price_in or endpoint.price_out):
            raise InputError("a budget in money needs --price-in and --price-out (for a million tokens each)")
        self._endpoint = endpoint
        self._budget = budget
        self.usage = Usage()
        self.answers: dict[str, dict[str, Any]] = {}
        self._interrupted: set[str] = set()
        self._largest = (0, 0)
        self._journal = Journal(journal, sync_every=1.0, sealed=True)
        for number, line in enumerate(self._journal.read(), start=1):
            try:
                self._count(line)
            except (KeyError, TypeError):
                self.close()
                raise InputError(
                    f"{self._journal.path}:{number}: not a line of this journal; the file was edited"
                ) from None

    def close(self) -> None:
        """Let go of the journal."""
        self._journal.close()

    def record(self, line: dict[str, Any]) -> None:
        """Write one line of the journal and count it."""
        self._journal.append(line)
        self._count(line)

    def _count(self, line: dict[str, Any]) -> None:
        """Take one line of the journal into the totals: {"sent": id}, {"id": id, "text": ...} or {"fault": id}."""
        usage = self.usage
        if "sent" in line:
            usage.sent += 1
            if line["sent"] in self._interrupted:
                usage.repeated += 1
            self._interrupted.add(line["sent"])
        elif "fault" in line:
            usage.faults[line["reason"]] += 1
            self._interrupted.discard(line["fault"])
        else:
            self.answers[line["id"]] = line
            self._interrupted.discard(line["id"])
            usage.answered += 1
            usage.unreported += line["estimated"]
            prompt, completion = line["prompt_tokens"], line["completion_tokens"]
            usage.prompt_tokens += prompt
            usage.completion_tokens += completion
            usage.money += self._endpoint.cost(prompt, completion)
            self._largest = (max(self._largest[0], prompt), max(self._largest[1], completion))

    @property
    def counts_requests(self) -> bool:
        """Whether the budget bounds how many requests are sent."""
        return self._budget.requests is not None

    def likely(self, estimate: tuple[int, int]) -> tuple[int, int]:
        """(prompt, completion) tokens to set aside for a request: its estimate, or the largest counted so far."""
        return max(self._largest[0], estimate[0]), max(self._largest[1], estimate[1])

    def affords(self, requests: int, prompt: int, completion: int) -> bool:
        """Whether the budget allows so many requests and tokens more: what is set aside and the one that is next."""
        used, budget = self.usage, self._budget
        if budget.requests is not None and used.sent + requests > budget.requests:
            return False
        tokens = used.prompt_tokens + used.completion_tokens + prompt + completion
        if budget.tokens is not None and tokens > budget.tokens:
            return False
        return budget.money is None or used.money + self._endpoint.cost(prompt, completion) <= budget.money
