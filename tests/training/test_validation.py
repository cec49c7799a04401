"""Answers to held-out pairs during training: scores, the best model kept, the stop, going on after a kill."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import load_file

from rsiccllm.errors import InputError
from rsiccllm.files import CHECKSUMS, read_jsonl, write_jsonl
from rsiccllm.model.generate import Answer
from rsiccllm.model.vlm import load_model
from rsiccllm.records import INSTRUCTIONS, Instruction
from rsiccllm.rsici.build import build_rsici
from rsiccllm.rsicp.build import build_rsicp
from rsiccllm.training.dnpo import train_dnpo
from rsiccllm.training.recipe import DNPORecipe, SFTRecipe
from rsiccllm.training.sft import train_sft
from rsiccllm.training.validation import falling, read_evaluations, score_answers, stalled, validation_records


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
    assert found["similarity"] == pytest.approx(50)  # two answers word for word, two with no key word in common
    assert "hallucination" not in score_answers(answers[:1], records[:1])


def test_falling() -> None:
    assert falling([3, 2, 1], 2)
    assert not falling([3, 2, 2], 2)
    assert not falling([2, 1], 2)
    assert falling([1, 5, 4, 3], 2)


def test_stalled() -> None:
    assert stalled([1, 5, 4, 5], 2), "no better than the best is no better"
    assert not stalled([1, 5, 4, 5.1], 2)
    assert not stalled([5, 4], 2)
    assert stalled([5, 1, 2], 2)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    build_rsici(["scenes:40,seed=7,size=64,easy=1"], folder / "rsici")
    build_rsicp(folder / "rsici", folder / "rsicp")
    return folder


COMMON: dict[str, Any] = {
    "batch_size": 2, "max_steps": 6, "warmup_steps": 0, "log_steps": 1, "save_steps": 2, "learning_rate": 1e-3,
    "validation_pairs": 3, "eval_steps": 2, "max_new_tokens": 4, "patience": None,
}  # fmt: skip


def recipe_for(checkpoint: Path, data: Path, out: Path, **fields: Any) -> DNPORecipe:
    fields = {**COMMON, "max_rejected": 2, "validation": data / "rsici", **fields}
    return DNPORecipe(model=str(checkpoint), data=data / "rsicp", out=out, **fields)


@pytest.mark.parametrize("variant", ["ours", "paper"])
def test_it_is_evaluated_in_the_precision_it_trains_in(
    tiny_checkpoints: dict[str, Path], data: Path, tmp_path: Path, variant: Any
) -> None:
    recipe = SFTRecipe(model=str(tiny_checkpoints["qwen2_5_vl"]), data=data / "rsici", out=tmp_path / "out",
                       variant=variant, validation=data / "rsici", bf16=True, lora_rank=2, train_vision=False,
                       **{**COMMON, "max_steps": 2})  # fmt: skip
    train_sft(recipe)
    assert [entry["step"] for entry in read_evaluations(recipe.out)] == [0, 2]


def test_a_run_keeps_its_best_and_goes_on_after_a_kill(
    tiny_checkpoints: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    checkpoint = tiny_checkpoints["qwen2_5_vl"]
    folder = train_dnpo(recipe_for(checkpoint, data, tmp_path / "whole", lora_rank=4))
    evaluations = read_evaluations(tmp_path / "whole")
    assert [entry["step"] for entry in evaluations] == [0, 2, 4, 6]
    assert {"similarity", "log_prob", "cut", "length", "entropy"} <= evaluations[0].keys()
    # The model says nothing sensible, so all score the same and the earliest is the best: what training began with.
    assert len({entry["similarity"] for entry in evaluations}) == 1
    start, end = load_model(checkpoint).state_dict(), load_model(folder).state_dict()
    assert all(end[name].equal(start[name]) for name in start)
    assert [path.name for path in (tmp_path / "whole").glob("best-*")] == ["best-0.safetensors"]

    entries = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text("utf-8").splitlines()]
    logged = {name for entry in entries for name in entry}
    assert {"reward_chosen", "margin", "reverse_kl", "entropy", "log_prob_chosen"} <= logged
    assert {"accuracy_replace", "accuracy_invented", "accuracy_dates"} & logged
    assert entries[0]["margin"] == pytest.approx(0, abs=1e-6)
    with Image.open(tmp_path / "whole" / "health.png") as picture:
        assert picture.size[0] > 800

    cut = killed(tmp_path / "whole", "checkpoint-6")
    train_dnpo(recipe_for(checkpoint, data, cut, lora_rank=4))
    for one, other in zip(evaluations, read_evaluations(cut), strict=True):
        assert one == pytest.approx(other, abs=1e-6)


def killed(whole: Path, *lost: str) -> Path:
    """A copy of a run as a kill leaves it: without its model and the checkpoints that were not written by then."""
    cut = whole.with_name(f"cut_{len(lost)}")
    shutil.copytree(whole, cut)
    shutil.rmtree(cut / "model")
    for name in lost:
        shutil.rmtree(cut / "checkpoints" / name)
    note = cut / "recipe.json"
    note.write_text(note.read_text("utf-8").replace(f"/{whole.name}", f"/{cut.name}"), encoding="utf-8")
    return cut


def test_the_best_of_a_fine_tuning_is_what_it_leaves_behind_also_after_kills(
    tiny_checkpoints: dict[str, Path], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scores of evaluations are given, because no model this small has any; the rest is real."""
    checkpoint, whole = tiny_checkpoints["qwen2_5_vl"], tmp_path / "whole"

    def recipe(out: Path) -> SFTRecipe:
        fields = {**COMMON, "max_steps": 4, "best_by": "fact_f1"}
        return SFTRecipe(model=str(checkpoint), data=data / "rsici", out=out, validation=data / "rsici", **fields)

    def given(*_: Any) -> dict[str, float]:
        return {"similarity": 0.0, "fact_f1": {0: 10.0, 1: 30.0}.get(len(read_evaluations(whole)), 20.0)}

    monkeypatch.setattr("rsiccllm.training.validation.score_answers", given)
    end = load_model(train_sft(recipe(whole))).state_dict()
    evaluations = read_evaluations(whole)
    assert [(entry["step"], entry["fact_f1"]) for entry in evaluations] == [(0, 10), (2, 30), (4, 20)]
    (kept,) = whole.glob("best-*")
    assert kept.name == "best-2.safetensors"
    assert all(end[name].equal(weight) for name, weight in load_file(kept).items())
    last = load_model(whole / "checkpoints" / "checkpoint-4").state_dict()
    assert any(not end[name].equal(last[name]) for name in end)
    assert (whole / "health.png").exists()
    # After the last checkpoint nothing is left to train; before it, two updates are.
    for lost in ([], ["checkpoint-4"]):
        cut = killed(whole, *lost)
        again = load_model(train_sft(recipe(cut))).state_dict()
        assert all(again[name].equal(end[name]) for name in end)
        assert read_evaluations(cut) == evaluations


