"""Captioning a split with a model: predictions.jsonl, and beside it all that shaped them."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rsiccllm import __version__
from rsiccllm.benchmark.models import Model, open_model
from rsiccllm.benchmark.predictions import load_lines
from rsiccllm.benchmark.provenance import check_unseen
from rsiccllm.benchmark.said import Said
from rsiccllm.benchmark.tokenise import Tokenisation
from rsiccllm.caption.captioner import LONGEST
from rsiccllm.endpoint import Cluster
from rsiccllm.errors import InputError
from rsiccllm.files import atomic_write, inside, only_run, read_json, sha256, write_json
from rsiccllm.journal import seal
from rsiccllm.progress import track
from rsiccllm.records import ImagePair
from rsiccllm.rsici.build import safe_name
from rsiccllm.rsici.prompts import PROMPTS
from rsiccllm.sources import open_source
from rsiccllm.sources.base import Source

PREDICTIONS = "predictions.jsonl"
SETTINGS = "settings.json"
ANSWERS = "answers.jsonl"  # what an endpoint said, word for word
SCHEMA = "rsiccllm.bench_run.v1"

# For the eye alone: how the user called model and data, which a move changes, and what leaves the captions as they are.
_NOT_COMPARED = {("model", "name"), ("model", "url"), ("data", "spec"), ("data", "suite"), ("generation", "batch_size"),
                 ("notes",)}  # fmt: skip


def predict(
    model: str,
    spec: str,
    split: str,
    out: Path,
    batch_size: int = 16,
    task: str = "caption",
    max_new_tokens: int | None = None,
    tokenisation: Tokenisation = "word",
    base_url: str | None = None,
    concurrency: int = 8,
    suite: str | None = None,
    cluster: Cluster | None = None,
) -> Path:
    """Caption one split and return the file: lines of {"id", "caption"}, and where a model gives them "probability" and
    "change_map", a PNG [height, width] of 0 to 255 named relative to `out`.

    model, base_url, concurrency, cluster: as `open_model` reads them. task: a key of PROMPTS, decides prompt and
    longest answer. settings.json beside the captions names all that shapes captions or scores; a folder with other
    settings is refused with InputError. Captions already there are kept, so a second call goes on where the first one
    stopped.
    """
    if task not in PROMPTS:
        raise InputError(f"--task '{task}': expected one of {', '.join(PROMPTS)}")
    source = open_source(spec)
    pairs = source.select(split)
    if not source.has_images:
        raise InputError(f"{spec}: annotations alone, no images to caption")
    opened: Model = open_model(model, out / ANSWERS, base_url, concurrency, cluster)
    limit = max_new_tokens or LONGEST[task]
    # What made a file of captions is not known here.
    elsewhere = opened.identity["kind"] == "file"
    settings: dict[str, Any] = {
        "schema": SCHEMA,
        "model": {"name": model, **opened.identity},
        "data": {"spec": spec, "suite": suite, "split": split, **data_digest(source, pairs)},
        "task": task,
        "prompt": None if elsewhere else PROMPTS[task],
        "generation": None if elsewhere else {"decoding": "greedy", "max_new_tokens": limit, "batch_size": batch_size},
        "tokenisation": tokenisation,
        "libraries": {
            "rsiccllm": __version__,
            **{name: version(name) for name in ("torch", "transformers", "tokenizers", "pillow", "pycocoevalcap")},
            "python": platform.python_version(),
        },
    }
    if line := check_unseen(model, opened.provenance, source, pairs):
        settings["notes"] = [line]
    path = out / PREDICTIONS
    with only_run(out):
        _claim(out, settings)
        known = read_predictions(path) if path.exists() else {}
        left = [pair for pair in pairs if pair.id not in known]
        if left:
            captions = opened.caption_all(source, left, task, limit, batch_size)
            _collect(track(captions, f"captioning {split}", len(pairs), len(known)), out, known, batch_size)
    return path


def _collect(
    captions: Iterable[tuple[ImagePair, Said]], out: Path, known: dict[str, dict[str, Any]], every: int
) -> None:
    """Add captions to the file, which is written whole after every `every` of them and at the end, good or bad."""
    done = len(known)
    try:
        for pair, said in captions:
            known[pair.id] = _line(pair, said, out)
            if (len(known) - done) % every == 0:
                _write(out / PREDICTIONS, known)
    finally:  # also where an endpoint gives up, or at Ctrl-C: what was said so far stays
        if (len(known) - done) % every:
            _write(out / PREDICTIONS, known)


def _line(pair: ImagePair, said: Said, out: Path) -> dict[str, Any]:
    line: dict[str, Any] = {"caption": said.caption}
    if said.probability is not None:
        line["probability"] = round(said.probability, 6)
    if said.change_map is not None:
        line["change_map"] = f"maps/{safe_name(pair.id)}.png"
        with atomic_write(out / line["change_map"], "wb") as handle:
            Image.fromarray(np.rint(255 * said.change_map).astype(np.uint8)).save(handle, format="PNG")
    return line


def _write(path: Path, known: dict[str, dict[str, Any]]) -> None:
    with atomic_write(path) as handle:
        handle.writelines(
            json.dumps(seal({"id": identifier, **line}), ensure_ascii=False) + "\n"
            for identifier, line in known.items()
        )


def read_predictions(path: Path) -> dict[str, dict[str, Any]]:
    """What `predict` wrote: by pair id, "caption" and the other fields of its line. As `load_lines` raises."""
    return {name: line.model_dump(exclude={"id"}, exclude_none=True) for name, line in load_lines(path).items()}


def _claim(out: Path, settings: dict[str, Any]) -> None:
    """Refuse a folder whose captions were made or scored otherwise; remember ours before any work."""
    note = out / SETTINGS
    if not note.exists():
        write_json(note, settings)
        return
    held = read_json(note)
    if not isinstance(held, dict) or held.get("schema") != SCHEMA:
        raise InputError(f"{note}: not the settings of a benchmark run; choose another --out")
    if differing := difference(held, settings):
        name, old, new = differing[0]
        raise InputError(f"{out}: holds a run with {name}={old!r}, this one has {new!r}; choose another --out")


def difference(held: dict[str, Any], wanted: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """(name, held, wanted) of every setting in which two runs differ so that their captions must not be mixed."""
    old, new = _flat(held), _flat(wanted)
    return [
        (".".join(key), old.get(key), new.get(key))
        for key in dict.fromkeys([*new, *old])
        if key not in _NOT_COMPARED and old.get(key) != new.get(key)
    ]


def _flat(settings: dict[str, Any]) -> dict[tuple[str, ...], Any]:
    flat: dict[tuple[str, ...], Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= {(name, inner): given for inner, given in value.items()}
        else:
            flat[(name,)] = value
    return flat


def records_digest(pairs: Sequence[ImagePair]) -> str:
    """Of what is said about pairs: hexadecimal SHA-256."""
    records = hashlib.sha256()
    for pair in pairs:
        records.update(pair.model_dump_json().encode() + b"\n")
    return records.hexdigest()


def data_digest(source: Source, pairs: Sequence[ImagePair]) -> dict[str, Any]:
    """{"pairs", "records", "images"}: how many, a digest of what is said about them, and one of their image files.

    Images that are rendered when they are asked for have no files: None, for their records fix them.
    """
    images = hashlib.sha256()
    files = 0
    for pair in pairs:
        for name in (pair.before, pair.after):
            if source.root != Path() and (path := inside(source.root, name)).is_file():
                images.update(f"{name} {sha256(path)}\n".encode())
                files += 1
    return {
        "pairs": len(pairs),
        "records": records_digest(pairs),
        "images": images.hexdigest() if files else None,
    }
