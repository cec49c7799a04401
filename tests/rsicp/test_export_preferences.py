"""RSICP in others' forms: TRL's by its own loader and trainer, LLaMA-Factory's by what its converter checks.

LLaMA-Factory does not install beside our pins (see tests/rsici/test_export.py).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from rsiccllm.cli import app
from rsiccllm.errors import InputError
from rsiccllm.files import write_jsonl
from rsiccllm.records import PREFERENCES, Preference, Rejected
from rsiccllm.rsicp.export import FORMS, export_preferences


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two records of train, with two and one rejected answers, and one of val."""
    random = np.random.default_rng(0)
    folder = tmp_path / "rsicp"
    (folder / "images").mkdir(parents=True)
    for name in ("a0", "b0", "a1", "b1"):
        Image.fromarray(random.integers(0, 255, (56, 56, 3), np.uint8)).save(folder / "images" / f"{name}.png")

    def record(number: int, split: str, *rejected: str) -> Preference:
        at = number % 2
        return Preference(
            id=str(number), pair=str(number), split=split, source="x", before=f"images/a{at}.png",
            after=f"images/b{at}.png", prompt="what changed?", chosen="a house is built",
            references=["a house is built"],
            rejected=[Rejected(text=text, kind="replace:object") for text in rejected],
        )  # fmt: skip

    write_jsonl(folder / PREFERENCES, [record(0, "train", "a road is built", "a house is removed"),
                                       record(1, "train", "nothing"), record(2, "val", "a lake")])  # fmt: skip
    return folder


def test_trl_trains_on_it(root: Path, tmp_path: Path, tiny_checkpoints: dict[str, Path]) -> None:
    from datasets import load_dataset
    from trl import DPOConfig, DPOTrainer

    from rsiccllm.model.processor import load_processor
    from rsiccllm.model.vlm import load_model

    assert export_preferences(root, "trl", tmp_path / "out") == {"train": 3, "val": 1}
    loaded = load_dataset("imagefolder", data_dir=str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    # `datasets` names the folder val "validation".
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 3, "validation": 1}
    rows = list(loaded["train"])
    assert [(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in rows] == [
        ("a house is built", "a road is built"),
        ("a house is built", "a house is removed"),
        ("a house is built", "nothing"),
    ]
    with Image.open(root / "images" / "b1.png") as image:
        assert rows[2]["images"][1].tobytes() == image.tobytes()
    folder = tiny_checkpoints["qwen2_5_vl"]
    settings = DPOConfig(str(tmp_path / "run"), report_to="none", use_cpu=True, bf16=False, max_length=None,
                         per_device_train_batch_size=3, max_steps=1, save_strategy="no", disable_tqdm=True)  # fmt: skip
    trainer = DPOTrainer(load_model(folder, "none"), args=settings, train_dataset=loaded["train"],
                         processing_class=load_processor(folder))  # fmt: skip
    assert trainer.train().training_loss == pytest.approx(0.693147, abs=1e-4)


def test_llama_factory_schema(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert export_preferences(root, "llama-factory", out, most=1) == {"train": 2, "val": 1}
    info: dict[str, Any] = json.loads((out / "dataset_info.json").read_text(encoding="utf-8"))
    assert set(info) == {"rsicp_train", "rsicp_val"}
    for entry in info.values():
        assert (entry["formatting"], entry["ranking"]) == ("sharegpt", True)
        columns = entry["columns"]
        for row in json.loads((out / entry["file_name"]).read_text(encoding="utf-8")):
            # Its converter wants an odd count of turns, the last one human, and answers that are turns of gpt.
            assert [turn["from"] for turn in row[columns["messages"]]] == ["human"]
            assert {row[columns[name]]["from"] for name in ("chosen", "rejected")} == {"gpt"}
            assert row[columns["messages"]][0]["value"].count("<image>") == len(row[columns["images"]]) == 2
            assert all((out / path).is_file() for path in row[columns["images"]])


def test_by_the_command(root: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["rsicp", "export", str(root), "--form", "trl", "--out", str(tmp_path / "out")])
    assert done.exit_code == 0
    assert "out: 3 train, 1 val" in done.output


def test_what_is_refused(root: Path, tmp_path: Path) -> None:
    assert set(FORMS) == {"trl", "llama-factory"}
    with pytest.raises(InputError, match="--form: unknown 'qwen', expected one of trl, llama-factory"):
        export_preferences(root, "qwen", tmp_path / "out")
    export_preferences(root, "trl", tmp_path / "out")
    with pytest.raises(InputError, match="holds no earlier export of RSICP in the form llama-factory"):
        export_preferences(root, "llama-factory", tmp_path / "out")
    with pytest.raises(InputError, match=r"preferences\.jsonl"):
        export_preferences(tmp_path, "trl", tmp_path / "p")
    (root / "images" / "a1.png").unlink()
    with pytest.raises(InputError, match=r"a1\.png: no such file, named by record '1' in preferences\.jsonl"):
        export_preferences(root, "trl", tmp_path / "q")
