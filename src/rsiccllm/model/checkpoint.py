"""Checkpoint folders: written whole or not at all, and found by the name of the run that made them."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig

from rsiccllm.errors import InputError
from rsiccllm.files import sha256


def load_config(name: str) -> Any:
    """The configuration of a checkpoint folder or hub name. Raises InputError where there is none, or a broken one."""
    try:
        return AutoConfig.from_pretrained(name)
    except (OSError, ValueError, StrictDataclassError) as error:
        raise InputError(f"{name}: no model could be loaded ({' '.join(str(error).split())[:200]})") from None


def save_model(model: Any, processor: Any, folder: Path, weights: dict[str, Any] | None = None) -> None:
    """Write a checkpoint folder whole or not at all. weights: where they are not to be read from the model itself."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        model.save_pretrained(temporary, state_dict=weights)
        processor.save_pretrained(temporary)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
    """What tells one set of weights from another: a digest of a folder's safetensors files; a hub name is its own."""
    folder = Path(checkpoint)
    if not folder.is_dir():
        return checkpoint
    parts = [f"{path.name}:{sha256(path)}" for path in sorted(folder.glob("*.safetensors"))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
