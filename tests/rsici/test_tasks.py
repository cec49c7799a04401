"""Tasks: what each asks and answers, worked out by hand; boxes against Qwen's own resizing."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from rsiccllm.errors import InputError
from rsiccllm.facts import Known
from rsiccllm.files import read_jsonl
from rsiccllm.records import INSTRUCTIONS, ImagePair, Instruction, Turn
from rsiccllm.rsici.build import BuildSettings, build_rsici
from rsiccllm.rsici.prior import Prior, mask_prior
from rsiccllm.rsici.prompts import PROMPTS, VERSION, prompt_table, question
from rsiccllm.rsici.tasks import (
    MOST,
    TASKS,
    Accepted,
    TaskSettings,
    boxes_of,
    instructions,
    qwen2_5_size,
    read_shares,
    read_tasks,
)
from rsiccllm.sources.base import ChangeMask

PAIR = ImagePair(id="p", before="images/s/a.png", after="images/s/b.png", mask="images/s/m.png", changed=True)
ALL = TaskSettings(TASKS)


def two_regions(scope: str | None = None) -> Prior:
    values = np.zeros((100, 200), np.uint8)
    values[5:25, 10:40] = 1
    values[70:90, 150:190] = 1
    return mask_prior(ChangeMask(values, {1: (Known("building", "appear", "build"),)}), scope=scope)


def made(prior: Prior, pair: ImagePair = PAIR, settings: TaskSettings = ALL) -> dict[str, Instruction]:
    accepted = {
        "describe": Accepted(("Houses have been built.",), "rules"),
        "caption": Accepted(("houses are built", "some houses appear"), "openai:m", f"{VERSION}/caption/1"),
        "kind": Accepted(("Buildings have been built.",), "rules"),
    }
    return {record.id.split("/", 1)[1]: record for record in instructions(pair, "s", prior, accepted, settings)}


def test_every_task_of_a_changed_pair() -> None:
    records = made(two_regions())
    assert set(records) == {
        "describe",
        "caption",
        "changed",
        "kind",
        "count",
        "where",
        "where_box",
        "order",
        "dialogue",
    }
    assert records["caption"].answers == ["houses are built", "some houses appear"]
    assert (records["caption"].teacher, records["caption"].asked) == ("openai:m", "v1/caption/1")
    assert records["changed"].answers == ["Yes."]
    assert records["count"].answers == ["2"]
    assert records["where"].answers == ["In the top left and in the bottom right."]
    # 200 x 100 is resized to 196 x 112: x * 0.98, y * 1.12
    assert json.loads(records["where_box"].answers[0]) == [
        {"bbox_2d": [10, 6, 39, 28], "label": "building"},
        {"bbox_2d": [147, 78, 186, 101], "label": "building"},
    ]
    dialogue = records["dialogue"]
    assert [turn.answer for turn in dialogue.history] == [
        "Yes.", "Buildings have been built.", "In the top left and in the bottom right.",
    ]  # fmt: skip
    assert dialogue.answers == ["Houses have been built."]


def test_boxes_of_qwen3_are_thousandths() -> None:
    found = json.loads(boxes_of(two_regions(), "qwen3"))
    assert found[0]["bbox_2d"] == [50, 50, 200, 250]
    assert found[1]["bbox_2d"] == [750, 700, 950, 900]


def test_the_size_is_what_qwens_processor_makes_of_it() -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    for width, height in [
        (256, 256),
        (200, 100),
        (28, 28),
        (1024, 1024),
        (50, 50),
        (952, 640),
        (5000, 4000),
        (30, 700),
    ]:
        expected = smart_resize(height, width, 28, 56 * 56, 16384 * 28 * 28)
        assert qwen2_5_size(width, height) == expected[::-1]


def test_a_pair_without_a_change() -> None:
    values = ChangeMask(np.zeros((64, 64), np.uint8))
    records = made(mask_prior(values))
    assert records["changed"].answers == ["No."]
    assert (records["count"].answers, records["where_box"].answers) == (["0"], ["[]"])
    assert "order" not in records
    scoped = made(mask_prior(values, scope="building"))
    for task in ("changed", "count", "where", "where_box"):  # of the rest of the ground the answer tells nothing
        assert "building" in scoped[task].prompt
    assert scoped["where"].answers == ["Nowhere: no building changed."]


def test_order_swaps_the_images_of_half_the_pairs() -> None:
    answers = Counter()
    for number in range(200):
        pair = PAIR.model_copy(update={"id": f"p{number}", "coded_mask": True})
        record = made(two_regions(), pair)["order"]
        swapped = record.before == PAIR.after
        assert not (swapped and record.coded_mask), "the codes would say that what came has gone"
        assert record.answers == [f"The {'second' if swapped else 'first'} image is the earlier one."]
        assert "built" in record.prompt or "constructed" in record.prompt or "appeared" in record.prompt
        answers[swapped] += 1
    assert 70 < answers[True] < 130


def test_no_order_where_no_direction_is_known() -> None:
    values = np.zeros((100, 100), np.uint8)
    values[5:25, 10:40] = 1
    assert "order" not in made(mask_prior(ChangeMask(values, {1: (Known("building"),)}), scope="building"))
    assert "order" not in made(mask_prior(ChangeMask(values)))


def test_many_regions_are_neither_counted_nor_boxed() -> None:
    values = np.zeros((200, 200), np.uint8)
    for number in range(MOST + 1):
        row, column = divmod(number, 6)
        values[30 * row : 30 * row + 10, 30 * column : 30 * column + 10] = 1
    records = made(mask_prior(ChangeMask(values)))
    assert "count" not in records
    assert "where_box" not in records
    assert "where" in records


def test_the_sources_own_dialogues_are_taken_as_they_are() -> None:
    turns = [Turn(question="What?", answer="Houses."), Turn(question="Where?", answer="Left.")]
    records = made(two_regions(), PAIR.model_copy(update={"dialogues": [turns]}))
    assert "dialogue" not in records
    last = records["dialogue/0"]
    assert (last.history, last.prompt, last.answers, last.teacher) == (turns[:1], "Where?", ["Left."], "source")


def test_shares_draw_the_same_pairs_every_time() -> None:
    settings = TaskSettings(("caption", "count"), {"count": 0.25})
    drawn = [settings.wants("count", f"p{number}") for number in range(2000)]
    assert 0.2 < np.mean(drawn) < 0.3
    assert drawn == [settings.wants("count", f"p{number}") for number in range(2000)]
    assert drawn != [TaskSettings(("count",), {"count": 0.25}, seed=1).wants("count", f"p{n}") for n in range(2000)]
    assert not settings.wants("describe", "p0")
    assert all(settings.wants("caption", f"p{number}") for number in range(50))


def test_phrasings() -> None:
    for task, texts in prompt_table()["questions"].items():
        assert len(texts) >= 3
        assert len(set(texts)) == len(texts)
        assert {question(task, str(n), scope="road", change="x") for n in range(60)} == {
            text.format(scope="road", change="x") for text in texts
        }
    assert {question("caption", str(number), 1) for number in range(9)} == {PROMPTS["caption"]}


def test_settings_that_are_refused() -> None:
    assert read_tasks("all") == TASKS
    assert read_tasks("paper") == ("describe",)
    assert read_tasks(" caption, count,caption") == ("caption", "count")
    assert read_shares("caption=0.5, count=1") == {"caption": 0.5, "count": 1.0}
    for call, message in (
        (lambda: TaskSettings(()), "at least one task"),
        (lambda: TaskSettings(("poem",)), "unknown task 'poem'"),
        (lambda: TaskSettings(("caption",), {"count": 1}), "'count' is not among the tasks caption"),
        (lambda: TaskSettings(("caption",), {"caption": 1.5}), "caption=1.5; expected a share from 0 to 1"),
        (lambda: read_shares("caption"), "'caption'; expected task=share"),
        (lambda: read_shares("caption=many"), "'caption=many'; expected task=share"),
    ):
        with pytest.raises(InputError, match=message):
            call()


def test_rendered_scenes_get_every_task(tmp_path: Path) -> None:
    counts = build_rsici(["scenes:30,seed=4,size=64,easy=1"], tmp_path, settings=BuildSettings(ALL))
    records = read_jsonl(tmp_path / INSTRUCTIONS, Instruction)
    assert len(records) == counts["instructions"]
    assert {record.task for record in records} == set(TASKS)
    by_task = Counter(record.task for record in records)
    assert by_task["caption"] == by_task["describe"] == by_task["changed"] == by_task["kind"] == 30
    # half of the scenes change, and all that changes there is known
    assert by_task["order"] == 15
    for record in records:
        if record.task == "changed":
            assert record.answers == ["Yes." if record.changed else "No."]
        assert record.teacher == ("source" if record.task in {"caption", "describe"} else record.teacher)
