"""One and two processes, one and several accumulation steps, end at the same weights."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import sharded_updates, uneven

from rsiccllm.errors import InputError
from rsiccllm.model.vlm import load_model
from rsiccllm.rsici.build import build_rsici
from rsiccllm.rsicp.build import build_rsicp
from rsiccllm.training.dnpo import train_dnpo
from rsiccllm.training.recipe import DNPORecipe, SFTRecipe
from rsiccllm.training.run import NOTE, merge_checkpoint
from rsiccllm.training.sft import train_sft
from rsiccllm.training.shard_writer import write_shards
from rsiccllm.training.sharding import SHARDS, load_shards, read_weights

WORKER = Path(__file__).with_name("distributed.py")
FAMILIES = ["qwen2_5_vl", "qwen3_vl"]


def written(path: Path, settings: dict[str, Any]) -> str:
    path.write_text("".join(f"{name}: {value}\n" for name, value in settings.items()), encoding="utf-8")
    return str(path)


def halfway(run: Path, copy: Path, last: int = 4) -> Path:
    """A run as it was before its last checkpoint."""
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "model")
    shutil.rmtree(copy / "checkpoints" / f"checkpoint-{last}")
    return copy


def moved(run: Path) -> Path:
    """A copy of a run that says it is where it is."""
    note = json.loads((run / NOTE).read_text())
    (run / NOTE).write_text(json.dumps({**note, "out": str(run)}))
    return run


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
def preferences(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One, two and three rejected answers a pair, so that no process has as many as another."""
    folder = tmp_path_factory.mktemp("preferences")
    build_rsicp(data, folder / "rsicp", variant="paper")
    return uneven(folder / "rsicp", folder / "uneven")


STORED = {"kl_weight": 0.0}
"""With no divergence all that is needed of the reference is one number an answer."""


def preference_fields(checkpoint: Path, preferences: Path, out: Path, batch: int, accumulate: int) -> dict[str, Any]:
    """Every term that a preference loss can have, each a mean over something else."""
    return {**fields(checkpoint, preferences, out, batch, accumulate), "variant": "anchored", "kl_weight": 0.5,
            "sft_weight": 0.5}  # fmt: skip


def split(checkpoint: Path, data: Path, out: Path, batch: int) -> dict[str, Any]:
    """A run of four updates whose model is split over its processes, with a checkpoint after two."""
    return {**fields(checkpoint, data, out, batch, 1), "fsdp": True, "max_steps": 4, "save_steps": 2}


