"""Options that several commands share, and what they do before and after the call of a stage."""

from __future__ import annotations

import logging
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from rsiccllm.errors import InputError

SPEC_HELP = (
    "levir-cc, levir-mci, levir-cd, sysu-cd, s2looking, cdd, whu-cdc, second, second-cc, xbd, dubai-cc, rscc, "
    "changechat, folder or rsici, each with :DIR; or scenes:N[,seed=S,size=PX,easy=1]"
)
RAY_HELP = "ask as a Ray Data job: local starts Ray here, auto or an address joins one"
WORKERS_HELP = "with --ray: processes that ask the server; without --base-url vLLM engines, which hold --model (1)"
VLLM_HELP = "with --ray: NAME=VALUE for each vLLM engine, such as tensor_parallel_size=4"
Spec = Annotated[str, typer.Argument(metavar="SOURCE", help=f"the source: {SPEC_HELP}")]
RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="a YAML file, such as recipes/tiny_sft.yaml")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="FIELD=VALUE", help="over what the recipe says, such as learning_rate=1e-4"),
]
Out = Annotated[Path, typer.Option(help="the folder to write")]


def fields(recipe: str) -> Any:
    """An option that lists the fields of a recipe, by the name of its class."""

    def show(wanted: bool) -> None:
        if wanted:
            from rsiccllm.training import recipe as recipes

            print(recipes.describe(getattr(recipes, recipe)))
            raise typer.Exit

    return typer.Option("--fields", callback=show, is_eager=True, help="list every field of the recipe and exit")


def counted(counts: dict[str, int]) -> str:
    """`{"pairs": 1200, "right_answers": 6}` as 1,200 pairs, 6 right answers."""
    return ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in counts.items())


def tell(line: str) -> None:
    """To standard output, at once: whoever reads a pipe waits for it."""
    print(line, flush=True)


def need(*modules: str, extra: str) -> None:
    """Raise InputError where an extra of ours is not installed."""
    if missing := [name for name in modules if find_spec(name) is None]:
        raise InputError(f"{missing[0]} is not installed; pip install 'rsiccllm[{extra}]'")


def quiet() -> None:
    """Import transformers without its start-up notes; its own progress bars would break ours."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # a kernel that only some CPUs have is no one's concern


def say(message: str) -> None:
    """To standard error, one line."""
    print(f"rsiccllm: {' '.join(message.splitlines())}", file=sys.stderr)  # a file's name may hold a line break
