"""The one command, `rsiccllm`. It holds no logic: each command calls one function and prints what it returns."""

from __future__ import annotations

import os
import sys
import threading
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from rsiccllm import __version__
from rsiccllm.errors import InputError

app = typer.Typer(
    help="Train and use vision-language models that say what changed between two images of one place.",
    epilog="To begin: rsiccllm demo trains a small model in minutes. The path on your own data, in order: data check, "
    "rsici build, train sft, rsicp build, train dnpo, bench run, caption. Each has --help.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data_app = typer.Typer(help="Look at image pairs: check a data set, show it.", no_args_is_help=True)
rsici_app = typer.Typer(help="RSICI, what SFT learns from: prompts and right answers.", no_args_is_help=True)
rsicp_app = typer.Typer(help="RSICP, what DNPO learns from: right and wrong answers.", no_args_is_help=True)
train_app = typer.Typer(help="Train a model by a recipe: sft, then dnpo.", no_args_is_help=True)
bench_app = typer.Typer(help="Caption a split with a model; score captions.", no_args_is_help=True)
for _name, _app in (
    ("data", data_app),
    ("rsici", rsici_app),
    ("train", train_app),
    ("rsicp", rsicp_app),
    ("bench", bench_app),
):
    app.add_typer(_app, name=_name)

SPEC_HELP = "levir-cc:DIR, levir-mci:DIR, levir-cd:DIR, folder:DIR, rsici:DIR or scenes:N[,seed=S,size=PX,easy=1]"
Spec = Annotated[str, typer.Argument(metavar="SOURCE", help=f"the source: {SPEC_HELP}")]
RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="a YAML file, such as recipes/tiny_sft.yaml")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="FIELD=VALUE", help="over what the recipe says, such as learning_rate=1e-4"),
]
Out = Annotated[Path, typer.Option(help="the folder to write")]


def _fields(recipe: str) -> Any:
    """An option that lists the fields of a recipe, by the name of its class."""

    def show(wanted: bool) -> None:
        if wanted:
            from rsiccllm.training import recipe as recipes

            print(recipes.describe(getattr(recipes, recipe)))
            raise typer.Exit

    return typer.Option("--fields", callback=show, is_eager=True, help="list every field of the recipe and exit")


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="print it")] = False,
) -> None:
    pass


@data_app.command("check")
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


@data_app.command("show")
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


@rsici_app.command("build")
def rsici_build(
    source: Annotated[list[str], typer.Option(help=f"a source, may be given several times: {SPEC_HELP}")],
    out: Out,
    tasks: Annotated[str, typer.Option(help="what is asked, comma-separated: caption, describe")] = "caption",
) -> None:
    """Build instruction data from what the sources say.

    Answers are the captions or descriptions that they carry. Stopped, it goes on when called again.

    \b
    Example:
      rsiccllm rsici build --source levir-cc:data/LEVIR-CC --out runs/levir
    """
    from rsiccllm.rsici.build import build_rsici

    counts = build_rsici(source, out, [task.strip() for task in tasks.split(",")])
    print(f"{out}: " + _counted(counts))


@rsicp_app.command("build")
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
        _quiet()
    from rsiccllm.rsicp.build import build_rsicp

    counts = build_rsicp(
        data, out, negatives, variant, split, seed, task, model, samples, window, keep_share, temperature, top_p, words
    )
    print(f"{out}: " + _counted(counts))


@train_app.command("difference")
def train_difference_command(
    recipe: RecipePath, overrides: Overrides = None, fields: Annotated[bool, _fields("DifferenceRecipe")] = False
) -> None:
    """The difference path alone, before sft: masks and facts.

    Stopped, it goes on from its newest checkpoint when called again; --fields lists what a recipe can say.
    """
    from rsiccllm.training.recipe import DifferenceRecipe, load_recipe

    settings = load_recipe(recipe, DifferenceRecipe, overrides or [])
    _quiet()
    from rsiccllm.training.difference import train_difference

    print(train_difference(settings))


