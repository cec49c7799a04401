"""`rsiccllm rsicp`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from rsiccllm.cli.shared import Out, counted, quiet

app = typer.Typer(name="rsicp", help="RSICP, what DNPO learns from: right and wrong answers.", no_args_is_help=True)


@app.command("build")
def rsicp_build(
    data: Annotated[Path, typer.Option(help="a folder that `rsici build` wrote")],
    out: Out,
    model: Annotated[str | None, typer.Option(help="an SFT checkpoint to draw filtering negatives from")] = None,
    negatives: Annotated[int, typer.Option(min=1, help="rejected answers a pair of each source, at most")] = 3,
    samples: Annotated[int, typer.Option(min=1, help="K, answers drawn for a pair")] = 8,
    window: Annotated[
        tuple[float, float] | None, typer.Option(help="tau1 tau2: the similarities kept (default: by --keep-share)")
    ] = None,
    keep_share: Annotated[float, typer.Option(help="sets the window so that this share of wrong samples stays")] = 0.8,
    temperature: Annotated[float, typer.Option(help="of the draw")] = 1.0,
    top_p: Annotated[float, typer.Option(help="share of probability drawn from")] = 0.95,
    variant: Annotated[
        Literal["paper", "ours"], typer.Option(help="paper: filtering and key-word swaps alone")
    ] = "ours",
    kinds: Annotated[
        Literal["both", "filtering", "replacement"],
        typer.Option(help="the model's own wrong answers, made ones, or both"),
    ] = "both",
    pairs: Annotated[int | None, typer.Option(min=1, help="the first so many of the split (default: all)")] = None,
    task: Annotated[Literal["caption", "describe"], typer.Option(help="short sentences or long texts")] = "caption",
    words: Annotated[Path | None, typer.Option(help="a YAML file of word groups of your own, merged over ours")] = None,
    split: Annotated[str, typer.Option(help="which split")] = "train",
    seed: Annotated[int, typer.Option(help="other negatives for another seed")] = 0,
) -> None:
    """Build preference data: a right answer and wrong ones.

    Wrong ones are the model's own that lie in the window, and right ones with key words swapped (without --model the
    second alone). Stopped, it goes on when called again.

    \b
    Example:
      rsiccllm rsicp build --model runs/levir_sft --data runs/levir \\
        --out runs/levir_rsicp
    """
    if model is not None:
        quiet()
    from rsiccllm.rsicp.build import build_rsicp

    counts = build_rsicp(
        data,
        out,
        negatives,
        variant,
        split,
        seed,
        task,
        model,
        samples,
        window,
        keep_share,
        temperature,
        top_p,
        words,
        kinds,
        pairs,
    )
    print(f"{out}: " + counted(counts))


@app.command("export")
def rsicp_export(
    root: Annotated[Path, typer.Argument(help="a folder that `rsicp build` wrote")],
    form: Annotated[str, typer.Option(help="trl or llama-factory")],
    out: Out,
    most: Annotated[int | None, typer.Option(min=1, help="rejected answers of a pair, at most (default: all)")] = None,
) -> None:
    """Write preferences in the form of another training tool.

    \b
    Example:
      rsiccllm rsicp export runs/levir_rsicp --form trl --out runs/levir_dpo
    """
    from rsiccllm.rsicp.export import export_preferences

    print(f"{out}: " + counted(export_preferences(root, form, out, most)))
