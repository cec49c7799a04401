"""`rsiccllm bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from rsiccllm.cli.shared import RAY_HELP, SPEC_HELP, VLLM_HELP, WORKERS_HELP, Out, quiet, tell

app = typer.Typer(name="bench", help="Caption a split with a model; score captions.", no_args_is_help=True)


@app.command("score")
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


@app.command("run")
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
    split: Annotated[str | None, typer.Option(help="which split of --data to caption (default: test)")] = None,
    task: Annotated[
        Literal["caption", "describe"] | None, typer.Option(help="a short sentence, or a long text (default: caption)")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="pairs captioned at once")] = 16,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="longest answer; by default 64, describe 320")
    ] = None,
    base_url: Annotated[str | None, typer.Option(help="--model is served there, by the API of OpenAI")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="requests in flight to an endpoint")] = 8,
    ray: Annotated[str | None, typer.Option(help=RAY_HELP)] = None,
    workers: Annotated[int | None, typer.Option(min=1, help=WORKERS_HELP)] = None,
    vllm: Annotated[list[str] | None, typer.Option(help=VLLM_HELP)] = None,
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
    quiet()
    from rsiccllm.benchmark.bench import run_bench
    from rsiccllm.endpoint import cluster_of

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
            cluster_of(ray, workers, vllm or []),
        )
    )


@app.command("report")
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


@app.command("paper")
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
    quiet()
    from rsiccllm.benchmark.paper import run_paper

    Console().print(run_paper(table, out, root, base_url, small, only or []))


@app.command("export")
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


@app.command("judge")
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
    ray: Annotated[str | None, typer.Option(help=RAY_HELP)] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="with --ray: processes that ask the judge")] = None,
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
    from rsiccllm.endpoint import cluster_of

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
            cluster_of(ray, workers, []),
        )
    )


@app.command("rate")
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
    from rsiccllm.people.server import ask_people

    rating = open_rating(results, out, pairs, seed)
    print("\n".join(ask_people(rating, port, None if report else tell)))


@app.command("probe")
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
    quiet()
    from rsiccllm.benchmark.probe_views import probe_table
    from rsiccllm.benchmark.probing import probe_model

    Console().print(probe_table(probe_model(model, data, out, split, pairs, probe, batch_size, base_url)))
