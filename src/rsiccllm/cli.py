"""The one command, `rsiccllm`. It holds no logic: each command calls one function and prints what it returns."""

from __future__ import annotations

import logging
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

SPEC_HELP = (
    "levir-cc, levir-mci, levir-cd, sysu-cd, s2looking, cdd, whu-cdc, second, second-cc, xbd, dubai-cc, rscc, "
    "changechat, folder or rsici, each with :DIR; or scenes:N[,seed=S,size=PX,easy=1]"
)
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


@data_app.command("duplicates")
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


@data_app.command("export")
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

    print(f"{out}: " + _counted(export(root, form, out, answers, reviewed)))


@rsici_app.command("build")
def rsici_build(
    source: Annotated[list[str], typer.Option(help=f"a source, may be given several times: {SPEC_HELP}")],
    out: Out,
    teacher: Annotated[Literal["rules", "openai"],
                       typer.Option(help="who writes what the source does not hold: fixed rules, or a model behind "
                                    "an OpenAI-compatible endpoint")] = "rules",
    tasks: Annotated[str, typer.Option(help="what is asked: all, paper, or of describe, caption, changed, kind, count, "
                                       "where, order, dialogue, with commas")] = "caption",
    shares: Annotated[str, typer.Option(help="of how many pairs: caption=0.5,count=0.1; 1 where not named")] = "",
    preset: Annotated[Literal["paper-train", "paper-test-in", "paper-test-out"] | None,
                      typer.Option(help="the paper's own mix: its sources, split and task")] = None,
    split: Annotated[str | None, typer.Option(help="only this split")] = None,
    phrasings: Annotated[int, typer.Option(min=0, help="phrasings of a question, 0 for all")] = 0,
    boxes: Annotated[Literal["qwen2.5", "qwen3"], typer.Option(help="the form of boxes")] = "qwen2.5",
    tile: Annotated[int, typer.Option(min=0, help="cut larger pairs without text into tiles; 0: never")] = 256,
    speck: Annotated[int, typer.Option(min=0, help="drop parts of a mask under so many pixels")] = 24,
    shard: Annotated[int, typer.Option(min=1, help="instructions a file")] = 10_000,
    seed: Annotated[int, typer.Option(help="other phrasings, other pairs for shares under 1")] = 0,
    duplicates: Annotated[Literal["drop", "report", "ignore"],
                          typer.Option(help="training pairs that share an image with another split or set")] = "drop",
    base_url: Annotated[str, typer.Option(help="openai: where the endpoint is, http(s)://HOST[:PORT]/v1")] = "",
    model: Annotated[str, typer.Option(help="openai: the name the endpoint knows the model by")] = "",
    key_variable: Annotated[str, typer.Option(help="openai: the environment variable with the key")] = "OPENAI_API_KEY",
    look: Annotated[Literal["outline", "mask", "none"],
                    typer.Option(help="openai: how the model is shown where the change is")] = "outline",
    concurrency: Annotated[int, typer.Option(help="openai: requests in flight")] = 8,
    timeout: Annotated[float, typer.Option(help="openai: seconds for one answer")] = 120.0,
    requests_per_minute: Annotated[float | None, typer.Option(help="openai: sent at most")] = None,
    max_requests: Annotated[int | None, typer.Option(help="openai: budget of the whole job")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="openai: budget, prompts and answers together")] = None,
    max_money: Annotated[float | None, typer.Option(help="openai: budget, by the prices")] = None,
    price_in: Annotated[float, typer.Option(help="openai: money for a million prompt tokens")] = 0.0,
    price_out: Annotated[float, typer.Option(help="openai: money for a million tokens of answers")] = 0.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="openai: show the first prompts and the cost")] = False,
) -> None:  # fmt: skip
    """Build instruction data from masks, captions and a teacher.

    What a source does not hold is written by the teacher and has to pass the gates. Stopped, it goes on when called
    again.

    \b
    Examples:
      rsiccllm rsici build --source levir-cc:data/LEVIR-CC --out runs/levir
      rsiccllm rsici build --source levir-cd:data/LEVIR-CD --source sysu-cd:data/SYSU-CD --tasks all --out runs/rsici
      rsiccllm rsici build --source levir-cd:data/LEVIR-CD --teacher openai --base-url http://127.0.0.1:8000/v1
        --model Qwen/Qwen2.5-VL-72B-Instruct --tasks paper --dry-run --out runs/taught
    """
    from rsiccllm.endpoint import Budget, Endpoint
    from rsiccllm.rsici.build import BuildSettings
    from rsiccllm.rsici.command import build_by_endpoint, build_by_rules, task_settings

    asked, only = task_settings(source, tasks, shares, preset, split, phrasings, boxes, seed)
    settings = BuildSettings(asked, tile, speck, only, shard, duplicates)
    counts: dict[str, int] | None
    if teacher == "rules":
        counts = build_by_rules(source, out, settings, dry_run)
    else:
        endpoint = Endpoint(
            base_url,
            model,
            key_variable,
            concurrency,
            timeout,
            requests_per_minute=requests_per_minute,
            price_in=price_in,
            price_out=price_out,
        )
        budget = Budget(max_requests, max_tokens, max_money)
        counts = build_by_endpoint(source, out, settings, endpoint, budget, look, dry_run, print)
    if counts is not None:
        print(f"{out}: " + _counted(counts))


