"""A model folder of a stranger's: nothing in it is run, and nothing that is damaged is used."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from rsiccllm.benchmark.models import Checkpoint
from rsiccllm.benchmark.similarity import SentenceEncoder
from rsiccllm.caption.captioner import Captioner
from rsiccllm.errors import InputError
from rsiccllm.model.checkpoint import WHOLE, damaged, mark_whole, save_model
from rsiccllm.model.processor import load_processor
from rsiccllm.model.stock import VisionLanguageModel
from rsiccllm.model.vlm import load_model


class Bomb:
    """A pickle of it creates a file when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def copy(tiny_checkpoints: dict[str, Path], tmp_path: Path) -> Path:
    folder = tmp_path / "copy"
    shutil.copytree(tiny_checkpoints["qwen2_5_vl"], folder)
    return folder


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pkl", "optimizer.pt", "weights.PTH"])
def test_a_pickle_is_refused_with_the_reason_and_not_run(copy: Path, tmp_path: Path, name: str) -> None:
    mark = tmp_path / "run"
    (copy / name).write_bytes(pickle.dumps(Bomb(mark)))
    for load in (load_model, Captioner.load, Checkpoint, VisionLanguageModel.load, SentenceEncoder):
        with pytest.raises(InputError, match=rf"{name}: a pickle, .* only safetensors are read") as caught:
            load(str(copy))
        assert "\n" not in str(caught.value)
    assert not mark.exists()
    pickle.loads((copy / name).read_bytes())
    assert mark.exists(), "the pickle does nothing, and so proves nothing"


def test_pickled_weights_are_not_read_from_the_hub_either(
    tiny_checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder stands for the hub's cache: what counts is what the weights' loader is told."""
    folder = tmp_path / "weights"
    shutil.copytree(tiny_checkpoints["qwen2_5_vl"], folder)
    model = load_model(folder)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    monkeypatch.setattr("rsiccllm.model.checkpoint.refuse_pickles", lambda name: None)
    with pytest.raises(InputError, match=r"could not be loaded \(.*model\.safetensors"):
        load_model(folder)


@pytest.mark.parametrize("kind", ["unknown", "known"])
def test_code_that_comes_with_a_model_is_never_run(copy: Path, tmp_path: Path, kind: str) -> None:
    mark = tmp_path / "run"
    code = f"import os\nos.mkdir({str(mark)!r})\nfrom transformers import PretrainedConfig, PreTrainedModel\n"
    code += "class C(PretrainedConfig):\n    model_type = 'strange'\nclass M(PreTrainedModel):\n    config_class = C\n"
    (copy / "theirs.py").write_text(code, encoding="utf-8")
    for name in ("config.json", "processor_config.json", "tokenizer_config.json"):
        fields = json.loads((copy / name).read_text(encoding="utf-8"))
        fields["auto_map"] = {
            "AutoConfig": "theirs.C",
            "AutoModel": "theirs.M",
            "AutoModelForImageTextToText": "theirs.M",
            "AutoProcessor": "theirs.M",
            "AutoTokenizer": ["theirs.M", "theirs.M"],
        }
        if kind == "unknown" and name == "config.json":
            fields["model_type"] = "strange"
        (copy / name).write_text(json.dumps(fields), encoding="utf-8")
    if kind == "unknown":
        for load in (load_model, Captioner.load, Checkpoint, VisionLanguageModel.load):
            with pytest.raises(InputError, match="it needs Python code of its own, which is never run"):
                load(str(copy))
        with pytest.raises(InputError, match="cannot be loaded"):
            SentenceEncoder(str(copy))
    else:
        load_model(copy)
        load_processor(copy)
        VisionLanguageModel.load(str(copy))
    assert not mark.exists()


def test_code_of_a_model_is_not_asked_for_on_a_terminal(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers' default is to ask "Do you wish to run the custom code?", and to wait."""
    fields = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    fields |= {"model_type": "strange", "auto_map": {"AutoConfig": "theirs.C"}}
    (copy / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    (copy / "theirs.py").write_text("", encoding="utf-8")
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda question="": asked.append(question) or "n")
    with pytest.raises(InputError, match="needs Python code of its own"):
        load_model(copy)
    assert not asked


def test_damage_to_a_model_is_one_line(tiny_checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """A flipped byte in a weight gives other captions and no error; every file is therefore held to its checksum."""
    plain, folder = tiny_checkpoints["qwen2_5_vl"], tmp_path / "model"
    save_model(load_model(plain, "ours"), load_processor(plain), folder)
    assert load_model(folder) is not None
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(json.loads(whole[WHOLE])) == set(whole) - {WHOLE}
    (folder / "README.md").write_text("what others put beside it does not count", encoding="utf-8")
    assert damaged(folder) is None
    for name in ("model.safetensors", "config.json", "tokenizer.json", "generation_config.json"):
        data = bytearray(whole[name])
        data[len(data) * 2 // 3] ^= 1
        (folder / name).write_bytes(data)
        assert damaged(folder) == f"{name} is damaged or was edited"
        with pytest.raises(InputError) as caught:
            load_model(folder)
        assert "\n" not in str(caught.value)
        (folder / name).write_bytes(whole[name])
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"model: model\.safetensors is missing; take a whole copy"):
        load_model(folder)
    (folder / "model.safetensors").write_bytes(whole["model.safetensors"])
    for text in ("{", "[]", "{}", '{"../x": "0"}', '{"config.json": 3}'):
        (folder / WHOLE).write_text(text, encoding="utf-8")
        assert damaged(folder) is not None
        with pytest.raises(InputError):
            load_model(folder)


def test_a_foreign_optimizer_state_is_read_without_running_it(tmp_path: Path) -> None:
    """A run folder of a stranger's, resumed: its checksums are right, and its optimizer's state is a program."""
    from rsiccllm.rsici.build import build_rsici
    from rsiccllm.training.recipe import SFTRecipe
    from rsiccllm.training.sft import train_sft

    build_rsici(["scenes:8,seed=7,size=64,easy=1"], tmp_path / "data")
    base = tiny(tmp_path / "base")
    fields = {"model": str(base), "data": tmp_path / "data", "out": tmp_path / "out", "batch_size": 4,
              "learning_rate": 1e-3, "max_steps": 2, "save_steps": 1}  # fmt: skip
    recipe = SFTRecipe.model_validate(fields)
    train_sft(recipe)
    shutil.rmtree(recipe.out / "model")
    shutil.rmtree(recipe.out / "checkpoints" / "checkpoint-2")
    folder = recipe.out / "checkpoints" / "checkpoint-1"
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        held, mark = (folder / name).read_bytes(), tmp_path / f"run_{name}"
        torch.save({"state": Bomb(mark)}, folder / name)
        mark_whole(folder)
        with pytest.raises(InputError, match=r"checkpoint-1: .* holds more than tensors") as caught:
            train_sft(recipe)
        assert "\n" not in str(caught.value)
        assert not mark.exists()
        (folder / name).write_bytes(held)
    mark_whole(folder)
    train_sft(recipe)


def tiny(folder: Path) -> Path:
    from rsiccllm.model.processor import build_tiny_processor
    from rsiccllm.model.tiny import build_tiny_model

    processor = build_tiny_processor(["a house is built in the top left corner"] * 4, 300, patch_size=14)
    model = build_tiny_model(processor, width=64, layers=1, vision_width=32, vision_layers=1)
    save_model(model, processor, folder)
    return folder