def test_the_best_of_preferences_is_what_they_leave_behind(
    tiny_checkpoints: dict[str, Path], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scores of evaluations are given, because no model this small has any; the rest is real."""
    scores = iter([1.0, 2.0, 3.0, 2.5, 3.0, 9.0])
    monkeypatch.setattr(
        "rsiccllm.training.validation.score_answers", lambda answers, records: {"similarity": next(scores)}
    )
    checkpoint = tiny_checkpoints["qwen2_5_vl"]
    recipe = recipe_for(checkpoint, data, tmp_path / "out", max_steps=10, patience=2, sft_weight=5.0)
    end = load_model(train_dnpo(recipe)).state_dict()
    evaluations = read_evaluations(recipe.out)
    assert [entry["similarity"] for entry in evaluations] == [1.0, 2.0, 3.0, 2.5, 3.0], "twice no better than 3"
    best = load_file(recipe.out / "best-4.safetensors")
    last = load_model(recipe.out / "checkpoints" / "checkpoint-8").state_dict()
    assert all(end[name].equal(weight) for name, weight in best.items())
    assert any(not last[name].equal(weight) for name, weight in best.items())
    # Ended before its model was written, it writes it and trains no further.
    shutil.rmtree(recipe.out / "model")
    again = load_model(train_dnpo(recipe)).state_dict()
    assert [entry["step"] for entry in read_evaluations(recipe.out)] == [0, 2, 4, 6, 8]
    assert all(again[name].equal(weight) for name, weight in end.items())


def test_training_stops_where_the_references_grow_unlikely(
    tiny_checkpoints: dict[str, Path], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the reverse KL and with far too high a learning rate, as the paper says it goes. The score is given: it
    goes on rising, as it may while a model collapses."""
    rising = iter(range(100))
    monkeypatch.setattr(
        "rsiccllm.training.validation.score_answers", lambda answers, records: {"similarity": float(next(rising))}
    )
    recipe = recipe_for(tiny_checkpoints["qwen2_5_vl"], data, tmp_path / "out", max_steps=40, eval_steps=1, patience=3,
                        kl_weight=0, learning_rate=2e-2, save_steps=100)  # fmt: skip
    torch.manual_seed(0)
    train_dnpo(recipe)
    evaluations = read_evaluations(recipe.out)
    assert falling([entry["log_prob"] for entry in evaluations], 3)
    assert evaluations[-1]["step"] < 40


def test_what_is_not_held_out_is_refused(tiny_checkpoints: dict[str, Path], data: Path, tmp_path: Path) -> None:
    checkpoint = tiny_checkpoints["qwen2_5_vl"]
    out = tmp_path / "out"
    for fields, told in (
        ({"validation_split": "holdout"}, "no record of split 'holdout'"),
        ({"validation_task": "describe"}, r"no task 'describe' in split 'val' \(there: caption\)"),
    ):
        with pytest.raises(InputError, match=told):
            train_dnpo(recipe_for(checkpoint, data, out, **fields))
    for fields, told in (
        ({"validation_split": "test_in"}, "chosen on a test split has no test left"),
        ({"validation_split": "train"}, "is the split that is trained on"),
    ):
        with pytest.raises(ValidationError, match=told):
            recipe_for(checkpoint, data, out, **fields)


def test_facts_cannot_choose_where_nobody_states_one(data: Path, tmp_path: Path) -> None:
    unchanged = [item for item in read_jsonl(data / "rsici" / INSTRUCTIONS, Instruction) if item.facts == []]
    root = tmp_path / "rsici"
    shutil.copytree(data / "rsici", root)
    write_jsonl(root / INSTRUCTIONS, [item.model_copy(update={"split": "val"}) for item in unchanged])
    (root / CHECKSUMS).unlink()  # it was we who edited the list
    with pytest.raises(InputError, match="best_by=fact_f1: none of the 3 pairs of split 'val' states a fact"):
        validation_records(recipe_for(tmp_path, data, tmp_path / "out", validation=root, best_by="fact_f1"))