@rsici_app.command("review")
def rsici_review(
    root: Annotated[Path, typer.Argument(help="a folder that `rsici build` wrote")],
    n: Annotated[int | None, typer.Option(min=1, help="how many items, drawn with --seed; all by default")] = None,
    split: Annotated[str | None, typer.Option(help="only this split")] = None,
    tasks: Annotated[str, typer.Option(help="which tasks, comma-separated")] = "describe,caption,kind",
    seed: Annotated[int, typer.Option(help="the order of the items, the same for all reviewers")] = 0,
    port: Annotated[int, typer.Option(min=0, max=65535, help="of the page on 127.0.0.1; 0 takes a free one")] = 8765,
    report: Annotated[bool, typer.Option("--report", help="print what was decided so far, and end")] = False,
) -> None:
    """Accept, edit or reject answers in the browser.

    The page, on this machine alone, shows pair, mask, text and what the gates say; a accepts, e edits, r rejects.
    Several reviewers may take their turns, each by a name; every decision is kept in reviews.jsonl of the folder, and
    at the end the command prints how far they agree.

    \b
    Examples:
      rsiccllm rsici review runs/rsici --n 200
      rsiccllm rsici review runs/rsici --report
    """
    from rsiccllm.people.server import serve
    from rsiccllm.rsici.review.items import Review
    from rsiccllm.rsici.review.pages import report_lines

    review = Review(root, tuple(task.strip() for task in tasks.split(",")), split, n, seed)
    try:
        if not report:
            serve(review, port, lambda _, address: print(f"{address} (Ctrl-C ends the review)", flush=True))
    except KeyboardInterrupt:
        pass
    finally:
        review.close()
    print("\n".join(report_lines(review.reviews, len(review.records))))


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
    kinds: Annotated[
        Literal["both", "filtering", "replacement"],
        typer.Option(help="the model's own wrong answers, made ones, or both"),
    ] = "both",
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
    )
    print(f"{out}: " + _counted(counts))


@rsicp_app.command("export")
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

    print(f"{out}: " + _counted(export_preferences(root, form, out, most)))


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


