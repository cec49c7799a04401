"""`rsiccllm demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rsiccllm.cli.shared import Out, quiet

app = typer.Typer()


@app.command("demo")
def demo(
    out: Out = Path("runs/demo"),
    quick: Annotated[bool, typer.Option("--quick", help="a minute, to see that all runs; it learns nothing")] = False,
) -> None:
    """Train a small model on rendered scenes, with a report.

    The whole path from nothing: some minutes on 2 cores. Stopped, it goes on when called again.
    """
    quiet()
    from rsiccllm.demo.run import run_demo

    print(run_demo(out, quick))
