"""`rsiccllm caption`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rsiccllm.cli.shared import quiet, say

app = typer.Typer()


@app.command("caption")
def caption(
    before: Annotated[Path, typer.Argument(metavar="BEFORE", help="the first date's image; a folder; or a .csv alone")],
    after: Annotated[
        Path | None, typer.Argument(metavar="AFTER", help="the second date's image, or a folder of equal names")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="a run's folder, a checkpoint folder or a hub name (default: the one in the box)")
    ] = None,
    long: Annotated[bool, typer.Option("--long", help="a paragraph instead of a sentence")] = False,
    ask: Annotated[str | None, typer.Option(help="answer this question instead")] = None,
    candidates: Annotated[
        int | None,
        typer.Option(min=1, max=32, help="answers to choose from (default: as suits the model; 1 is fastest)"),
    ] = None,
    resize: Annotated[bool, typer.Option("--resize", help="fit the second image to the first's size")] = False,
    json: Annotated[bool, typer.Option("--json", help="print JSON: an object, for several pairs one a line")] = False,
    jsonl: Annotated[Path | None, typer.Option(help="write a line of JSON a pair; called again, go on there")] = None,
    overlay: Annotated[
        Path | None, typer.Option(help="a PNG of both images and the change map side by side; a folder for several")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="pairs that go through the model at once")] = 16,
) -> None:
    """Say what changed between two images of one place.

    Also for two folders, paired by file name, and for a CSV with the columns before and after (and perhaps id). The
    exit status is 0 where every pair has its caption, 1 where some failed (each is named on standard error), 2 where
    the command itself is wrong, 130 where it was stopped.

    \b
    Examples:
      rsiccllm caption before.png after.png --overlay map.png
      rsiccllm caption 2019/ 2024/ --jsonl captions.jsonl
      rsiccllm caption pairs.csv --json --model runs/levir_dnpo
    """
    import json as json_module

    from rsiccllm.caption.job import Job, Wanted, shown, uncollected

    job = Job(before, after, Wanted(long, ask, candidates, resize, batch_size, overlay, jsonl))
    for note in job.notes:
        say(f"note: {note}")
    with uncollected():
        quiet()
    failed = 0
    for outcome in job.run(model):
        if outcome.line is None:
            failed += 1
            say(f"{outcome.item.id}: {outcome.fault}")
        else:
            print(json_module.dumps(outcome.line) if json else shown(outcome.line, job.single), flush=True)
    if job.note:
        say(f"note: {job.note}")
    raise typer.Exit(1 if failed else 0)
