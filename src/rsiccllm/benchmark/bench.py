"""`rsiccllm bench run`: captions, scores, and all that shaped both, in one folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rsiccllm.benchmark.leaks import training_pairs
from rsiccllm.benchmark.predict import SETTINGS, predict
from rsiccllm.benchmark.results import SCORES
from rsiccllm.benchmark.run import Result, references_of, run_score
from rsiccllm.benchmark.similarity import SentenceEncoder
from rsiccllm.benchmark.suites import open_suite
from rsiccllm.benchmark.tokenise import Tokenisation
from rsiccllm.endpoint import Cluster
from rsiccllm.errors import InputError
from rsiccllm.files import read_json, write_json
from rsiccllm.sources import open_source


def run_bench(
    model: str,
    out: Path,
    data: str | None = None,
    suite: str | None = None,
    root: Path = Path("data"),
    split: str | None = None,
    task: str | None = None,
    batch_size: int = 16,
    max_new_tokens: int | None = None,
    base_url: str | None = None,
    concurrency: int = 8,
    tokenisation: Tokenisation = "word",
    sbs: str | None = None,
    training: Sequence[str] = (),
    cluster: Cluster | None = None,
) -> Result:
    """Caption and score; `out` then holds settings.json, predictions.jsonl, scores.json, maps/ (docs/leaderboard.md).

    data: a source spec, of which split (None: "test") is asked for task (None: "caption"); or suite: a name that stands
    for data, split and task, with `root` the folder of its data.
    sbs, training: as for `run_score`. cluster: where an endpoint is asked, or engines hold the model.
    Raises InputError where neither or both are given, and as `predict` and `run_score` do.
    """
    if (data is None) == (suite is None):
        raise InputError("bench run: expected either --data or --suite")
    if suite is not None:
        found = open_suite(suite, root)
        for name, asked, own in (("split", split, found.split), ("task", task, found.task)):
            if asked not in {None, own}:
                raise InputError(f"--{name} {asked}: the suite '{suite}' is of {name} {own}; take --data for another")
        data, split, task = found.spec, found.split, found.task
    split, task = split or "test", task or "caption"
    assert data is not None
    # What would be refused once all is captioned is refused here.
    references_of(open_source(data).pairs, split, data, task)
    training_pairs(training)
    if sbs is not None:
        SentenceEncoder(sbs)
    path = predict(
        model, data, split, out, batch_size, task, max_new_tokens, tokenisation, base_url, concurrency, suite, cluster
    )
    result = run_score(
        path, data, split, tokenisation, names=[out.resolve().name], sbs=sbs, training=training, task=task
    )
    result = replace(result, notes=(*read_json(out / SETTINGS).get("notes", ()), *result.notes))
    write_json(out / SCORES, result.to_dict())
    return result
