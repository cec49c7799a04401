"""`rsiccllm train plan`: what a recipe will take, before any weight is loaded.

Parameters come from the configuration, tokens from the data; memory and time are estimates, by the formulas below. What
is estimated and what is known is said in the table.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean
from typing import Any

from rich.console import Group
from rich.table import Table

from rsiccllm.model.checkpoint import resolve_checkpoint
from rsiccllm.model.processor import load_processor
from rsiccllm.model.vlm import empty_model
from rsiccllm.training.data import row_lengths
from rsiccllm.training.dnpo import dnpo_dataset, needs_copy, stores_reference
from rsiccllm.training.learning import difference_settings, freeze, with_adapters
from rsiccllm.training.packing import PackingCollator
from rsiccllm.training.recipe import AnswerRecipe, DNPORecipe, SFTRecipe
from rsiccllm.training.sft import sft_dataset

LOOKED_AT = 512
"""Rows of the data whose tokens are counted, evenly drawn."""

BUSY = 0.4
"""The share of a GPU's peak taken for granted in the estimate of time. Not measured by us."""

GPUS = {
    "rtx-4090": (165e12, 24),
    "l40s": (362e12, 48),
    "a100": (312e12, 80),
    "h100": (989e12, 80),
    "h200": (989e12, 141),
}
"""Dense bf16 operations a second at the peak, and memory in GB, as their makers state them."""


@dataclass(frozen=True)
class Plan:
    """parameters: by part, (all, trained). tokens: of an update on one device, by part. memory: bytes on one device, by
    part. operations: floating-point operations of an update on one device. steps: updates in all. pairs: rows in all.
    devices: GPUs that work together.
    """

    parameters: dict[str, tuple[int, int]]
    tokens: dict[str, float]
    memory: dict[str, float]
    operations: float
    steps: int
    pairs: int
    devices: int = 1

    @property
    def total_memory(self) -> float:
        """Bytes."""
        return sum(self.memory.values())

    def hours(self, gpu: str) -> float:
        """Of the whole run on `devices` GPUs of one kind of GPUS, at BUSY of their peak."""
        return self.steps * self.operations / (BUSY * GPUS[gpu][0]) / 3600

    def __rich__(self) -> Group:
        """Tables, for rich's Console.print."""
        parts = Table(
            "parameters", "all", "trained", title=f"{self.pairs:,} rows, {self.steps:,} updates, {self.devices} GPU"
        )
        for name, (every, trained) in self.parameters.items():
            parts.add_row(name, f"{every:,}", f"{trained:,}")
        every, trained = (sum(counts[i] for counts in self.parameters.values()) for i in (0, 1))
        parts.add_row("in all", f"{every:,}", f"{trained:,} ({100 * trained / every:.2f} %)")
        tokens = Table("tokens an update", "about")
        for name, count in self.tokens.items():
            tokens.add_row(name, f"{count:,.0f}")
        memory = Table("memory, estimated", "GB")
        for name, size in self.memory.items():
            memory.add_row(name, f"{size / 1e9:.2f}")
        memory.add_row("in all, without the allocator's own", f"{self.total_memory / 1e9:.2f}")
        time = Table("GPU", "fits", "time, estimated", title=f"at {100 * BUSY:.0f} % of the peak, not measured")
        for gpu, (_, room) in GPUS.items():
            time.add_row(gpu, "yes" if self.total_memory < 0.9e9 * room else "no", f"{self.hours(gpu):.2f} h")
        return Group(parts, tokens, memory, time)


def plan(recipe: SFTRecipe | DNPORecipe, devices: int = 1) -> Plan:
    """What a recipe will take on each of `devices` GPUs. Raises InputError as its training would."""
    checkpoint = resolve_checkpoint(recipe.model)
    model = empty_model(
        checkpoint, recipe.variant if isinstance(recipe, SFTRecipe) else None, difference_settings(recipe)
    )
    freeze(model, recipe)
    config = model.config
    model = with_adapters(model, recipe)
    dataset = sft_dataset(recipe) if isinstance(recipe, SFTRecipe) else dnpo_dataset(recipe)
    collator = PackingCollator(load_processor(checkpoint, recipe.min_pixels, recipe.max_pixels), recipe.max_tokens)
    rows = row_lengths(dataset, collator, dataset.drawn(LOOKED_AT))
    images, asked, answers = (mean(row[part] for row in rows) for part in range(3))
    a_step = recipe.batch_size * recipe.accumulate
    # The last update of an epoch is of what is left, as the Trainer counts.
    an_epoch = math.ceil(math.ceil(len(dataset) / (recipe.batch_size * devices)) / recipe.accumulate)
    steps = recipe.max_steps or math.ceil(an_epoch * recipe.epochs)
    parameters = _parameters(model)
    widest = max(sum(row) for row in rows)
    return Plan(
        parameters=parameters,
        tokens={"images": a_step * images, "prompt": a_step * asked, "answers": a_step * answers,
                "longest row": widest},
        memory=_memory(parameters, config, recipe, widest, max(row[2] for row in rows), devices),
        operations=a_step * _operations(parameters, config, recipe, images, asked, answers),
        steps=steps,
        pairs=len(dataset),
        devices=devices,
    )  # fmt: skip


