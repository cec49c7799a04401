"""What the stages share: a transformers Trainer, checkpoints that are whole or not there."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pydantic import ValidationError
from safetensors import SafetensorError
from torch.utils.data import Dataset
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from rsiccllm import __version__
from rsiccllm.errors import InputError
from rsiccllm.files import atomic_write, describe_validation, only_run, read_json, write_json
from rsiccllm.model.checkpoint import WHOLE, damaged, mark_whole, resolve_checkpoint, save_model
from rsiccllm.model.fusion import Fusion
from rsiccllm.model.precision import fast_bf16
from rsiccllm.model.processor import PairProcessor, load_processor
from rsiccllm.model.variants import Variant
from rsiccllm.model.vlm import load_model
from rsiccllm.training.bar import TrainingBar
from rsiccllm.training.ema import Ema
from rsiccllm.training.features import FeatureCache, TextureCache
from rsiccllm.training.health import plot_health
from rsiccllm.training.mix import MixSampler
from rsiccllm.training.recipe import AnswerRecipe, DifferenceRecipe, DNPORecipe, Recipe, SFTRecipe
from rsiccllm.training.shard_order import ShardSampler
from rsiccllm.training.sharding import SHARDS, load_shards, read_weights, save_shards, split, whole_weights
from rsiccllm.training.shards import holds_shards
from rsiccllm.training.validation import Validation

NOTE = "recipe.json"
SCHEDULE = "scheduler.pt"


class _MarkWhole(TrainerCallback):
    """Marks a checkpoint once everything in it is on disk: what a kill left half-written is never resumed from."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if dist.is_initialized():
            dist.barrier()  # every process has files of its own in it
        if state.is_world_process_zero:
            mark_whole(Path(args.output_dir) / f"checkpoint-{state.global_step}")


