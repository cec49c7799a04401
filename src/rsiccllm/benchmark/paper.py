"""`rsiccllm bench paper`: one of the paper's tables, from its file in recipes/paper/ to scores and a report.

A file names a test suite, the training data and the rows. A row is a model as it is, or stages of training of
which each starts from the one before; a stage that two rows share is run once. Everything can be stopped and goes on.
`small` runs the same table on rendered scenes with a tiny model, in minutes, to show that it is whole; its numbers mean
nothing.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from rich.console import Console, Group
from rich.table import Table

from rsiccllm.benchmark import paper_small
from rsiccllm.benchmark.bench import run_bench
from rsiccllm.benchmark.models import open_model
from rsiccllm.benchmark.predict import PREDICTIONS
from rsiccllm.benchmark.report import write_report
from rsiccllm.benchmark.run import Result, run_score
from rsiccllm.benchmark.suites import SUITES, Suite, open_suite
from rsiccllm.caption.captioner import LONGEST
from rsiccllm.errors import InputError
from rsiccllm.files import (
    describe_validation,
    inside,
    link_or_copy,
    parse_yaml,
    read_jsonl,
    read_text,
    write_json,
    write_jsonl,
)
from rsiccllm.records import INSTRUCTIONS, Instruction
from rsiccllm.rsici.place import safe_name
from rsiccllm.rsicp.build import build_rsicp
from rsiccllm.shipped import recipe_path
from rsiccllm.sources import open_source
from rsiccllm.training.recipe import DNPORecipe, SFTRecipe, load_recipe

TIMED = 100
"""Pairs that throughput is measured on, after one batch to warm up."""


class Negatives(BaseModel):
    """How RSICP is built, as `rsicp build` takes it; filtering draws from the SFT model of the same row."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    variant: Literal["paper", "ours"] = "ours"
    kinds: Literal["both", "filtering", "replacement"] = "both"
    negatives: int = Field(3, ge=1)
    samples: int = Field(8, ge=1)


class PaperRow(BaseModel):
    """name: in the table. One of model (a checkpoint or hub name), endpoint (the name that --base-url serves it by), or
    sft (fields over the table's SFT recipe), with dnpo and negatives after it. samples: of the training data, drawn
    once with a fixed seed so that a smaller draw is part of a larger one; None takes all.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    model: str | None = None
    endpoint: str | None = None
    sft: dict[str, Any] | None = None
    samples: int | None = Field(None, ge=1)
    dnpo: dict[str, Any] | None = None
    negatives: Negatives = Negatives()

    @model_validator(mode="after")
    def _one_kind(self) -> PaperRow:
        if sum(kind is not None for kind in (self.model, self.endpoint, self.sft)) != 1:
            raise ValueError(f"row '{self.name}': expected one of model, endpoint or sft")
        if self.sft is None and (self.dnpo is not None or self.samples is not None):
            raise ValueError(f"row '{self.name}': dnpo and samples need sft")
        return self


class PaperTable(BaseModel):
    """title: of the table. suite: what it is tested on. measure: scores, or captions a second. train: the name of the
    RSICI folder under the root. base: what sft starts from. sft, dnpo: recipes, relative to the file.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    suite: str
    measure: Literal["scores", "throughput"] = "scores"
    train: str = "paper-train"
    base: str = "Qwen/Qwen2.5-VL-7B-Instruct"
    sft: str = "../qwen2_5_vl_7b_lora.yaml"
    dnpo: str = "../qwen2_5_vl_7b_lora_dnpo.yaml"
    batch_size: int = Field(8, ge=1)
    rows: list[PaperRow] = Field(min_length=1)

    @model_validator(mode="after")
    def _names(self) -> PaperTable:
        names = [row.name for row in self.rows]
        if len(set(map(safe_name, names))) < len(names):
            raise ValueError("rows: every name once")
        if self.suite not in SUITES:
            raise ValueError(f"suite '{self.suite}': expected one of {', '.join(SUITES)}")
        return self


@dataclass(frozen=True)
class Finished:
    """What a table came to. result: scores, None for throughput. speed: captions a second by row, {} for scores.
    left_out: one line for each row that was not run.
    """

    title: str
    result: Result | None
    speed: dict[str, float]
    left_out: tuple[str, ...]

    def __rich__(self) -> Group:
        parts: list[Any] = [self.title]
        if self.result is not None:
            parts.append(self.result)
        if self.speed:
            table = Table("model", "captions a second")
            for name, value in self.speed.items():
                table.add_row(name, f"{value:.3f}")
            parts.append(table)
        return Group(*parts, *self.left_out)


