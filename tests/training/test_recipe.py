from __future__ import annotations

import re
from pathlib import Path

import pytest

from rsiccllm.errors import InputError
from rsiccllm.training.recipe import DifferenceRecipe, DNPORecipe, SFTRecipe, load_recipe

RECIPES = sorted((Path(__file__).resolve().parents[2] / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_in_the_repository_is_valid(path: Path) -> None:
    kinds = {"dnpo": DNPORecipe, "difference": DifferenceRecipe}
    load_recipe(path, kinds.get(path.stem.rpartition("_")[2], SFTRecipe))
    assert re.search(
        r"rsiccllm(\.cli)? train (sft|dnpo|difference) ", path.read_text(encoding="utf-8").split("model:")[0]
    )


def test_overrides_win_and_exponents_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("model: base\ndata: d\nout: o\nlearning_rate: 1e-4\n", encoding="utf-8")
    assert load_recipe(path, SFTRecipe).learning_rate == 1e-4
    recipe = load_recipe(path, SFTRecipe, ["learning_rate=2e-5", "max_steps=7", "bf16=true", "data=2026", "model=1e5"])
    assert (recipe.learning_rate, recipe.max_steps, recipe.bf16) == (2e-5, 7, True)
    assert (recipe.data, recipe.model) == (Path("2026"), "1e5"), "what is text stays text"


def test_a_name_that_looks_like_a_number_stays_a_name(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("model: 1e5\ndata: 0E0\nout: 2e-4\nlearning_rate: 1e-4\n", encoding="utf-8")
    recipe = load_recipe(path, SFTRecipe)
    assert (recipe.model, recipe.data, recipe.out) == ("1e5", Path("0E0"), Path("2e-4"))
    assert recipe.learning_rate == 1e-4


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "learning_rte: 1e-4",
            "unknown field 'learning_rte'; did you mean 'learning_rate'. .expected one of .*batch_size",
        ),
        ("batch_size: 0", "field 'batch_size'.*greater than or equal to 1, got 0"),
        ("batch_size: many", "field 'batch_size'.*got 'many'"),
        ("variant: best", "field 'variant'.*'none'"),
        ("learning_rate: -1", "field 'learning_rate'"),
        ("min_pixels: 90000\nmax_pixels: 1000", "min_pixels=90000 is over max_pixels=1000"),
        ("train_vision: false\nlearning_rate: 1e-4\nvision_learning_rate: 1e-5", "nothing would learn at it"),
        ("train_vision: false\nlearning_rate: 1e-4\nmerger_learning_rate: 1e-5", "nothing would learn at it"),
        ("use_dora: true", "use_dora=true needs adapters: set lora_rank"),
        ("load_in_4bit: true", "load_in_4bit=true needs adapters"),
        ("attention: flash_attention_2", "takes no mask of one's own and no float32; set share=cache, bf16=true"),
        ("share: cache\ngradient_checkpointing: true", "share=cache: keeps keys and values"),
        ("fsdp: true\nema: 0.9", "fsdp: goes with neither ema"),
        ("seed: 5000000000", "field .seed.*less than 4294967296"),
        ("epochs: .inf", "field .epochs.*finite number"),
        ("map_weight: .nan", "field .map_weight."),
        ("a: [", "not valid YAML"),
        ("split: 2026-13-45", "not valid YAML"),
        ("a: " + 5000 * "[", "not valid YAML"),
        ("batch_size: 1e", "field 'batch_size'.*got '1e'"),
        ("model: 2026", "field 'model'.*got 2026"),
    ],
)
def test_mistakes_name_the_file_and_the_field(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(f"model: base\ndata: d\nout: o\n{line}\n", encoding="utf-8")
    with pytest.raises(InputError, match=message) as error:
        load_recipe(path, SFTRecipe, [] if "learning_rate" in line else ["learning_rate=1e-4"])
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_field_and_a_broken_override(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("model: base\n", encoding="utf-8")
    with pytest.raises(InputError, match="field 'data'"):
        load_recipe(path, SFTRecipe)
    with pytest.raises(InputError, match="expected field=value"):
        load_recipe(path, SFTRecipe, ["learning_rate"])
    with pytest.raises(InputError, match="no such file"):
        load_recipe(tmp_path / "none.yaml", SFTRecipe)


def test_a_password_in_a_url_is_not_repeated(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("model: m\nout: o\nlearning_rate: 1e-3\n", encoding="utf-8")
    with pytest.raises(InputError, match="with neither user, password") as caught:
        load_recipe(path, SFTRecipe, ["data=s3://key:secret@bucket/x"])
    assert "s3://...@bucket/x" in str(caught.value)
    assert "secret" not in str(caught.value)