@train_app.command("plan")
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

    settings: SFTRecipe | DNPORecipe
    if stage == "sft":
        settings = load_recipe(recipe, SFTRecipe, overrides or [])
    else:
        settings = load_recipe(recipe, DNPORecipe, overrides or [])
    _quiet()
    from rsiccllm.training.plan import plan

    Console().print(plan(settings, devices))


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
    tokenisation: Annotated[
        Literal["word", "character", "ids"], typer.Option(help="what counts as a token; the field's scores take words")
    ] = "word",
    sbs: Annotated[str | None, typer.Option(help="a sentence-embedding model for SBS, a folder or hub name")] = None,
    training: Annotated[
        list[str] | None, typer.Option(help="a source a model was trained on: warns of scored pairs that are in it too")
    ] = None,
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

    result = run_score([*predictions], references, split, tokenisation, sbs=sbs, training=training or ())
    if json:
        print(json_module.dumps(result.to_dict(), indent=2))
    else:
        Console().print(result)


@bench_app.command("run")
def bench_run(
    model: Annotated[
        str,
        typer.Option(
            help="a run's folder, a checkpoint folder or hub name (ours, or any of transformers that takes two "
            "images), endpoint:URL#MODEL, or a .jsonl file of captions"
        ),
    ],
    out: Out,
    data: Annotated[str | None, typer.Option(help=SPEC_HELP)] = None,
    suite: Annotated[
        str | None, typer.Option(help="instead of --data: a test set by name, see docs/leaderboard.md")
    ] = None,
    root: Annotated[Path, typer.Option(envvar="RSICCLLM_DATA", help="the folder that holds the suites' data")] = Path(
        "data"
    ),
    split: Annotated[str, typer.Option(help="which split to caption")] = "test",
    task: Annotated[Literal["caption", "describe"], typer.Option(help="a short sentence, or a long text")] = "caption",
    batch_size: Annotated[int, typer.Option(min=1, help="pairs captioned at once")] = 16,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="longest answer; by default 64, describe 320")
    ] = None,
    base_url: Annotated[str | None, typer.Option(help="--model is served there, by the API of OpenAI")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="requests in flight to an endpoint")] = 8,
    tokenisation: Annotated[
        Literal["word", "character", "ids"], typer.Option(help="what counts as a token; the field's scores take words")
    ] = "word",
    sbs: Annotated[str | None, typer.Option(help="a sentence-embedding model for SBS, a folder or hub name")] = None,
    training: Annotated[
        list[str] | None,
        typer.Option(help="a source the model was trained on: warns of scored pairs that are in it too"),
    ] = None,
) -> None:
    """Caption a split with a model and score it.

    Stopped, it goes on where it was.

    \b
    Example:
      rsiccllm bench run --model runs/levir_dnpo --data levir-cc:data/LEVIR-CC \\
        --out runs/levir_bench
    """
    _quiet()
    from rsiccllm.benchmark.bench import run_bench

    Console().print(
        run_bench(
            model,
            out,
            data,
            suite,
            root,
            split,
            task,
            batch_size,
            max_new_tokens,
            base_url,
            concurrency,
            tokenisation,
            sbs,
            training or (),
        )
    )


@bench_app.command("report")
def bench_report(
    results: Annotated[list[Path], typer.Argument(help="folders that `bench run` wrote")],
    out: Annotated[Path, typer.Option(help="the page to write; a .png and a .tex go beside it")] = Path("report.html"),
    samples: Annotated[int, typer.Option(min=0, help="pairs to browse")] = 60,
    judged: Annotated[Path | None, typer.Option(help="a folder that `bench judge` wrote")] = None,
) -> None:
    """Write one page with results side by side.

    Tables, intervals, plots and samples to browse, in one file that needs no network.

    \b
    Example:
      rsiccllm bench report runs/bench/* --out report.html
    """
    from rsiccllm.benchmark.report import write_report

    for path in write_report(results, out, samples, judged):
        print(path)


@bench_app.command("paper")
def bench_paper(
    table: Annotated[Path, typer.Argument(help="a file of recipes/paper/")],
    out: Out,
    root: Annotated[Path, typer.Option(envvar="RSICCLLM_DATA", help="the folder that holds the data")] = Path("data"),
    base_url: Annotated[str | None, typer.Option(help="where the large models are served, by OpenAI's API")] = None,
    small: Annotated[bool, typer.Option("--small", help="rendered scenes and a tiny model, to see it run")] = False,
    only: Annotated[list[str] | None, typer.Option(help="only this row, may be given several times")] = None,
) -> None:
    """Train and score all that one of the paper's tables compares.

    Stopped, it goes on where it was.

    \b
    Example:
      rsiccllm bench paper recipes/paper/main.yaml --small --out runs/small
    """
    _quiet()
    from rsiccllm.benchmark.paper import run_paper

    Console().print(run_paper(table, out, root, base_url, small, only or []))


