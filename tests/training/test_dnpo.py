"""Steps of the preference trainer: batches added up, answers drawn from the policy, mistakes told before training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import sample
from pydantic import ValidationError

from rsiccllm.model.processor import load_processor
from rsiccllm.model.vlm import load_model
from rsiccllm.rsici.build import build_rsici
from rsiccllm.rsicp.build import build_rsicp
from rsiccllm.training.dnpo import DNPOTrainer, train_dnpo, unpacked
from rsiccllm.training.packing import PackingCollator
from rsiccllm.training.recipe import DNPORecipe


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    build_rsici(["scenes:16,seed=7,size=64,easy=1"], folder / "rsici")
    build_rsicp(folder / "rsici", folder / "rsicp", variant="paper")
    return folder / "rsicp"


def recipe_for(checkpoint: Path, data: Path, out: Path, **fields: Any) -> DNPORecipe:
    common: dict[str, Any] = {"learning_rate": 1e-3, "warmup_steps": 0, "log_steps": 1, "max_steps": 2, "batch_size": 2}
    return DNPORecipe(model=str(checkpoint), data=data, out=out, **{**common, **fields})


def log(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def test_accumulated_batches_are_one_large_batch(tiny_checkpoints: dict[str, Path], data: Path, tmp_path: Path) -> None:
    for name, sizes in (("one", {"batch_size": 4}), ("added", {"batch_size": 1, "accumulate": 4})):
        train_dnpo(
            recipe_for(tiny_checkpoints["qwen2_5_vl"], data, tmp_path / name, kl_weight=0, max_rejected=1, **sizes)
        )
    for one, added in zip(log(tmp_path / "one")[:2], log(tmp_path / "added")[:2], strict=True):
        for name in ("loss", "grad_norm", "margin"):
            assert one[name] == pytest.approx(added[name], rel=1e-4, abs=1e-5), name
    assert log(tmp_path / "one")[1]["loss"] != pytest.approx(0.6931, abs=1e-3)


def test_answers_drawn_from_the_policy_carry_the_divergence_and_nothing_else(
    tiny_checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    folder = tiny_checkpoints["qwen2_5_vl"]
    processor, samples = load_processor(folder), [sample(seed, 3) for seed in range(2)]
    packing = PackingCollator(processor)

    def trainer(kl_on: Any) -> DNPOTrainer:
        policy = load_model(folder, "none")
        torch.manual_seed(0)
        with torch.no_grad():
            for weight in policy.parameters():
                weight += 0.05 * torch.randn_like(weight)
        recipe = recipe_for(folder, tmp_path, tmp_path / kl_on, kl_on=kl_on, kl_weight=1.0, max_new_tokens=5)
        return DNPOTrainer(recipe, policy, processor, samples, unpacked, reference=load_model(folder, "none"),
                           packing=packing)  # fmt: skip

    plain, drawing = trainer("answers"), trainer("samples")
    plain.compute_loss(plain.model, packing(samples))
    torch.manual_seed(3)
    loss = drawing.compute_loss(drawing.model, unpacked(samples))
    for name in ("preference_loss", "margin", "log_prob_chosen"):
        assert drawing.parts[name] == pytest.approx(plain.parts[name], abs=1e-5), name
    # nats an answer in the loss, nats a token in the log: five tokens an answer, unless one ended before.
    divergence = loss.item() - drawing.parts["preference_loss"][0]
    assert divergence == pytest.approx(5 * drawing.parts["reverse_kl"][0], rel=1e-4)
    assert divergence > 0
    loss.backward()
    again = drawing.compute_loss(drawing.model, unpacked(samples))
    assert again.item() != loss.item(), "each time other answers"
    torch.manual_seed(3)
    assert drawing.compute_loss(drawing.model, unpacked(samples)).item() == pytest.approx(loss.item(), abs=1e-6)


def test_a_run_that_draws_answers_begins_at_no_divergence(
    tiny_checkpoints: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    train_dnpo(recipe_for(tiny_checkpoints["qwen2_5_vl"], data, tmp_path / "out", kl_on="samples", max_new_tokens=4,
                          lora_rank=4))  # fmt: skip
    first, second = log(tmp_path / "out")[:2]
    assert first["reverse_kl"] == pytest.approx(0, abs=1e-6)
    assert first["preference_loss"] == pytest.approx(0.693147, abs=1e-5)
    assert second["reverse_kl"] > 0
    with pytest.raises(ValidationError, match="answers would be drawn for a divergence of weight kl_weight=0"):
        recipe_for(tmp_path, data, tmp_path, kl_on="samples", kl_weight=0)
