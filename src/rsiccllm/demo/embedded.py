"""The model that comes with the package: the demonstration's path on scenes as they are, for longer.

    python -m rsiccllm.demo.embedded [--out runs/embedded]

Stopped, it goes on where it was. Its last step writes `rsiccllm/embedded`, which `rsiccllm caption` uses by itself.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import transformers

from rsiccllm.caption.captioner import EMBEDDED
from rsiccllm.demo.base import new_model, train_base
from rsiccllm.demo.calibrate import calibrate
from rsiccllm.model.checkpoint import save_model
from rsiccllm.model.precision import fast_bf16
from rsiccllm.model.processor import load_processor
from rsiccllm.model.vlm import load_model
from rsiccllm.rsici.build import BuildSettings, build_rsici
from rsiccllm.rsici.tasks import TaskSettings
from rsiccllm.training.difference import train_difference
from rsiccllm.training.recipe import DifferenceRecipe, SFTRecipe
from rsiccllm.training.sft import train_sft

SIDE = 224
"""Pixels a side that the model looks at: 8 x 8 visual tokens an image."""

SCENES = "scenes:12000,seed=20,size=224"

TASKS = TaskSettings(
    ("caption", "describe", "changed", "kind", "count"),
    {"describe": 0.4, "changed": 0.1, "kind": 0.15, "count": 0.1},
    phrasings=1,
)
"""Long texts name every place in sentences of one kind, from which short captions learn places too."""


def train_embedded(out: Path, scenes: str = SCENES, base: int = 120, difference: int = 6000, sft: int = 4500) -> Path:
    """Render, train three stages of so many updates each, and return the finished model's folder."""
    data, random = out / "rsici", out / "random"
    build_rsici([scenes], data, settings=BuildSettings(TASKS))
    if not (random / "config.json").exists():
        new_model(data, random, easy=False, max_side=SIDE)
    train_base(random, data, out / "base", base, easy=False)
    train_difference(
        DifferenceRecipe(
            model=str(out / "base"), data=data, out=out / "difference", max_steps=difference, batch_size=16,
            learning_rate=2e-3, crop=112, nuisance=1.0, bf16=fast_bf16(), workers=1, ema=0.999, log_steps=50,
            save_steps=500,
        )
    )  # fmt: skip
    return train_sft(
        SFTRecipe(
            model=str(out / "difference"), data=data, out=out / "sft", max_steps=sft, batch_size=8, learning_rate=1e-3,
            difference_learning_rate=1e-4, fact_weight=1.0, turns=True, nuisance=1.0, train_vision=False,
            bf16=fast_bf16(), workers=1, log_steps=20, save_steps=250,
        )
    )  # fmt: skip


def embed(model: Path, folder: Path = EMBEDDED) -> None:
    """Write a finished model in bfloat16, half the size, where the package looks for its own."""
    half = load_model(str(model)).to(torch.bfloat16)
    half.config.provenance["base"] = Path(half.config.provenance["base"]).name  # a path of the machine means nothing
    save_model(half, load_processor(model), folder)
    for path in folder.iterdir():
        path.chmod(0o644)  # safetensors writes for its owner alone


def main() -> None:
    """Train, embed, calibrate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/embedded"))
    transformers.logging.set_verbosity_error()
    embed(train_embedded(parser.parse_args().out))
    print("\n".join(calibrate(EMBEDDED)))


if __name__ == "__main__":
    main()
