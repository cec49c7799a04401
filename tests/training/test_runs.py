"""Whole training runs at the smallest size: they write what they say, resume after a kill, and refuse what is wrong."""

from __future__ import annotations

import json
import re
import resource
import shutil
from pathlib import Path

import pytest
import torch
from helpers import killed_at_its_first_checkpoint
from PIL import Image

from rsiccllm.errors import InputError
from rsiccllm.files import CHECKSUMS, read_jsonl, write_jsonl
from rsiccllm.model.checkpoint import save_model
from rsiccllm.model.processor import load_processor
from rsiccllm.model.vlm import load_model
from rsiccllm.records import INSTRUCTIONS, Instruction
from rsiccllm.rsici.build import BuildSettings, build_rsici
from rsiccllm.rsici.tasks import TASKS, TaskSettings
from rsiccllm.rsicp.build import build_rsicp
from rsiccllm.training.checkpoints import newest_checkpoint
from rsiccllm.training.data import PairDataset, check_lengths, load_records
from rsiccllm.training.dnpo import train_dnpo
from rsiccllm.training.learning import load_to_train
from rsiccllm.training.packing import PackingCollator
from rsiccllm.training.recipe import DNPORecipe, SFTRecipe
from rsiccllm.training.sft import train_sft
from rsiccllm.training.validation import read_evaluations

