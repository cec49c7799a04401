"""Checkpoint folders: written whole or not at all, with checksums, and found by the name of the run that made them.

Only safetensors are loaded, and no code that comes with a model is run: a model of a stranger's is data, not a program.
"""

from __future__ import annotations

import hashlib
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from transformers import AutoConfig

from rsiccllm.errors import InputError
from rsiccllm.files import inside, read_json, sha256, write_json

WHOLE = "whole.json"
"""The file in a checkpoint folder that holds the SHA-256 of each other file by its name; written last."""

PICKLES = frozenset({".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth"})
"""Endings of files that are Python pickles, or may be: to load one is to run what is in it."""

DATA_ONLY: dict[str, Any] = {"trust_remote_code": False}
"""Arguments of every `from_pretrained`: no code of the checkpoint's is run, and nobody is asked whether it may."""

WEIGHTS_ONLY: dict[str, Any] = {**DATA_ONLY, "use_safetensors": True}
"""The same for what loads weights: from safetensors, or not at all."""


def load_config(name: str) -> Any:
    """The configuration of a checkpoint folder or hub name.

    Raises InputError where there is none, a broken one, one that needs code of its own, and beside pickles.
    """
    refuse_pickles(name)
    _check_index(Path(name))
    try:
        return AutoConfig.from_pretrained(name, **DATA_ONLY)
    except Exception as error:  # broken settings are answered with almost any exception there is
        raise InputError(f"{name}: no model could be loaded ({_reason(error)})") from None


def _reason(error: Exception) -> str:
    """One line of an exception of transformers'."""
    text = " ".join(str(error).split())
    if "trust_remote_code" in text or "custom code" in text:
        return "it needs Python code of its own, which is never run; expected an architecture that transformers has"
    return text[:200] or type(error).__name__


def refuse_pickles(name: str) -> None:
    """Raise InputError where the folder `name` holds pickled weights, which run code when they are loaded.

    A checkpoint that training wrote also holds the optimizer's state as torch writes it. It passes: of its files only
    the safetensors are opened for a model, and a resumed training reads the others without running what is in them.
    """
    folder = Path(name)
    if not folder.is_dir():
        return
    found = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in PICKLES)
    if found and not ((folder / "trainer_state.json").is_file() and (folder / WHOLE).is_file()):
        raise InputError(
            f"{folder / found[0]}: a pickle, which could run any code when it is loaded; only safetensors are read. "
            "Convert the weights with save_pretrained, or remove the file where model.safetensors is beside it"
        )


def _check_index(folder: Path) -> None:
    """The index of sharded weights names files: of this folder and no other, and safetensors."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return
    content = read_json(index)
    named = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
        raise InputError(f"{index}: field 'weight_map': expected the file of each weight by its name")
    for name in dict.fromkeys(named.values()):
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise InputError(f"{index}: names {name!r}, expected safetensors in this folder")


def mark_whole(folder: Path) -> None:
    """Write the checksums of all files of a folder into it, once they are all there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != WHOLE)  # FSDP's lie deeper
    write_json(folder / WHOLE, {path.relative_to(folder).as_posix(): sha256(path) for path in files})


def damaged(folder: Path, leave_out: frozenset[str] = frozenset()) -> str | None:
    """The first file of a folder that is not as it was when the folder was written, and how; None where all are.

    leave_out: endings of files that are not looked at.
    """
    try:
        marks = read_json(folder / WHOLE)
    except InputError:
        return f"{WHOLE} is missing or broken"
    if not isinstance(marks, dict) or not marks:
        return f"{WHOLE} is missing or broken"
    for name, digest in marks.items():
        if Path(name).suffix in leave_out:
            continue
        try:
            file = inside(folder, name)
            if not file.is_file():
                return f"{name} is missing"
            if sha256(file) != digest:
                return f"{name} is damaged or was edited"
        except InputError:
            return f"{name} cannot be read"
    return None


def check_whole(name: str) -> None:
    """Raise InputError where a model folder has checksums and a file in it is not as it was written.

    A flipped bit in a weight gives other captions and no error. Folders of others have no such file, and pass.
    """
    folder = Path(name)
    if (folder / WHOLE).is_file() and (fault := damaged(folder, PICKLES)) is not None:
        raise InputError(f"{name}: {fault}; take a whole copy (or remove {WHOLE}, if it was you who edited the file)")


def save_model(model: Any, processor: Any, folder: Path, weights: dict[str, Any] | None = None) -> None:
    """Write a checkpoint folder whole or not at all. weights: where they are not to be read from the model itself."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        model.save_pretrained(temporary, state_dict=weights)
        processor.save_pretrained(temporary)
        mark_whole(temporary)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def pack_tensors(tensors: Mapping[str, Tensor]) -> bytes:
    """A safetensors file of tensors, with a checksum of their values in its header."""
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return save(whole, metadata={"crc32": _crc(whole)})


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file that `pack_tensors` made. Raises InputError where it is not there, cut short or damaged."""
    try:
        with safe_open(path, framework="pt") as handle:
            held = (handle.metadata() or {}).get("crc32")
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read ({' '.join(str(error).split())[:120]})") from None
    if held != _crc(tensors):
        raise InputError(f"{path}: is damaged, its values are not those that were written")
    return tensors


def _crc(tensors: Mapping[str, Tensor]) -> str:
    value = 0
    for name, tensor in sorted(tensors.items()):
        head = f"{name} {tensor.dtype} {list(tensor.shape)}".encode()
        value = zlib.crc32(tensor.flatten().view(torch.uint8).numpy().data, zlib.crc32(head, value))
    return f"{value:08x}"


def resolve_checkpoint(name: str) -> str:
    """A training run's folder stands for the finished model in it; anything else is a checkpoint folder or hub name.

    Raises InputError for a folder without a model, and for a path where nothing is: only ORG/NAME is asked of the hub.
    """
    inner = Path(name) / "model"
    if (inner / "config.json").exists():
        return str(inner)
    if Path(name).is_dir() and not (Path(name) / "config.json").exists():
        raise InputError(f"{name}: a folder without a model (no config.json); is its training finished?")
    if not Path(name).exists() and (name.count("/") != 1 or Path(name).parent.exists()):
        raise InputError(f"{name}: no such model; expected a folder that training wrote, or a hub name ORG/NAME")
    return name


def weights_digest(checkpoint: str) -> str:
    """What tells one set of weights from another: a digest of a folder's safetensors files; a hub name is its own.

    Raises InputError as `check_whole` does.
    """
    folder = Path(checkpoint)
    if not folder.is_dir():
        return checkpoint
    check_whole(checkpoint)  # before anything is bound to weights that nobody made
    parts = [f"{path.name}:{sha256(path)}" for path in sorted(folder.glob("*.safetensors"))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
