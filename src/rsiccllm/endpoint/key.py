"""The key: read from the environment, sent in one header, and kept out of everything else."""

from __future__ import annotations

import os
import re

from rsiccllm.errors import InputError

SECRET = 12
"""Characters that a key has at least, to be kept out of texts."""


class Key:
    """A key from an environment variable; empty where that is not set. It is never shown.

    Raises InputError for a value that no key has.
    """

    def __init__(self, variable: str) -> None:
        self._key = os.environ.get(variable, "").strip()
        if not re.fullmatch(r"[!-~]*", self._key):
            raise InputError(f"${variable}: holds characters that no key has (its value is not shown)")

    def clean(self, text: str) -> str:
        """The text without the key, should an endpoint send it back. What is too short for a secret ("none", as for a
        server that wants no key) is a word like any other."""
        return text.replace(self._key, "[key]") if len(self._key) >= SECRET else text

    def line(self, text: str) -> str:
        """The text without the key, as one short line for a message."""
        return " ".join(self.clean(text).split())[:200]

    @property
    def headers(self) -> dict[str, str]:
        """Of every request. The only place the key goes to."""
        fixed = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
        return {**fixed, "Authorization": f"Bearer {self._key}"} if self._key else fixed
