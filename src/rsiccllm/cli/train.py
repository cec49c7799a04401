"""`rsiccllm train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from rsiccllm.cli.shared import Out, Overrides, RecipePath, fields, quiet

app = typer.Typer(name="train", help="Train a model by a recipe: sft, then dnpo.", no_args_is_help=True)


@app.command("difference")
def train_difference_command(
    recipe: RecipePath, overrides: Overrides = None, fields: Annotated[bool, fields("DifferenceRecipe")] = False
) -> None:
    """The difference path alone, before sft: masks and facts.

    Stopped, it goes on from its newest checkpoint when called again; --fields lists what a recipe can say.
    """
    from rsiccllm.training.recipe import DifferenceRecipe, load_recipe

    settings = load_recipe(recipe, DifferenceRecipe, overrides or [])
    quiet()
    from rsiccllm.training.difference import train_difference

    print(train_difference(settings))


@app.command("plan")
def train_plan_command(
    recipe: RecipePath,
    overrides: Overrides = None,
    stage: Annotated[Literal["sft", "dnpo"], typer.Option(help="which stage the recipe is for")] = "sft",
    devices: Annotated[int, typer.Option(min=1, help="GPUs that work together, as `torchrun` starts them")] = 1,
) -> None:
    """What a recipe will take, before anything is loaded.

    Parameters, tokens, updates; memory and time as estimates for named GPUs.

    \b
    Example:
      rsiccllm train plan recipes/qwen2_5_vl_7b_lora.yaml data=runs/levir
    """
    from rsiccllm.training.recipe import DNPORecipe, SFTRecipe, load_recipe

    kind: type[SFTRecipe | DNPORecipe] = SFTRecipe if stage == "sft" else DNPORecipe
    settings = load_recipe(recipe, kind, overrides or [])
    quiet()
    from rsiccllm.training.plan import plan

    Console().print(plan(settings, devices))


@app.command("sft")
def train_sft_command(
    recipe: RecipePath, overrides: Overrides = None, fields: Annotated[bool, fields("SFTRecipe")] = False
) -> None:
    """Supervised fine-tuning on what `rsici build` wrote.

    Stopped, it goes on from its newest checkpoint when called again; --fields lists what a recipe can say.

    \b
    Example:
      rsiccllm train sft recipes/tiny_sft.yaml data=runs/levir \\
        out=runs/levir_sft
    """
    from rsiccllm.training.recipe import SFTRecipe, load_recipe

    settings = load_recipe(recipe, SFTRecipe, overrides or [])
    quiet()
    from rsiccllm.training.sft import train_sft

    print(train_sft(settings))


@app.command("dnpo")
def train_dnpo_command(
    recipe: RecipePath, overrides: Overrides = None, fields: Annotated[bool, fields("DNPORecipe")] = False
) -> None:
    """Preference optimisation (DNPO) on what `rsicp build` wrote.

    Stopped, it goes on from its newest checkpoint when called again; --fields lists what a recipe can say.

    \b
    Example:
      rsiccllm train dnpo recipes/tiny_dnpo.yaml model=runs/levir_sft \\
        data=runs/levir_rsicp out=runs/levir_dnpo
    """
    from rsiccllm.training.recipe import DNPORecipe, load_recipe

    settings = load_recipe(recipe, DNPORecipe, overrides or [])
    quiet()
    from rsiccllm.training.dnpo import train_dnpo

    print(train_dnpo(settings))


@app.command("merge")
def train_merge_command(
    checkpoint: Annotated[Path, typer.Argument(help="RUN/checkpoints/checkpoint-N of a run with fsdp: true")], out: Out
) -> None:
    """Make one safetensors folder of a sharded checkpoint.

    A finished run has its model in RUN/model already; this is for one on the way, or that was stopped.

    \b
    Example:
      rsiccllm train merge runs/levir_7b_full/checkpoints/checkpoint-200 \\
        --out runs/at_200
    """
    quiet()
    from rsiccllm.training.run import merge_checkpoint

    print(merge_checkpoint(checkpoint, out))
