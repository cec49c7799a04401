"""One and two processes, one and several accumulation steps, end at the same weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import sharded_updates

from rsiccllm.model.vlm import load_model
from rsiccllm.rsici.build import build_rsici
from rsiccllm.training.recipe import SFTRecipe
from rsiccllm.training.sft import train_sft

WORKER = Path(__file__).with_name("distributed.py")
FAMILIES = ["qwen2_5_vl", "qwen3_vl"]


def fields(checkpoint: Path, data: Path, out: Path, batch: int, accumulate: int) -> dict[str, Any]:
    return {
        "model": str(checkpoint), "data": str(data), "out": str(out), "batch_size": batch, "accumulate": accumulate,
        "max_steps": 2, "learning_rate": 1e-3, "warmup_steps": 0, "log_steps": 1,
    }  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "rsici"
    build_rsici(["scenes:20,seed=7,size=64,easy=1"], folder)
    return folder


@pytest.fixture(scope="module")
def two(tiny_checkpoints: dict[str, Path], data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes on gloo made."""
    folder = tmp_path_factory.mktemp("two")
    lines = fields(tiny_checkpoints["qwen2_5_vl"], data, folder / "trainer", 2, 2).items()
    (folder / "r.yaml").write_text("".join(f"{name}: {value}\n" for name, value in lines), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--rdzv-backend", "c10d",
               "--rdzv-endpoint", "localhost:0", str(WORKER), str(folder / "r.yaml"), str(folder)]  # fmt: skip
    command += [str(tiny_checkpoints[family]) for family in FAMILIES]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def outcome(out: Path) -> tuple[list[float], dict[str, torch.Tensor]]:
    lines = (out / "log.jsonl").read_text(encoding="utf-8").splitlines()
    losses = [entry["loss"] for entry in map(json.loads, lines) if "loss" in entry]
    return losses, load_model(out / "model").state_dict()


def test_two_processes_and_accumulation_equal_one_step(
    tiny_checkpoints: dict[str, Path], data: Path, two: Path, tmp_path: Path
) -> None:
    """8 pairs an update: at once, one at a time, and over two processes under DDP with two accumulation steps."""
    for name, batch, accumulate in (("whole", 8, 1), ("steps", 1, 8)):
        recipe = fields(tiny_checkpoints["qwen2_5_vl"], data, tmp_path / name, batch, accumulate)
        train_sft(SFTRecipe.model_validate(recipe))
    losses, weights = outcome(tmp_path / "whole")
    for folder in (tmp_path / "steps", two / "trainer"):
        other_losses, other = outcome(folder)
        assert other_losses == pytest.approx(losses, abs=1e-4), folder.name
        for weight, value in weights.items():
            torch.testing.assert_close(other[weight], value, atol=1e-4, rtol=0, msg=f"{folder.name}: {weight}")


@pytest.mark.parametrize("family", FAMILIES)
def test_fully_shard_over_two_processes_equals_one(tiny_checkpoints: dict[str, Path], two: Path, family: str) -> None:
    losses, model = sharded_updates(tiny_checkpoints[family], 0, 1, lambda model: None)
    found = torch.load(two / f"{tiny_checkpoints[family].name}.pt")
    torch.testing.assert_close(found["losses"], losses, atol=1e-4, rtol=0)
    assert losses[1] < losses[0]
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(found["weights"][name], weight, atol=1e-4, rtol=0, msg=name)
