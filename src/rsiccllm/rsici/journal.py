"""The journal of a build: every answer received in full, one line each, so that no kill makes it be asked for again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO, Any

from rsiccllm.errors import InputError
from rsiccllm.rsici.teachers.base import Ask, Failure

NAME = "answers.journal.jsonl"


class Journal:
    """Answers by `Ask.key`, kept in an append-only file.

    A line is written in one piece when its answer is complete, and flushed to the operating system: a killed process
    loses none. A last line that a kill (or a full disk) cut short is dropped when the file is opened again.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self.answers: dict[str, list[str] | Failure] = {}
        self._file: IO[bytes] | None = None
        if self.path.exists():
            self._read()

    def _read(self) -> None:
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        for number, line in enumerate(content[:whole].split(b"\n")[:-1], start=1):
            try:
                entry: dict[str, Any] = json.loads(line)
                failure = entry.get("failure")
                self.answers[entry["key"]] = Failure(*failure) if failure else [str(text) for text in entry["answers"]]
            except (ValueError, KeyError, TypeError):
                raise InputError(
                    f"{self.path}:{number}: not a line of this journal; remove the file to ask anew"
                ) from None
        if whole < len(content):
            with self.path.open("r+b") as file:
                file.truncate(whole)

    def add(self, ask: Ask, result: list[str] | Failure) -> None:
        """Keep an answer, or a failure that will not mend itself."""
        self.answers[ask.key] = result
        entry: dict[str, Any] = {"key": ask.key}
        if isinstance(result, Failure):
            entry["failure"] = [result.kind, result.message]
        else:
            entry["answers"] = result
        if self._file is None:
            self._file = self.path.open("ab", buffering=0)
        self._file.write(json.dumps(entry, ensure_ascii=True).encode() + b"\n")

    def close(self, remove: bool = False) -> None:
        """Close the file; remove it once everything in it is written elsewhere."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if remove:
            self.path.unlink(missing_ok=True)