@train_app.command("sft")
def train_sft_command(
    recipe: RecipePath, overrides: Overrides = None, fields: Annotated[bool, _fields("SFTRecipe")] = False
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
    _quiet()
    from rsiccllm.training.sft import train_sft

    print(train_sft(settings))


@train_app.command("dnpo")
def train_dnpo_command(
    recipe: RecipePath, overrides: Overrides = None, fields: Annotated[bool, _fields("DNPORecipe")] = False
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
    _quiet()
    from rsiccllm.training.dnpo import train_dnpo

    print(train_dnpo(settings))


@bench_app.command("score")
def bench_score(
    predictions: Annotated[list[Path], typer.Option(help='lines of {"id": ..., "caption": ...}; several may be given')],
    references: Annotated[str, typer.Option(help=f"{SPEC_HELP}, or levir-cc-captions:FILE")],
    split: Annotated[str, typer.Option(help="which split of the references")] = "test",
    tokenisation: Annotated[Literal["word", "character"], typer.Option(help="what counts as a token")] = "word",
    json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Score captions beside the trivial rows.

    Overall, on changed pairs alone, and by facts.

    \b
    Example:
      rsiccllm bench score --predictions mine.jsonl --references \\
        levir-cc:data/LEVIR-CC --split test
    """
    import json as json_module

    from rsiccllm.benchmark.run import run_score

    result = run_score([*predictions], references, split, tokenisation)
    if json:
        print(json_module.dumps(result.to_dict(), indent=2))
    else:
        Console().print(result)


@bench_app.command("run")
def bench_run(
    model: Annotated[str, typer.Option(help="a run's folder, a checkpoint folder or a hub name")],
    data: Annotated[str, typer.Option(help=SPEC_HELP)],
    out: Out,
    split: Annotated[str, typer.Option(help="which split to caption")] = "test",
    batch_size: Annotated[int, typer.Option(min=1, help="pairs captioned at once")] = 16,
) -> None:
    """Caption a split with a model and score it.

    Stopped, it goes on where it was.

    \b
    Example:
      rsiccllm bench run --model runs/levir_dnpo --data levir-cc:data/LEVIR-CC \\
        --out runs/levir_bench
    """
    _quiet()
    from rsiccllm.benchmark.predict import predict
    from rsiccllm.benchmark.run import run_score

    Console().print(run_score(predict(model, data, split, out, batch_size), data, split))


@app.command("caption")
def caption(
    before: Annotated[Path, typer.Argument(metavar="BEFORE", help="the first date's image")],
    after: Annotated[Path, typer.Argument(metavar="AFTER", help="the second date's image")],
    model: Annotated[str, typer.Option(help="a run's folder, a checkpoint folder or a hub name")] = "runs/demo/dnpo",
    resize: Annotated[bool, typer.Option("--resize", help="fit the second image to the first's size")] = False,
    overlay: Annotated[Path | None, typer.Option(help="write both images and the change map side by side")] = None,
) -> None:
    """Say what changed between two images of one place.


    \b
    Example:
      rsiccllm caption before.png after.png --model runs/levir_dnpo --overlay \\
        map.png
    """
    from rsiccllm.pairs import open_pair

    pair = open_pair(before, after, resize=resize)
    _quiet()
    from rsiccllm.caption.captioner import Captioner
    from rsiccllm.caption.overlay import draw_overlay

    if model == "runs/demo/dnpo" and not Path(model).exists():
        raise InputError("runs/demo/dnpo: no model there; `make demo` trains one, or name yours with --model")
    result = next(Captioner.load(model).caption_all([pair]))
    print(result.caption)
    if overlay is not None:
        draw_overlay(pair, result.change_map, overlay)


@app.command("demo")
def demo(
    out: Out = Path("runs/demo"),
    quick: Annotated[bool, typer.Option("--quick", help="a minute, to see that all runs; it learns nothing")] = False,
) -> None:
    """Train a small model on rendered scenes, with a report.

    The whole path from nothing: 8 to 9 minutes on 2 cores. Stopped, it goes on when called again.
    """
    _quiet()
    from rsiccllm.demo.run import run_demo

    print(run_demo(out, quick))


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in counts.items())


def _quiet() -> None:
    """Import transformers without its start-up notes; its own progress bars would break ours."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def main() -> None:
    """Run the command. A user's mistake is one line and status 2; Ctrl-C is status 130; a fault of ours 70."""
    warnings.filterwarnings("ignore", module="PIL")  # of a broken image: the refusal says it in one line
    # TensorBoard writes in a thread; on a full disk its error comes to the main thread too, which tells it.
    threading.excepthook = lambda fault: None if isinstance(fault.exc_value, OSError) else _thread_fault(fault)
    try:
        app(prog_name="rsiccllm")
    except InputError as error:
        _fail(str(error), 2)
    except SystemExit as end:
        if end.code == 130:  # typer makes this of Ctrl-C, and says nothing
            _fail("stopped; call again to go on", 130)
        raise
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error), 2)
    except Exception as error:
        if os.environ.get("RSICCLLM_TRACEBACK"):
            raise
        message = str(error).splitlines()[0] if str(error) else ""
        _fail(f"unexpected {type(error).__name__}: {message} (RSICCLLM_TRACEBACK=1 shows where)", 70)


_thread_fault = threading.excepthook


def _fail(message: str, status: int) -> None:
    print(f"rsiccllm: {message}", file=sys.stderr)
    raise SystemExit(status)


if __name__ == "__main__":
    main()
