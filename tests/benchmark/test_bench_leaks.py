"""Scored pairs that stand in the training data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rsiccllm.benchmark.leaks import find_leaks
from rsiccllm.benchmark.run import run_score
from rsiccllm.errors import InputError
from rsiccllm.sources import open_source
from rsiccllm.sources.scenes.source import ScenesSource


def folder_of(root: Path, split: str, seed: int, count: int, crop: int = 0, text: str = "a house is built") -> str:
    """Rendered scenes written as `folder:` expects them; crop: pixels cut off each side, and written as JPEG."""
    source = ScenesSource(count, seed=seed, size=160)
    entries = []
    for side in ("A", "B"):
        (root / side).mkdir(parents=True)
    for number, pair in enumerate(source.pairs):
        opened = source.open(pair)
        for side, image in (("A", opened.before), ("B", opened.after)):
            pixels = np.asarray(image)[crop : 160 - crop, crop : 160 - crop]
            name = f"{split}{number}.jpg" if crop else f"{split}{number}.png"
            Image.fromarray(pixels).save(root / side / name, quality=85)
        entries.append({"filename": name, "split": split, "sentences": [text], "changeflag": int(bool(pair.changed))})
    (root / "captions.json").write_text(json.dumps(entries))
    return f"folder:{root}"


def test_a_planted_copy_is_named(tmp_path: Path) -> None:
    test = folder_of(tmp_path / "test", "test", seed=1, count=4)
    same = folder_of(tmp_path / "same", "train", seed=1, count=2, crop=12)  # cropped and recompressed
    other = folder_of(tmp_path / "other", "train", seed=2, count=4)
    source = open_source(test)
    found = find_leaks(source, source.pairs, [other, same])
    assert found.images == {"test0": "train0", "test1": "train1"}
    assert (found.pairs, found.training, found.texts) == (4, 6, {})
    line = found.lines([other, same])[0]
    assert line.startswith("LEAK: 2 of 4 scored pairs share an image with training pairs of folder:")
    assert "test0 with train0, test1 with train1" in line
    clean = find_leaks(source, source.pairs, [other])
    assert not clean.images
    assert clean.lines([other]) == [
        f"no scored pair shares an image or a long text with the 4 training pairs of {other}"
    ]
    with pytest.raises(InputError, match="no split 'train'; expected what the model was trained on"):
        find_leaks(source, source.pairs, [test])


def test_a_long_text_is_found_and_the_run_says_so(tmp_path: Path) -> None:
    text = " ".join(f"word{number}" for number in range(30))
    test = folder_of(tmp_path / "test", "test", seed=1, count=2, text=text)
    train = folder_of(tmp_path / "train", "train", seed=2, count=2, text=text)
    source = open_source(test)
    assert find_leaks(source, source.pairs, [train]).texts == {"test0": "train0", "test1": "train0"}
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps({"id": pair.id, "caption": "a road"}) + "\n" for pair in source.pairs))
    notes = run_score(path, test, "test", meteor=False, training=[train]).notes
    assert any("share a long text with training pairs" in note for note in notes)
    assert any(
        "were not looked for in training data" in note for note in run_score(path, test, "test", meteor=False).notes
    )


def test_a_source_without_images_is_said_not_to_be_compared(tmp_path: Path) -> None:
    test = folder_of(tmp_path / "test", "test", seed=1, count=2)
    same = folder_of(tmp_path / "same", "train", seed=1, count=2, crop=12)
    sentence = {"raw": "a house is built", "tokens": ["a", "house"], "sentid": 0, "imgid": 0}
    entry = {"filename": "x.png", "split": "train", "filepath": "train", "imgid": 0, "sentids": [0], "changeflag": 1}
    path = tmp_path / "captions.json"
    path.write_text(json.dumps({"images": [{**entry, "sentences": [sentence]}]}))
    bare = f"levir-cc-captions:{path}"
    source = open_source(test)
    assert find_leaks(source, source.pairs, [same, bare]).images == {"test0": "train0", "test1": "train1"}
    lines = find_leaks(source, source.pairs, [bare]).lines([bare])
    assert lines[0].startswith("no scored pair shares a long text with the 1 training pairs")
    assert lines[1].startswith("images not compared, for it has annotations alone: levir-cc-captions:")
