"""Samples made of noise, for tests that compare one computation with another."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from rsiccllm.files import CHECKSUMS
from rsiccllm.model.processor import load_processor
from rsiccllm.model.vlm import load_model
from rsiccllm.records import PREFERENCES
from rsiccllm.training.checkpoints import newest_checkpoint
from rsiccllm.training.packing import PackingCollator, Sample


def noise(rng: np.random.Generator, height: int = 56, width: int = 56) -> Image.Image:
    return Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))


def sample(seed: int, answers: int, height: int = 56, width: int = 56, images: int = 2) -> Sample:
    rng = np.random.default_rng(seed)
    words = ["a", "house", "is", "built", "in", "the", "top", "left", "corner"]
    return Sample(
        id=f"sample_{seed}",
        images=[noise(rng, height, width) for _ in range(images)],
        prompt="what changed?",
        answers=[" ".join(rng.permutation(words)[: 3 + k]) for k in range(answers)],
        mask=rng.random((height, width)) > 0.5,
    )


def sharded_updates(
    checkpoint: Path, rank: int, world: int, shard: Callable[[nn.Module], None]
) -> tuple[Tensor, nn.Module]:
    """Two updates on this process's share of four samples, normalised by the count of all answer tokens.

    Returns this process's part of the losses [2], and the model.
    """
    torch.manual_seed(0)
    model = load_model(checkpoint, "ours")
    torch.nn.init.normal_(model.model.difference.out.weight, std=0.05)
    shard(model)
    # The large eps: without it a gradient that is nothing but rounding moves its weight as far as any other.
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, eps=1e-4)
    collator = PackingCollator(load_processor(checkpoint))
    samples = [sample(seed, 1 + seed) for seed in range(4)]
    count = sum(len(collator([item])["labels"]) for item in samples)
    losses = []
    for _ in range(2):
        batch = collator(samples[rank::world])
        [batch.pop(name) for name in ("map_targets", "fact_targets", "answer_of", "row_of")]
        labels = batch.pop("labels")
        loss = torch.nn.functional.cross_entropy(model(**batch).logits, labels, reduction="sum") / count
        (loss * world).backward()  # gradients are averaged over processes
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    return torch.stack(losses), model


def uneven(preferences: Path, out: Path) -> Path:
    """A copy of a folder of preferences in which every first pair has one rejected answer, every second has two, ..."""
    shutil.copytree(preferences, out)
    rows = [json.loads(line) for line in (out / PREFERENCES).read_text(encoding="utf-8").splitlines()]
    for number, row in enumerate(rows):
        row["rejected"] = row["rejected"][: 1 + number % 3]
    assert len({len(row["rejected"]) for row in rows}) == 3
    (out / PREFERENCES).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (out / CHECKSUMS).unlink()
    return out


def killed_at_its_first_checkpoint(fields: dict[str, Any], out: Path) -> None:
    """Start `train sft` on a recipe and end it by kill -9 once it has written a checkpoint into `out`, before it is
    finished."""
    recipe = out.with_suffix(".yaml")
    recipe.write_text(json.dumps(fields), encoding="utf-8")  # JSON is YAML
    command = [sys.executable, "-m", "rsiccllm.cli", "train", "sft", str(recipe), f"out={out}"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, **quiet)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and newest_checkpoint(out) is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "model").exists(), "killed too late to show anything"
