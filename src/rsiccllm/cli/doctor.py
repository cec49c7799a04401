"""`rsiccllm doctor`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from rsiccllm.cli.shared import quiet

app = typer.Typer()


@app.command("doctor")
def doctor(json: Annotated[bool, typer.Option("--json", help="print JSON")] = False) -> None:
    """Say what is installed, what is missing, and what fits.

    Packages and extras with the command that mends what is missing; CPUs, memory, disk and GPUs; and which of the large
    models this machine can caption with or train, by computed memory. Downloads nothing. The exit status is 1 where
    something is missing that every command needs.
    """
    import json as json_module

    from rsiccllm.doctor import examine

    quiet()
    report = examine()
    if json:
        print(json_module.dumps(report.to_dict(), indent=2))
    else:
        Console().print(report)
    raise typer.Exit(0 if report.ok else 1)
