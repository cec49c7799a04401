"""Stored log-probabilities of the reference: the same training, and one clear line for a file that does not fit."""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import set_seed

from rsiccllm.errors import InputError
from rsiccllm.journal import Journal
from rsiccllm.model.processor import load_processor
from rsiccllm.model.vlm import load_model
from rsiccllm.rsici.build import build_rsici
from rsiccllm.rsicp.build import build_rsicp
from rsiccllm.training import reference
from rsiccllm.training.dnpo import dnpo_dataset, train_dnpo
from rsiccllm.training.packing import PackingCollator
from rsiccllm.training.recipe import DNPORecipe
from rsiccllm.training.reference import batch_log_probs, stored_reference


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    build_rsici(["scenes:16,seed=7,size=64,easy=1"], folder / "rsici")
    build_rsicp(folder / "rsici", folder / "rsicp", variant="ours")
    return folder / "rsicp"


def recipe_for(checkpoint: Path, data: Path, out: Path, **fields: Any) -> DNPORecipe:
    return DNPORecipe(
        model=str(checkpoint), data=data, out=out, learning_rate=1e-3, batch_size=4, warmup_steps=0,
        log_steps=1, **{"kl_weight": 0, "max_steps": 3, **fields},
    )  # fmt: skip


def log(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("lora", [None, 4])
def test_training_is_the_same_with_it(
    tiny_checkpoints: dict[str, Path], data: Path, tmp_path: Path, lora: int | None
) -> None:
    for name, stored in (("stored", True), ("online", False)):
        train_dnpo(recipe_for(tiny_checkpoints["qwen2_5_vl"], data, tmp_path / name, stored_reference=stored,
                              lora_rank=lora))  # fmt: skip
    first, second = log(tmp_path / "stored"), log(tmp_path / "online")
    assert first[0]["preference_loss"] == pytest.approx(0.693147, abs=1e-5)
    for name in ("loss", "grad_norm", "reward_chosen", "reward_rejected"):
        values = [[entry[name] for entry in entries if name in entry] for entries in (first, second)]
        assert values[0] == pytest.approx(values[1], abs=2e-5), name
    assert "reverse_kl" in second[0]
    assert "reverse_kl" not in first[0]
    assert (tmp_path / "stored" / "reference.jsonl").exists()
    assert not (tmp_path / "online" / "reference.jsonl").exists()


def test_it_goes_on_after_a_stop_and_is_read_in_any_batching(
    tiny_checkpoints: dict[str, Path], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tiny_checkpoints["qwen2_5_vl"]
    recipe = recipe_for(checkpoint, data, tmp_path / "out")
    dataset, model = dnpo_dataset(recipe), load_model(checkpoint)
    collator = PackingCollator(load_processor(checkpoint))
    cpu = torch.device("cpu")
    calls = 0

    def stopping(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return batch_log_probs(*arguments)

    monkeypatch.setattr(reference, "batch_log_probs", stopping)
    with pytest.raises(KeyboardInterrupt):
        stored_reference(recipe, str(checkpoint), model, dataset, collator, cpu)
    assert not (tmp_path / "out" / "reference.jsonl").exists(), "whole or not at all"
    found = stored_reference(recipe, str(checkpoint), model, dataset, collator, cpu)
    assert calls == 1 + -(-len(dataset) // 4), "the first batch is not computed again"
    assert not list((tmp_path / "out").glob(".reference*"))
    assert list(found) == [record.id for record in dataset.records]
    for index in (0, len(dataset) - 1):
        alone = batch_log_probs(model, collator([dataset[index]]), cpu, False)
        assert found[dataset.records[index].id] == pytest.approx(alone.tolist(), abs=1e-4)


def test_a_file_that_does_not_fit_is_one_line(tiny_checkpoints: dict[str, Path], data: Path, tmp_path: Path) -> None:
    checkpoint = tiny_checkpoints["qwen2_5_vl"]
    train_dnpo(recipe_for(checkpoint, data, tmp_path / "first", max_steps=1))
    whole = tmp_path / "first" / "reference.jsonl"
    kept = tmp_path / "kept.jsonl"

    def refused(told: str, model: Path = checkpoint, **fields: Any) -> None:
        with pytest.raises(InputError, match=told) as caught:
            train_dnpo(recipe_for(model, data, tmp_path / "out", reference=kept, **fields))
        assert "\n" not in str(caught.value)
        assert str(kept) in str(caught.value)

    lines = whole.read_text(encoding="utf-8").splitlines(keepends=True)
    rows = len(lines) - 1
    for text, told in (
        ("".join(lines[:5]), f"is cut short, 4 of its {rows} rows are there; remove it, and it is computed anew"),
        ("".join(lines)[:-20], f"is cut short, {rows - 1} of its {rows} rows"),
        ("", "is empty"),
        ('{"a": 1}\n', r"kept.jsonl:1: no stored log-probabilities of ours"),
        (lines[0] + "x\n" + "".join(lines[2:]), r"kept.jsonl:2: no stored log-probabilities of ours"),
    ):
        kept.write_text(text, encoding="utf-8")
        refused(told)
    shutil.copy(whole, kept)
    refused("of other weights than those in", model=tiny_checkpoints["qwen3_vl"])
    refused("computed for other answers or another order", max_rejected=1)
    refused("computed for bf16=False", bf16=True)
    assert not (tmp_path / "out" / "recipe.json").exists(), "no mistake binds the folder"
    set_seed(0)
    train_dnpo(recipe_for(checkpoint, data, tmp_path / "out", reference=kept, max_steps=1))
    assert log(tmp_path / "out")[0]["loss"] == pytest.approx(log(tmp_path / "first")[0]["loss"], abs=1e-6)
    with pytest.raises(ValidationError, match="the reverse KL needs the reference's whole distribution"):
        recipe_for(checkpoint, data, tmp_path / "out", reference=kept, kl_weight=0.1)


def test_a_process_that_hangs_is_waited_for_as_long_as_the_recipe_says(tmp_path: Path) -> None:
    """The journals of two processes by hand: one goes on writing for longer than that and is waited for, then hangs."""
    path, wanted = tmp_path / "reference.jsonl", {"schema": reference.FORM, "rows": 8}
    journals = [Journal(reference._part(path, rank), sealed=True) for rank in range(2)]
    for journal in journals:
        journal.append(wanted)

    def slowly() -> None:
        for number in range(7):
            time.sleep(0.25)
            journals[number % 2].append({"id": str(number), "log_probs": [-1.0]})

    writer, began = threading.Thread(target=slowly), time.monotonic()
    writer.start()
    with pytest.raises(InputError, match=r"reference\.jsonl: stopped, because no process has added a row for 1 s"):
        reference._join(path, wanted, [str(number) for number in range(8)], timeout=1)
    assert time.monotonic() - began > 7 * 0.25 + 1
    writer.join()
    assert not path.exists()
    journals[0].append({"id": "7", "log_probs": [-2.0]})
    reference._join(path, wanted, [str(number) for number in range(8)], timeout=1)
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()[1:]] == [str(n) for n in range(8)]
    assert reference._parts(path) == []