@bench_app.command("export")
def bench_export(
    to: Annotated[Literal["lmms-eval", "vlmevalkit"], typer.Option(help="whose harness")],
    data: Annotated[str, typer.Option(help=SPEC_HELP)],
    out: Out,
    split: Annotated[str, typer.Option(help="which split")] = "test",
    name: Annotated[str, typer.Option(help="the task's name there")] = "rsicc",
    task: Annotated[Literal["caption", "describe"], typer.Option(help="a short sentence, or a long text")] = "caption",
) -> None:
    """Write a split as a task of lmms-eval, or a data set of VLMEvalKit.

    \b
    Example:
      rsiccllm bench export --to lmms-eval --data levir-cc:data/LEVIR-CC \\
        --name levir_cc --out runs/lmms
    """
    from rsiccllm.benchmark.export import export

    for path in export(data, split, out, to, name, task):
        print(path)


@bench_app.command("judge")
def bench_judge(
    results: Annotated[list[Path], typer.Argument(help="folders that `bench run` wrote on the same pairs")],
    judge: Annotated[list[str], typer.Option(help="endpoint:URL#MODEL, may be given several times")],
    out: Out,
    pairs: Annotated[int, typer.Option(min=1, help="how many pairs")] = 200,
    pairwise: Annotated[bool, typer.Option("--pairwise", help="also every two models, both ways round")] = False,
    images: Annotated[bool, typer.Option("--images", help="show the judge both images")] = False,
    people: Annotated[
        Path | None, typer.Option(help="people's ratings, to hold the judge against; ratings.jsonl of --out if there")
    ] = None,
    seed: Annotated[int, typer.Option(help="which pairs, and the order")] = 0,
    concurrency: Annotated[int, typer.Option(min=1, help="requests in flight")] = 8,
    price_in: Annotated[float, typer.Option(min=0, help="money for a million prompt tokens")] = 0.0,
    price_out: Annotated[float, typer.Option(min=0, help="money for a million answer tokens")] = 0.0,
    max_cost: Annotated[float | None, typer.Option(min=0, help="stop before more is spent on one judge")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="what would be asked, and its cost; nothing is sent")
    ] = False,
) -> None:
    """Let a language model rate captions, 1 to 5.

    It does not see whose they are. Stopped, it goes on; no answer is asked
    for twice.

    \b
    Example:
      rsiccllm bench judge runs/bench/* --out runs/judge --dry-run \\
        --judge endpoint:http://127.0.0.1:8000/v1#Qwen/Qwen3-VL-235B-A22B-Instruct
    """
    from rsiccllm.benchmark.judge import judge_results

    print(
        judge_results(
            results,
            judge,
            out,
            pairs,
            pairwise,
            images,
            people,
            seed,
            concurrency,
            price_in,
            price_out,
            max_cost,
            dry_run,
        )
    )


