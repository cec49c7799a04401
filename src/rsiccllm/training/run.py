"""One run of a stage in its folder: bound to its recipe, gone on with, ended together, left as one model."""

from __future__ import annotations

import json
import os
import pickle
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from rsiccllm import __version__
from rsiccllm.errors import InputError
from rsiccllm.files import describe_validation, only_run, read_json, write_json
from rsiccllm.model.checkpoint import WHOLE, damaged, resolve_checkpoint, save_model
from rsiccllm.model.precision import fast_bf16
from rsiccllm.model.processor import PairProcessor, load_processor
from rsiccllm.training.bar import TrainingBar
from rsiccllm.training.checkpoints import is_last, is_lost, newest_checkpoint, written
from rsiccllm.training.learning import merged, with_weights
from rsiccllm.training.recipe import AnswerRecipe, DNPORecipe, Recipe, SFTRecipe
from rsiccllm.training.sharding import SHARDS, read_weights, whole_weights
from rsiccllm.training.shards import holds_shards
from rsiccllm.training.trainer import StageTrainer

NOTE = "recipe.json"


def claim_output(recipe: Recipe) -> bool:
    """Whether the finished model of this recipe is in `out` already.

    Raises InputError where `out` holds a run with other settings (two runs are never mixed) or cannot be written.
    `out` is not bound to the recipe before training starts, so a mistake in the recipe can be put right.
    """
    wanted, note = _settings(recipe), recipe.out / NOTE
    if note.exists():
        held = read_json(note)
        free = {"workers", "log_steps", "process_timeout", "shard_cache", "shard_cache_gb"}
        if pairs_an_update(held) == pairs_an_update(wanted):
            # The same updates, by more or fewer processes; the order of shards goes by batches.
            free |= {"accumulate"} if any(map(holds_shards, recipe.weights)) else {"batch_size", "accumulate"}
        elif "processes" in held and held["processes"] != wanted["processes"]:
            before, now = (f"{pairs_an_update(run)} pairs, {run['processes']} processes" for run in (held, wanted))
            raise InputError(f"{recipe.out}: an update is of {before}, here of {now}; set batch_size or accumulate")
        wanted.pop("processes")
        differs = [name for name in wanted if held.get(name) != wanted[name] and name not in free]
        if differs:
            name = differs[0]
            raise InputError(
                f"{recipe.out}: holds a run with {name}={held.get(name)!r}, this one has {wanted[name]!r}; "
                "choose another out, or remove that folder"
            )
    elif (recipe.out / "model").exists():
        raise InputError(f"{recipe.out}: holds a model, and no {NOTE} that says what made it; choose another out")
    try:
        recipe.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{recipe.out}: cannot be written ({error.strerror})") from None
    if not os.access(recipe.out, os.W_OK):
        raise InputError(f"{recipe.out}: cannot be written (read-only)")
    return (recipe.out / "model" / "config.json").exists()


def _settings(recipe: Recipe) -> dict[str, Any]:
    return {**json.loads(recipe.model_dump_json()), "processes": int(os.environ.get("WORLD_SIZE", "1"))}


def pairs_an_update(settings: dict[str, Any]) -> int:
    """Image pairs that one update learns from, over all processes. settings: as in recipe.json."""
    return int(settings["batch_size"] * settings["accumulate"] * settings.get("processes", 1))


def train_and_save(trainer: StageTrainer, processor: PairProcessor) -> Path:
    """Train from the newest whole checkpoint, then write `out/model` in one rename. Returns that folder.

    From here on `out` is this recipe's. Raises InputError on a full disk, where the whole checkpoints stay, where
    another process trains into `out`, and where one of the processes that train together is gone.
    """
    alone = trainer.args.world_size == 1
    if trainer.recipe.bf16 and trainer.is_world_process_zero() and not fast_bf16():
        print("bf16: this processor has no instructions for it; bf16=false takes a part of the time", file=sys.stderr)
    claimed = only_run(trainer.recipe.out) if trainer.is_world_process_zero() else nullcontext()
    with claimed, nullcontext() if alone else ends_together(trainer.recipe):
        return _train_and_save(trainer, processor)


