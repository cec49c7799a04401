"""Rows of long benchmarks: one a run, written at once, found again by what they depend on."""

from __future__ import annotations

import ast
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent.parent / "src" / "rsiccllm"
PARSER = ("facts.py", "keywords.py", "phrases.py", "grammar.py", "words.py", "words.yaml")
"""The files by which captions are read."""
RESULTS = Path(__file__).resolve().parent / "results"


def digest(value: object) -> str:
    """16 hex digits of anything that JSON holds."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def code_digest(parts: Sequence[str]) -> str:
    """Of the package's files and folders named, as they run: comments and docstrings do not count."""
    found = [PACKAGE / part for part in parts]
    files = sorted(file for path in found for file in (path.rglob("*.py") if path.is_dir() else [path]))
    return digest([(str(file.relative_to(PACKAGE)), _as_it_runs(file)) for file in files])


def _as_it_runs(file: Path) -> str:
    text = file.read_text(encoding="utf-8")
    if file.suffix != ".py":
        return text
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [part for part in node.body if not _is_text(part)] or [ast.Pass()]
    return ast.dump(tree)


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def read_rows(name: str) -> dict[str, dict[str, Any]]:
    """Rows of `bench/results/NAME.jsonl` by their key; {} before the first."""
    path = RESULTS / f"{name}.jsonl"
    if not path.exists():
        return {}
    return {row["key"]: row for row in map(json.loads, path.read_text(encoding="utf-8").splitlines())}


def groups(name: str, *made_of: str) -> Iterator[list[dict[str, Any]]]:
    """Rows that were made of the same ("code", "weights", ...), after a line that says of what; the most rows last."""
    found: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in read_rows(name).values():
        found[tuple(row[part] for part in made_of)].append(row)
    for values, rows in sorted(found.items(), key=lambda item: len(item[1])):
        print(", ".join(f"{part} {value}" for part, value in zip(made_of, values, strict=True)))
        yield rows


def add_row(name: str, row: dict[str, Any]) -> None:
    """Append a row, which holds its "key"."""
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / f"{name}.jsonl").open("a", encoding="utf-8") as handle:
        handle.write(json.dumps(row) + "\n")
