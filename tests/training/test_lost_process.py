"""One of two processes is killed, or hangs: the run ends with one line, and goes on from its last checkpoint."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from rsiccllm.rsici.build import build_rsici
from rsiccllm.training.recipe import SFTRecipe
from rsiccllm.training.sft import train_sft

UPDATES, EVERY = 16, 4


def launch(recipe: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--rdzv-backend", "c10d",
               "--rdzv-endpoint", "localhost:0", "-m", "rsiccllm.cli", "train", "sft", str(recipe)]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def second_of(job: subprocess.Popen[str]) -> psutil.Process:
    found = [p for p in psutil.Process(job.pid).children() if p.environ().get("RANK") == "1"]
    assert len(found) == 1
    return found[0]


def logged(out: Path) -> dict[int, float]:
    path = out / "log.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {entry["step"]: entry["loss"] for entry in map(json.loads, lines) if "loss" in entry}


@pytest.mark.parametrize("sent", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.slow)])
def test_a_lost_process_ends_the_run_which_goes_on(
    tiny_checkpoints: dict[str, Path], tmp_path: Path, sent: signal.Signals
) -> None:
    build_rsici(["scenes:20,seed=7,size=64,easy=1"], tmp_path / "rsici")
    settings = {
        "model": str(tiny_checkpoints["qwen2_5_vl"]), "data": str(tmp_path / "rsici"), "out": str(tmp_path / "out"),
        "batch_size": 1, "max_steps": UPDATES, "save_steps": EVERY, "log_steps": 1, "learning_rate": 1e-3,
        "fsdp": True, "process_timeout": 10,
    }  # fmt: skip
    recipe, out = tmp_path / "r.yaml", tmp_path / "out"
    recipe.write_text("".join(f"{name}: {value}\n" for name, value in settings.items()), encoding="utf-8")

    job = launch(recipe)
    try:
        while EVERY + 1 not in logged(out):
            assert job.poll() is None, job.stderr.read()[-3000:]  # type: ignore[union-attr]
            time.sleep(0.02)
        second_of(job).send_signal(sent)
        began = time.monotonic()
        _, said = job.communicate(timeout=120)
    finally:
        left = [job, *psutil.Process(job.pid).children()] if job.poll() is None else []
        for process in left:
            process.kill()
    # torchrun gives a process that hangs 30 seconds before it kills it.
    assert time.monotonic() - began < (30 if sent == signal.SIGKILL else 60)
    assert job.returncode != 0
    lines = [line for line in said.splitlines() if line.startswith("rsiccllm:")]
    assert len(lines) == 1, said[-3000:]
    assert "stopped, because another process of this run ended, or did not answer within 10 s" in lines[0]
    reached = max(logged(out))
    kept = int(lines[0].rpartition("from update ")[2])
    assert reached < UPDATES, "the run was over before anything was done to it"
    assert reached - kept <= EVERY
    print(f"{sent.name}: ended after {time.monotonic() - began:.1f} s at update {reached}, goes on from {kept}")

    # It goes on with any number of processes (test_distributed.py); one need not be launched.
    begun = (out / "log.jsonl").read_text(encoding="utf-8").splitlines()[:kept]
    whole = {**settings, "batch_size": 2}
    train_sft(SFTRecipe.model_validate(whole))
    assert (out / "log.jsonl").read_text(encoding="utf-8").splitlines()[:kept] == begun, "it began anew"
    whole["out"] = str(tmp_path / "whole")
    train_sft(SFTRecipe.model_validate(whole))
    assert list(logged(out)) == list(range(1, UPDATES + 1))
    assert list(logged(out).values()) == pytest.approx(list(logged(tmp_path / "whole").values()), abs=1e-3)
