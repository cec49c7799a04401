"""A progress bar with an estimate, on standard error, for work that takes a while."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Item = TypeVar("Item")


def bar() -> Progress:
    """What every bar of ours looks like: what is done, how many of how many, the time taken and the time left."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        # rich would send what is printed meanwhile to the bar's console: to standard error, where nobody pipes it.
        redirect_stdout=sys.stdout.isatty(),
    )


def track(items: Iterable[Item], description: str, total: int, done: int = 0) -> Iterator[Item]:
    """Yield `items` while a bar shows how many of `total` are finished, `done` of them before this call."""
    with bar() as progress:
        task = progress.add_task(description, total=total, completed=done)
        for item in items:
            yield item
            progress.advance(task)
