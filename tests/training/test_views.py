from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from helpers import sample

from rsiccllm.facts import parse
from rsiccllm.files import read_jsonl
from rsiccllm.records import INSTRUCTIONS, Instruction
from rsiccllm.rsici.build import build_rsici
from rsiccllm.training.data import PairDataset
from rsiccllm.training.recipe import SFTRecipe
from rsiccllm.training.sft import train_sft
from rsiccllm.training.views import View, Views
from rsiccllm.turning import TURNS


def test_views_by_hand() -> None:
    plain = sample(0, 1, height=4, width=6)
    plain.facts, plain.answers = [("building", "appear")], ["a house is built in the top left corner"]
    assert plain.mask is not None
    before, after = (np.asarray(image) for image in plain.images)

    same = View("none").of(plain)
    assert [np.asarray(image).tolist() for image in same.images] == [before.tolist(), after.tolist()]
    assert (same.facts, same.answers) == (plain.facts, plain.answers)

    turned = View("rotate_90").of(plain)
    # Counter-clockwise: the last column becomes the first row.
    np.testing.assert_array_equal(np.asarray(turned.images[1])[0], after[:, -1])
    assert turned.mask is not None
    np.testing.assert_array_equal(turned.mask[0], plain.mask[:, -1])
    assert turned.answers == ["a house is built in the bottom left corner"]
    assert turned.facts == plain.facts

    swapped = View("flip_left_right", swapped=True).of(plain)
    np.testing.assert_array_equal(np.asarray(swapped.images[0]), after[:, ::-1])
    assert swapped.facts == [("building", "disappear")]
    assert swapped.answers == []
    assert plain.facts == [("building", "appear")]


def test_every_view_is_another_one() -> None:
    plain = sample(1, 1, height=28, width=28)
    views = [View(turn, swapped).of(plain) for turn in TURNS for swapped in (False, True)]
    assert len({(view.images[0].tobytes(), view.images[1].tobytes()) for view in views}) == 16


def test_places_said_are_the_places_marked(tmp_path: Path) -> None:
    """On rendered scenes: in every view, a place that a caption names holds part of the mask."""
    build_rsici(["scenes:30,seed=3,size=64,easy=1"], tmp_path / "data")
    records = [r for r in read_jsonl(tmp_path / "data" / INSTRUCTIONS, Instruction) if r.changed]
    views = Views(PairDataset(tmp_path / "data", records, lambda record: record.answers), swapped=False)  # type: ignore[union-attr]
    checked = 0
    for number in range(len(views)):
        seen = views[number]
        assert seen.mask is not None
        rows, columns = np.nonzero(seen.mask)
        where = {"top": rows.mean() < 28, "bottom": rows.mean() > 36, "left": columns.mean() < 28}
        where["right"] = columns.mean() > 36
        for answer in seen.answers:
            for fact in parse(answer).facts:
                for edge in (fact.place or "center").split("_"):
                    if edge in where:
                        assert where[edge], (answer, rows.mean(), columns.mean())
                        checked += 1
    assert checked > 500


def test_an_epoch_with_turns_is_as_long_as_without(tiny_checkpoints: dict[str, Path], tmp_path: Path) -> None:
    build_rsici(["scenes:20,seed=7,size=64,easy=1"], tmp_path / "data")
    steps = []
    for turns in (False, True):
        recipe = SFTRecipe(
            model=str(tiny_checkpoints["qwen2_5_vl"]), data=tmp_path / "data", out=tmp_path / f"out_{turns}",
            learning_rate=1e-3, turns=turns, log_steps=1, batch_size=4,
        )  # fmt: skip
        train_sft(recipe)
        lines = (recipe.out / "log.jsonl").read_text(encoding="utf-8").splitlines()
        steps.append(max(json.loads(line)["step"] for line in lines))
    assert steps[0] == steps[1] == 4