@contextmanager
def ends_together(recipe: Recipe) -> Iterator[None]:
    """One line where another process of the run ends or hangs, and not the traceback of whatever waited for it.

    `torchrun` ends the processes that are left with SIGTERM, so that is told too.
    """

    def told() -> InputError:
        kept = [path.parent.name.split("-")[1] for path in (recipe.out / "checkpoints").glob(f"checkpoint-*/{WHOLE}")]
        at = f"from update {max(map(int, kept))}" if kept else "from the start: no checkpoint was written yet"
        return InputError(
            f"{recipe.out}: stopped, because another process of this run ended, or did not answer within "
            f"{recipe.process_timeout} s; started again, it goes on {at}"
        )

    def end(number: int, frame: object) -> None:
        raise told()

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except RuntimeError as error:
        if not is_lost(error):
            raise
        raise told() from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _train_and_save(trainer: StageTrainer, processor: PairProcessor) -> Path:
    recipe, first = trainer.recipe, trainer.is_world_process_zero()
    dataset: Any = trainer.train_dataset
    seen: frozenset[str] = dataset.seen
    if first:
        write_json(recipe.out / NOTE, {**_settings(recipe), "seen": sorted(seen)})
    resume = newest_checkpoint(recipe.out)
    if trainer.is_deepspeed_enabled:
        check_deepspeed(trainer, resume)
    if resume and is_last(resume, recipe):  # the Trainer would make one update more
        trainer._load_from_checkpoint(str(resume))
        if trainer.ema:
            trainer.ema.load(resume)
    else:
        with TrainingBar(f"training {recipe.out.name}", first) as shown, _one_line():
            trainer.add_callback(shown)
            try:
                trainer.train(resume_from_checkpoint=str(resume) if resume else None)
            except pickle.UnpicklingError as error:  # torch reads tensors and plain values, and runs nothing
                reason = " ".join(str(error).split())[:200]
                raise InputError(f"{resume}: the optimizer's state holds more than tensors ({reason})") from None
    if trainer.ema:
        trainer.ema.give(trainer.accelerator.unwrap_model(trainer.model))
    trainer.finish()
    folder = recipe.out / "model"
    # Split weights are put together by all processes, before the first one writes.
    whole = whole_weights(trainer.model) if trainer.sharded else None
    if trainer.is_deepspeed_enabled:
        whole = trainer.accelerator.get_state_dict(trainer.model_wrapped)
        unset_hf_deepspeed_config()  # else the first process would split what it loads, and wait for the others
    if first:
        if isinstance(recipe, AnswerRecipe) and whole is not None:
            model = with_weights(recipe, whole)
        else:
            model = merged(trainer.accelerator.unwrap_model(trainer.model), recipe)
        _say_where_from(model, recipe, seen)
        with written(recipe.out):
            save_model(model, processor, folder)
    trainer.accelerator.wait_for_everyone()
    return folder


def check_deepspeed(trainer: StageTrainer, resume: Path | None) -> None:
    """Refuse what would go wrong in silence where DeepSpeed splits the weights, or would load a pickle.

    trainer: launched by accelerate with a DeepSpeed configuration. resume: the checkpoint to go on from.
    Raises InputError.
    """
    recipe = trainer.recipe
    for name in ("fsdp", "ema", "validation", "feature_cache"):
        if getattr(recipe, name, None):
            raise InputError(f"{name}: not with DeepSpeed, which holds the weights in parts of its own; use torchrun")
    if resume is not None:
        raise InputError(
            f"{resume}: DeepSpeed's part of it is a pickle, which could run any code when it is loaded; start again in "
            "another out, or train with fsdp: true under torchrun, which goes on"
        )


def _say_where_from(model: Any, recipe: Recipe, seen: Iterable[str]) -> None:
    before = getattr(model.config, "provenance", None) or {}  # the base's, where it is one of ours
    model.config.provenance = {
        "stage": getattr(recipe, "stage", ""),
        "base": recipe.model,
        "data": ", ".join(Path(folder).name for folder in recipe.weights),
        "split": recipe.split,
        "seen": sorted({*seen, *before.get("seen", ())}),
        "rsiccllm": __version__,
    }


def merge_checkpoint(checkpoint: Path, out: Path) -> Path:
    """Write one model folder, as training leaves it behind, from a sharded checkpoint of a run. Returns `out`.

    The run's folder is two above, and says what the checkpoint is of. Raises InputError for anything else, for a
    checkpoint that is damaged, and where `out` is there already.
    """
    note = checkpoint.parent.parent / NOTE
    if not (checkpoint / SHARDS).is_dir() or not note.is_file():
        raise InputError(f"{checkpoint}: expected RUN/checkpoints/checkpoint-N of a run with fsdp: true")
    if out.exists():
        raise InputError(f"{out}: is there already; choose another --out")
    if fault := damaged(checkpoint):
        raise InputError(f"{checkpoint}: {fault}; take another checkpoint")
    held = read_json(note)
    kind: type[SFTRecipe | DNPORecipe] = DNPORecipe if held.get("stage") == "dnpo" else SFTRecipe
    seen, _ = held.pop("seen", []), held.pop("processes", None)
    try:
        recipe = kind.model_validate(held)
    except ValidationError as error:
        raise InputError(f"{note}: {describe_validation(error)}") from None
    model = with_weights(recipe, read_weights(checkpoint / SHARDS))
    _say_where_from(model, recipe, seen)
    processor = load_processor(resolve_checkpoint(recipe.model), recipe.min_pixels, recipe.max_pixels)
    save_model(model, processor, out)
    return out


@contextmanager
def _one_line() -> Iterator[None]:
    """A worker that prepares batches hands on its traceback as the message of an InputError: the last line is it."""
    try:
        yield
    except InputError as error:
        last = str(error).strip().splitlines()[-1]
        raise InputError(last.removeprefix(f"{InputError.__module__}.{InputError.__name__}: ")) from None
