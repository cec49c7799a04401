"""A model split over the processes of `torchrun`, and checkpoints of its parts that any number of processes reads.

Each process writes what it holds as safetensors, by torch.distributed.checkpoint's HuggingFace storage: where a part
belongs stands in the file's own header. The other storage of that package keeps this in a pickle, `.metadata`, which is
neither written nor read here: to load a pickle is to run what is in it.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import fully_shard

from rsiccllm.errors import InputError

SHARDS = "shards"
"""The folder in a checkpoint that holds the parts."""

_WEIGHTS, _MOMENTS = "weights.", "moments."


def split(model: nn.Module) -> None:
    """Split weights, gradients and moments over the processes of this run, layer by layer; one process keeps all.

    A layer is put together on each process while it computes, and no longer. In float32, as without splitting: the
    losses are the same to rounding.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and name.endswith((".layers", ".blocks")):
            for layer in module:
                fully_shard(layer)
    fully_shard(model)


def save_shards(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write this process's part of what learns and of its moments. All processes call it, and return when all wrote.

    Raises OSError on all of them where one cannot write.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _quiet():
            dcp.save(
                {**_weights(model), **_moments(model, optimizer)},
                storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True),
            )
    except CheckpointException as error:  # no Exception of Python's
        raise OSError(_line(error)) from None


def load_shards(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> None:
    """Read what `save_shards` wrote, each process its own part, however many there were and are.

    Learning rates are not among it: they are the schedule's. Raises InputError where a part is missing or broken.
    """
    check_shards(folder)
    state = {**_weights(model), **({} if optimizer is None else _moments(model, optimizer))}
    _read(folder, state)
    with torch.no_grad():
        weights = {name.removeprefix(_WEIGHTS): value for name, value in state.items() if name.startswith(_WEIGHTS)}
        set_model_state_dict(model, weights, options=StateDictOptions(strict=False))
        if optimizer is not None:
            moments = {f"state.{name.removeprefix(_MOMENTS)}": value for name, value in state.items()
                       if name.startswith(_MOMENTS)}  # fmt: skip
            whole = get_optimizer_state_dict(model, optimizer, options=_FLAT)
            set_optimizer_state_dict(model, optimizer, {**whole, **moments}, options=_FLAT)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """What learnt, put together from all parts, by its names in the model. Raises InputError as `load_shards` does."""
    check_shards(folder)
    try:
        held = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder}: cannot be read ({_line(error)})") from None
    state = {
        name: torch.empty(tuple(part.size), dtype=part.properties.dtype)
        for name, part in held.items()
        if name.startswith(_WEIGHTS) and isinstance(part, TensorStorageMetadata)
    }
    _read(folder, state)
    return {name.removeprefix(_WEIGHTS): value for name, value in state.items()}


def whole_weights(model: nn.Module) -> dict[str, Any]:
    """What learnt, put together on the first process; empty on the others. All processes call it."""
    learns = {name for name, weight in model.named_parameters() if weight.requires_grad}
    with _quiet():
        whole = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    return {name: value for name, value in whole.items() if name in learns}


def check_shards(folder: Path) -> None:
    """Raise InputError where a folder holds no parts of ours, and for anything in it but safetensors."""
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    if not files:
        raise InputError(f"{folder}: holds no sharded weights; expected a checkpoint of a run with fsdp: true")
    for file in files:
        if file.suffix != ".safetensors":
            raise InputError(
                f"{file}: not safetensors; only these are read (torch.distributed.checkpoint's .metadata is a pickle, "
                "which could run any code when it is loaded)"
            )


_FLAT = StateDictOptions(flatten_optimizer_state_dict=True)


def _weights(model: nn.Module) -> dict[str, Any]:
    with _quiet():
        held = get_model_state_dict(model)
    learns = [name for name, weight in model.named_parameters() if weight.requires_grad]  # tied ones by one name
    return {_WEIGHTS + name: held[name] for name in learns}


def _moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """By names in the model, so that neither the number of processes nor the order of groups matters. Tensors alone:
    what else an optimizer keeps are settings, which the recipe has."""
    held = get_optimizer_state_dict(model, optimizer, options=_FLAT)
    return {_MOMENTS + name.removeprefix("state."): value for name, value in held.items() if name.startswith("state.")}


def _read(folder: Path, state: dict[str, Any]) -> None:
    try:
        with _quiet():
            dcp.load(state, storage_reader=HuggingFaceStorageReader(str(folder)))
    except (CheckpointException, OSError, SafetensorError, ValueError, KeyError, RuntimeError, AssertionError) as error:
        raise InputError(f"{folder}: cannot be read, or is of another model ({_line(error)})") from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's word that there is one process only, and on what it will deprecate."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _line(error: BaseException) -> str:
    if isinstance(error, CheckpointException) and error.failures:
        error = next(iter(error.failures.values()))[0]
    return " ".join(str(error).split())[:150] or type(error).__name__