def load_table(path: Path) -> PaperTable:
    """Read a file of recipes/paper/. Raises InputError naming file and field; recipes and overrides are read too."""
    path = recipe_path(path)
    fields = parse_yaml(read_text(path), path)
    try:
        table = PaperTable.model_validate(fields)
    except ValidationError as error:
        raise InputError(f"{path}: {describe_validation(error)}") from None
    here = {"model": "x", "data": "x", "out": "x"}
    for row in table.rows:
        for name, given, kind in ((table.sft, row.sft, SFTRecipe), (table.dnpo, row.dnpo, DNPORecipe)):
            if given is not None:
                load_recipe(path.parent / name, kind, _overrides({**given, **here}))
    return table


def run_paper(
    path: Path, out: Path, root: Path = Path("data"), base_url: str | None = None, small: bool = False,
    only: Sequence[str] = (),
) -> Finished:  # fmt: skip
    """Run a table and write `out/report.html` (or `out/throughput.json`).

    root: the folder that holds the suites' data and the RSICI folder that `train` names. base_url: where `endpoint`
    rows are served; without it they are left out, and said so. only: names of rows; all if empty. small: see above.
    Raises InputError for what is missing, before any training.
    """
    path = recipe_path(path)
    table = load_table(path)
    rows = [row for row in table.rows if not only or row.name in only]
    if unknown := set(only) - {row.name for row in table.rows}:
        raise InputError(
            f"{path}: no row '{min(unknown)}', expected one of {', '.join(row.name for row in table.rows)}"
        )
    served = [row for row in rows if row.endpoint is not None and base_url is None and not small]
    left_out = [f"{row.name}: left out; it needs --base-url, where {row.endpoint} is served" for row in served]
    rows = [row for row in rows if row not in served]
    if not rows:
        raise InputError(f"{path}: no row can be run; " + "; ".join(left_out))
    work = _Work(table, path, out, root, base_url, small)
    work.prepare(any(row.sft is not None for row in rows))
    if table.measure == "throughput":
        speed = {row.name: work.speed(row) for row in rows}
        write_json(out / "throughput.json", {"title": table.title, "pairs": TIMED, "captions_per_second": speed})
        return Finished(table.title, None, speed, tuple(left_out))
    folders = [work.bench(row) for row in rows]
    suite = work.suite
    result = run_score(
        [folder / PREDICTIONS for folder in folders], suite.spec, suite.split, names=[row.name for row in rows],
        task=suite.task,
    )  # fmt: skip
    write_report(folders, out / "report.html")
    return Finished(table.title, result, {}, tuple(left_out))


