"""What a fault may do: be named in one line, or be mended; never another result. bench/faults/ does it at length."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from rsiccllm.benchmark.predictions import load_lines
from rsiccllm.errors import InputError
from rsiccllm.files import CHECKSUMS, only_run
from rsiccllm.journal import SEAL, Journal, seal, unseal
from rsiccllm.model.checkpoint import WHOLE, pack_tensors, read_tensors, save_model
from rsiccllm.model.processor import build_tiny_processor
from rsiccllm.model.tiny import build_tiny_model
from rsiccllm.rsici.build import build_rsici
from rsiccllm.rsicp.build import build_rsicp
from rsiccllm.training.checkpoints import newest_checkpoint
from rsiccllm.training.data import load_records
from rsiccllm.training.recipe import SFTRecipe
from rsiccllm.training.sft import train_sft


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model, RSICI, RSICP and a finished training with two checkpoints."""
    root = tmp_path_factory.mktemp("made")
    torch.set_num_threads(1)
    processor = build_tiny_processor(["a house is built in the top left corner"] * 4, 300, patch_size=14)
    save_model(
        build_tiny_model(processor, width=64, layers=1, vision_width=32, vision_layers=1), processor, root / "base"
    )
    build_rsici(["scenes:8,seed=7,size=64,easy=1"], root / "rsici")
    build_rsicp(root / "rsici", root / "rsicp")
    train_sft(recipe(root, root / "sft"))
    return root


def recipe(root: Path, out: Path) -> SFTRecipe:
    return SFTRecipe(
        model=str(root / "base"), data=root / "rsici", out=out, batch_size=2, learning_rate=1e-3, max_steps=4,
        save_steps=2, log_steps=1, warmup_steps=1,
    )  # fmt: skip


def flip(path: Path, at: float = 0.6) -> None:
    data = bytearray(path.read_bytes())
    data[int(len(data) * at)] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing", "marks"])
