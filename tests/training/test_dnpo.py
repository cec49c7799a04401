"""Steps of the preference trainer: batches added up, answers drawn from the policy, mistakes told before training."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import sample, uneven
from pydantic import ValidationError

from rsiccllm.cli import main
from rsiccllm.errors import InputError
from rsiccllm.model.processor import load_processor
from rsiccllm.model.vlm import load_model
from rsiccllm.records import PREFERENCES
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


@pytest.mark.parametrize(
    "fields",
    [
        {"kl_weight": 0},
        {"kl_weight": 1.0, "sft_weight": 0.5},
        {"variant": "ours", "kl_weight": 0.1},
        {"variant": "anchored", "kl_weight": 1.0, "kl_on": "samples", "max_new_tokens": 4, "sft_weight": 0.5},
    ],
    ids=["paper", "paper with KL", "ours", "drawn answers"],
)
def test_accumulated_batches_are_one_large_batch(
    tiny_checkpoints: dict[str, Path], data: Path, tmp_path: Path, fields: dict[str, Any]
) -> None:
    """Pairs with one, two and three rejected answers of different lengths: no mean of one batch is the others'."""
    root = uneven(data, tmp_path / "uneven")
    for name, sizes in (("one", {"batch_size": 4}), ("added", {"batch_size": 1, "accumulate": 4})):
        train_dnpo(recipe_for(tiny_checkpoints["qwen2_5_vl"], root, tmp_path / name, **sizes, **fields))
    for one, added in zip(log(tmp_path / "one")[:2], log(tmp_path / "added")[:2], strict=True):
        health = [name for name in one if name.startswith(("margin", "reward", "log_prob", "accuracy", "reverse_kl"))]
        assert len(health) > 6
        for name in ("loss", "grad_norm", "preference_loss", *health):
            assert one[name] == pytest.approx(added[name], rel=1e-4, abs=1e-5), name
    assert log(tmp_path / "one")[1]["loss"] != pytest.approx(log(tmp_path / "one")[0]["loss"], abs=1e-4)


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
    loss = drawing.compute_loss(drawing.model, unpacked(samples))
    for name in ("preference_loss", "margin", "log_prob_chosen"):
        assert drawing.parts[name][0] == pytest.approx(plain.parts[name][0], abs=1e-5), name
    # nats an answer in the loss, nats a token in the log: five tokens an answer, unless one ended before.
    divergence = loss.item() - drawing.parts["preference_loss"][0][0]
    assert divergence == pytest.approx(5 * drawing.parts["reverse_kl"][0][0], rel=1e-4)
    assert divergence > 0
    loss.backward()
    drawing.state.global_step = 1
    again = drawing.compute_loss(drawing.model, unpacked(samples))
    assert again.item() != loss.item(), "at each update other answers"
    drawing.state.global_step = 0
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
    long = recipe_for(tiny_checkpoints["qwen2_5_vl"], data, tmp_path / "long", kl_on="samples", max_new_tokens=4096)
    with pytest.raises(InputError, match=r"max_tokens: 4096; .* takes up to 4096 more \(max_new_tokens\)"):
        train_dnpo(long)
    assert not (tmp_path / "long" / "checkpoints").exists()


def told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that the command ends with, in this process: status 2 and nothing on standard output."""
    monkeypatch.setattr("sys.argv", ["rsiccllm", *map(str, arguments)])
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main()
    shown = capsys.readouterr()
    assert end.value.code == 2
    assert shown.out == ""
    return [line for line in shown.err.splitlines() if line.startswith("rsiccllm: ")][-1]


def test_preferences_that_are_none_are_one_line(
    tiny_checkpoints: dict[str, Path], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    recipe = tmp_path / "r.yaml"
    recipe.write_text("learning_rate: 1e-4\nmax_steps: 1\nbatch_size: 2\nkl_weight: 0\n", encoding="utf-8")
    root = tmp_path / "rsicp"
    shutil.copytree(data, root)
    lines = (data / PREFERENCES).read_text(encoding="utf-8").splitlines()

    def refused(*fields: str, model: Path = tiny_checkpoints["qwen2_5_vl"], of: Path = root) -> str:
        settings = [f"model={model}", f"data={of}", f"out={tmp_path / 'out'}", *fields]
        return told(monkeypatch, capsys, "train", "dnpo", recipe, *settings)

    row = json.loads(lines[1])
    for change, message in (
        ({"chosen": row["rejected"][0]["text"] + " "}, "the chosen answer is also rejected"),
        ({"rejected": []}, "field 'rejected'"),
        ({"references": []}, "field 'references'"),
        ({"references": None}, "field 'references'"),
    ):
        changed = {name: value for name, value in {**row, **change}.items() if value is not None}
        (root / PREFERENCES).write_text("\n".join([lines[0], json.dumps(changed)]), encoding="utf-8")
        line = refused()
        assert f"{PREFERENCES}:2: " in line
        assert message in line
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())

    # The cache of the reference, of another checkpoint and cut short.
    train_dnpo(recipe_for(tiny_checkpoints["qwen2_5_vl"], data, tmp_path / "first", kl_weight=0, max_steps=1))
    cache = tmp_path / "first" / "reference.jsonl"
    line = refused(f"reference={cache}", model=tiny_checkpoints["qwen3_vl"], of=data)
    assert "reference.jsonl: holds log-probabilities of other weights than those in" in line
    cache.write_text("".join(cache.read_text(encoding="utf-8").splitlines(keepends=True)[:4]), encoding="utf-8")
    assert "reference.jsonl: is cut short, 3 of its" in refused(f"reference={cache}", of=data)


def test_filtering_that_leaves_nothing_is_one_line(
    tiny_checkpoints: dict[str, Path], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """An untrained model's answers say nothing that could be in this window."""
    arguments = ["--data", data.parent / "rsici", "--out", tmp_path / "out", "--model", tiny_checkpoints["qwen2_5_vl"]]
    line = told(
        monkeypatch, capsys, "rsicp", "build", *arguments, "--samples", 1, "--variant", "paper", "--window", 0.98, 0.99
    )
    assert re.search(r"--window 0.98 0.99: none of the \d+ wrong samples lies in it", line), line
    assert not (tmp_path / "out" / PREFERENCES).exists()
