"""Your own folders: pairing by name, masks, and the three forms of captions.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fakes
import pytest

from rsiccllm.errors import InputError
from rsiccllm.sources.folder import FolderSource


def refused(root: Path) -> str:
    with pytest.raises(InputError) as caught:
        FolderSource(root)
    assert "\n" not in str(caught.value)
    assert str(root) in str(caught.value)
    return str(caught.value)


def test_images_alone(tmp_path: Path) -> None:
    fakes.folder(tmp_path, ("b", "a"))
    source = FolderSource(tmp_path)
    assert [pair.id for pair in source.pairs] == ["a", "b"]
    assert {(pair.split, pair.mask, pair.changed, len(pair.captions)) for pair in source.pairs} == {
        ("train", None, None, 0)
    }
    assert source.open(source.pairs[0]).mask is None


def test_endings_may_differ_and_other_files_are_noted(tmp_path: Path) -> None:
    fakes.draw(tmp_path / "A" / "x.JPG")
    fakes.draw(tmp_path / "B" / "x.tif")
    fakes.draw_mask(tmp_path / "label" / "x.png")
    (tmp_path / "A" / "Thumbs.db").write_text("")
    (tmp_path / "A" / ".DS_Store").write_text("")
    (tmp_path / "label_post").mkdir()
    source = FolderSource(tmp_path)
    assert (source.pairs[0].before, source.pairs[0].after) == ("A/x.JPG", "B/x.tif")
    assert source.changed(source.pairs[0]) is True
    assert len(source.notes) == 2
    assert "1 not read, no image by name (Thumbs.db)" in source.notes[0]
    assert "label_post not read" in source.notes[1]


@pytest.mark.parametrize(
    "content",
    [
        [{"filename": "x.png", "sentences": ["a house.", " a road "]}],
        {"images": [{"filename": "x.png", "sentences": [{"raw": " a house. "}, {"tokens": ["a", "road"]}]}]},
        {"x.png": ["a house.", "a road"]},
        {"x": ["a house.", "a road"]},
    ],
)
def test_forms_of_captions(tmp_path: Path, content: Any) -> None:
    fakes.folder(tmp_path)
    (tmp_path / "captions.json").write_text(json.dumps(content))
    x, y = FolderSource(tmp_path).pairs
    assert x.captions == ["a house.", "a road"]
    assert y.captions == []


def test_one_caption_split_and_flag(tmp_path: Path) -> None:
    fakes.folder(tmp_path, ("x", "y.z"))
    (tmp_path / "captions.json").write_text(json.dumps({"x.png": "line\nbreak", "y.z.png": "b"}))
    assert [pair.captions for pair in FolderSource(tmp_path).pairs] == [["line\nbreak"], ["b"]]
    entry = {"filename": "x.png", "sentences": ["a"], "split": "val", "changeflag": 0, "extra": 1}
    (tmp_path / "captions.json").write_text(json.dumps([entry]))
    source = FolderSource(tmp_path)
    assert [(pair.split, pair.changed) for pair in source.pairs] == [("val", False), ("train", None)]
    fakes.draw_mask(tmp_path / "label" / "x.png")
    assert FolderSource(tmp_path).changed(FolderSource(tmp_path).pairs[0]) is False  # what the set says comes first


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("3", "expected a list of {filename, sentences}"),
        ('{"x.png": 3}', "'x.png': field 'sentences'"),
        ('{"x.png": [3]}', "field 'sentences.0"),
        ('{"x.png": ["a", " "]}', "field 'sentences.1': empty caption"),
        ('{"x.png": ""}', "empty caption"),
        ('{"x.png": "a", "x.png": "b"}', "key 'x.png' stands twice"),
        ('{"x.png": "a", "x": "b"}', "duplicate id 'x'"),
        ('{"w.png": "a"}', "no image of that name"),
        ('{"../A/x.png": "a"}', "not a bare name"),
        ('{"/etc/x.png": "a"}', "not a bare name"),
        ('[{"filename": "x.png"}]', "entry 0: field 'sentences': Field required"),
        ('[{"sentences": ["a"]}]', "field 'filename': Field required"),
        ('[{"filename": "x.png", "sentences": ["a"], "changeflag": 5}]', "expected 0 or 1, got 5"),
        ('[{"filename": "x.png", "sentences": ["a"], "split": " "}]', "field 'split'"),
        ('[{"filename": "x.png",\n', ":2: not valid JSON"),
    ],
)
def test_faults_of_captions(tmp_path: Path, content: str, expected: str) -> None:
    fakes.folder(tmp_path)
    (tmp_path / "captions.json").write_text(content)
    assert expected in refused(tmp_path)
    faults: list[str] = []
    FolderSource(tmp_path, faults.append)
    assert len(faults) >= 1  # and what else there is can still be looked at


def test_faults_of_the_folders(tmp_path: Path) -> None:
    assert "no such folder; expected A/ and B/" in refused(tmp_path / "no")
    (tmp_path / "A").mkdir()
    assert "B: no such folder" in refused(tmp_path)
    (tmp_path / "B").mkdir()
    assert "hold no images" in refused(tmp_path)
    fakes.draw(tmp_path / "A" / "x.png")
    assert f"{tmp_path / 'B' / 'x.png'}: no such file" in refused(tmp_path)
    fakes.draw(tmp_path / "B" / "x.png")
    fakes.draw_mask(tmp_path / "label" / "w.png")
    assert "w.png: a mask without images" in refused(tmp_path)
    (tmp_path / "label" / "w.png").unlink()
    fakes.draw(tmp_path / "A" / "x.bmp")
    assert "same name as" in refused(tmp_path)


def test_names_that_no_record_can_hold(tmp_path: Path) -> None:
    fakes.draw(tmp_path / "A" / "a\\b.png")
    fakes.draw(tmp_path / "B" / "a\\b.png")
    assert "field 'before'" in refused(tmp_path)


def test_links_out_of_the_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    fakes.folder(root, ("x",))
    fakes.folder(tmp_path / "elsewhere", ("x",))
    (root / "A" / "x.png").unlink()
    (root / "A" / "x.png").symlink_to(tmp_path / "elsewhere" / "A" / "x.png")
    source = FolderSource(root)
    with pytest.raises(InputError, match="through a symbolic link"):
        source.open(source.pairs[0])
    (tmp_path / "alias").symlink_to(tmp_path / "elsewhere")  # a root that is itself a link is fine
    source = FolderSource(tmp_path / "alias")
    assert source.open(source.pairs[0]).before.size == (40, 32)


@pytest.mark.parametrize(
    ("name", "pairs", "masks", "captioned"),
    [
        ("dsifn", 10, 10, 0),
        ("egy_bcd", 6, 6, 0),
        ("sztaki", 3, 3, 0),
        ("captioned_crops", 20, 0, 20),
        ("other_captioned", 13, 0, 13),
        ("xbd_flooding", 16, 0, 8),
        ("xbd_mexico", 8, 0, 0),
        ("oscd", 5, 3, 0),
        ("large_1024", 2, 0, 0),
    ],
)
def test_the_real_folders(shared_data: Path, name: str, pairs: int, masks: int, captioned: int) -> None:
    source = FolderSource(shared_data / name)
    assert len(source.pairs) == pairs
    assert sum(pair.mask is not None for pair in source.pairs) == masks
    assert sum(bool(pair.captions) for pair in source.pairs) == captioned
    for pair in source.pairs:
        opened = source.open(pair)
        assert opened.before.size == opened.after.size
        assert opened.mask is None or opened.mask.shape == opened.before.size[::-1]
