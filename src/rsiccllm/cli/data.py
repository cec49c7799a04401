"""`rsiccllm data`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from rsiccllm.cli.shared import SPEC_HELP, Out, Spec, counted

app = typer.Typer(name="data", help="Look at image pairs: check a data set, show it.", no_args_is_help=True)


@app.command("check")
def data_check(
    spec: Spec, decode: Annotated[bool, typer.Option(help="decode every image, not only its header")] = True
) -> None:
    """Print what a source holds, and every fault in it.

    The exit status is 1 where there are faults.

    \b
    Example:
      rsiccllm data check levir-cc:data/LEVIR-CC
    """
    from rsiccllm.sources.check import check_source

    report = check_source(spec, decode=decode)
    report.print(Console())
    raise typer.Exit(0 if report.ok else 1)


@app.command("show")
def data_show(
    spec: Spec,
    n: Annotated[int, typer.Option(help="how many pairs")] = 12,
    out: Annotated[Path, typer.Option(help="the HTML page to write")] = Path("page.html"),
    split: Annotated[str | None, typer.Option(help="only this split")] = None,
    seed: Annotated[int, typer.Option(help="which pairs are drawn")] = 0,
) -> None:
    """Write a page of pairs, masks and captions side by side.


    \b
    Example:
      rsiccllm data show scenes:100 --n 6 --out page.html
    """
    from rsiccllm.sources.show import show_source

    print(show_source(spec, n, out, split, seed))


@app.command("duplicates")
def data_duplicates(
    specs: Annotated[list[str], typer.Argument(help=f"sources, compared across sets and splits: {SPEC_HELP}")],
    out: Annotated[Path | None, typer.Option(help="an HTML page to write, with the images")] = None,
) -> None:
    """Find images and long texts that two sets or splits share.

    Images are found whole or in part, turned, mirrored, resized or recompressed. `rsici build` leaves training pairs
    that give another split away out by itself.

    \b
    Examples:
      rsiccllm data duplicates levir-cd:data/LEVIR-CD levir-cc:data/LEVIR-CC --out shared.html
    """
    from rsiccllm.near_duplicates.report import report_near_duplicates

    print("\n".join(report_near_duplicates(specs, out)))


@app.command("export")
def data_export(
    root: Annotated[Path, typer.Argument(help="a folder that `rsici build` wrote")],
    form: Annotated[str, typer.Option(help="trl, llama-factory, ms-swift or qwen")],
    out: Out,
    answers: Annotated[Literal["all", "first"], typer.Option(help="a sample for each right answer, or one")] = "all",
    reviewed: Annotated[bool, typer.Option("--reviewed", help="without what `rsici review` rejected")] = False,
) -> None:
    """Write instructions in the form of another training tool.

    \b
    Examples:
      rsiccllm data export runs/rsici --form trl --out runs/rsici_trl
      rsiccllm data export runs/rsici --form llama-factory --reviewed --out runs/rsici_lf
    """
    from rsiccllm.rsici.export import export

    print(f"{out}: " + counted(export(root, form, out, answers, reviewed)))


@app.command("shards")
def data_shards(
    root: Annotated[Path, typer.Argument(help="a folder that `rsici build` or `rsicp build` wrote")],
    out: Annotated[Path, typer.Argument(help="the folder to write")],
    split: Annotated[str, typer.Option(help="the records of this split")] = "train",
    rows: Annotated[int | None, typer.Option(help="rows a shard, at most")] = None,
    size: Annotated[float, typer.Option(help="a shard ends at so many MB")] = 64,
) -> None:
    """Write Parquet shards that training streams.

    From a disk, or from wherever the folder is copied to: `data` of a recipe names the folder or its URL. Stopped, it
    goes on where it was when called again.

    \b
    Example:
      rsiccllm data shards runs/rsici runs/rsici_shards
      rsiccllm train sft recipes/tiny_sft.yaml data=runs/rsici_shards
    """
    from rsiccllm.training.shard_writer import write_shards

    print(f"{out}: " + counted(write_shards(root, out, split, rows, size)))
