"""Folders that `bench run` wrote, read back and put together: only results on the same pairs share a table."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rsiccllm.benchmark.compare import compare_rows
from rsiccllm.benchmark.predict import PREDICTIONS, SCHEMA, SETTINGS, read_predictions, records_digest
from rsiccllm.benchmark.probe_scores import SCHEMA as PROBES_SCHEMA
from rsiccllm.benchmark.run import SCHEMA as SCORES_SCHEMA
from rsiccllm.benchmark.run import references_of
from rsiccllm.errors import InputError
from rsiccllm.files import read_json
from rsiccllm.records import ImagePair
from rsiccllm.sources import open_source
from rsiccllm.sources.base import Source

SCORES = "scores.json"
PROBES = "probes.json"
JUDGE = "judge.json"
JUDGE_SCHEMA = "rsiccllm.bench_judge.v2"

AGAIN = "run the command that wrote it again"
_KINDS = {dict: "an object", list: "a list", str: "a text", int: "a whole number"}


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
    def captions(self) -> dict[tuple[str, str], str]:
        """Every caption, by pair id and model."""
        return {(pair, result.name): line["caption"] for result in self.results for pair, line in result.said.items()}

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Rows of scores.json: models first, then the trivial ones."""
        return [*(result.row for result in self.results), *self.baselines]


def load_boards(folders: Sequence[Path]) -> list[Board]:
    """One board for each set of folders whose data, task and tokenisation are equal, in the order given.

    Raises InputError for a folder without a finished, scored run.
    """
    if not folders:
        raise InputError("expected at least one folder that `bench run` wrote")
    groups: dict[tuple[str, ...], list[ModelResult]] = {}
    for at, folder in enumerate(folders):
        if folder.resolve() in [other.resolve() for other in folders[:at]]:
            raise InputError(f"{folder}: given twice")
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


def load_board(folders: Sequence[Path]) -> Board:
    """The board of folders that belong together. Raises InputError where they do not, and as `load_boards` does."""
    first, *others = load_boards(folders)
    if others:
        raise InputError(
            f"{folders[0]} and {others[0].results[0].folder} are not on the same pairs and task, scored alike; take "
            "them apart"
        )
    return first


def _load(folder: Path) -> ModelResult:
    for name in (SETTINGS, PREDICTIONS, SCORES):
        if not (folder / name).is_file():
            raise InputError(f"{folder}: no {name}; expected a folder that `rsiccllm bench run` has finished")
    settings = _read(folder / SETTINGS, SCHEMA, {"model": dict, "data": dict, "task": str, "tokenisation": str})
    scores = _read(folder / SCORES, SCORES_SCHEMA, {"rows": list, "comparisons": list})
    _require(folder / SETTINGS, settings["data"], {"spec": str, "split": str, "records": str, "pairs": int}, "data.")
    if [row["baseline"] for row in scores["rows"]].count(False) != 1:
        raise InputError(f"{folder / SCORES}: field 'rows': expected one row of the model; {AGAIN}")
    probes = _read(folder / PROBES, PROBES_SCHEMA, {"probes": dict}) if (folder / PROBES).is_file() else None
    said = read_predictions(folder / PREDICTIONS)
    if len(said) != (scored := settings["data"]["pairs"]):
        raise InputError(f"{folder / PREDICTIONS}: {len(said)} captions, but {scored} pairs were scored; {AGAIN}")
    return ModelResult(folder.resolve().name, folder, settings, scores, said, probes)


def _read(path: Path, schema: str, fields: dict[str, type]) -> dict[str, Any]:
    """A file that the benchmark wrote. Raises InputError for another schema, and for a field that is gone."""
    found = read_json(path)
    if not isinstance(found, dict) or found.get("schema") != schema:
        raise InputError(f"{path}: not of schema {schema}; {AGAIN}")
    _require(path, found, fields)
    return found


def _require(path: Path, found: dict[str, Any], fields: dict[str, type], before: str = "") -> None:
    for name, kind in fields.items():
        if not isinstance(found.get(name), kind):
            raise InputError(f"{path}: field '{before}{name}': expected {_KINDS[kind]}; {AGAIN}")


def load_judge(folder: Path, boards: Sequence[Board]) -> dict[str, Any]:
    """What `bench judge` wrote. Raises InputError where it is not there, or judges other results than the boards'."""
    fields: dict[str, type] = {"board": str, "captions": dict, "pairs": list, "judges": dict, "agreement": dict}
    judge = _read(folder / JUDGE, JUDGE_SCHEMA, fields)
    shown = {board.title: captions_digests(board) for board in boards}
    if judge["board"] not in shown:
        raise InputError(f"{folder / JUDGE}: judges none of these results")
    for name, digest in judge["captions"].items():
        if (found := shown[judge["board"]].get(name)) != digest:
            what = "is not among these results" if found is None else "has said something else since"
            raise InputError(f"{folder / JUDGE}: judges '{name}', which {what}; judge these again")
    return judge


def captions_digests(board: Board) -> dict[str, str]:
    """{model: SHA-256 of all that it said}, by which a judgement knows its captions."""
    return {
        result.name: hashlib.sha256(
            json.dumps({pair: line["caption"] for pair, line in sorted(result.said.items())}).encode()
        ).hexdigest()
        for result in board.results
    }


def _named(results: Sequence[ModelResult]) -> list[ModelResult]:
    """The same with names that differ: a folder's own, and before equal ones as many of its parents as it takes."""
    parts = [result.folder.resolve().parts for result in results]
    names = [result.name for result in results]
    depth = 1
    while len(set(names)) < len(names):  # ends: no folder is here twice
        depth += 1
        names = ["/".join(own[-depth:]) if names.count(name) > 1 else name
                 for own, name in zip(parts, names, strict=True)]  # fmt: skip
    return [replace(result, name=name) for result, name in zip(results, names, strict=True)]


def data_of(board: Board) -> tuple[Source, list[ImagePair]]:
    """The source and the pairs that a board's results are of.

    Raises InputError where they cannot be read here, or are not those that were captioned and scored.
    """
    data = board.settings["data"]
    source = open_source(data["spec"])
    pairs = source.select(data["split"])
    if records_digest(pairs) != data["records"]:
        raise InputError(f"{data['spec']}: is not what was captioned and scored; it has changed since")
    return source, pairs


def comparisons(board: Board) -> list[dict[str, Any]]:
    """Paired tests between all models of a board, and of each with the true flag: one family for Holm's correction.

    Scores are counted again from captions and references (without SBS). Raises InputError as `data_of` does.
    """
    if len(board.results) == 1:
        return list(board.results[0].scores["comparisons"])
    data = board.settings["data"]
    truth = references_of(data_of(board)[0].pairs, data["split"], data["spec"], board.settings["task"])
    systems = {
        result.name: {pair: line["caption"] for pair, line in result.said.items() if pair not in truth.uncaptioned}
        for result in board.results
    }
    with_meteor = all(row["scores"]["overall"].get("meteor") is not None for row in board.rows)
    rows = truth.rows(systems, board.settings["tokenisation"], meteor=None if with_meteor else False)
    return [found.to_dict() for found in compare_rows(rows)]


def short_spec(spec: str) -> str:
    """A spec without the folders above its data: a page that is passed on tells nothing of the machine."""
    kind, _, rest = spec.partition(":")
    return f"{kind}:{Path(rest).name}"
