"""Captioning a split with a model: predictions.jsonl, and beside it all that shaped them."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rsiccllm import __version__
from rsiccllm.benchmark.provenance import check_unseen, provenance_of
from rsiccllm.caption.captioner import Caption, Captioner
from rsiccllm.errors import InputError
from rsiccllm.files import atomic_write, read_json, sha256, write_json
from rsiccllm.model.checkpoint import resolve_checkpoint
from rsiccllm.progress import track
from rsiccllm.records import ImagePair
from rsiccllm.rsici.prompts import PROMPTS
from rsiccllm.sources import open_source
from rsiccllm.sources.base import Source

PREDICTIONS = "predictions.jsonl"


def predict(model: str, spec: str, split: str, out: Path, batch_size: int = 16) -> Path:
    """Caption one split and return the predictions file, lines of {"id", "caption", "probability"}.

    settings.json beside it names model, weights' digest, data and prompt; a folder with other settings is refused with
    InputError. Captions already there are kept, so a second call goes on where the first one stopped.
    """
    source = open_source(spec)
    pairs = source.select(split)
    trained_on = check_unseen(model, provenance_of(resolve_checkpoint(model)), source, pairs)
    if trained_on:
        warnings.warn(trained_on, stacklevel=2)
    settings = _settings(model, spec, split, pairs)
    note = out / "settings.json"
    if note.exists():
        held = read_json(note)
        differs = [name for name in settings if held.get(name) != settings[name]]
        if differs:
            raise InputError(
                f"{out}: holds predictions with {differs[0]}={held.get(differs[0])!r}, now {settings[differs[0]]!r}; "
                "choose another --out"
            )
    else:
        write_json(note, settings)
    path = out / PREDICTIONS
    known = _known(path)
    left = [pair for pair in pairs if pair.id not in known]
    if left:
        captioner = Captioner.load(model)
        captions = _captions(captioner, source, left, batch_size)
        for pair, caption in track(captions, f"captioning {split}", len(pairs), len(known)):
            known[pair.id] = {"caption": caption.caption, "probability": round(caption.probability, 6)}
            if len(known) % batch_size == 0 or len(known) == len(pairs):
                with atomic_write(path) as handle:
                    handle.writelines(
                        json.dumps({"id": identifier, **value}, ensure_ascii=False) + "\n"
                        for identifier, value in known.items()
                    )
    return path


def _captions(
    captioner: Captioner, source: Source, pairs: list[ImagePair], batch_size: int
) -> Iterator[tuple[ImagePair, Caption]]:
    for start in range(0, len(pairs), batch_size):
        chunk = pairs[start : start + batch_size]
        opened = [source.open(pair) for pair in chunk]
        yield from zip(chunk, captioner.caption_all(opened, batch_size), strict=True)


def _known(path: Path) -> dict[str, dict[str, Any]]:
    if not path.exists():
        return {}
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {line["id"]: {name: line[name] for name in ("caption", "probability")} for line in lines}


def _settings(model: str, spec: str, split: str, pairs: list[ImagePair]) -> dict[str, Any]:
    folder = Path(resolve_checkpoint(model))
    weights = {path.name: sha256(path) for path in sorted(folder.glob("*.safetensors"))} if folder.is_dir() else {}
    listed = "\n".join(pair.model_dump_json() for pair in pairs)
    return {
        "model": model,
        "weights": weights,
        "data": spec,
        "split": split,
        "pairs": hashlib.sha256(listed.encode()).hexdigest(),
        "prompt": PROMPTS["caption"],
        "decoding": "greedy, at most 64 tokens",
        "rsiccllm": __version__,
    }
