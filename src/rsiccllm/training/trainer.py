"""What the stages share: a transformers Trainer set up by a recipe."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import Dataset
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from rsiccllm.errors import InputError
from rsiccllm.files import atomic_write
from rsiccllm.model.checkpoint import mark_whole
from rsiccllm.model.fusion import Fusion
from rsiccllm.model.processor import PairProcessor
from rsiccllm.model.vlm import load_model
from rsiccllm.training.checkpoints import written
from rsiccllm.training.ema import Ema
from rsiccllm.training.features import FeatureCache, TextureCache
from rsiccllm.training.health import plot_health
from rsiccllm.training.learning import has_adapters
from rsiccllm.training.mix import MixSampler
from rsiccllm.training.recipe import AnswerRecipe, Recipe
from rsiccllm.training.shard_order import ShardSampler
from rsiccllm.training.sharding import SHARDS, load_shards, save_shards, split
from rsiccllm.training.validation import Validation

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
                body = (model.get_base_model() if has_adapters(model) else model).model
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
        elif has_adapters(self.model):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            self.model.load_state_dict(load_model(resume_from_checkpoint).state_dict())

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        with written(self.recipe.out):
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
        if broken := [name for name, value in logs.items() if isinstance(value, float) and not math.isfinite(value)]:
            raise InputError(
                f"{self.recipe.out}: at update {self.state.global_step} {', '.join(broken)} is no number any more; a "
                "lower learning_rate may help, in another out"
            )
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
    name = name.replace("modules_to_save.default.", "")  # PEFT's word for what learns whole beside adapters
    if ".difference." in name:
        # The last projection starts at zero: it has everything to learn where the rest may be trained already.
        return "message" if ".difference.out." in name else "difference"
    if ".visual." in name:
        return "merger" if ".merger." in name or ".deepstack_merger_list." in name else "vision"
    return "language"


def training_arguments(recipe: Recipe, views: int) -> TrainingArguments:
    """The Trainer's settings for a recipe. views: ways to see each pair; an epoch is as many rows as pairs."""
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
        logging_nan_inf_filter=False,  # it would show a loss that is no number as 0
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
