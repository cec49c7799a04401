"""Each form by the tool's own loader where it installs beside our pins, else by its documented schema.

TRL and datasets do. LLaMA-Factory 0.9.5 (datasets <= 4.0, trl <= 0.24, torchaudio) and ms-swift 4.6 (trl < 1.0,
transformers < 5.20) do not, and Qwen's scripts are no package: their tests check what their readers check.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rsiccllm.errors import InputError
from rsiccllm.files import read_jsonl, write_jsonl
from rsiccllm.records import INSTRUCTIONS, Instruction, Turn
from rsiccllm.rsici.export import FORMS, export
from rsiccllm.rsici.review.decisions import REVIEWS, Decision


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three records: two answers, a dialogue, and one of another split over an image of the first."""
    random = np.random.default_rng(0)
    (tmp_path / "rsici" / "images").mkdir(parents=True)
    for name in ("a0", "b0", "a1", "b1"):
        pixels = random.integers(0, 255, (56, 56, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "rsici" / "images" / f"{name}.png")
    common: dict[str, Any] = {
        "source": "x",
        "task": "caption",
        "prompt": "What changed?",
        "before": "images/a0.png",
        "after": "images/b0.png",
    }
    other = {**common, "before": "images/a1.png", "after": "images/b1.png"}
    records = [
        Instruction(id="0", pair="0", answers=["a house", "one house"], **common),
        Instruction(
            **{**other, "prompt": "Where?"},
            id="1",
            pair="1",
            answers=["at the top"],
            history=[Turn(question="Did anything change?", answer="yes")],
        ),
        Instruction(id="2", pair="2", split="test", answers=["nothing"], **common),
    ]
    write_jsonl(tmp_path / "rsici" / INSTRUCTIONS, records)
    return tmp_path / "rsici"


def check_images(out: Path, paths: list[str], names: tuple[str, str], root: Path) -> None:
    assert [(out / path).read_bytes() for path in paths] == [(root / "images" / n).read_bytes() for n in names]


def test_trl_by_its_own_loader(root: Path, tmp_path: Path, tiny_checkpoints: dict[str, Path]) -> None:
    from datasets import load_dataset
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    from rsiccllm.model.processor import load_processor

    assert export(root, "trl", tmp_path / "out") == {"test": 1, "train": 3}
    loaded = load_dataset("imagefolder", data_dir=str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 3, "test": 1}
    rows = list(loaded["train"])
    assert [row["completion"][0]["content"] for row in rows] == ["a house", "one house", "at the top"]
    assert [turn["role"] for turn in rows[2]["prompt"]] == ["user", "assistant", "user"]
    with Image.open(root / "images" / "b1.png") as image:
        assert rows[2]["images"][1].tobytes() == image.tobytes()
    processor = load_processor(tiny_checkpoints["qwen2_5_vl"])
    batch = DataCollatorForVisionLanguageModeling(processor, completion_only_loss=True)(rows)
    assert batch["input_ids"].shape[0] == 3
    assert batch["image_grid_thw"].shape[0] == 6, "two images a sample"
    learnt = [
        processor.tokenizer.decode(ids[labels >= 0])
        for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True)
    ]
    assert ["at the top" in text for text in learnt] == [False, False, True]
    assert "yes" not in learnt[2]


