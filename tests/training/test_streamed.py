"""Training from shards: the same rows and losses wherever they lie, resumed exactly, and what cannot be is one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import fsspec
import pytest
from helpers import killed_at_its_first_checkpoint
from serving import served

from rsiccllm.errors import InputError
from rsiccllm.model.vlm import load_model
from rsiccllm.rsici.build import build_rsici
from rsiccllm.rsicp.build import build_rsicp
from rsiccllm.training.difference import train_difference
from rsiccllm.training.dnpo import train_dnpo
from rsiccllm.training.plan import plan
from rsiccllm.training.recipe import DifferenceRecipe, DNPORecipe, SFTRecipe
from rsiccllm.training.sft import train_sft
from rsiccllm.training.shard_writer import write_shards

COMMON = {"batch_size": 2, "learning_rate": 1e-3, "log_steps": 1, "save_steps": 2, "warmup_steps": 0}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RSICI and RSICP, each as a folder and as shards."""
    folder = tmp_path_factory.mktemp("data")
    build_rsici(["scenes:20,seed=7,size=64,easy=1"], folder / "rsici")
    build_rsicp(folder / "rsici", folder / "rsicp")
    for name in ("rsici", "rsicp"):
        write_shards(folder / name, folder / f"{name}_shards", rows=4)
    return folder


def logged(out: Path, name: str = "loss") -> list[float]:
    lines = (out / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry[name] for entry in map(json.loads, lines) if name in entry]


def assert_same_run(one: Path, other: Path) -> None:
    assert logged(one) == pytest.approx(logged(other), abs=1e-6)
    weights = load_model(one / "model").state_dict()
    for name, value in load_model(other / "model").state_dict().items():
        assert (weights[name] - value).abs().max() < 1e-6, name