@pytest.fixture(scope="module")
def one(tiny_checkpoints: dict[str, Path], data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process made of the recipe that splits a model over its processes."""
    out = tmp_path_factory.mktemp("one") / "whole"
    train_sft(SFTRecipe.model_validate(split(tiny_checkpoints["qwen2_5_vl"], data, out, 4)))
    return out


@pytest.fixture(scope="module")
def shards(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data as eight shards of two rows, from which an update takes four: four updates an epoch."""
    out = tmp_path_factory.mktemp("shards") / "rsici"
    assert write_shards(data, out, rows=2)["shards"] == 8
    return out


def streaming(checkpoint: Path, shards: Path, out: Path, accumulate: int) -> dict[str, Any]:
    """A run of six updates, with a checkpoint after the first of its second epoch."""
    return {**fields(checkpoint, shards, out, 2, accumulate), "max_steps": 6, "save_steps": 5}


@pytest.fixture(scope="module")
def one_streamed(tiny_checkpoints: dict[str, Path], shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process made of shards."""
    out = tmp_path_factory.mktemp("one") / "streamed"
    train_sft(SFTRecipe.model_validate(streaming(tiny_checkpoints["qwen2_5_vl"], shards, out, 2)))
    return out


@pytest.fixture(scope="module")
def two(
    tiny_checkpoints: dict[str, Path], data: Path, preferences: Path, one: Path, shards: Path, one_streamed: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:  # fmt: skip
    """What two processes on gloo made."""
    folder = tmp_path_factory.mktemp("two")
    tiny = tiny_checkpoints["qwen2_5_vl"]
    # The recipe's own `out` is the copy's; what it holds was one process's, with twice the batch.
    out = moved(halfway(one, folder / "from_one"))
    later = moved(halfway(one_streamed, folder / "streamed_from_one", last=6))
    recipes = [
        written(folder / "ddp.yaml", fields(tiny, data, folder / "trainer", 2, 2)),
        written(folder / "split.yaml", split(tiny, data, folder / "split", 2)),
        written(folder / "from_one.yaml", split(tiny, data, out, 2)),
        written(folder / "dnpo.yaml", preference_fields(tiny, preferences, folder / "dnpo", 1, 2)),
        written(
            folder / "dnpo_split.yaml",
            {**preference_fields(tiny, preferences, folder / "dnpo_split", 2, 1), "fsdp": True, **STORED},
        ),
        written(folder / "streamed.yaml", streaming(tiny, shards, folder / "streamed", 1)),
        written(folder / "streamed_from_one.yaml", streaming(tiny, shards, later, 1)),
    ]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--rdzv-backend", "c10d",
               "--rdzv-endpoint", "localhost:0", str(WORKER), str(folder)]  # fmt: skip
    command += [str(tiny_checkpoints[family]) for family in FAMILIES] + recipes
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


@pytest.mark.parametrize("name", ["dnpo", "dnpo_split"])
def test_two_processes_learn_the_same_preferences_as_one(
    tiny_checkpoints: dict[str, Path], preferences: Path, two: Path, tmp_path: Path, name: str
) -> None:
    """4 pairs an update, beside one process: under DDP with two accumulation steps and the KL; and the model split, the
    reference's log-probabilities computed by both and stored."""
    recipe = preference_fields(tiny_checkpoints["qwen2_5_vl"], preferences, tmp_path / "whole", 4, 1)
    train_dnpo(DNPORecipe.model_validate({**recipe, **(STORED if name == "dnpo_split" else {})}))
    losses, weights = outcome(tmp_path / "whole")
    other_losses, other = outcome(two / name)
    assert other_losses == pytest.approx(losses, abs=1e-4)
    for weight, value in weights.items():
        torch.testing.assert_close(other[weight], value, atol=1e-4, rtol=0, msg=weight)
    second, expected = (
        json.loads((folder / "log.jsonl").read_text(encoding="utf-8").splitlines()[1])
        for folder in (two / name, tmp_path / "whole")
    )
    for figure in ("margin", "log_prob_chosen", "reward_accuracy", *(["reverse_kl"] if name == "dnpo" else [])):
        assert second[figure] == pytest.approx(expected[figure], abs=1e-4), figure
    if name == "dnpo_split":
        found, alone = (stored_rows(folder) for folder in (two / name, tmp_path / "whole"))
        assert list(found) == list(alone)
        for record, values in found.items():
            assert values == pytest.approx(alone[record], abs=1e-4)
        assert not list((two / name).glob(".reference*")), "the processes' journals are removed"


def stored_rows(out: Path) -> dict[str, list[float]]:
    lines = (out / "reference.jsonl").read_text(encoding="utf-8").splitlines()
    return {row["id"]: row["log_probs"] for row in map(json.loads, lines[1:])}


@pytest.mark.parametrize("family", FAMILIES)
def test_fully_shard_over_two_processes_equals_one(tiny_checkpoints: dict[str, Path], two: Path, family: str) -> None:
    losses, model = sharded_updates(tiny_checkpoints[family], 0, 1, lambda model: None)
    found = torch.load(two / f"{tiny_checkpoints[family].name}.pt")
    torch.testing.assert_close(found["losses"], losses, atol=1e-4, rtol=0)
    assert losses[1] < losses[0]
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(found["weights"][name], weight, atol=1e-4, rtol=0, msg=name)


def test_a_split_run_equals_one_process_and_goes_on_with_another_number(
    tiny_checkpoints: dict[str, Path], data: Path, one: Path, two: Path, tmp_path: Path
) -> None:
    """Undisturbed on one and on two; from one to two and from two to one after half the updates."""
    back = moved(halfway(two / "split", tmp_path / "from_two"))
    assert json.loads((back / NOTE).read_text())["processes"] == 2
    recipe = split(tiny_checkpoints["qwen2_5_vl"], data, back, 4)
    with pytest.raises(InputError, match="an update is of 4 pairs, 2 processes, here of 2 pairs, 1 processes"):
        train_sft(SFTRecipe.model_validate({**recipe, "batch_size": 2}))
    train_sft(SFTRecipe.model_validate(recipe))
    losses, weights = outcome(one)
    assert len(losses) == 4
    for folder in (two / "split", two / "from_one", back):
        other_losses, other = outcome(folder)
        assert other_losses == pytest.approx(losses, abs=1e-4), folder.name
        for name, value in weights.items():
            torch.testing.assert_close(other[name], value, atol=1e-4, rtol=0, msg=f"{folder.name}: {name}")
    # Each process wrote its own half of the weights, and nothing of them is a pickle.
    parts = sorted((two / "split" / "checkpoints" / "checkpoint-4" / SHARDS).iterdir())
    assert [part.suffix for part in parts] == [".safetensors"] * 2
    assert parts[0].stat().st_size == pytest.approx(parts[1].stat().st_size, rel=0.1)


def test_a_streamed_run_equals_one_process_and_goes_on_within_a_later_epoch_with_two(
    one_streamed: Path, two: Path
) -> None:
    losses, weights = outcome(one_streamed)
    assert len(losses) == 6
    for folder in (two / "streamed", two / "streamed_from_one"):
        other_losses, other = outcome(folder)
        assert other_losses == pytest.approx(losses, abs=1e-4), folder.name
        for name, value in weights.items():
            torch.testing.assert_close(other[name], value, atol=1e-4, rtol=0, msg=f"{folder.name}: {name}")


def test_a_sharded_checkpoint_is_merged_into_one_model(two: Path, tmp_path: Path) -> None:
    run = two / "split"
    merge_checkpoint(run / "checkpoints" / "checkpoint-4", tmp_path / "merged")
    merged, trained = load_model(tmp_path / "merged"), load_model(run / "model")
    assert merged.config.provenance == trained.config.provenance
    for name, value in trained.state_dict().items():
        assert merged.state_dict()[name].equal(value), name
    halfway_there = load_model(merge_checkpoint(run / "checkpoints" / "checkpoint-2", tmp_path / "half")).state_dict()
    assert not halfway_there["lm_head.weight"].equal(trained.state_dict()["lm_head.weight"])
    for checkpoint, out, told in (
        (two / "trainer" / "checkpoints" / "checkpoint-2", tmp_path / "x", "of a run with fsdp: true"),
        (run / "checkpoints" / "checkpoint-4", tmp_path / "merged", "is there already"),
    ):
        with pytest.raises(InputError, match=told):
            merge_checkpoint(checkpoint, out)


def test_nothing_but_safetensors_is_read_of_a_sharded_checkpoint(two: Path, tmp_path: Path) -> None:
    run = shutil.copytree(two / "split", tmp_path / "run")
    checkpoint = run / "checkpoints" / "checkpoint-4"
    shards = checkpoint / SHARDS
    ran = tmp_path / "ran"

    class Hostile:
        def __reduce__(self) -> Any:
            return (open, (str(ran), "w"))

    (shards / ".metadata").write_bytes(pickle.dumps(Hostile()))
    for read in (read_weights, lambda folder: load_shards(folder, torch.nn.Linear(1, 1))):
        with pytest.raises(InputError, match=r"\.metadata: not safetensors; only these are read"):
            read(shards)
    with pytest.raises(InputError, match="not safetensors"):
        merge_checkpoint(checkpoint, tmp_path / "merged")
    assert not ran.exists()
    (shards / ".metadata").unlink()
    part = min(shards.iterdir())
    part.write_bytes(part.read_bytes()[:-100])
    with pytest.raises(InputError, match="is damaged or was edited"):
        merge_checkpoint(checkpoint, tmp_path / "merged")
    with pytest.raises(InputError, match="cannot be read"):
        read_weights(shards)