@bench_app.command("rate")
def bench_rate(
    results: Annotated[list[Path], typer.Argument(help="folders that `bench run` wrote on the same pairs")],
    out: Annotated[Path, typer.Option(help="where ratings.jsonl is kept; best the folder of `bench judge`")],
    pairs: Annotated[int, typer.Option(min=1, help="how many pairs, the first of those a judge gets")] = 50,
    seed: Annotated[int, typer.Option(help="which pairs, and the order, as for `bench judge`")] = 0,
    port: Annotated[int, typer.Option(min=0, max=65535, help="of the page on 127.0.0.1; 0 takes a free one")] = 8765,
    report: Annotated[bool, typer.Option("--report", help="print how far people agree so far, and end")] = False,
) -> None:
    """Let people rate captions, 1 to 5, in the browser.

    By keyboard, each by a name; nobody sees whose a caption is. Every rating
    is kept; `bench judge` holds the judge against them.

    \b
    Example:
      rsiccllm bench rate runs/bench/* --out runs/judge
    """
    from rsiccllm.benchmark.rate import open_rating
    from rsiccllm.people.server import serve

    rating = open_rating(results, out, pairs, seed)
    try:
        if not report:
            serve(rating, port, lambda _, address: print(f"{address} (Ctrl-C ends the rating)", flush=True))
    except KeyboardInterrupt:
        pass
    finally:
        rating.close()
    print("\n".join(rating.lines()))


@bench_app.command("probe")
def bench_probe(
    model: Annotated[str, typer.Option(help="a run's folder, a checkpoint folder, a hub name, or endpoint:URL#MODEL")],
    data: Annotated[str, typer.Option(help=SPEC_HELP)],
    out: Out,
    split: Annotated[str, typer.Option(help="which split to disturb")] = "test",
    pairs: Annotated[int, typer.Option(min=2, help="at most so many pairs, evenly spaced")] = 100,
    probe: Annotated[list[str] | None, typer.Option(help="only this probe, may be given several times")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="pairs captioned at once")] = 16,
    base_url: Annotated[str | None, typer.Option(help="--model is served there, by the API of OpenAI")] = None,
) -> None:
    """Caption disturbed pairs, and score them.

    Swapped dates, light, a shift and more, each at several strengths.
    """
    _quiet()
    from rsiccllm.benchmark.probe_views import probe_table
    from rsiccllm.benchmark.probing import probe_model

    Console().print(probe_table(probe_model(model, data, out, split, pairs, probe, batch_size, base_url)))


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
    candidates: Annotated[int, typer.Option(min=1, max=32, help="how many answers, at most")] = 1,
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

    from rsiccllm.caption.job import Job, Wanted, shown

    job = Job(before, after, Wanted(long, ask, candidates, resize, batch_size, overlay, jsonl))
    _quiet()
    failed = 0
    for outcome in job.run(model):
        if outcome.line is None:
            failed += 1
            _say(f"{outcome.item.id}: {outcome.fault}")
        else:
            print(json_module.dumps(outcome.line) if json else shown(outcome.line, job.single), flush=True)
    raise typer.Exit(1 if failed else 0)


@app.command("map")
def map_command(
    before: Annotated[Path, typer.Argument(metavar="BEFORE", help="the first date, a GeoTIFF or VRT")],
    after: Annotated[Path, typer.Argument(metavar="AFTER", help="the second date, on any grid that overlaps")],
    out: Out,
    model: Annotated[
        str | None, typer.Option(help="a run's folder, a checkpoint folder or a hub name (default: the one in the box)")
    ] = None,
    bands: Annotated[tuple[int, int, int] | None, typer.Option(help="shown as red, green, blue; from 1")] = None,
    dates: Annotated[tuple[str, str] | None, typer.Option(help="of the two, as they are to stand in the files")] = None,
    smallest: Annotated[float, typer.Option(min=0, help="square metres of a polygon, at least")] = 20.0,
    tile: Annotated[int, typer.Option(help="pixels of a tile, a side")] = 256,
    overlap: Annotated[int, typer.Option(help="pixels that tiles share")] = 64,
    register: Annotated[bool, typer.Option(help="correct the shift left between the dates")] = True,
) -> None:
    """Map what changed between two rasters of any size.

    Writes polygons (GeoJSON and GeoPackage), the change map (a COG) and a summary. Stopped, it goes on when called
    again. Needs: pip install 'rsiccllm[geo]'.

    \b
    Example:
      rsiccllm map 2019.tif 2023.tif --dates 2019-05-01 2023-06-01 --out runs/map
    """
    _need("rasterio", "shapely", "pyogrio", extra="geo")
    _quiet()
    from rsiccllm.geo.run import MapSettings, map_rasters

    settings = MapSettings(tile, overlap, smallest, bands, dates, register)
    summary = map_rasters(before, after, out, model, settings)
    for line in summary["warnings"]:
        _say(f"note: {line}")
    print(summary["text"])


