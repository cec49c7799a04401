"""The one error a user sees: a line that names the file, the field and what was expected."""

from __future__ import annotations


class InputError(Exception):
    """Something the user gave is missing, broken or impossible. The command line prints it as one line and exits 2."""
