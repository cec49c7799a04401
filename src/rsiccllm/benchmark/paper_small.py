"""What `bench paper --small` takes instead of the real thing: rendered scenes and a tiny model, seconds a stage."""

from __future__ import annotations

from pathlib import Path

from rsiccllm.files import read_jsonl
from rsiccllm.records import INSTRUCTIONS, Instruction
from rsiccllm.rsici.build import build_rsici
from rsiccllm.rsici.prompts import PROMPTS

SCENES = "scenes:40,seed=7,size=112,easy=1"
SETTINGS = {"max_steps": 2, "batch_size": 2, "accumulate": 1, "save_steps": 1000, "warmup_steps": 1, "workers": 0,
            "min_pixels": 3136, "max_pixels": 12544, "lora_rank": 4, "bf16": False}  # fmt: skip
TOKENS = 12
"""Longest answer."""
SAMPLES = 8
"""Instructions of a row that takes a part of them."""
DRAWN = 3
"""Answers drawn for a pair."""
TALKING = 60
"""Steps after which the model says something like a caption; before, none of its answers is wrong in words."""


def small_data(folder: Path, task: str) -> None:
    """Build the data, or go on with it."""
    build_rsici([SCENES], folder, (task,))


def small_base(data: Path, folder: Path, talks: bool) -> None:
    """Write a checkpoint to `folder`, unless it is there: random weights, or if it `talks`, after some steps of SFT."""
    if (folder / "config.json").exists() or (folder / "model" / "config.json").exists():
        return
    from rsiccllm.model.checkpoint import save_model
    from rsiccllm.model.processor import build_tiny_processor
    from rsiccllm.model.tiny import build_tiny_model
    from rsiccllm.training.recipe import SFTRecipe
    from rsiccllm.training.sft import train_sft

    texts = [answer for record in read_jsonl(data / INSTRUCTIONS, Instruction) for answer in record.answers]
    processor = build_tiny_processor([*texts, *PROMPTS.values()], vocabulary=640, patch_size=14)
    model = build_tiny_model(processor, "qwen2_5_vl", width=64, layers=1, vision_width=32, vision_layers=1)
    random = folder.with_name(f"{folder.name}_random") if talks else folder
    save_model(model, processor, random)
    if talks:
        recipe = SFTRecipe(
            model=str(random), data=data, out=folder, variant="none", max_steps=TALKING, batch_size=8, warmup_steps=5,
            learning_rate=1e-2, map_weight=0, fact_weight=0, save_steps=1000, workers=0, bf16=False,
            min_pixels=SETTINGS["min_pixels"], max_pixels=SETTINGS["max_pixels"],
        )  # fmt: skip
        train_sft(recipe)
