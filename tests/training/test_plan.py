from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rsiccllm.cli import app
from rsiccllm.errors import InputError
from rsiccllm.files import read_jsonl
from rsiccllm.model.processor import build_tiny_processor
from rsiccllm.model.sizes import published_config
from rsiccllm.model.vlm import load_model
from rsiccllm.records import INSTRUCTIONS, Instruction
from rsiccllm.rsici.build import build_rsici
from rsiccllm.rsicp.build import build_rsicp
from rsiccllm.training.learning import load_to_train
from rsiccllm.training.plan import BUSY, GPUS, plan
from rsiccllm.training.recipe import DNPORecipe, SFTRecipe, load_recipe


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("plan")
    build_rsici(["scenes:40,seed=7,size=64,easy=1"], folder / "rsici")
    build_rsicp(folder / "rsici", folder / "rsicp")
    return folder / "rsici", folder / "rsicp"


@pytest.mark.parametrize("lora", [None, 4])
def test_parameters_are_those_that_training_finds(
    tiny_checkpoints: dict[str, Path], data: tuple[Path, Path], tmp_path: Path, lora: int | None
) -> None:
    base = str(tiny_checkpoints["qwen2_5_vl"])
    recipe = SFTRecipe(
        model=base, data=data[0], out=tmp_path / "o", learning_rate=1e-4, lora_rank=lora, train_vision=False
    )
    found = plan(recipe).parameters
    model = load_to_train(base, recipe, "ours")
    weights = {name: weight for name, weight in model.named_parameters() if ".original_module." not in name}
    assert sum(every for every, _ in found.values()) == sum(weight.numel() for weight in weights.values())
    assert sum(trained for _, trained in found.values()) == sum(
        weight.numel() for weight in weights.values() if weight.requires_grad
    )
    assert found["vision tower"][1] == 0
    assert found["difference path"][0] == found["difference path"][1] > 0
    assert ("LoRA adapters" in found) is (lora is not None)


def test_steps_tokens_memory_and_time_by_hand(
    tiny_checkpoints: dict[str, Path], data: tuple[Path, Path], tmp_path: Path
) -> None:
    recipe = SFTRecipe(
        model=str(tiny_checkpoints["qwen2_5_vl"]), data=data[0], out=tmp_path / "o", learning_rate=1e-4, batch_size=4,
        accumulate=2, epochs=3, variant="none", max_answers=1,
    )  # fmt: skip
    found = plan(recipe)
    assert found.pairs == 32
    assert found.steps == 12  # 32 rows, 8 an update, 3 times
    # A side of 56 is raised to the processor's least, 112 = 4 tokens: 16 an image, 2 images, 8 rows.
    assert found.tokens["images"] == 8 * 2 * 16
    weights = sum(every for every, _ in found.parameters.values())
    assert found.memory["weights"] == found.memory["gradients"] == 4 * weights
    assert found.memory["AdamW"] == 8 * weights
    longest = found.tokens["longest row"]
    assert found.memory["activations"] == 17 * 4 * (4 * longest) * 64 * 2  # width 64, 2 layers, float32
    peak, _ = GPUS["a100"]
    assert found.hours("a100") == pytest.approx(12 * found.operations / (BUSY * peak) / 3600)
    assert set(found.parameters) == {"vision tower", "embeddings and head", "language model"}
    assert sum(every for every, _ in found.parameters.values()) == load_model(recipe.model).num_parameters()


def test_lora_takes_less_than_all_weights_and_dnpo_more_than_sft(
    tiny_checkpoints: dict[str, Path], data: tuple[Path, Path], tmp_path: Path
) -> None:
    common = {"model": str(tiny_checkpoints["qwen3_vl"]), "out": tmp_path / "o", "learning_rate": 1e-4}
    whole = plan(SFTRecipe(data=data[0], **common))
    light = plan(SFTRecipe(data=data[0], lora_rank=4, bf16=True, train_vision=False, **common))
    assert light.total_memory < whole.total_memory
    assert light.operations < whole.operations
    preferences = plan(DNPORecipe(data=data[1], **common))
    assert preferences.memory["reference, a frozen copy"] == 4 * sum(e for e, _ in preferences.parameters.values())
    adapters = plan(DNPORecipe(data=data[1], lora_rank=4, bf16=True, **common))
    assert "reference, a frozen copy" not in adapters.memory


