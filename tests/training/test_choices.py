"""What a recipe can choose: what learns and how fast, averages, mixes, kept features; and going on with all of them."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import sample
from PIL import Image
from pydantic import ValidationError
from safetensors.torch import load_file

from rsiccllm.errors import InputError
from rsiccllm.model.processor import load_processor
from rsiccllm.model.texture import line_texture
from rsiccllm.model.vlm import load_model
from rsiccllm.rsici.build import build_rsici
from rsiccllm.training.features import FeatureCache, TextureCache
from rsiccllm.training.learning import load_to_train
from rsiccllm.training.mix import MixSampler, shares
from rsiccllm.training.packing import PackingCollator
from rsiccllm.training.recipe import SFTRecipe
from rsiccllm.training.sft import SFTTrainer, sft_dataset, train_sft
from rsiccllm.training.trainer import part_of


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("data")
    build_rsici(["scenes:20,seed=7,size=64,easy=1"], folder / "one")
    build_rsici(["scenes:10,seed=8,size=64,easy=1"], folder / "two")
    return folder / "one", folder / "two"


def recipe_for(checkpoint: Path, data: Any, out: Path, **fields: Any) -> SFTRecipe:
    common = {"batch_size": 4, "max_steps": 2, "learning_rate": 1e-3, "log_steps": 1, "save_steps": 100,
              "warmup_steps": 0}  # fmt: skip
    return SFTRecipe.model_validate({"model": str(checkpoint), "data": data, "out": out, **common, **fields})


def losses(out: Path) -> list[float]:
    lines = (out / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry["loss"] for entry in map(json.loads, lines) if "loss" in entry]


@pytest.mark.parametrize(
    ("family", "fields", "learns"),
    [
        ("qwen2_5_vl", {}, {"difference", "merger", "vision", "language"}),
        ("qwen2_5_vl", {"train_vision": False}, {"difference", "language"}),
        ("qwen3_vl", {"train_vision": False, "train_merger": True}, {"difference", "merger", "language"}),
        ("qwen3_vl", {"train_vision": False, "train_merger": True, "train_language": False}, {"difference", "merger"}),
        ("qwen3_vl", {"train_vision": False, "train_merger": True, "lora_rank": 4},
         {"difference", "merger", "language"}),
        ("qwen2_5_vl", {"lora_rank": 4}, {"difference", "merger", "vision", "language"}),
    ],
)  # fmt: skip
def test_what_learns_and_what_stays(
    tiny_checkpoints: dict[str, Path], data: tuple[Path, Path], tmp_path: Path, family: str, fields: dict[str, Any],
    learns: set[str],
) -> None:  # fmt: skip
    checkpoint = tiny_checkpoints[family]
    recipe = recipe_for(checkpoint, data[0], tmp_path / "out", **fields)
    end = load_model(train_sft(recipe)).state_dict()
    start = load_model(checkpoint, "ours").state_dict()
    moved = {
        part_of(name)
        for name, weight in start.items()
        if name.startswith("model.") and ".difference." not in name and not end[name].float().equal(weight)
    }
    assert moved | {"difference"} == learns
    assert end["model.difference.out.weight"].any()


@pytest.mark.parametrize("adapters", [None, 2])
def test_each_part_has_its_learning_rate(
    tiny_checkpoints: dict[str, Path], data: tuple[Path, Path], tmp_path: Path, adapters: int | None
) -> None:
    checkpoint = tiny_checkpoints["qwen3_vl"]
    recipe = recipe_for(checkpoint, data[0], tmp_path / "out", difference_learning_rate=1e-2,
                        merger_learning_rate=2e-3, vision_learning_rate=3e-5, lora_rank=adapters)  # fmt: skip
    model = load_to_train(str(checkpoint), recipe, "ours")
    processor = load_processor(checkpoint)
    trainer = SFTTrainer(recipe, model, processor, sft_dataset(recipe), PackingCollator(processor))
    names = {id(weight): name for name, weight in model.named_parameters()}
    expected = {"difference": 1e-2, "message": 1e-3, "merger": 2e-3, "vision": 3e-5, "language": 1e-3}
    seen: Counter[str] = Counter()
    for group in trainer.create_optimizer().param_groups:
        for weight in group["params"]:
            part = part_of(names[id(weight)])
            seen[part] += 1
            assert group["lr"] == expected[part], names[id(weight)]
            assert group["weight_decay"] == (0.01 if weight.ndim > 1 else 0)
    assert seen.keys() == expected.keys()
    assert sum(seen.values()) == sum(weight.requires_grad for weight in model.parameters())
    assert seen["message"] == 2 if adapters else seen["message"] >= 1


def test_the_average_by_hand(tiny_checkpoints: dict[str, Path], data: tuple[Path, Path], tmp_path: Path) -> None:
    checkpoint = tiny_checkpoints["qwen2_5_vl"]
    recipe = recipe_for(checkpoint, data[0], tmp_path / "out", ema=0.75, save_steps=1)
    end = load_model(train_sft(recipe)).state_dict()
    one, two = (load_model(recipe.out / "checkpoints" / f"checkpoint-{step}").state_dict() for step in (1, 2))
    start = load_model(checkpoint).state_dict()
    for name, weight in start.items():
        expected = 0.75 * (0.75 * weight + 0.25 * one[name]) + 0.25 * two[name]
        torch.testing.assert_close(end[name], expected, atol=1e-6, rtol=0)
    held = load_file(recipe.out / "checkpoints" / "checkpoint-2" / "ema.safetensors")
    assert all(end[name].equal(weight) for name, weight in held.items() if name in end)


def test_shares_by_hand() -> None:
    assert shares([10, 30], [1, 1]) == [20, 20]
    assert shares([10, 30], [3, 1]) == [30, 10]
    assert shares([5, 5, 5], [1, 1, 5]) == [2, 2, 11]
    assert sum(shares([7, 11, 2], [0.3, 0.3, 0.4])) == 20


def test_a_mix_draws_by_weight() -> None:
    sampler = MixSampler([4, 12], [3, 1], seed=0)
    first = list(sampler)
    assert first == list(sampler)
    assert len(first) == len(sampler) == 16
    counts = Counter(first)
    assert [counts[index] for index in range(4)] == [3] * 4, "12 of 16 from the first set: each of its four three times"
    assert sum(counts[index] for index in range(4, 16)) == 4
    assert max(counts[index] for index in range(4, 16)) == 1
    seen = set()
    for epoch in range(20):
        sampler.set_epoch(epoch)
        seen |= {index for index in sampler if index >= 4}
    assert seen == set(range(4, 16)), "what is left out differs from epoch to epoch"
    assert list(MixSampler([4, 12], [3, 1], seed=1)) != first


def test_a_mix_is_trained_on_from_every_folder(
    tiny_checkpoints: dict[str, Path], data: tuple[Path, Path], tmp_path: Path
) -> None:
    recipe = recipe_for(tiny_checkpoints["qwen2_5_vl"], {data[0]: 1, data[1]: 3}, tmp_path / "out", max_steps=None,
                        turns=True)  # fmt: skip
    dataset = sft_dataset(recipe)
    assert (dataset.sizes, dataset.weights) == ([16, 6], [1, 3])
    # Records of the second folder are read from the second folder.
    for index in (0, 20):
        opened, root = dataset[index], data[index // 16]
        with Image.open(root / dataset.records[index].before) as image:
            np.testing.assert_array_equal(np.asarray(image.convert("RGB")), np.asarray(opened.images[0]))
    model = load_model(train_sft(recipe))
    assert len(losses(recipe.out)) == 6, "22 records, 4 an update"
    assert model.config.provenance["data"] == "one, two"


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_kept_features_train_the_same(
    tiny_checkpoints: dict[str, Path], data: tuple[Path, Path], tmp_path: Path, family: str
) -> None:
    checkpoint = tiny_checkpoints[family]
    ends = []
    for name, cache in (("plain", None), ("first", tmp_path / "cache"), ("second", tmp_path / "cache")):
        recipe = recipe_for(checkpoint, data[0], tmp_path / name, train_vision=False, feature_cache=cache, max_steps=4,
                            depths=(0,))  # fmt: skip
        ends.append(load_model(train_sft(recipe)).state_dict())
    pictures = [image.tobytes() for at in range(16) for image in sft_dataset(recipe)[at].images]
    light = recipe.model_copy(update={"bf16": True, "out": tmp_path / "bf16", "feature_cache": tmp_path / "light"})
    train_sft(light)
    kept = next((tmp_path / "light").rglob("*.safetensors"))
    assert load_file(kept)["tokens"].dtype is torch.bfloat16, "as the tower gives them in training"
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == len(set(pictures))
    for name in ("first", "second"):
        assert losses(tmp_path / name) == pytest.approx(losses(tmp_path / "plain"), abs=1e-5)
    for other in ends[1:]:
        assert all((other[weight] - value).abs().max() < 1e-4 for weight, value in ends[0].items())


def test_kept_features_are_read_bounded_and_made_anew_where_broken(
    tiny_checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    checkpoint = tiny_checkpoints["qwen2_5_vl"]
    batch = PackingCollator(load_processor(checkpoint))([sample(0, 1), sample(1, 1, 84, 56)])
    body = load_model(checkpoint, "ours").model
    images = (batch["pixel_values"], batch["image_grid_thw"])
    expected = body.tower_features(*images).pooler_output
    cache = FeatureCache(tmp_path, body, 1e9)
    first = cache.encode(*images)
    calls: list[int] = []
    tower = body.tower_features
    body.tower_features = lambda *given, **named: calls.append(len(given[1])) or tower(*given, **named)
    again = FeatureCache(tmp_path, body, 1e9).encode(*images)
    assert calls == [], "all of it is read"
    for one, two, three in zip(first.pooler_output, again.pooler_output, expected, strict=True):
        assert one.equal(two)
        torch.testing.assert_close(one, three, atol=1e-5, rtol=0)
    files = sorted(tmp_path.rglob("*.safetensors"))
    assert len(files) == 4
    files[0].write_bytes(files[0].read_bytes()[:-9])
    broken = FeatureCache(tmp_path, body, 1e9).encode(*images)
    assert calls == [1], "the broken one alone is made anew"
    assert all(one.allclose(two, atol=1e-5) for one, two in zip(broken.pooler_output, expected, strict=True))
    # Room for two files and no more; what has no room is computed each time.
    small = FeatureCache(tmp_path / "small", body, 2.5 * files[0].stat().st_size)
    for _ in range(2):
        small.encode(*images)
    assert calls == [1, 4, 2]
    held = list((tmp_path / "small").rglob("*.safetensors"))
    assert len(held) == 2
    # Another tower's features are others.
    with torch.no_grad():
        body.visual.merger.ln_q.weight += 1
    other = FeatureCache(tmp_path, body, 1e9).encode(*images)
    assert calls[-1] == 4
    assert not other.pooler_output[0].allclose(first.pooler_output[0], atol=1e-3)


def test_kept_texture_trains_the_same_on_the_grid_that_the_recipe_names(
    tiny_checkpoints: dict[str, Path], data: tuple[Path, Path], tmp_path: Path
) -> None:
    checkpoint = tiny_checkpoints["qwen2_5_vl"]
    ends, written = [], []
    for name, cache in (("plain", None), ("first", tmp_path / "cache"), ("second", tmp_path / "cache")):
        recipe = recipe_for(checkpoint, data[0], tmp_path / name, variant="paper", texture_stride=14,
                            texture_cache=cache, lora_rank=4, max_steps=4)  # fmt: skip
        ends.append(load_model(train_sft(recipe)))
        written.append({file: file.stat().st_mtime_ns for file in (tmp_path / "cache").rglob("*.safetensors")})
    assert ends[0].config.difference == {"stride": 14, "variant": "paper"}
    pictures = {image.tobytes() for at in range(16) for image in sft_dataset(recipe)[at].images}
    assert len(written[1]) == len(pictures)
    assert written[1] == written[2], "read, and not written again"
    start, *others = (end.state_dict() for end in ends)
    for name in ("first", "second"):
        assert losses(tmp_path / name) == pytest.approx(losses(tmp_path / "plain"), abs=1e-5)
    for other in others:
        assert all((other[name] - weight).abs().max() < 1e-4 for name, weight in start.items())
    # The grid is part of what the weights are for.
    with pytest.raises(InputError, match=r"was trained with difference\.stride=14, not 4"):
        load_model(recipe.out / "model", "paper", settings={"stride": 4})


def test_kept_texture_is_the_texture(tmp_path: Path) -> None:
    grey = torch.rand(3, 28, 56)
    cache = TextureCache(tmp_path, 1e9)
    expected = line_texture(grey, 8, 4)
    assert cache(grey, 8, 4).equal(expected)
    assert TextureCache(tmp_path, 1e9)(grey.flip(0), 8, 4).equal(expected.flip(0))
    assert cache(grey, 8, 7).equal(line_texture(grey, 8, 7)), "another grid is another entry"


def test_with_everything_chosen_a_stopped_run_goes_on_exactly(
    tiny_checkpoints: dict[str, Path], data: tuple[Path, Path], tmp_path: Path
) -> None:
    """Mix, turns, packing, average, kept features, accumulation; stopped in the second epoch."""
    fields: dict[str, Any] = {
        "max_steps": 8, "save_steps": 7, "turns": True, "pack_tokens": 200, "ema": 0.9, "train_vision": False,
        "accumulate": 2, "batch_size": 2, "feature_cache": tmp_path / "cache", "lora_rank": 4,
    }  # fmt: skip
    mix = {data[0]: 1, data[1]: 2}
    whole = recipe_for(tiny_checkpoints["qwen2_5_vl"], mix, tmp_path / "whole", **fields)
    end = load_model(train_sft(whole)).state_dict()
    cut = recipe_for(tiny_checkpoints["qwen2_5_vl"], mix, tmp_path / "cut", **fields)
    shutil.copytree(whole.out, cut.out)
    # As a kill leaves it; the next update is the last of the first epoch, or the last of all.
    shutil.rmtree(cut.out / "model")
    shutil.rmtree(cut.out / "checkpoints" / "checkpoint-8")
    note = cut.out / "recipe.json"
    note.write_text(note.read_text("utf-8").replace("/whole", "/cut"), encoding="utf-8")
    again = load_model(train_sft(cut)).state_dict()
    assert losses(cut.out) == pytest.approx(losses(whole.out), abs=1e-6)
    assert all((again[name] - value).abs().max() < 1e-6 for name, value in end.items())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"feature_cache": "cache"}, "holds for a frozen tower; set train_vision=false"),
        ({"train_language": False, "lora_rank": 4}, "lora_rank: adapters are on the language model"),
        ({"variant": "paper", "depths": [0]}, "depths: variant=paper has no change map to read them"),
        ({"texture_cache": "cache"}, "texture_cache: variant=ours has no line texture"),
        ({"data": {}}, "data: expected a folder, or folders with their weights"),
        ({"data": {"a": 0}}, "greater than 0"),
    ],
)
def test_what_does_not_go_together(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        recipe_for(tmp_path, fields.pop("data", tmp_path), tmp_path / "out", **fields)
