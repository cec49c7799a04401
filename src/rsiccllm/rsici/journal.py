"""The journal of a build: every answer received in full, one line each, so that no kill makes it be asked for again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rsiccllm.errors import InputError
from rsiccllm.journal import Journal
from rsiccllm.rsici.teachers.base import Ask, Failure

NAME = "answers.journal.jsonl"

SYNC_SECONDS = 5.0
"""What a power cut could lose. A kill loses nothing."""


class AnswerJournal:
    """Answers by `Ask.key`, kept in a Journal; one build at a time in a folder."""

    def __init__(self, folder: Path) -> None:
        self._journal = Journal(folder / NAME, SYNC_SECONDS, sealed=True)
        self.answers: dict[str, list[str] | Failure] = {}
        for number, entry in enumerate(self._journal.read(), start=1):
            try:
                failure = entry.get("failure")
                self.answers[entry["key"]] = Failure(*failure) if failure else [str(text) for text in entry["answers"]]
            except (KeyError, TypeError):
                raise InputError(
                    f"{self._journal.path}:{number}: not a line of this journal; remove the file to ask anew"
                ) from None

    def add(self, ask: Ask, result: list[str] | Failure) -> None:
        """Keep an answer, or a failure that will not mend itself."""
        self.answers[ask.key] = result
        entry: dict[str, Any] = {"key": ask.key}
        if isinstance(result, Failure):
            entry["failure"] = [result.kind, result.message]
        else:
            entry["answers"] = result
        self._journal.append(entry)

    def close(self, remove: bool = False) -> None:
        """Close the file; remove it where nothing is in it, or once everything in it is written elsewhere."""
        self._journal.close()
        if remove or not self.answers:
            self._journal.path.unlink(missing_ok=True)