@pytest.fixture(scope="module")
def published(data: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The large bases without weights: their true configurations, with a small tokenizer."""
    records = read_jsonl(data[0] / INSTRUCTIONS, Instruction)
    texts = [text for record in records for text in (record.prompt, *record.answers)]
    folders = {}
    for size, patch in (("qwen2_5_vl_7b", 14), ("qwen3_vl_8b", 16)):
        folders[size] = tmp_path_factory.mktemp(size)
        build_tiny_processor(texts, 1000, patch).save_pretrained(folders[size])
        published_config(size).save_pretrained(folders[size])
    return folders


LARGE = sorted((Path(__file__).resolve().parents[2] / "recipes").glob("qwen*.yaml"))


@pytest.mark.parametrize("path", LARGE, ids=lambda path: path.stem)
def test_recipes_of_large_models_fit_where_they_say(
    published: dict[str, Path], data: tuple[Path, Path], path: Path
) -> None:
    size = next(name for name in published if path.stem.startswith(name))
    if path.stem.endswith("dnpo"):
        recipe = load_recipe(path, DNPORecipe, [f"model={published[size]}", f"data={data[1]}"])
        found = plan(recipe)
    else:
        found = plan(load_recipe(path, SFTRecipe, [f"model={published[size]}", f"data={data[0]}"]),
                     8 if "fsdp" in path.stem else 1)  # fmt: skip
    base = sum(
        every for part, (every, _) in found.parameters.items() if part not in {"LoRA adapters", "difference path"}
    )
    # As counted in the published checkpoints.
    assert base == {"qwen2_5_vl_7b": 8_292_166_656, "qwen3_vl_8b": 8_767_123_696}[size]
    said = re.search(r"(\d+) GB", path.read_text(encoding="utf-8").split("\n")[0])
    if said:
        assert found.total_memory < 0.9e9 * int(said[1])


def test_what_fits_by_what_is_chosen(published: dict[str, Path], data: tuple[Path, Path], tmp_path: Path) -> None:
    """By hand: NF4, activations computed again, weights over eight devices."""
    common = {"model": str(published["qwen2_5_vl_7b"]), "data": data[0], "out": tmp_path / "o", "learning_rate": 1e-4}
    light = {**common, "lora_rank": 4, "bf16": True, "train_vision": False}
    plain, four = plan(SFTRecipe(**light)), plan(SFTRecipe(load_in_4bit=True, **light))
    layers = plain.parameters["language model"][0]
    assert plain.memory["weights"] - four.memory["weights"] == pytest.approx((2 - 0.516) * layers)
    again = plan(SFTRecipe(gradient_checkpointing=True, **light))
    assert again.memory["activations"] / plain.memory["activations"] == pytest.approx((2 * 28 + 34) / (34 * 28))
    assert again.operations > plain.operations
    whole, split = plan(SFTRecipe(**common)), plan(SFTRecipe(fsdp=True, **common), 8)
    assert split.memory["AdamW"] == whole.memory["AdamW"] / 8
    assert split.memory["activations"] == whole.memory["activations"]
    assert (whole.steps, split.steps) == (4, 1)  # 32 rows, 8 a step on one, 64 on eight


def test_the_command_prints_it_and_loads_no_weights(
    tiny_checkpoints: dict[str, Path], data: tuple[Path, Path], tmp_path: Path
) -> None:
    config = tmp_path / "bare"
    config.mkdir()
    for path in tiny_checkpoints["qwen2_5_vl"].iterdir():
        if path.suffix != ".safetensors":
            (config / path.name).write_bytes(path.read_bytes())
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"model: {config}\ndata: {data[0]}\nout: {tmp_path / 'o'}\nlearning_rate: 1e-4\n")
    result = CliRunner().invoke(app, ["train", "plan", str(recipe), "batch_size=2"])
    assert result.exit_code == 0, result.output
    assert "16 updates" in result.output
    assert "not measured" in result.output
    with pytest.raises(InputError, match="no such folder"):
        plan(SFTRecipe(model=str(config), data=tmp_path / "none", out=tmp_path / "o", learning_rate=1e-4))


def test_updates_are_counted_as_the_trainer_counts(
    tiny_checkpoints: dict[str, Path], data: tuple[Path, Path], tmp_path: Path
) -> None:
    rows = 32  # of 40 scenes, the split train
    for fields, updates in (
        ({"batch_size": 20, "epochs": 3}, 6),
        ({"batch_size": 3, "accumulate": 4, "epochs": 2}, 6),
        ({"batch_size": rows, "epochs": 1}, 1),
    ):
        recipe = SFTRecipe(model=str(tiny_checkpoints["qwen2_5_vl"]), data=data[0], out=tmp_path / "o",
                           learning_rate=1e-4, max_steps=None, **fields)  # fmt: skip
        assert plan(recipe).steps == updates, fields
