"""Answers to held-out pairs during DNPO: scores, the best model kept, the stop on collapse, going on after a kill."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from rsiccllm.errors import InputError
from rsiccllm.model.generate import Answer
from rsiccllm.model.vlm import load_model
from rsiccllm.records import Instruction
from rsiccllm.rsici.build import build_rsici
from rsiccllm.rsicp.build import build_rsicp
from rsiccllm.training.dnpo import train_dnpo
from rsiccllm.training.recipe import DNPORecipe
from rsiccllm.training.validation import BEST, falling, read_evaluations, score_answers


def answer(text: str, tokens: int = 4, ended: bool = True, entropy: float = 0.5) -> Answer:
    return Answer(text, 0.5, None, tokens, ended, entropy)


def record(identifier: str, *answers: str) -> Instruction:
    return Instruction(
        id=identifier, pair=identifier, source="x", task="caption", before="a.png", after="b.png", prompt="what?",
        answers=list(answers),
    )  # fmt: skip


def test_scores_by_hand() -> None:
    records = [
        record("0", "a house is built", "a house and a road are built"),
        record("1", "trees are removed"),
        record("2", "there is no difference"),
        record("3", "nothing has changed"),
    ]
    answers = [
        answer("a house is built"),  # right: 1 of 1 stated, 2 true
        answer("there is no difference", tokens=6),  # missed: 1 true
        answer("a lake appears", ended=False),  # invented, and cut
        answer("nothing has changed", entropy=0.1),
    ]
    found = score_answers(answers, records)
    assert found["fact_f1"] == pytest.approx(200 * 1 / (1 + 3))
    assert found["misses"] == 50
    assert found["hallucination"] == 50
    assert found["cut"] == 25
    assert found["length"] == 4.5
    assert found["entropy"] == pytest.approx(0.4)
    assert found["score"] == pytest.approx(50)  # two answers word for word, two with no key word in common
    assert "hallucination" not in score_answers(answers[:1], records[:1])


def test_falling() -> None:
    assert falling([3, 2, 1], 2)
    assert not falling([3, 2, 2], 2)
    assert not falling([2, 1], 2)
    assert falling([1, 5, 4, 3], 2)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    build_rsici(["scenes:30,seed=7,size=64,easy=1"], folder / "rsici")
    build_rsicp(folder / "rsici", folder / "rsicp")
    return folder


def recipe_for(checkpoint: Path, data: Path, out: Path, **fields: Any) -> DNPORecipe:
    common: dict[str, Any] = {
        "batch_size": 4, "max_steps": 6, "warmup_steps": 0, "log_steps": 1, "save_steps": 2, "learning_rate": 1e-3,
        "validation": data / "rsici", "validation_split": "test", "validation_pairs": 3, "eval_steps": 2,
        "max_new_tokens": 4,
    }  # fmt: skip
    return DNPORecipe(model=str(checkpoint), data=data / "rsicp", out=out, **{**common, **fields})


@pytest.mark.parametrize("lora", [None, 4])
def test_a_run_keeps_its_best_and_goes_on_after_a_kill(
    tiny_checkpoints: dict[str, Path], data: Path, tmp_path: Path, lora: int | None
) -> None:
    checkpoint = tiny_checkpoints["qwen2_5_vl"]
    folder = train_dnpo(recipe_for(checkpoint, data, tmp_path / "whole", lora_rank=lora))
    evaluations = read_evaluations(tmp_path / "whole")
    assert [entry["step"] for entry in evaluations] == [0, 2, 4, 6]
    assert {"score", "log_prob", "cut", "length", "entropy", "hallucination"} <= evaluations[0].keys()
    # The model says nothing sensible, so all score the same and the earliest is the best: what training began with.
    assert len({entry["score"] for entry in evaluations}) == 1
    start, end = load_model(checkpoint).state_dict(), load_model(folder).state_dict()
    assert all(end[name].equal(start[name]) for name in start)

    entries = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text("utf-8").splitlines()]
    logged = {name for entry in entries for name in entry}
    assert {"reward_chosen", "margin", "reverse_kl", "entropy", "log_prob_chosen"} <= logged
    assert {"accuracy_replace", "accuracy_invented", "accuracy_dates"} & logged
    assert entries[0]["margin"] == pytest.approx(0, abs=1e-6)
    with Image.open(tmp_path / "whole" / "health.png") as picture:
        assert picture.size[0] > 800

    # As a kill after the second checkpoint leaves it; what came after is of a future that is no more.
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "model")
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "checkpoint-6")
    note = tmp_path / "cut" / "recipe.json"
    note.write_text(note.read_text("utf-8").replace("whole", "cut"), encoding="utf-8")
    train_dnpo(recipe_for(checkpoint, data, tmp_path / "cut", lora_rank=lora))
    for one, other in zip(evaluations, read_evaluations(tmp_path / "cut"), strict=True):
        assert one == pytest.approx(other, abs=1e-6)


def test_the_best_of_a_run_is_what_it_leaves_behind(
    tiny_checkpoints: dict[str, Path], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scores of evaluations are given, because no model this small has any; the rest is real."""
    scores = iter([1.0, 3.0, 2.0, 1.5, 1.0, 0.5])
    monkeypatch.setattr("rsiccllm.training.validation.score_answers", lambda answers, records: {"score": next(scores)})
    checkpoint = tiny_checkpoints["qwen2_5_vl"]
    recipe = recipe_for(checkpoint, data, tmp_path / "out", max_steps=10, patience=2)
    end = load_model(train_dnpo(recipe)).state_dict()
    evaluations = read_evaluations(recipe.out)
    assert [entry["score"] for entry in evaluations] == [1.0, 3.0, 2.0, 1.5], "stopped after the second fall"
    best = load_file(recipe.out / BEST)
    last = load_model(recipe.out / "checkpoints" / "checkpoint-6").state_dict()
    assert all(end[name].equal(weight) for name, weight in best.items())
    assert any(not last[name].equal(weight) for name, weight in best.items())
    kept = load_model(recipe.out / "checkpoints" / "checkpoint-4").state_dict()
    assert any(not kept[name].equal(weight) for name, weight in best.items())


def test_training_stops_where_the_references_grow_unlikely(
    tiny_checkpoints: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    """Without the reverse KL and with far too high a learning rate, as the paper says it goes."""
    checkpoint = tiny_checkpoints["qwen2_5_vl"]
    recipe = recipe_for(checkpoint, data, tmp_path / "out", max_steps=40, eval_steps=1, patience=3, kl_weight=0,
                        learning_rate=2e-2, save_steps=100)  # fmt: skip
    torch.manual_seed(0)
    train_dnpo(recipe)
    evaluations = read_evaluations(recipe.out)
    assert falling([entry["log_prob"] for entry in evaluations], 3)
    assert evaluations[-1]["step"] < 40


def test_a_validation_split_that_is_not_there(tiny_checkpoints: dict[str, Path], data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no record of split 'holdout'"):
        train_dnpo(recipe_for(tiny_checkpoints["qwen2_5_vl"], data, tmp_path / "out", validation_split="holdout"))