def test_a_killed_streamed_run_ends_as_an_undisturbed_one(
    tiny_checkpoints: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    fields = {
        **COMMON, "model": str(tiny_checkpoints["qwen2_5_vl"]), "data": str(data / "rsici_shards"), "max_steps": 10,
        "accumulate": 2, "workers": 2, "nuisance": 0.5, "turns": True,
    }  # fmt: skip
    killed_at_its_first_checkpoint(fields, tmp_path / "cut")
    for out in ("cut", "whole"):
        train_sft(SFTRecipe.model_validate({**fields, "out": tmp_path / out}))
    assert len(logged(tmp_path / "whole")) == 10
    assert_same_run(tmp_path / "cut", tmp_path / "whole")


def test_over_http_a_run_is_the_same_as_from_disk(
    tiny_checkpoints: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    pytest.importorskip("aiohttp")
    fields = {**COMMON, "model": str(tiny_checkpoints["qwen2_5_vl"]), "max_steps": 3, "shard_cache": tmp_path / "cache"}
    train_sft(SFTRecipe.model_validate({**fields, "data": data / "rsici_shards", "out": tmp_path / "disk"}))
    assert not (tmp_path / "cache").exists()
    with served(data) as (url, asked):
        # Loader processes are forked from one that has fetched the longest row's shard already.
        recipe = {**fields, "data": f"{url}/rsici_shards", "out": tmp_path / "http", "workers": 2}
        train_sft(SFTRecipe.model_validate(recipe))
        assert 1 < len(asked) <= 5
        assert len(set(asked)) == len(asked)
    assert_same_run(tmp_path / "disk", tmp_path / "http")
    # Data that is gone meanwhile is one line, also from a loader process.
    with served(tmp_path) as (url, _):
        shutil.copytree(data / "rsici_shards", tmp_path / "set")
        longest = json.loads((tmp_path / "set" / "index.json").read_text())["longest"][0]
        for number in {0, 1, 2, 3} - {longest // 4}:
            (tmp_path / "set" / f"shard-{number:05d}.parquet").unlink()
        recipe |= {"data": f"{url}/set", "out": tmp_path / "gone", "shard_cache": tmp_path / "empty", "max_steps": 9}
        with pytest.raises(InputError, match=rf"^{url}/set/shard-0000\d.parquet: no such file[^\n]*$"):
            train_sft(SFTRecipe.model_validate(recipe))


def test_dnpo_from_memory(tiny_checkpoints: dict[str, Path], data: Path, tmp_path: Path) -> None:
    files = fsspec.filesystem("memory")
    files.put(str(data / "rsicp_shards"), "/dnpo", recursive=True)
    fields = {**COMMON, "model": str(tiny_checkpoints["qwen2_5_vl"]), "max_steps": 2, "shard_cache": tmp_path / "cache"}
    ways = {"kl": {"kl_weight": 0.1}, "anew": {"kl_weight": 0.0, "stored_reference": False, "lora_rank": 2}}
    for name, way in ways.items():
        train_dnpo(DNPORecipe.model_validate({**fields, **way, "data": "memory://dnpo", "out": tmp_path / name}))
        assert logged(tmp_path / name, "preference_loss")[0] == pytest.approx(0.693147, abs=1e-5)
        assert any(key.startswith("accuracy_") for key in json.loads((tmp_path / name / "log.jsonl").open().readline()))
    files.rm("/dnpo", recursive=True)
    seen = load_model(tmp_path / "kl" / "model").config.provenance
    assert (seen["data"], seen["seen"]) == ("dnpo", ["scenes/train"])
    with pytest.raises(InputError, match=r"^stored_reference: nothing is stored for data in shards; set stored_refer"):
        train_dnpo(
            DNPORecipe.model_validate({**fields, "kl_weight": 0, "data": data / "rsicp_shards", "out": tmp_path / "x"})
        )


def test_plan_counts_the_rows_of_the_index(tiny_checkpoints: dict[str, Path], data: Path, tmp_path: Path) -> None:
    fields = {**COMMON, "model": str(tiny_checkpoints["qwen2_5_vl"]), "epochs": 3, "out": tmp_path}
    folder, shards = (
        plan(SFTRecipe.model_validate({**fields, "data": data / name})) for name in ("rsici", "rsici_shards")
    )
    assert (shards.pairs, shards.steps) == (folder.pairs, folder.steps) == (16, 24)
    assert shards.tokens == pytest.approx(folder.tokens)
    assert shards.memory == folder.memory


def test_what_cannot_be_streamed_is_one_line(tiny_checkpoints: dict[str, Path], data: Path, tmp_path: Path) -> None:
    shards = str(data / "rsici_shards")

    def recipe(kind: type = SFTRecipe, **fields: object) -> object:
        base = {"model": str(tiny_checkpoints["qwen2_5_vl"]), "out": tmp_path / "out", "data": shards, **COMMON}
        return kind.model_validate({**base, **fields})

    for fields, told in (
        ({"data": {shards: 1, str(data / "rsici"): 1}}, "data: shards are trained on alone, not mixed"),
        ({"data": {str(data / "rsici"): 1, "memory://x": 1}}, "data: shards are trained on alone, not mixed"),
        ({"data": str(data / "rsicp_shards")}, "rsicp_shards: holds preferences; expected instructions"),
        ({"split": "val"}, "rsici_shards: holds split 'train'; the recipe trains on split 'val'"),
        ({"max_tokens": 20}, r"tokens with all its answers, over max_tokens=20"),
        ({"validation": shards}, "no instructions.jsonl in it"),
    ):
        with pytest.raises(InputError, match=rf"^[^\n]*{told}[^\n]*$"):
            train_sft(recipe(**fields))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^data: [^\n]*rsici_shards holds shards, which[^\n]*this stage$"):
        train_difference(recipe(DifferenceRecipe))  # type: ignore[arg-type]
    # Batches are dealt out by their size: the same updates from others are not the same run.
    train_sft(recipe(max_steps=1))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="holds a run with batch_size=2, this one has 1"):
        train_sft(recipe(max_steps=1, batch_size=1, accumulate=2))  # type: ignore[arg-type]
    train_sft(recipe(max_steps=1, shard_cache=tmp_path, shard_cache_gb=1))  # type: ignore[arg-type]


@pytest.mark.parametrize("url", ["s3://key:secret@bucket/x", "http://h/x?token=1", "zip://x::http://h/y", "http://[x"])
def test_urls_that_are_no_folders_or_hold_secrets(url: str) -> None:
    for data in (url, {url: 1.0}):
        with pytest.raises(ValueError, match="expected "):
            SFTRecipe.model_validate({"model": "m", "out": "o", "learning_rate": 1e-3, "data": data})
