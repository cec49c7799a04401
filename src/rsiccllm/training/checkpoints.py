"""The checkpoints of a run: whole or not there, and the newest found by itself."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch.distributed as dist
from safetensors import SafetensorError

from rsiccllm.errors import InputError
from rsiccllm.files import read_json
from rsiccllm.model.checkpoint import WHOLE, damaged
from rsiccllm.training.recipe import Recipe
from rsiccllm.training.validation import gave_up


def newest_checkpoint(out: Path) -> Path | None:
    """The newest checkpoint whose every file has the checksum written when it was finished.

    Those that a kill left without checksums are passed over; a finished one that was damaged since is also named.
    """
    found = [path for path in (out / "checkpoints").glob("checkpoint-*") if path.name.split("-")[1].isdigit()]
    for folder in sorted(found, key=lambda path: int(path.name.split("-")[1]), reverse=True):
        fault = damaged(folder)
        if fault is None:
            return folder
        if (folder / WHOLE).exists():
            print(f"{folder}: {fault}; the checkpoint before it is taken", file=sys.stderr)
    return None


def is_last(checkpoint: Path, recipe: Recipe) -> bool:
    """Whether no update is left to be made after this checkpoint."""
    state = read_json(checkpoint / "trainer_state.json")
    return bool(state["global_step"] >= state["max_steps"]) or gave_up(recipe, state["global_step"])


@contextmanager
def written(out: Path) -> Iterator[None]:
    """A checkpoint that cannot be written as one line, and what there is of it removed: on a full disk it takes room.

    safetensors and torch wrap the system's error in one of their own, and torch's does not say what it was.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if is_lost(error):
            raise
        for folder in (out / "checkpoints").glob("checkpoint-*"):
            if not (folder / WHOLE).exists():
                shutil.rmtree(folder, ignore_errors=True)
        reason = str(error).splitlines()[0][:120]
        left = f"{shutil.disk_usage(out).free // 2**20:,} MB left on the disk"
        raise InputError(f"{out}: a checkpoint cannot be written, {left} ({reason})") from None


def is_lost(error: BaseException) -> bool:
    """Whether an error is of the processes' talk with one another (NCCL's have a class, gloo's name it)."""
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()
