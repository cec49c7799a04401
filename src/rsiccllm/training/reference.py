"""Log-probabilities of every answer under the reference, computed once and kept in a file.

DPO and its kin need of the reference one number an answer, which never changes: with it stored, a step is one forward
and not two, and no second copy of the model is held. The reverse KL needs the whole distribution and cannot use it.

The file is JSON Lines. Its first line says what it belongs to: the weights, the answers, how images are scaled, the
precision, and how many rows follow; each further line is {"id", "log_probs"}, the chosen answer first.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from rsiccllm.errors import InputError
from rsiccllm.files import atomic_write, read_text
from rsiccllm.journal import Journal, read_journal
from rsiccllm.model.checkpoint import weights_digest
from rsiccllm.progress import track
from rsiccllm.training.data import PairDataset
from rsiccllm.training.losses import answer_log_probs
from rsiccllm.training.packing import MODEL_FIELDS, PackingCollator
from rsiccllm.training.recipe import DNPORecipe

FORM = "rsiccllm.reference.v1"


@contextmanager
def adapters_off(model: Any) -> Iterator[None]:
    """The model as it was before LoRA, while the block runs; without adapters, the model as it is."""
    if hasattr(model, "disable_adapter"):
        with model.disable_adapter():
            yield
    else:
        yield


def header_of(recipe: DNPORecipe, checkpoint: str, dataset: PairDataset) -> dict[str, Any]:
    """What stored log-probabilities belong to."""
    answers = json.dumps([[record.id, record.prompt, dataset.answers(record)] for record in dataset.records])
    return {
        "schema": FORM,
        "weights": weights_digest(checkpoint),
        "answers": hashlib.sha256(answers.encode()).hexdigest(),
        "min_pixels": recipe.min_pixels,
        "max_pixels": recipe.max_pixels,
        "bf16": recipe.bf16,
        "frozen": "4 bit" if recipe.load_in_4bit else "bf16" if recipe.bf16 and recipe.lora_rank else "float32",
        "rows": len(dataset),
    }


def read_reference(path: Path, wanted: dict[str, Any], checkpoint: str) -> dict[str, list[float]]:
    """Log-probabilities by record id.

    Raises InputError where the file belongs to other weights, answers or settings, where it was cut short, and where a
    line is none of ours.
    """
    anew = "remove it, and it is computed anew"
    lines = read_text(path).splitlines()
    held: Any = None
    found: dict[str, list[float]] = {}
    for number, line in enumerate(lines, start=1):
        try:
            value = json.loads(line)
            if number == 1:
                held = value
                if held["schema"] != FORM or not isinstance(held["rows"], int) or not isinstance(held["weights"], str):
                    raise ValueError
            else:
                found[value["id"]] = [float(log_prob) for log_prob in value["log_probs"]]
        except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
            if number > 1 and number == len(lines):
                break  # told below: its last line was cut
            raise InputError(f"{path}:{number}: no stored log-probabilities of ours; {anew}") from None
    if held is None:
        raise InputError(f"{path}: is empty; {anew}")
    if held["weights"] != wanted["weights"]:
        raise InputError(f"{path}: holds log-probabilities of other weights than those in {checkpoint}; {anew}")
    for name in wanted:
        if name not in {"rows", "weights"} and held.get(name) != wanted[name]:
            told = "other answers or another order" if name == "answers" else f"{name}={held.get(name)!r}"
            raise InputError(f"{path}: was computed for {told}; {anew}")
    if len(found) != held["rows"]:
        raise InputError(f"{path}: is cut short, {len(found):,} of its {held['rows']:,} rows are there; {anew}")
    if "sha256" in held and held["sha256"] != _digest(lines[1:]):
        raise InputError(f"{path}: is damaged, its rows are not those that were written; {anew}")
    return found


def _digest(rows: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def stored_reference(
    recipe: DNPORecipe,
    checkpoint: str,
    model: Any,
    dataset: PairDataset,
    collator: PackingCollator,
    device: torch.device,
) -> dict[str, list[float]]:
    """Read the recipe's reference file, or compute it first: with `model` before its first update, adapters off.

    All processes of a run call it, and each computes its share. Stopped, it goes on where it was (in journals beside
    the file, one a process), also with another number of processes. Raises InputError as `read_reference` does.
    """
    path = recipe.reference or recipe.out / "reference.jsonl"
    wanted = header_of(recipe, checkpoint, dataset)
    if not path.exists():
        rank, processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        identifiers = [record.id for record in dataset.records]
        known = _read_parts(path, wanted)
        if processes > 1:
            dist.barrier()  # all have read what there is before the first writes more, or has it all and removes it
        left = [index for index in range(rank, len(dataset), processes) if identifiers[index] not in known]
        _compute(_part(path, rank), wanted, left, recipe, model, dataset, collator, device)
        if rank == 0:
            _join(path, wanted, identifiers, recipe.process_timeout)
        # Not a barrier: others may have more to do than a barrier waits for. One that dies ends the run by torchrun.
        for _ in _waits(path, recipe.process_timeout):
            if path.exists():
                break
    return read_reference(path, wanted, checkpoint)


def _part(path: Path, name: object) -> Path:
    return path.with_name(f".{path.name}.part{name}")


def _parts(path: Path) -> list[Path]:
    return sorted(path.parent.glob(_part(path, "*").name))


def _read_parts(path: Path, wanted: dict[str, Any]) -> dict[str, list[float]]:
    """Log-probabilities by record id, of all that the processes have written. Their journals may be growing."""
    found: dict[str, list[float]] = {}
    for part in _parts(path):
        lines = list(read_journal(part))
        if lines and lines[0] != wanted:
            raise InputError(f"{part}: is of another run; remove it")
        found |= {line["id"]: line["log_probs"] for line in lines[1:]}
    return found


def _compute(
    part: Path,
    wanted: dict[str, Any],
    left: list[int],
    recipe: DNPORecipe,
    model: Any,
    dataset: PairDataset,
    collator: PackingCollator,
    device: torch.device,
) -> None:
    """Append the log-probabilities of the rows `left` to a journal."""
    batches = DataLoader(Subset(dataset, left), recipe.batch_size, collate_fn=collator, num_workers=recipe.workers)
    model.to(device).eval()
    with closing(Journal(part, sync_every=5, sealed=True)) as journal:
        if not any(journal.read()):
            journal.append(wanted)
        done = iter(left)
        for batch in track(batches, "reference", -(-len(left) // recipe.batch_size)):
            log_probs = batch_log_probs(model, batch, device, recipe.bf16).tolist()
            row_of = batch["row_of"].tolist()
            for row in range(max(row_of) + 1):
                own = [value for value, at in zip(log_probs, row_of, strict=True) if at == row]
                journal.append({"id": dataset.records[next(done)].id, "log_probs": own})


def _join(path: Path, wanted: dict[str, Any], identifiers: list[str], timeout: float) -> None:
    """Write the file once all processes have computed their share, and remove their journals."""
    known: dict[str, list[float]] = {}
    for _ in _waits(path, timeout):
        known = _read_parts(path, wanted)
        if len(known) == len(identifiers):
            break
    rows = [json.dumps({"id": identifier, "log_probs": known[identifier]}) for identifier in identifiers]
    parts = _parts(path)
    with atomic_write(path) as handle:
        handle.write(json.dumps({**wanted, "sha256": _digest(rows)}) + "\n")
        handle.writelines(row + "\n" for row in rows)
    for part in parts:
        part.unlink()


def _waits(path: Path, timeout: float) -> Iterator[None]:
    """One turn after another, with a pause ten times as long as the turn took, while the processes' journals change.

    Raises InputError where none has changed for `timeout` seconds: a process hangs.
    """
    written, changed = -1, time.monotonic()
    while True:
        began = time.monotonic()
        yield
        size = 0
        for part in _parts(path):
            with suppress(FileNotFoundError):  # joined meanwhile
                size += part.stat().st_size
        if size != written:
            written, changed = size, time.monotonic()
        elif time.monotonic() - changed > timeout:
            raise InputError(
                f"{path}: stopped, because no process has added a row for {timeout:g} s; started again, it goes on "
                "with the rows that are there"
            )
        time.sleep(min(max(0.2, 10 * (time.monotonic() - began)), timeout / 4))


@torch.no_grad()
def batch_log_probs(model: Any, batch: dict[str, Any], device: torch.device, bf16: bool) -> Tensor:
    """Log-probability of each answer of a packed batch under the reference. Returns [answers]."""
    inputs = {name: batch[name].to(device) for name in MODEL_FIELDS if name in batch}
    labels, answer_of = (batch[name].to(device) for name in ("labels", "answer_of"))
    with adapters_off(model), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        logits = model(**inputs).logits
    return answer_log_probs(logits, labels, answer_of, len(batch["row_of"]))