COMMON = {"batch_size": 4, "learning_rate": 1e-3, "log_steps": 1, "save_steps": 2, "warmup_steps": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("data")
    build_rsici(["scenes:40,seed=7,size=64,easy=1"], folder / "rsici")
    build_rsicp(folder / "rsici", folder / "rsicp")
    return folder / "rsici", folder / "rsicp"


def losses(out: Path) -> list[float]:
    lines = (out / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry["loss"] for entry in map(json.loads, lines) if "loss" in entry]


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_sft_then_dnpo(
    tiny_checkpoints: dict[str, Path],
    data: tuple[Path, Path],
    tmp_path: Path,
    family: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sft = SFTRecipe(model=str(tiny_checkpoints[family]), data=data[0], out=tmp_path / "sft", max_steps=6, **COMMON)
    folder = train_sft(sft)
    shown = capsys.readouterr()
    assert re.findall(r"training sft, loss \d+\.\d{3}, update (\d) of 6", shown.err) == list("123456")
    assert "left\n" in shown.err
    assert shown.out == ""
    found = losses(sft.out)
    assert len(found) == 6
    assert found[-1] < found[0]
    model = load_model(folder)
    assert model.config.difference["variant"] == "ours"
    assert model.config.provenance["stage"] == "sft"
    assert model.config.provenance["seen"] == ["scenes/train"]
    assert model.model.difference.out.weight.any()
    written = (folder / "model.safetensors").stat().st_mtime_ns
    train_sft(sft)
    assert (folder / "model.safetensors").stat().st_mtime_ns == written

    dnpo = DNPORecipe(model=str(sft.out), data=data[1], out=tmp_path / "dnpo", max_steps=4, **COMMON)
    train_dnpo(dnpo)
    first = json.loads((dnpo.out / "log.jsonl").read_text(encoding="utf-8").splitlines()[0])
    # Before the first update the policy is the reference: DPO is log 2, the divergence and both rewards are 0.
    assert first["preference_loss"] == pytest.approx(0.693147, abs=1e-5)
    # what the stage before saw goes along
    model.config.provenance["seen"] = ["levir-cc/train"]
    save_model(model, load_processor(folder), folder)
    later = DNPORecipe(model=str(sft.out), data=data[1], out=tmp_path / "later", max_steps=1, **COMMON)
    assert load_model(train_dnpo(later)).config.provenance["seen"] == ["levir-cc/train", "scenes/train"]
    assert first["reverse_kl"] == pytest.approx(0, abs=1e-6)
    assert list((dnpo.out / "tensorboard").rglob("events.*"))


def test_lora_trains_adapters_and_merges_them(
    tiny_checkpoints: dict[str, Path], data: tuple[Path, Path], tmp_path: Path
) -> None:
    base = str(tiny_checkpoints["qwen2_5_vl"])
    sft = SFTRecipe(model=base, data=data[0], out=tmp_path / "sft", max_steps=3, lora_rank=4, **COMMON)
    merged, start = load_model(train_sft(sft)), load_model(base)
    name = "model.language_model.layers.0.self_attn.q_proj.weight"
    assert not merged.state_dict()[name].equal(start.state_dict()[name])
    embeddings = "model.language_model.embed_tokens.weight"
    assert merged.state_dict()[embeddings].equal(start.state_dict()[embeddings])
    assert merged.model.difference.out.weight.any()
    dnpo = DNPORecipe(model=str(sft.out), data=data[1], out=tmp_path / "dnpo", max_steps=2, lora_rank=4, **COMMON)
    train_dnpo(dnpo)
    first = json.loads((dnpo.out / "log.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert first["preference_loss"] == pytest.approx(0.693147, abs=1e-5)


def test_pairs_that_share_a_row_or_a_cache_train_the_same(
    tiny_checkpoints: dict[str, Path], data: tuple[Path, Path], tmp_path: Path
) -> None:
    base = str(tiny_checkpoints["qwen2_5_vl"])
    ways = {"rows": {}, "packed": {"pack_tokens": 300}, "cached": {"share": "cache"}}
    for name, fields in ways.items():
        common = {"model": base, "max_steps": 2, **COMMON, **fields}
        train_sft(SFTRecipe(data=data[0], out=tmp_path / name / "sft", **common))
        train_dnpo(DNPORecipe(data=data[1], out=tmp_path / name / "dnpo", lora_rank=4, **common))
    for stage in ("sft", "dnpo"):
        expected = load_model(tmp_path / "rows" / stage / "model").state_dict()
        for name in ("packed", "cached"):
            assert losses(tmp_path / name / stage) == pytest.approx(losses(tmp_path / "rows" / stage), abs=2e-5)
            found = load_model(tmp_path / name / stage / "model").state_dict()
            assert all((found[weight] - value).abs().max() < 1e-4 for weight, value in expected.items())


def test_under_lora_and_bf16_what_is_frozen_is_held_in_bf16_and_what_learns_in_float32(
    tiny_checkpoints: dict[str, Path], data: tuple[Path, Path], tmp_path: Path
) -> None:
    base = str(tiny_checkpoints["qwen2_5_vl"])
    light = {**COMMON, "lora_rank": 4, "bf16": True, "train_vision": False}
    sft = SFTRecipe(model=base, data=data[0], out=tmp_path / "sft", max_steps=6, **light)
    model = load_to_train(base, sft, "ours")
    held = {weight.requires_grad: set[torch.dtype]() for weight in model.parameters()}
    for weight in model.parameters():
        held[weight.requires_grad].add(weight.dtype)
    assert held[True] == {torch.float32}
    # The base's own weights; PEFT also keeps the difference path as it was, frozen.
    assert model.model.model.language_model.embed_tokens.weight.dtype is torch.bfloat16
    assert model.model.model.visual.patch_embed.proj.weight.dtype is torch.bfloat16
    train_sft(sft)
    found = losses(sft.out)
    assert found[-1] < found[0]
    dnpo = DNPORecipe(model=str(sft.out), data=data[1], out=tmp_path / "dnpo", max_steps=2, **light)
    train_dnpo(dnpo)
    first = json.loads((dnpo.out / "log.jsonl").read_text(encoding="utf-8").splitlines()[0])
    # Policy and reference are computed in one precision: still log 2.
    assert first["preference_loss"] == pytest.approx(0.693147, abs=1e-4)
    assert first["reverse_kl"] == pytest.approx(0, abs=1e-4)


CHOSEN: dict[str, dict[str, object]] = {
    "average": {"ema": 0.9},
    "validation": {"validation_pairs": 2, "eval_steps": 3, "max_new_tokens": 4, "patience": None},
}


@pytest.mark.parametrize("kept", CHOSEN)
def test_a_killed_run_ends_as_an_undisturbed_one(
    tiny_checkpoints: dict[str, Path], data: tuple[Path, Path], tmp_path: Path, kept: str
) -> None:
    """With everything chosen: a mix of folders, turns, nuisance, loader processes, kept features, accumulated and
    packed rows, LoRA, and what is left behind by an average or by validation (these two exclude each other)."""
    build_rsici(["scenes:10,seed=8,size=64,easy=1"], tmp_path / "other")
    fields = {
        "model": str(tiny_checkpoints["qwen2_5_vl"]), "data": {str(data[0]): 1, str(tmp_path / "other"): 2},
        "log_steps": 1, "save_steps": 2, "max_steps": 12, "batch_size": 2, "accumulate": 2, "learning_rate": 1e-3,
        "turns": True, "nuisance": 0.5, "workers": 2, "train_vision": False, "feature_cache": str(tmp_path / "cache"),
        "pack_tokens": 200, "lora_rank": 4, **CHOSEN[kept],
    }  # fmt: skip
    if kept == "validation":
        fields["validation"] = str(data[0])
    train_sft(SFTRecipe.model_validate({**fields, "out": tmp_path / "whole"}))
    killed_at_its_first_checkpoint(fields, tmp_path / "cut")
    cached = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.safetensors")}
    # What a kill leaves half-written is passed over, however new it looks.
    torn = tmp_path / "cut" / "checkpoints" / "checkpoint-11"
    torn.mkdir()
    (torn / "model.safetensors").write_bytes(b"torn")
    train_sft(SFTRecipe.model_validate({**fields, "out": tmp_path / "cut"}))
    assert losses(tmp_path / "cut") == pytest.approx(losses(tmp_path / "whole"), abs=1e-6)
    for one, other in zip(read_evaluations(tmp_path / "whole"), read_evaluations(tmp_path / "cut"), strict=True):
        assert one == pytest.approx(other, abs=1e-6)
    whole, cut = (load_model(tmp_path / name / "model").state_dict() for name in ("whole", "cut"))
    assert all((whole[name] - cut[name]).abs().max() < 1e-6 for name in whole)
    assert cached
    assert cached == {path: path.stat().st_mtime_ns for path in cached}, "what is there already is not written again"


def test_a_broken_image_is_one_line_also_from_a_worker(
    tiny_checkpoints: dict[str, Path], data: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    shutil.copytree(data[0], folder)
    # The longest row is looked at before training and is whole; the others break it.
    first, *others = read_jsonl(folder / INSTRUCTIONS, Instruction)
    write_jsonl(folder / INSTRUCTIONS, [first.model_copy(update={"answers": ["word " * 100]}), *others])
    (folder / CHECKSUMS).unlink()  # it was we who edited the list
    for record in others:
        image = folder / record.after
        image.write_bytes(image.read_bytes()[:-200])
    recipe = SFTRecipe(
        model=str(tiny_checkpoints["qwen2_5_vl"]), data=folder, out=tmp_path / "out", max_steps=9, workers=1, **COMMON
    )
    with pytest.raises(InputError, match=r"^[^\n]*after\.png: truncated or damaged[^\n]*$"):
        train_sft(recipe)


def test_the_longest_row_is_found_by_images_and_words(tiny_checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """The pair with most words is small, the largest pair says little, and the longest row is a third one."""
    captions = {"small": ["word " * 53] * 2, "middle": ["word " * 50] * 2, "large": ["word"] * 2, "other": ["word"] * 2}
    sides = {"small": 56, "middle": 168, "large": 196, "other": 56}
    for name, side in sides.items():
        for date in "AB":
            (tmp_path / "set" / date).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (side, side)).save(tmp_path / "set" / date / f"{name}.png")
    (tmp_path / "set" / "captions.json").write_text(json.dumps(captions), encoding="utf-8")
    build_rsici([f"folder:{tmp_path / 'set'}"], tmp_path / "data")
    records = load_records(tmp_path / "data", INSTRUCTIONS, Instruction, "train")
    dataset = PairDataset(tmp_path / "data", records, lambda record: record.answers)  # type: ignore[union-attr]
    collator = PackingCollator(load_processor(tiny_checkpoints["qwen2_5_vl"], min_pixels=28 * 28))
    lengths = {record.pair: collator([dataset[k]])["input_ids"].shape[1] for k, record in enumerate(records)}
    assert max(lengths, key=lambda pair: lengths[pair]) == "middle"
    assert check_lengths(dataset, collator) == lengths["middle"]


@pytest.mark.parametrize("lora_rank", [None, 4])
def test_a_run_killed_after_its_last_update_makes_no_more(
    tiny_checkpoints: dict[str, Path], data: tuple[Path, Path], tmp_path: Path, lora_rank: int | None
) -> None:
    recipe = SFTRecipe.model_validate(
        {
            **COMMON,
            "model": str(tiny_checkpoints["qwen2_5_vl"]),
            "data": data[0],
            "out": tmp_path / "out",
            "max_steps": 3,
            "lora_rank": lora_rank,
        }
    )
    finished = load_model(train_sft(recipe)).state_dict()
    shutil.rmtree(recipe.out / "model")
    again = load_model(train_sft(recipe)).state_dict()
    assert len(losses(recipe.out)) == 3
    assert newest_checkpoint(recipe.out) == recipe.out / "checkpoints" / "checkpoint-3"
    assert all(weight.equal(again[name]) for name, weight in finished.items())


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.pt"])
def test_a_full_disk_is_one_line_and_the_next_call_goes_on(
    tiny_checkpoints: dict[str, Path], data: tuple[Path, Path], tmp_path: Path, file: str
) -> None:
    """A limit on the size of files stands for the disk: safetensors and torch meet it as they meet a full one."""
    base = str(tiny_checkpoints["qwen2_5_vl"])
    fields = {"model": base, "data": data[0], "max_steps": 4, **COMMON}
    train_sft(SFTRecipe.model_validate({**fields, "out": tmp_path / "whole"}))
    size = (tmp_path / "whole" / "checkpoints" / "checkpoint-2" / file).stat().st_size
    recipe = SFTRecipe.model_validate({**fields, "out": tmp_path / "cut"})
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1000, unlimited[1]))
    try:
        with pytest.raises(InputError, match=r"cut: a checkpoint cannot be written, [\d,]+ MB left") as caught:
            train_sft(recipe)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cut" / "checkpoints").glob("checkpoint-*")), "what was cut short takes no room"
    train_sft(recipe)
    assert losses(tmp_path / "cut") == pytest.approx(losses(tmp_path / "whole"), abs=1e-6)


def test_damaged_weights_are_one_line(tiny_checkpoints: dict[str, Path], tmp_path: Path) -> None:
    for name, damage in {
        "cut": lambda file: file.write_bytes(file.read_bytes()[:-1000]),
        "gone": lambda file: file.unlink(),
        "other": lambda file: shutil.copy(tiny_checkpoints["qwen3_vl"] / file.name, file),
    }.items():
        folder = tmp_path / name
        shutil.copytree(tiny_checkpoints["qwen2_5_vl"], folder)
        damage(folder / "model.safetensors")
        with pytest.raises(InputError, match=f"{name}: the weights") as caught:
            load_model(folder)
        assert "\n" not in str(caught.value)


def test_what_is_refused(tiny_checkpoints: dict[str, Path], data: tuple[Path, Path], tmp_path: Path) -> None:
    base = str(tiny_checkpoints["qwen2_5_vl"])

    def recipe(**fields: object) -> SFTRecipe:
        return SFTRecipe.model_validate(
            {"model": base, "data": data[0], "out": tmp_path / "out", "max_steps": 1, **COMMON, **fields}
        )

    with pytest.raises(InputError, match="no such folder"):
        train_sft(recipe(data=tmp_path / "none", out=tmp_path / "a"))
    with pytest.raises(
        InputError, match=r"rsicp: no instructions.jsonl in it; expected .* `rsiccllm rsici build` wrote"
    ):
        train_sft(recipe(data=data[1], out=tmp_path / "a"))
    with pytest.raises(InputError, match=r"no record of split 'tset' .*there: .*test"):
        train_sft(recipe(split="tset", out=tmp_path / "b"))
    with pytest.raises(InputError, match="over max_tokens=40"):
        train_sft(recipe(max_tokens=40, out=tmp_path / "c"))
    with pytest.raises(InputError, match="no such model; expected a folder that training wrote, or a hub name"):
        train_sft(recipe(model=str(tmp_path / "nothing"), out=tmp_path / "d"))
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="file: cannot be written"):
        train_sft(recipe(out=tmp_path / "file"))
    (tmp_path / "theirs" / "model").mkdir(parents=True)
    with pytest.raises(InputError, match=r"holds a model, and no recipe\.json"):
        train_sft(recipe(out=tmp_path / "theirs"))
    # None of these mistakes has bound its folder to a recipe.
    assert not list(tmp_path.rglob("recipe.json"))
    train_sft(recipe(out=tmp_path / "c"))
    train_sft(recipe())
    with pytest.raises(InputError, match=r"holds a run with learning_rate=0.001, this one has 0.01"):
        train_sft(recipe(learning_rate=1e-2))


def test_a_sharded_set_of_every_task_is_trained_on(tiny_checkpoints: dict[str, Path], tmp_path: Path) -> None:
    settings = BuildSettings(TaskSettings(TASKS), shard=100)
    build_rsici(["scenes:30,seed=7,size=64,easy=1"], tmp_path / "rsici", settings=settings)
    assert not (tmp_path / "rsici" / "instructions.jsonl").exists()
    records = load_records(tmp_path / "rsici", INSTRUCTIONS, Instruction, "train")
    assert {record.task for record in records} == set(TASKS)
    recipe = SFTRecipe(
        model=str(tiny_checkpoints["qwen2_5_vl"]), data=tmp_path / "rsici", out=tmp_path / "sft", max_steps=3, **COMMON
    )
    train_sft(recipe)
    assert len(losses(recipe.out)) == 3