class _LogLines(TrainerCallback):
    """Appends every logged step to log.jsonl, which reports draw their curves from."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if state.is_world_process_zero:
            with atomic_write(self.path) as handle:
                handle.writelines(json.dumps(entry) + "\n" for entry in state.log_history)


class StageTrainer(Trainer):
    """A Trainer set up by a recipe, which logs the parts of its loss beside it.

    validation: answers generated on the way; the best evaluation's weights are what the stage leaves behind.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: Any,
        processor: PairProcessor,
        dataset: Dataset,
        collator: Any,
        validation: Validation | None = None,
        **kwargs: Any,
    ) -> None:
        self.recipe = recipe
        self.validation = validation
        self.ema = Ema(recipe.ema) if recipe.ema else None
        self.features: FeatureCache | None = None
        self.parts: dict[str, list[tuple[float, float]]] = {}
        self.sharded = isinstance(recipe, AnswerRecipe) and recipe.fsdp
        self.optimizer: torch.optim.Optimizer | None = None
        super().__init__(
            model=model,
            args=training_arguments(recipe, getattr(dataset, "times", 1)),
            train_dataset=dataset,
            data_collator=collator,
            processing_class=processor,
            callbacks=[
                _LogLines(recipe.out / "log.jsonl"),
                *([self.ema] if self.ema else []),
                _MarkWhole(),
                *([validation] if validation else []),
            ],
            **kwargs,
        )
        keep_texture(self.model, recipe)
        self.model_accepts_loss_kwargs = True  # `compute_loss` normalises by itself
        self.remove_callback(PrinterCallback)  # TrainingBar shows the same without filling standard output

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Any:
        mix: Any = train_dataset or self.train_dataset
        if getattr(mix, "index", None) is not None:
            return ShardSampler(mix.index, self.recipe.seed, self._train_batch_size, getattr(mix, "times", 1))
        if len(getattr(mix, "sizes", [None])) == 1:
            return super()._get_train_sampler(train_dataset)
        return MixSampler(mix.sizes, mix.weights, self.recipe.seed)

    def get_train_dataloader(self) -> Any:
        """The Trainer's. Where batches are dealt out to processes, the loader of a run that goes on within an epoch
        looks for the sampler one step too near, and would take the first epoch's order for every one."""
        loader = super().get_train_dataloader()
        dealt = getattr(loader.batch_sampler, "batch_sampler", None)
        if dealt is not None:
            loader.batch_sampler.sampler = dealt.sampler
        return loader

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """On the device, and with what is kept of a frozen tower."""
        inputs = super()._prepare_inputs(inputs)
        if self.recipe.feature_cache is not None and "pixel_values" in inputs:
            if self.features is None:
                model = self.accelerator.unwrap_model(self.model)
                body = (model.get_base_model() if _has_adapters(model) else model).model
                limit = 1e9 * self.recipe.feature_cache_gb
                self.features = FeatureCache(self.recipe.feature_cache, body, limit)
            with self.accelerator.autocast():  # the Trainer leaves it to the forward that accelerate wraps
                inputs["encoded"] = self.features.encode(inputs["pixel_values"], inputs["image_grid_thw"])
        return inputs

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """AdamW, each part at a learning rate of its own; norms and biases do not decay."""
        if self.optimizer is None:
            settings = self.recipe
            rates = {
                "difference": settings.difference_learning_rate,
                "merger": settings.merger_learning_rate,
                "vision": settings.vision_learning_rate,
            }
            groups: dict[tuple[str, bool], list[torch.nn.Parameter]] = {}
            for name, weight in self.model.named_parameters():
                if weight.requires_grad:
                    groups.setdefault((part_of(name), weight.ndim > 1), []).append(weight)
            self.optimizer = torch.optim.AdamW(
                [
                    {
                        "params": weights,
                        "lr": rates.get(part) or settings.learning_rate,
                        "weight_decay": settings.weight_decay if decays else 0.0,
                    }
                    for (part, decays), weights in groups.items()
                ]
            )
        return self.optimizer

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        # The Trainer loads by the names in the file, which for Qwen2.5-VL are the published ones and not the class's:
        # nothing would fit, and nothing would be said. `from_pretrained` renames; adapters have one name only.
        if self.sharded:
            load_shards(Path(resume_from_checkpoint) / SHARDS, self.model)
        elif _has_adapters(self.model):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            self.model.load_state_dict(load_model(resume_from_checkpoint).state_dict())

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        with _written(self.recipe.out):
            super()._save_checkpoint(*args, **kwargs)

    # With fsdp the model is split here and not by accelerate, whose way needs a GPU: what runs is then what is tested
    # on two processes of a CPU. Such a model takes the Trainer's way for one that came split from `from_pretrained`.

    def _move_model_to_device(self, model: Any, device: torch.device) -> None:
        if not self.sharded:  # else no device holds it whole: `split` moves the parts
            super()._move_model_to_device(model, device)

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        if self.sharded:
            split(self.model)
            if self.args.world_size > 1:
                self.is_distributed_loading_by_transformers = True
            else:
                self.model.to(self.args.device)
        return super()._prepare_for_training(*args, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if not self.sharded:
            super()._save(output_dir, state_dict)
        else:
            assert output_dir is not None
            save_shards(Path(output_dir) / SHARDS, self.model, self._plain_optimizer())

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.sharded:
            super()._save_optimizer_and_scheduler(output_dir)
        elif self.is_world_process_zero():
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULE)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not self.sharded or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        optimizer = self._plain_optimizer()
        load_shards(Path(checkpoint) / SHARDS, self.model, optimizer)
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULE, weights_only=True))
        for group, rate in zip(optimizer.param_groups, self.lr_scheduler.get_last_lr(), strict=True):
            group["lr"] = rate

    def _plain_optimizer(self) -> torch.optim.Optimizer:
        optimizer: Any = self.optimizer
        return getattr(optimizer, "optimizer", optimizer)  # without accelerate's wrapper

    def finish(self) -> None:
        """Between the last update and the writing of the model: the best evaluation's weights, the run's picture."""
        if self.validation is not None:
            self.validation.restore_best(self.accelerator.unwrap_model(self.model))
        if self.is_world_process_zero():
            plot_health(self.recipe.out)

    def counts(self, batch: Mapping[str, Any]) -> list[int]:
        """How many items each mean in the loss of a batch is taken over: answer tokens, pairs that have a mask, ..."""
        raise NotImplementedError

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor | None:
        """The counts of one update: over the batches accumulated for it, and over all processes."""
        if not batch_samples:
            return None
        counts = torch.tensor([self.counts(batch) for batch in batch_samples], device=device).sum(0)
        every: torch.Tensor = self.accelerator.gather(counts[None])
        return every.sum(0)

    def shares(self, own: Sequence[int], every: torch.Tensor | None) -> list[float]:
        """What each mean over a batch's own items weighs in its loss, so that the update is that of the means over all
        items: of every accumulated batch (their gradients add up) and every process (these are averaged).

        own: `counts` of the batch. every: those of the update, None outside of training (then 1).
        """
        if every is None:
            return [1.0] * len(own)
        processes = self.accelerator.num_processes
        return [processes * mine / max(total, 1) for mine, total in zip(own, every.tolist(), strict=True)]

    def note(self, count: float = 1, **parts: torch.Tensor) -> None:
        """Remember parts of the loss until the next log line, where their means appear.

        count: how many items each is a mean over.
        """
        for name, value in parts.items():
            self.parts.setdefault(name, []).append((float(value.detach()), count))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the Trainer's own figures and the means of the noted parts, over all processes."""
        noted = [self.parts]
        if dist.is_initialized():
            noted = [{} for _ in range(dist.get_world_size())]
            dist.all_gather_object(noted, self.parts)
        for name in dict.fromkeys(name for parts in noted for name in parts):
            values = [value for parts in noted for value in parts.get(name, [])]
            items = sum(count for _, count in values)
            if items:
                logs[name] = sum(mean * count for mean, count in values if count) / items
        self.parts.clear()
        super().log(logs, start_time)