@app.command("serve")
def serve_command(
    model: Annotated[
        str | None, typer.Option(help="a run's folder, a checkpoint folder or a hub name (default: the one in the box)")
    ] = None,
    host: Annotated[
        str, typer.Option(help="the address to listen on; one that others reach needs a key")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one")] = 8000,
    name: Annotated[str | None, typer.Option(help="what clients call the model (default: as --model)")] = None,
    urls: Annotated[bool, typer.Option("--allow-urls", help="fetch images from public http(s) addresses too")] = False,
    queue: Annotated[int, typer.Option(min=1, help="requests in hand at once; more get 429")] = 128,
    batch: Annotated[int, typer.Option(min=1, help="requests that go through the model together")] = 16,
    body_bytes: Annotated[int, typer.Option(min=1, help="largest request")] = 16 * 2**20,
    pixels: Annotated[int, typer.Option(min=1, help="largest image, width x height")] = 16_000_000,
    answer_seconds: Annotated[float, typer.Option(help="longest wait for an answer; then 504")] = 60.0,
) -> None:
    """Serve captions by the API of OpenAI.

    /v1/chat/completions takes two images as data URIs, the earlier date first; also /v1/models, /health and /metrics.
    A key that clients must send is read from RSICCLLM_API_KEY. Needs: pip install 'rsiccllm[serve]'.

    \b
    Example:
      rsiccllm serve --port 8000
    """
    _need("uvicorn", "prometheus_client", "starlette", extra="serve")
    from rsiccllm.serve.settings import Limits

    limits = Limits(body_bytes, pixels, queue=queue, batch=batch, answer_seconds=answer_seconds)
    _quiet()
    from rsiccllm.serve.run import serve

    serve(model, host, port, name, urls, limits)


@app.command("app")
def app_command(
    model: Annotated[
        list[str] | None,
        typer.Option(help="as for caption; given twice, the two can be compared (default: the one in the box)"),
    ] = None,
    host: Annotated[str, typer.Option(help="the address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one from 7860")] = 7860,
) -> None:
    """Open a page to drop two images on.

    A slider between the dates, the change map on top, caption, confidence and facts; questions; a second model beside
    the first. Needs: pip install 'rsiccllm[app]'.

    \b
    Example:
      rsiccllm app --model runs/levir_sft --model runs/levir_dnpo
    """
    _need("gradio", extra="app")
    _quiet()
    from rsiccllm.app.page import run_app

    run_app(model or [], host, port)


@app.command("demo")
def demo(
    out: Out = Path("runs/demo"),
    quick: Annotated[bool, typer.Option("--quick", help="a minute, to see that all runs; it learns nothing")] = False,
) -> None:
    """Train a small model on rendered scenes, with a report.

    The whole path from nothing: about 6 minutes on 2 cores. Stopped, it goes on when called again.
    """
    _quiet()
    from rsiccllm.demo.run import run_demo

    print(run_demo(out, quick))


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in counts.items())


def _need(*modules: str, extra: str) -> None:
    """Raise InputError where an extra of ours is not installed."""
    from importlib.util import find_spec

    if missing := [name for name in modules if find_spec(name) is None]:
        raise InputError(f"{missing[0]} is not installed; pip install 'rsiccllm[{extra}]'")


def _quiet() -> None:
    """Import transformers without its start-up notes; its own progress bars would break ours."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # a kernel that only some CPUs have is no one's concern


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


def _say(message: str) -> None:
    print(f"rsiccllm: {' '.join(message.splitlines())}", file=sys.stderr)  # a file's name may hold a line break


def _fail(message: str, status: int) -> None:
    _say(message)
    raise SystemExit(status)


if __name__ == "__main__":
    main()
