"""What the SFT model says of the pairs it was trained on: the raw material of filtering negatives."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from rsiccllm.errors import InputError
from rsiccllm.files import inside
from rsiccllm.journal import Journal
from rsiccllm.model.checkpoint import resolve_checkpoint, weights_digest
from rsiccllm.model.generate import difference_cut, generate_answers, sample_answers
from rsiccllm.model.processor import load_processor
from rsiccllm.model.vlm import load_model
from rsiccllm.pairs import open_pair
from rsiccllm.progress import track
from rsiccllm.records import Instruction

SAMPLES = "samples.jsonl"


class Said(NamedTuple):
    """samples: those drawn that ended. cut: the likeliest answer without the difference path, None without one."""

    samples: list[str]
    cut: str | None


def sample_pairs(
    model: str,
    data: Path,
    records: Sequence[Instruction],
    out: Path,
    count: int,
    temperature: float,
    top_p: float,
    seed: int,
    batch_size: int = 8,
    max_new_tokens: int = 128,
    cut: bool = True,
) -> dict[str, Said]:
    """Draw `count` answers for each record, by id, and keep them in `out/samples.jsonl` as they come.

    cut: whether the model is also asked without its difference path.

    Stopped, it goes on where it was, and draws what it would have drawn. Raises InputError where that file was drawn
    from other weights or with other settings.
    """
    checkpoint = resolve_checkpoint(model)
    settings = {
        "weights": weights_digest(checkpoint),
        "count": count,
        "temperature": temperature,
        "top_p": top_p,
        "seed": seed,
        "max_new_tokens": max_new_tokens,
        "cut": cut,
    }
    journal = Journal(out / SAMPLES, sync_every=5, sealed=True)
    try:
        lines = iter(journal.read())
        held = next(lines, None)
        if held is None:
            journal.append(settings)
        elif held != settings:
            name = next(name for name in settings if held.get(name) != settings[name])
            raise InputError(
                f"{journal.path}: was drawn with {name}={held.get(name)!r}, now {settings[name]!r}; "
                "choose another --out"
            )
        known = {line["id"]: Said(line["samples"], line["cut"]) for line in lines}
        left = [record for record in records if record.id not in known]
        if left:
            known |= _draw(checkpoint, data, left, journal, len(records), batch_size, settings)
    finally:
        journal.close()
    return {record.id: known[record.id] for record in records}


def _draw(
    checkpoint: str,
    data: Path,
    left: Sequence[Instruction],
    journal: Journal,
    total: int,
    batch_size: int,
    settings: dict[str, Any],
) -> dict[str, Said]:
    found: dict[str, Said] = {}
    processor = load_processor(checkpoint)
    model = load_model(checkpoint).to("cuda" if torch.cuda.is_available() else "cpu").eval()
    limit = settings["max_new_tokens"]
    for at, record in enumerate(track(left, "sampling", total, total - len(left))):
        if at % batch_size == 0:
            batch = left[at : at + batch_size]
            pairs = [open_pair(inside(data, item.before), inside(data, item.after)) for item in batch]
            questions = [((pair.before, pair.after), item.prompt) for pair, item in zip(pairs, batch, strict=True)]
            drawn = sample_answers(
                model,
                processor,
                questions,
                [_seed(settings["seed"], item.id) for item in batch],
                settings["count"],
                settings["temperature"],
                settings["top_p"],
                limit,
            )
            cuts: list[str | None] = [None] * len(batch)
            if settings["cut"] and model.model.difference is not None:
                with difference_cut(model):
                    cuts = [answer.text for answer in generate_answers(model, processor, questions, limit)]
        said = Said([text for text in drawn[at % batch_size] if text], cuts[at % batch_size])
        journal.append({"id": record.id, "samples": said.samples, "cut": said.cut})
        found[record.id] = said
    return found


def _seed(seed: int, identifier: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{identifier}".encode()).digest()[:8], "big")