def known(targets: Sequence[torch.Tensor | None]) -> int:
    """How many pairs of a batch have a target."""
    return sum(target is not None for target in targets)


def keep_texture(model: Any, recipe: Recipe) -> None:
    """Let the paper's difference path remember the line texture of images, where the recipe says so."""
    if isinstance(recipe, AnswerRecipe) and recipe.texture_cache is not None:
        kept = TextureCache(recipe.texture_cache, 1e9 * recipe.feature_cache_gb)
        for module in model.modules():  # under PEFT more than one: the one that learns, and the one it began as
            if isinstance(module, Fusion):
                module.line_texture = kept


def part_of(name: str) -> str:
    """Which part a weight belongs to, for its learning rate."""
    if ".difference." in name:
        # The last projection starts at zero: it has everything to learn where the rest may be trained already.
        return "message" if ".difference.out." in name else "difference"
    if ".visual." in name:
        return "merger" if ".merger." in name or ".deepstack_merger_list." in name else "vision"
    return "language"


def training_arguments(recipe: Recipe, views: int) -> TrainingArguments:
    """The Trainer's settings for a recipe. views: ways to see each pair; an epoch is one of them of each."""
    if not torch.cuda.is_available() and dist.is_torchelastic_launched() and not dist.is_initialized():
        # Here, because transformers hands ddp_timeout on for GPUs alone.
        dist.init_process_group("gloo", timeout=timedelta(seconds=recipe.process_timeout))
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(recipe.out / "tensorboard")
    return TrainingArguments(
        output_dir=str(recipe.out / "checkpoints"),
        per_device_train_batch_size=recipe.batch_size,
        gradient_accumulation_steps=recipe.accumulate,
        num_train_epochs=recipe.epochs / views,
        max_steps=recipe.max_steps or -1,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=recipe.warmup_steps,
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        bf16=recipe.bf16,
        use_cpu=not torch.cuda.is_available(),
        seed=recipe.seed,
        data_seed=recipe.seed,
        logging_steps=recipe.log_steps,
        save_steps=recipe.save_steps,
        save_total_limit=2,
        report_to=["tensorboard"],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_num_workers=recipe.workers,
        ddp_timeout=recipe.process_timeout,
        dataloader_pin_memory=torch.cuda.is_available(),
        average_tokens_across_devices=True,
        gradient_checkpointing=getattr(recipe, "gradient_checkpointing", False),
        gradient_checkpointing_kwargs={"use_reentrant": False},
    )


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
        if not _is_lost(error):
            raise
        raise told() from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _is_lost(error: BaseException) -> bool:
    """Whether an error is of the processes' talk with one another (NCCL's have a class, gloo's name it)."""
    return isinstance(error, dist.DistError) or "gloo" in str(error).lower()


def _train_and_save(trainer: StageTrainer, processor: PairProcessor) -> Path:
    recipe, first = trainer.recipe, trainer.is_world_process_zero()
    dataset: Any = trainer.train_dataset
    seen: frozenset[str] = dataset.seen
    if first:
        write_json(recipe.out / NOTE, {**_settings(recipe), "seen": sorted(seen)})
    resume = newest_checkpoint(recipe.out)
    if trainer.is_deepspeed_enabled:
        check_deepspeed(trainer, resume)
    if resume and _is_last(resume):  # the Trainer would make one update more
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
        with _written(recipe.out):
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


def with_weights(recipe: AnswerRecipe, weights: dict[str, Any]) -> Any:
    """The finished model of a run from what learnt in it. weights: by their names in the model that trained.

    Raises InputError where they are not those of the recipe's model.
    """
    variant = recipe.variant if isinstance(recipe, SFTRecipe) else None
    model = load_to_train(resolve_checkpoint(recipe.model), recipe, variant)
    learnt = {name for name, weight in model.named_parameters() if weight.requires_grad}
    if odd := sorted((learnt - weights.keys()) | (weights.keys() - model.state_dict().keys())):
        raise InputError(f"{recipe.out}: holds other weights than {recipe.model} trains (first: {odd[0]})")
    try:
        model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise InputError(f"{recipe.out}: holds weights of other shapes than {recipe.model} ({reason})") from None
    return merged(model, recipe)


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


def _is_last(checkpoint: Path) -> bool:
    state = read_json(checkpoint / "trainer_state.json")
    return bool(state["global_step"] >= state["max_steps"])