def test_the_newest_checkpoint_that_is_whole_is_taken_and_the_damaged_one_named(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    out = tmp_path / "sft"
    shutil.copytree(made / "sft", out)
    newest = out / "checkpoints" / "checkpoint-4"
    assert newest_checkpoint(out) == newest
    assert capsys.readouterr().err == ""
    name = "optimizer.pt" if damage == "flipped" else "model.safetensors"
    if damage == "flipped":
        flip(newest / name)
    elif damage == "truncated":
        (newest / name).write_bytes((newest / name).read_bytes()[:-9])
    elif damage == "missing":
        (newest / name).unlink()
    else:
        (newest / WHOLE).write_text('{"model.safetensors": ', encoding="utf-8")
    assert newest_checkpoint(out) == out / "checkpoints" / "checkpoint-2"
    told = capsys.readouterr().err
    assert told.startswith(f"{newest}: {WHOLE if damage == 'marks' else name} is ")
    assert told.endswith("the checkpoint before it is taken\n")
    shutil.rmtree(out / "model")
    (out / "recipe.json").unlink()  # of the folder that this is a copy of
    train_sft(recipe(made, out))
    assert (out / "model" / "model.safetensors").read_bytes() == (made / "sft/model/model.safetensors").read_bytes()
    capsys.readouterr()
    (newest / WHOLE).unlink()  # what a kill leaves half-written has none, and is nothing to speak of
    newest_checkpoint(out)
    assert "checkpoint-4" not in capsys.readouterr().err


@contextmanager
def held_by_another(folder: Path) -> Iterator[None]:
    """The folder in use by another process."""
    code = (
        "import sys; from pathlib import Path; from rsiccllm.files import only_run\n"
        "with only_run(Path(sys.argv[1])):\n    print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        yield
    finally:
        other.kill()
        other.wait()


def test_two_runs_on_one_folder(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with held_by_another(out):
        with pytest.raises(InputError, match="out: is in use by another run"), only_run(out):
            pass
        with pytest.raises(InputError, match="out: is in use by another run"):
            train_sft(recipe(made, out))
        assert not (out / "model").exists()
    with only_run(out):  # killed, the other one holds it no more
        pass


def test_a_flipped_byte_in_a_list_of_records(made: Path, tmp_path: Path) -> None:
    """One letter of a caption: valid JSON, and another truth."""
    from rsiccllm.records import INSTRUCTIONS, PREFERENCES, Instruction, Preference

    for kind, name, record in (("rsici", INSTRUCTIONS, Instruction), ("rsicp", PREFERENCES, Preference)):
        root = tmp_path / kind
        shutil.copytree(made / kind, root)
        load_records(root, name, record, "train")  # type: ignore[type-var]
        text = (root / name).read_text(encoding="utf-8")
        (root / name).write_text(text.replace("house", "mouse", 1).replace("building", "guilding", 1), encoding="utf-8")
        with pytest.raises(InputError, match=rf"{name}: is not the file that was built \(by .*{CHECKSUMS}\)"):
            load_records(root, name, record, "train")  # type: ignore[type-var]
    with pytest.raises(InputError, match="is not the file that was built"):
        build_rsicp(tmp_path / "rsici", tmp_path / "again")


def test_a_flipped_byte_in_a_journal(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    journal = Journal(path, sealed=True)
    lines = [{"id": f"p{n}", "caption": "a house is built", "map": [0.1, 1e-9, None]} for n in range(3)]
    for line in lines:
        journal.append(line)
    assert list(journal.read()) == lines
    whole = path.read_bytes()
    for at in range(whole.index(b"\n") + 1, whole.rindex(b"\n", 0, -1)):  # every byte of the second line
        data = bytearray(whole)
        data[at] ^= 1
        path.write_bytes(data)
        try:
            read = list(journal.read())
        except InputError as error:
            assert str(error).startswith(f"{path}:2: not ")  # noqa: PT017 (either is right)
        else:  # the flip is in the name of the seal: the line itself is whole
            assert {**lines[1], **{k: v for k, v in read[1].items() if k in lines[1]}} == lines[1]
            assert all(key in lines[1] or len(key) == len(SEAL) for key in read[1])
    journal.close()


def test_a_flipped_byte_in_predictions(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    line = seal({"id": "x", "caption": "a house", "probability": 0.25})
    assert unseal(line) == {"id": "x", "caption": "a house", "probability": 0.25}
    path.write_text(json.dumps(line) + "\n", encoding="utf-8")
    assert load_lines(path)["x"].caption == "a house"
    path.write_text(json.dumps(line).replace("house", "mouse") + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"predictions\.jsonl:1: not as it was written"):
        load_lines(path)


def test_a_flipped_byte_in_kept_tensors(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tensors = {"tokens": torch.randn(4, 3), "deep_000": torch.randn(2, 2).bfloat16()}
    path.write_bytes(pack_tensors(tensors))
    assert all(value.equal(tensors[name]) for name, value in read_tensors(path).items())
    whole = path.read_bytes()
    for at in range(8, len(whole)):
        data = bytearray(whole)
        data[at] ^= 4
        path.write_bytes(data)
        try:
            read = read_tensors(path)
        except InputError:
            continue
        assert all(value.equal(tensors[name]) for name, value in read.items())
    path.write_bytes(whole[:-5])
    with pytest.raises(InputError, match="cannot be read"):
        read_tensors(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_tensors(tmp_path / "none")


@pytest.mark.skipif(os.getuid() != 0 or not shutil.which("mount"), reason="needs the right to mount")
def test_a_full_and_a_read_only_disk(made: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("no right to mount here")
    try:
        with pytest.raises(InputError, match="cannot be written") as caught:
            train_sft(recipe(made, disk / "sft"))
        assert "\n" not in str(caught.value)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(InputError, match="cannot be written"):
            train_sft(recipe(made, disk / "sft"))
        subprocess.run(["mount", "-o", "remount,rw,size=1g", str(disk)], check=True)
        folder = train_sft(recipe(made, disk / "sft"))
        assert (folder / "model.safetensors").read_bytes() == (made / "sft/model/model.safetensors").read_bytes()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
