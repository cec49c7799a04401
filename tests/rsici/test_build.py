from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rsiccllm.errors import InputError
from rsiccllm.files import read_jsonl
from rsiccllm.records import INSTRUCTIONS, PAIRS, ImagePair, Instruction
from rsiccllm.rsici.build import build_rsici, safe_name
from rsiccllm.sources import open_source

SPEC = "scenes:40,seed=3,size=64,easy=1"


def test_scenes_become_a_folder_that_is_a_source(tmp_path: Path) -> None:
    counts = build_rsici([SPEC], tmp_path, ["caption", "describe"])
    assert counts == {"pairs": 40, "instructions": 80, "left_out": 0}
    records = read_jsonl(tmp_path / INSTRUCTIONS, Instruction)
    rendered = {pair.id: pair for pair in open_source(SPEC).pairs}
    for record in records:
        pair = rendered[record.pair]
        assert record.answers == (pair.captions if record.task == "caption" else [pair.description])
        assert record.split == pair.split
    built, source = open_source(f"rsici:{tmp_path}"), open_source(SPEC)
    for pair in built.pairs[:4]:
        one, two = built.open(pair), source.open(rendered[pair.id])
        assert one.before.tobytes() == two.before.tobytes()
        assert one.after.tobytes() == two.after.tobytes()
        assert one.mask is not None
        assert (one.mask == two.mask).all()


def test_a_killed_build_goes_on_and_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    spec = "scenes:120,seed=3,size=64,easy=1"
    build_rsici([spec], tmp_path / "whole")
    command = [sys.executable, "-m", "rsiccllm.cli", "rsici", "build", "--source", spec, "--out", str(tmp_path / "cut")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and len(list((tmp_path / "cut").rglob("*.png"))) < 20:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "cut" / PAIRS).exists(), "killed too late to show anything"
    assert subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0
    whole, cut = (
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (tmp_path / "whole", tmp_path / "cut")
    )
    assert {name: data for name, data in cut.items() if name.suffix != ".tmp"} == whole


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown task 'poem', expected one of caption, describe"):
        build_rsici([SPEC], tmp_path / "a", ["poem"])
    build_rsici([SPEC], tmp_path / "b")
    with pytest.raises(InputError, match="was built from"):
        build_rsici(["scenes:60,seed=3,size=64,easy=1"], tmp_path / "b")
    with pytest.raises(InputError, match="id 'scene_3_000000' is in scenes and in scenes"):
        build_rsici([SPEC, SPEC], tmp_path / "c")
    with pytest.raises(InputError, match="unknown kind 'secnes'"):
        build_rsici(["secnes:4"], tmp_path / "d")
    file = tmp_path / "file"
    file.write_text("x", encoding="utf-8")
    with pytest.raises(InputError, match="file"):
        build_rsici([SPEC], file)


def test_a_mistake_leaves_the_folder_free_for_the_call_that_is_right(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        build_rsici([f"levir-cc:{tmp_path / 'none'}"], tmp_path / "out")
    with pytest.raises(InputError, match="in scenes and in scenes"):
        build_rsici([SPEC, SPEC], tmp_path / "out")
    assert build_rsici(["scenes:4,size=64"], tmp_path / "out")["pairs"] == 4


def test_names_of_odd_ids_do_not_meet_and_stay_inside() -> None:
    ids = ["a", "a/b", "a_b", "../a", "a b", "ä", "." * 3, "x" * 300]
    names = {safe_name(identifier) for identifier in ids}
    assert len(names) == len(ids)
    assert all("/" not in name and not name.startswith(".") and len(name) < 120 for name in names)


def test_captions_of_real_pairs_become_instructions(shared_data: Path, tmp_path: Path) -> None:
    counts = build_rsici([f"levir-cc:{shared_data / 'levir_cc'}"], tmp_path)
    assert counts == {"pairs": 21, "instructions": 21, "left_out": 0}
    source = open_source(f"levir-cc:{shared_data / 'levir_cc'}")
    built = read_jsonl(tmp_path / PAIRS, ImagePair)
    for pair in built:
        origin = next(item for item in source.pairs if item.id == pair.id)
        assert (tmp_path / pair.before).read_bytes() == (source.root / origin.before).read_bytes()