@contextmanager
def _written(out: Path) -> Iterator[None]:
    """A checkpoint that cannot be written as one line, and what there is of it removed: on a full disk it takes room.

    safetensors and torch wrap the system's error in one of their own, and torch's does not say what it was.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if _is_lost(error):
            raise
        for folder in (out / "checkpoints").glob("checkpoint-*"):
            if not (folder / WHOLE).exists():
                shutil.rmtree(folder, ignore_errors=True)
        reason = str(error).splitlines()[0][:120]
        left = f"{shutil.disk_usage(out).free // 2**20:,} MB left on the disk"
        raise InputError(f"{out}: a checkpoint cannot be written, {left} ({reason})") from None


@contextmanager
def _one_line() -> Iterator[None]:
    """A worker that prepares batches hands on its traceback as the message of an InputError: the last line is it."""
    try:
        yield
    except InputError as error:
        last = str(error).strip().splitlines()[-1]
        raise InputError(last.removeprefix(f"{InputError.__module__}.{InputError.__name__}: ")) from None


def _has_adapters(model: Any) -> bool:
    return hasattr(model, "merge_and_unload")


def difference_settings(recipe: Recipe) -> dict[str, Any]:
    """What a recipe settles of a fresh difference path besides its variant."""
    settled: dict[str, Any] = {}
    if isinstance(recipe, SFTRecipe) and recipe.texture_stride is not None:
        settled["stride"] = recipe.texture_stride
    if isinstance(recipe, SFTRecipe | DifferenceRecipe) and recipe.depths:
        settled["depths"] = list(recipe.depths)
    return settled


def load_to_train(checkpoint: str, recipe: AnswerRecipe, variant: Variant | None = None) -> Any:
    """The model with what the recipe does not train frozen, and LoRA where it asks for it. The difference path learns.

    Frozen weights are never updated, so under LoRA with bf16 they are held in bf16: half the memory, and what autocast
    computes with anyway. Whatever learns is held in float32, because small updates are lost in bf16.
    """
    light = recipe.bf16 and recipe.lora_rank is not None
    dtype = torch.bfloat16 if light else torch.float32
    model = load_model(checkpoint, variant, dtype, recipe.load_in_4bit, recipe.attention, difference_settings(recipe))
    if model.model.difference is not None:
        model.model.difference.float()
    freeze(model, recipe)
    if light:
        for part in (model.model.visual, *mergers(model)):
            if all(weight.requires_grad for weight in part.parameters()):
                part.float()
    return with_adapters(model, recipe)


def mergers(model: Any) -> list[torch.nn.Module]:
    """The projectors from the vision tower to the language model: one, and with Qwen3-VL one a deep layer."""
    visual = model.model.visual
    return [visual.merger, *getattr(visual, "deepstack_merger_list", [])]


def freeze(model: Any, recipe: AnswerRecipe) -> None:
    """Let learn what the recipe trains, before adapters."""
    for weight in model.parameters():
        if weight.is_floating_point():  # weights of 4 bits are held as bytes and cannot learn
            weight.requires_grad_(recipe.train_language)
    model.model.visual.requires_grad_(recipe.train_vision)
    for merger in mergers(model):
        merger.requires_grad_(recipe.train_vision or recipe.train_merger)
    if model.model.difference is not None:
        model.model.difference.requires_grad_(True)


def with_adapters(model: Any, recipe: AnswerRecipe) -> Any:
    """LoRA on the language model's linear layers where the recipe asks for it; what else learns, learns whole."""
    if not recipe.lora_rank:
        return model
    from peft import LoraConfig, get_peft_model

    layers = r"model\.language_model\..*(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    whole = ["difference"] if model.model.difference is not None else []
    if recipe.train_vision:
        whole.append("visual")
    elif recipe.train_merger:
        whole += ["visual.merger", *(f"deepstack_merger_list.{at}" for at in range(len(mergers(model)) - 1))]
    return get_peft_model(
        model,
        LoraConfig(
            r=recipe.lora_rank, lora_alpha=recipe.lora_alpha, use_dora=recipe.use_dora, target_modules=layers,
            modules_to_save=whole or None,
        ),
    )  # fmt: skip


def merged(model: Any, recipe: Recipe) -> Any:
    """The finished model without its adapters, where it has some.

    Adapters learnt over a 4-bit base are merged into the base as it was in 16 or 32 bits: in 4 the sum would be rounded
    once more, and most of what was learnt with it.
    """
    if not _has_adapters(model):
        return model
    if isinstance(recipe, AnswerRecipe) and recipe.load_in_4bit:
        from peft import get_peft_model_state_dict, set_peft_model_state_dict

        variant = (model.config.difference or {}).get("variant")
        whole = load_to_train(
            resolve_checkpoint(recipe.model), recipe.model_copy(update={"load_in_4bit": False}), variant
        )
        set_peft_model_state_dict(whole, get_peft_model_state_dict(model))
        model = whole
    return model.merge_and_unload()
