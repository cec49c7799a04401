"""`rsiccllm rsici`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from rsiccllm.cli.shared import RAY_HELP, SPEC_HELP, VLLM_HELP, WORKERS_HELP, Out, counted, tell

app = typer.Typer(name="rsici", help="RSICI, what SFT learns from: prompts and right answers.", no_args_is_help=True)


@app.command("build")
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
    ray: Annotated[str | None, typer.Option(help=f"openai: {RAY_HELP}")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help=WORKERS_HELP)] = None,
    vllm: Annotated[list[str] | None, typer.Option(help=VLLM_HELP)] = None,
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
    from rsiccllm.endpoint import Budget, Endpoint, cluster_of
    from rsiccllm.errors import InputError
    from rsiccllm.rsici.build import BuildSettings
    from rsiccllm.rsici.command import build, task_settings

    asked, only = task_settings(source, tasks, shares, preset, split, phrasings, boxes, seed)
    settings = BuildSettings(asked, tile, speck, only, shard, duplicates)
    cluster = cluster_of(ray, workers, vllm or [])
    if cluster is not None and teacher == "rules":
        raise InputError("--ray: the rules ask nobody; expected it with --teacher openai")

    def endpoint() -> Endpoint:
        return Endpoint(
            base_url,
            model,
            key_variable,
            concurrency,
            timeout,
            requests_per_minute=requests_per_minute,
            price_in=price_in,
            price_out=price_out,
            cluster=cluster,
        )

    budget = Budget(max_requests, max_tokens, max_money)
    counts = build(source, out, settings, teacher, endpoint, budget, look, dry_run, print)
    if counts is not None:
        print(f"{out}: " + counted(counts))


@app.command("review")
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
    from rsiccllm.people.server import ask_people
    from rsiccllm.rsici.review.items import Review

    review = Review(root, tuple(task.strip() for task in tasks.split(",")), split, n, seed)
    print("\n".join(ask_people(review, port, None if report else tell)))
