"""Folders that `bench run` wrote, read back and put together: only results on the same pairs share a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rsiccllm.benchmark.compare import compare_rows
from rsiccllm.benchmark.predict import PREDICTIONS, SCHEMA, SETTINGS, read_predictions
from rsiccllm.benchmark.rows import score_rows
from rsiccllm.benchmark.run import SCHEMA as SCORES_SCHEMA
from rsiccllm.benchmark.run import references_of
from rsiccllm.errors import InputError
from rsiccllm.files import read_json
from rsiccllm.sources import open_source

SCORES = "scores.json"
PROBES = "probes.json"
JUDGE = "judge.json"


@dataclass(frozen=True)
class ModelResult:
    """One model on one split.

    name: short and unique on its board. settings, scores: what settings.json and scores.json hold. said: by pair id,
    the fields of a line of predictions.jsonl. probes: of `bench probe` in the same folder, None where there is none.
    """

    name: str
    folder: Path
    settings: dict[str, Any]
    scores: dict[str, Any]
    said: dict[str, dict[str, Any]]
    probes: dict[str, Any] | None = None

    @property
    def row(self) -> dict[str, Any]:
        """The model's own row of scores.json, under its name here."""
        own = next(row for row in self.scores["rows"] if not row["baseline"])
        return {**own, "name": self.name}


@dataclass(frozen=True)
class Board:
    """Results on the same pairs, asked for the same thing and scored alike; trivial rows once."""

    title: str
    results: list[ModelResult]
    baselines: list[dict[str, Any]]

    @property
    def settings(self) -> dict[str, Any]:
        """Of the first result; data, task and tokenisation are those of all."""
        return self.results[0].settings

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Rows of scores.json: models first, then the trivial ones."""
        return [*(result.row for result in self.results), *self.baselines]


def load_boards(folders: Sequence[Path]) -> list[Board]:
    """One board for each set of folders whose data, task and tokenisation are equal, in the order given.

    Raises InputError for a folder without a finished, scored run.
    """
    if not folders:
        raise InputError("bench report: expected at least one folder that `bench run` wrote")
    groups: dict[tuple[str, ...], list[ModelResult]] = {}
    for folder in folders:
        result = _load(folder)
        settings = result.settings
        data = settings["data"]
        key = (data["records"], str(data["images"]), settings["task"], settings["tokenisation"])
        groups.setdefault(key, []).append(result)
    boards = []
    for found in groups.values():
        settings = found[0].settings
        data = settings["data"]
        name = data.get("suite") or short_spec(data["spec"])
        title = f"{name}, {data['split']}, {data['pairs']:,} pairs, task {settings['task']}"
        if settings["tokenisation"] != "word":
            title += f", scored by {settings['tokenisation']}"
        baselines = [row for row in found[0].scores["rows"] if row["baseline"]]
        boards.append(Board(title, _named(found), baselines))
    return boards


def _load(folder: Path) -> ModelResult:
    for name in (SETTINGS, PREDICTIONS, SCORES):
        if not (folder / name).is_file():
            raise InputError(f"{folder}: no {name}; expected a folder that `rsiccllm bench run` has finished")
    settings, scores = read_json(folder / SETTINGS), read_json(folder / SCORES)
    for name, found, wanted in ((SETTINGS, settings, SCHEMA), (SCORES, scores, SCORES_SCHEMA)):
        if not isinstance(found, dict) or found.get("schema") != wanted:
            raise InputError(f"{folder / name}: not of schema {wanted}; run `rsiccllm bench run` again")
    probes = read_json(folder / PROBES) if (folder / PROBES).is_file() else None
    said = read_predictions(folder / PREDICTIONS)
    return ModelResult(folder.resolve().name, folder, settings, scores, said, probes)


def load_judge(folder: Path, boards: Sequence[Board]) -> dict[str, Any]:
    """What `bench judge` wrote. Raises InputError where it is not there, or judges none of the boards."""
    judge = read_json(folder / JUDGE)
    if not isinstance(judge, dict) or judge.get("board") not in [board.title for board in boards]:
        raise InputError(f"{folder / JUDGE}: judges none of these results")
    return judge


def _named(results: Sequence[ModelResult]) -> list[ModelResult]:
    """The same with names that differ: a folder's own, or where two are equal its parent's before it."""
    names = [result.name for result in results]
    return [
        result
        if names.count(result.name) == 1
        else ModelResult(**{**vars(result), "name": "/".join(result.folder.resolve().parts[-2:])})
        for result in results
    ]


def comparisons(board: Board) -> list[dict[str, Any]]:
    """Paired tests between all models of a board, and of each with the true flag: one family for Holm's correction.

    Scores are counted again from captions and references (without SBS). Raises InputError where the data is not here.
    """
    if len(board.results) == 1:
        return list(board.results[0].scores["comparisons"])
    data = board.settings["data"]
    truth = references_of(open_source(data["spec"]).pairs, data["split"], data["spec"], board.settings["task"])
    systems = {result.name: {pair: result.said[pair]["caption"] for pair in truth.captions} for result in board.results}
    rows = score_rows(
        systems,
        truth.captions,
        truth.changed,
        truth.planted,
        truth.no_change,
        truth.change,
        board.settings["tokenisation"],
        meteor=None if all(row["scores"]["overall"].get("meteor") is not None for row in board.rows) else False,
    )
    return [found.to_dict() for found in compare_rows(rows)]


def short_spec(spec: str) -> str:
    """A spec without the folders above its data: a page that is passed on tells nothing of the machine."""
    kind, _, rest = spec.partition(":")
    return f"{kind}:{Path(rest).name}"