PARTS: dict[str, Callable[[str], bool]] = {
    "LoRA adapters": lambda name: "lora_" in name,
    "difference path": lambda name: ".difference." in name,
    "vision tower": lambda name: ".visual." in name,
    "embeddings and head": lambda name: "embed_tokens" in name or "lm_head" in name,
    "language model": lambda name: True,
}
"""Which part a weight belongs to: the first whose test its name passes."""


def operations_of(model: Any, config: Any, recipe: AnswerRecipe, images: float, asked: float, answers: float) -> float:
    """Floating-point operations of one row in training. images, asked, answers: its tokens."""
    return _operations(_parameters(model), config, recipe, images, asked, answers)


def memory_of(recipe: SFTRecipe | DNPORecipe, row: int, answers: int, devices: int = 1) -> dict[str, float]:
    """Bytes by part on each device, with rows of `row` tokens of which `answers` are answers. Needs no data."""
    variant = recipe.variant if isinstance(recipe, SFTRecipe) else None
    model = empty_model(resolve_checkpoint(recipe.model), variant, difference_settings(recipe))
    freeze(model, recipe)
    config = model.config
    return _memory(_parameters(with_adapters(model, recipe)), config, recipe, row, answers, devices)


def _parameters(model: Any) -> dict[str, tuple[int, int]]:
    counts = {part: [0, 0] for part in PARTS}
    for name, weight in model.named_parameters():
        if ".original_module." in name:  # PEFT's copy of what was trained whole
            continue
        part = next(part for part, belongs in PARTS.items() if belongs(name))
        counts[part][0] += weight.numel()
        counts[part][1] += weight.numel() if weight.requires_grad else 0
    return {part: (every, trained) for part, (every, trained) in counts.items() if every}


def _memory(
    parameters: dict[str, tuple[int, int]], config: Any, recipe: AnswerRecipe, row: int, answers: int, devices: int
) -> dict[str, float]:
    """Bytes by part. Weights that learn are float32 with a gradient and two moments, split over the devices by FSDP;
    frozen ones as `load_to_train` holds them, NF4 with its scales 0.516 bytes (Dettmers et al. 2023). Activations of
    the language model by Korthikanti et al. 2022, equation 2, for attention that keeps no scores: 34 * tokens * width
    bytes a layer in 16 bits, twice that in float32; computed again, 2 a layer and one layer's whole."""
    trained = sum(count for _, count in parameters.values())
    frozen = sum(every for every, _ in parameters.values()) - trained
    light = recipe.bf16 and recipe.lora_rank is not None
    text = config.text_config
    size = 2 if recipe.bf16 else 4
    tokens = recipe.batch_size * row
    vocabulary = recipe.batch_size * answers * text.vocab_size
    kept = 2 * text.num_hidden_layers + 34 if recipe.gradient_checkpointing else 34 * text.num_hidden_layers
    rounded = parameters["language model"][0] if recipe.load_in_4bit else 0
    split = devices if recipe.fsdp else 1
    copy = 4 * (trained + frozen) if isinstance(recipe, DNPORecipe) and needs_copy(recipe) else 0
    return {
        "weights": (4.0 * trained + (2 if light else 4) * (frozen - rounded) + 0.516 * rounded) / split,
        "gradients": 4.0 * trained / split,
        "AdamW": 8.0 * trained / split,
        **({"average": 4.0 * trained} if recipe.ema else {}),
        **({"reference, a frozen copy": float(copy)} if copy else {}),
        "activations": size / 2 * tokens * text.hidden_size * kept,
        # Logits, in float32 for the loss, and their gradient; DNPO may hold the reference's too.
        "logits of answers": float((3 if _asks_reference(recipe) else 2) * 4 * vocabulary),
    }


def _asks_reference(recipe: AnswerRecipe) -> bool:
    """Whether each update runs the reference."""
    return isinstance(recipe, DNPORecipe) and not stores_reference(recipe)


def _operations(
    parameters: dict[str, tuple[int, int]],
    config: Any,
    recipe: AnswerRecipe,
    images: float,
    asked: float,
    answers: float,
) -> float:
    """Of one row: 2 a weight and token forward, 2 more back to the inputs, 2 more to weights that learn (Kaplan et al.
    2020); attention 4 * tokens^2 * width a layer forward, thrice that with the way back; the head on answers alone.
    Under DNPO, unless it is stored, the reference's forward comes on top, and where activations are not kept another of
    the policy."""
    text = config.text_config
    tokens = images + asked + answers
    language = parameters["language model"][0] + parameters.get("LoRA adapters", (0, 0))[0]
    whole = 6 if recipe.lora_rank is None else 4
    vision = parameters["vision tower"][0]
    patches = images * config.vision_config.spatial_merge_size**2
    head = text.vocab_size * text.hidden_size
    forward = 2 * language * tokens + 4 * tokens**2 * text.hidden_size * text.num_hidden_layers + 2 * head * answers
    back = (whole - 2) / 2 * forward
    seen = (6 if recipe.train_vision else 2) * vision * patches
    again = forward + 2 * vision * patches if _asks_reference(recipe) else 0
    again += forward if recipe.gradient_checkpointing else 0
    return forward + back + seen + again