def test_llama_factory_schema(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(root, "llama-factory", out)
    info = json.loads((out / "dataset_info.json").read_text(encoding="utf-8"))
    assert set(info) == {"rsici_train", "rsici_test"}
    for entry in info.values():
        assert set(entry) == {"file_name", "formatting", "columns"}
        assert entry["formatting"] == "sharegpt"
        messages, images = entry["columns"]["messages"], entry["columns"]["images"]
        for row in json.loads((out / entry["file_name"]).read_text(encoding="utf-8")):
            said = row[messages]
            # Its converter skips a sample whose turns do not alternate or whose count is odd.
            assert len(said) % 2 == 0
            assert [turn["from"] for turn in said] == ["human", "gpt"] * (len(said) // 2)
            assert sum(turn["value"].count("<image>") for turn in said) == len(row[images]) == 2
            assert said[0]["value"].startswith("<image><image>")
            assert all((out / path).is_file() for path in row[images])
    rows = json.loads((out / "train.json").read_text(encoding="utf-8"))
    assert [turn["value"] for turn in rows[2]["conversations"]] == [
        "<image><image>Did anything change?", "yes", "Where?", "at the top",
    ]  # fmt: skip
    check_images(out, rows[2]["images"], ("a1.png", "b1.png"), root)


def test_ms_swift_schema(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(root, "ms-swift", out)
    rows = [json.loads(line) for line in (out / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 3
    for row in rows:
        assert set(row) == {"messages", "images"}
        assert {turn["role"] for turn in row["messages"]} == {"user", "assistant"}
        assert row["messages"][-1]["role"] == "assistant"
        assert "".join(turn["content"] for turn in row["messages"]).count("<image>") == 2
    check_images(out, rows[0]["images"], ("a0.png", "b0.png"), root)


def test_qwen_schema(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(root, "qwen", out, answers="first")
    rows = json.loads((out / "train.json").read_text(encoding="utf-8"))
    assert [row["id"] for row in rows] == ["0", "1"]
    for row in rows:
        # Its reader joins paths to data_path and wants as many placeholders in the questions as there are images.
        asked = [turn["value"] for turn in row["conversations"] if turn["from"] == "human"]
        assert sum(text.count("<image>") for text in asked) == len(row["image"])
        assert all((out / path).is_file() for path in row["image"])
        assert [turn["from"] for turn in row["conversations"]][-1] == "gpt"


def test_reviewed(root: Path, tmp_path: Path) -> None:
    lines = [
        Decision(item="0", reviewer="a", choice="edit", answers=["a house", "one house"], edited=["a barn"], at="1"),
        Decision(item="2", reviewer="a", choice="reject", answers=["nothing"], at="1"),
    ]
    write_jsonl(root / REVIEWS, lines)
    assert export(root, "qwen", tmp_path / "out", reviewed=True) == {"train": 2}
    assert "a barn" in (tmp_path / "out" / "train.json").read_text(encoding="utf-8")


def test_what_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--form: unknown 'coco', expected one of trl, llama-factory, ms-swift, qwen"):
        export(root, "coco", tmp_path / "out")
    export(root, "qwen", tmp_path / "out")
    export(root, "qwen", tmp_path / "out")  # again is the same
    with pytest.raises(InputError, match="holds no earlier export of RSICI in the form trl"):
        export(root, "trl", tmp_path / "out")
    with pytest.raises(InputError, match=r"instructions\.jsonl"):
        export(tmp_path, "qwen", tmp_path / "p")
    images = {"before": "images/a0.png", "after": "images/b0.png"}
    record = Instruction(id="9", pair="9", source="x", task="caption", prompt="<image> twice?", answers=["a"], **images)
    write_jsonl(root / INSTRUCTIONS, [record])
    for form in FORMS[1:]:
        with pytest.raises(InputError, match="record '9' holds the text '<image>'"):
            export(root, form, tmp_path / form)
    assert export(root, "trl", tmp_path / "trl") == {"train": 1}
    write_jsonl(root / INSTRUCTIONS, [record.model_copy(update={"after": "images/gone.png"})])
    with pytest.raises(InputError, match=r"gone\.png: no such file, named by record '9'"):
        export(root, "trl", tmp_path / "trl2")


@pytest.mark.parametrize("form", FORMS)
def test_an_earlier_export_of_other_records_leaves_nothing(root: Path, tmp_path: Path, form: str) -> None:
    out = tmp_path / "out"
    assert set(export(root, form, out)) == {"train", "test"}
    kept = [record for record in read_jsonl(root / INSTRUCTIONS, Instruction) if record.split == "train"]
    write_jsonl(root / INSTRUCTIONS, kept)
    Image.new("RGB", (56, 56), "red").save(root / "images" / "new.png")
    (root / "images" / "new.png").replace(root / "images" / "a0.png")
    assert set(export(root, form, out)) == {"train"}
    lists = {path.relative_to(out).as_posix() for path in out.rglob("*.json*")} - {"dataset_info.json"}
    assert lists
    assert all("train" in name for name in lists)
    images = [path for path in out.rglob("a0.png") if "test" not in path.parts]
    assert [path.read_bytes() for path in images] == [(root / "images" / "a0.png").read_bytes()]