class _Work:
    """Where everything of one table lies, and each step of it."""

    def __init__(self, table: PaperTable, path: Path, out: Path, root: Path, base_url: str | None, small: bool) -> None:
        self.table, self.path, self.out, self.base_url, self.small = table, path, out, base_url, small
        self.data = out / "rsici" if small else root / table.train
        self.base = str(out / "base") if small else table.base
        task = SUITES[table.suite].task
        self.suite = Suite(f"rsici:{self.data}", "test", task, "") if small else open_suite(table.suite, root)

    def prepare(self, training: bool) -> None:
        """Build what `small` needs; for the real thing, say what is missing."""
        if self.small:
            draws = any(row.dnpo is not None and row.negatives.kinds != "replacement" for row in self.table.rows)
            paper_small.small_data(self.data, self.suite.task)
            paper_small.small_base(self.data, Path(self.base), talks=draws)
        elif training and not self.data.is_dir():
            raise InputError(
                f"{self.data}: no such folder; `rsiccllm rsici build --preset {self.table.train} --source ... "
                f"--out {self.data}` builds it"
            )

    def model(self, row: PaperRow) -> str:
        """The checkpoint of a row, trained if it must be."""
        if row.sft is None:
            return self.base if self.small else str(row.model or row.endpoint)
        from rsiccllm.training.dnpo import train_dnpo
        from rsiccllm.training.sft import train_sft

        data = self._subset(row.samples)
        chosen = {"model": self.base, "data": data, "small": self.small, **row.sft}
        sft = self._recipe(self.table.sft, SFTRecipe, row.sft, self.base, data, self._folder("sft", chosen))
        train_sft(sft)
        if row.dnpo is None:
            return str(sft.out)
        wanted = row.negatives
        drawn = None if wanted.kinds == "replacement" else str(sft.out)
        pool = {**wanted.model_dump(), "data": data.name, "task": self.suite.task, "model": drawn}
        pairs = self._folder("rsicp", pool)
        build_rsicp(
            data, pairs, wanted.negatives, wanted.variant, task=self.suite.task, model=drawn,
            samples=min(wanted.samples, paper_small.DRAWN) if self.small else wanted.samples, kinds=wanted.kinds,
        )  # fmt: skip
        after = {"model": str(sft.out), "data": pairs, "small": self.small, **row.dnpo}
        dnpo = self._recipe(self.table.dnpo, DNPORecipe, row.dnpo, str(sft.out), pairs, self._folder("dnpo", after))
        train_dnpo(dnpo)
        return str(dnpo.out)

    def bench(self, row: PaperRow) -> Path:
        """The folder with a row's captions and scores."""
        _say(f"{self.table.title}: {row.name}")
        folder, suite = self.out / "bench" / safe_name(row.name), self.suite
        run_bench(
            self.model(row), folder, suite.spec, None, split=suite.split, task=suite.task,
            batch_size=self.table.batch_size, max_new_tokens=paper_small.TOKENS if self.small else None,
            base_url=None if row.endpoint is None or self.small else self.base_url,
        )  # fmt: skip
        return folder

    def speed(self, row: PaperRow) -> float:
        """Captions a second without the loading and a first batch. Of an endpoint: as seen from here, wire and all."""
        _say(f"{self.table.title}: {row.name}")
        suite, size = self.suite, self.table.batch_size
        url = None if row.endpoint is None or self.small else self.base_url
        # An endpoint answers from its journal what it was asked before: each measurement needs a new one.
        journal = self.out / "journals" / f"{safe_name(row.name)}_{time.time_ns()}.jsonl"
        model = open_model(self.model(row), journal, url, concurrency=size)
        source = open_source(suite.spec)
        pairs = source.select(suite.split)[: TIMED + size]
        if len(pairs) <= size:
            size = len(pairs) // 2
        limit = paper_small.TOKENS if self.small else LONGEST[suite.task]
        start = 0.0
        for number, _ in enumerate(model.caption_all(source, pairs, suite.task, limit, size), start=1):
            if number == size:
                start = time.monotonic()
        return (len(pairs) - size) / (time.monotonic() - start)

    def _recipe(self, name: str, kind: Any, fields: dict[str, Any], model: str, data: Path, out: Path) -> Any:
        own = {"model": model, "data": str(data), "out": str(out)}
        small = paper_small.SETTINGS if self.small else {}
        return load_recipe(self.path.parent / name, kind, _overrides({**fields, **small, **own}))

    def _folder(self, stage: str, settings: dict[str, Any]) -> Path:
        """A folder for a stage with these settings: rows that share them share it."""
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:12]
        note = self.out / "stages" / f"{stage}_{digest}.json"
        if not note.exists():
            write_json(note, json.loads(json.dumps(settings, default=str)))
        return self.out / "stages" / f"{stage}_{digest}"

    def _subset(self, samples: int | None) -> Path:
        """The training data, or a folder with its first `samples` instructions, ordered by a digest of their ids."""
        if samples is None:
            return self.data
        wanted = min(samples, paper_small.SAMPLES) if self.small else samples
        folder = self.out / "subsets" / str(wanted)
        if (folder / INSTRUCTIONS).exists():
            return folder
        every = [r for r in read_jsonl(self.data / INSTRUCTIONS, Instruction) if r.split == "train"]
        if len(every) < wanted:
            raise InputError(f"{self.data}: {len(every)} training samples, the table asks for {wanted}")
        every.sort(key=lambda record: hashlib.sha256(record.id.encode()).digest())
        for record in every[:wanted]:
            for name in (record.before, record.after, record.mask):
                if name:
                    link_or_copy(inside(self.data, name), folder / name)
        write_jsonl(folder / INSTRUCTIONS, every[:wanted])
        return folder


def _overrides(fields: dict[str, Any]) -> list[str]:
    return [f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in fields.items()]


def _say(text: str) -> None:
    Console(stderr=True).rule(text, align="left")
