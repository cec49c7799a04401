"""LEVIR-CC as it is published, and what each fault of its JSON is answered with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest

from rsiccllm.errors import InputError
from rsiccllm.sources.levir_cc import LevirCC, LevirCCCaptions


def test_pairs(tmp_path: Path) -> None:
    fakes.levir_cc(tmp_path)
    source = LevirCC(tmp_path)
    assert [pair.id for pair in source.pairs] == ["train_000001", "train_000002", "val_000001"]
    assert source.splits() == ["train", "val"]
    assert [pair.changed for pair in source.pairs] == [False, True, True]
    first, second, _ = source.pairs
    assert first.captions == fakes.NO_CHANGE
    assert first.before == "images/train/A/train_000001.png"
    assert first.after == "images/train/B/train_000001.png"
    assert first.mask is None
    assert second.mask == "images/train/label/train_000002.png"
    opened = source.open(second)
    assert opened.before.size == (40, 32)
    assert opened.mask is not None
    assert opened.mask.sum() == 8 * 14
    assert not np.array_equal(np.asarray(opened.before), np.asarray(opened.after))
    assert source.open(first).mask is None


def test_select(tmp_path: Path) -> None:
    fakes.levir_cc(tmp_path)
    source = LevirCC(tmp_path)
    assert [pair.id for pair in source.select("val")] == ["val_000001"]
    assert source.select(None) == source.pairs
    with pytest.raises(InputError, match="no split 'tset'; expected train, val"):
        source.select("tset")


@pytest.mark.parametrize(
    ("sentence", "caption"),
    [
        ({"raw": " a house is built ."}, "a house is built"),
        ({"raw": "  A house\tis  built."}, "A house is built."),
        ({"tokens": ["a", "house"], "raw": " another ."}, "a house"),
    ],
)
def test_caption_of_a_sentence(tmp_path: Path, sentence: dict[str, Any], caption: str) -> None:
    entries = fakes.levir_cc(tmp_path)
    entries[0]["sentences"] = [sentence]
    fakes.write_annotations(tmp_path, entries)
    assert LevirCC(tmp_path).pairs[0].captions == [caption]


def first(change: Callable[[dict[str, Any]], object]) -> Callable[[list[dict[str, Any]]], object]:
    return lambda entries: change(entries[0])


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (first(lambda item: item.pop("filename")), "images[0]: field 'filename': Field required"),
        (first(lambda item: item.pop("sentences")), "field 'sentences': Field required"),
        (first(lambda item: item.pop("changeflag")), "field 'changeflag': Field required"),
        (first(lambda item: item.pop("filepath")), "field 'filepath': Field required"),
        (first(lambda item: item.update(changeflag="yes")), "field 'changeflag': Input should be a valid integer"),
        (first(lambda item: item.update(changeflag=2)), "expected 0 or 1, got 2"),
        (first(lambda item: item.update(filename=7)), "field 'filename': Input should be a valid string, got 7"),
        (first(lambda item: item.update(sentences="a house")), "field 'sentences': Input should be a valid list"),
        (first(lambda item: item["sentences"].__setitem__(1, "a house")), "field 'sentences.1'"),
        (first(lambda item: item["sentences"][1].update(tokens=[], raw="")), "field 'sentences.1': empty caption"),
        (first(lambda item: item["sentences"][0].update(tokens=[" "])), "field 'sentences.0': empty caption"),
        (first(lambda item: item.update(filename="../../../secret.png")), "must be names, not paths"),
        (first(lambda item: item.update(filename="/etc/passwd")), "must be names, not paths"),
        (first(lambda item: item.update(filepath="..")), "must be names, not paths"),
        (first(lambda item: item.update(filename="..\\x.png")), "must be names, not paths"),
        (first(lambda item: item.update(filename="gone.png")), "images/train/A/gone.png: no such file"),
        (first(lambda item: item["sentences"][0].update(tokens=["\ud800"])), "valid Unicode"),
        (lambda entries: entries.append(entries[0]), "duplicate id 'train_000001' (in train)"),
        (lambda entries: entries.append("x"), "images[3]: field 'record'"),
    ],
)
def test_faults_of_the_json(tmp_path: Path, spoil: Callable[[list[dict[str, Any]]], object], expected: str) -> None:
    entries = fakes.levir_cc(tmp_path)
    spoil(entries)
    fakes.write_annotations(tmp_path, entries)
    with pytest.raises(InputError) as caught:
        LevirCC(tmp_path)
    assert expected in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_faults_can_be_collected(tmp_path: Path) -> None:
    entries = fakes.levir_cc(tmp_path)
    del entries[0]["filename"], entries[0]["sentences"]
    entries[1]["sentences"][0] = {"raw": " . "}
    entries[2]["filename"] = "gone.png"
    fakes.write_annotations(tmp_path, entries)
    faults: list[str] = []
    source = LevirCC(tmp_path, faults.append)
    # Two keys, one empty caption, two files.
    assert len(faults) == 5
    assert [len(pair.captions) for pair in source.pairs] == [1, 2]


@pytest.mark.parametrize("text", ["[]", "{}", '{"images": {}}', "3", "null"])
def test_a_json_of_another_shape(tmp_path: Path, text: str) -> None:
    fakes.levir_cc(tmp_path)
    (tmp_path / "LevirCCcaptions.json").write_text(text)
    with pytest.raises(InputError, match="expected an object with a list 'images'"):
        LevirCC(tmp_path)


def test_a_set_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        LevirCC(tmp_path / "no")
    for part in (str(tmp_path / "no"), "no such folder", "images/{train,val,test}/{A,B}", "lcybuaa/LEVIR-CC"):
        assert part in str(caught.value)
    with pytest.raises(InputError, match=r"LevirCCcaptions\.json: missing"):
        LevirCC(tmp_path)
    (tmp_path / "LevirCCcaptions.json").write_text('{"images": []}')
    with pytest.raises(InputError, match="images: missing"):
        LevirCC(tmp_path)


def test_an_image_that_links_out_of_the_root_is_not_opened(tmp_path: Path) -> None:
    root = tmp_path / "root"
    fakes.levir_cc(root)
    secret = fakes.draw(tmp_path / "secret.png")
    image = root / "images" / "train" / "B" / "train_000001.png"
    image.unlink()
    image.symlink_to(secret)
    source = LevirCC(root)
    with pytest.raises(InputError, match=r"leaves the data root .* through a symbolic link"):
        source.open(source.pairs[0])


def test_captions_alone(tmp_path: Path) -> None:
    fakes.levir_cc(tmp_path)
    source = LevirCCCaptions(tmp_path / "LevirCCcaptions.json")
    with_images = LevirCC(tmp_path)
    assert [pair.captions for pair in source.pairs] == [pair.captions for pair in with_images.pairs]
    assert [pair.before for pair in source.pairs] == [pair.before for pair in with_images.pairs]
    assert not source.has_images
    with pytest.raises(InputError, match=r"captions only; expected levir-cc:DIR"):
        source.open(source.pairs[0])
    for wrong in (tmp_path, tmp_path / "no.json"):
        with pytest.raises(InputError, match="expected the annotation file"):
            LevirCCCaptions(wrong)
    (tmp_path / "cut.json").write_text(json.dumps({"images": []})[:-3])
    with pytest.raises(InputError, match=r"cut\.json:1: not valid JSON"):
        LevirCCCaptions(tmp_path / "cut.json")


def test_the_real_set(shared_data: Path) -> None:
    source = LevirCC(shared_data / "levir_cc")
    assert {split: len(source.select(split)) for split in source.splits()} == {"train": 20, "val": 1}
    assert sum(pair.mask is not None for pair in source.pairs) == 4
    for pair in source.pairs:
        assert len(pair.captions) == 5
        assert source.open(pair).before.size == (256, 256)


def test_the_real_captions(shared_data: Path) -> None:
    source = LevirCCCaptions(shared_data / "levir_cc_captions_train_val.json")
    changed = {split: [pair.changed for pair in source.select(split)] for split in source.splits()}
    assert {split: (len(flags), sum(map(bool, flags))) for split, flags in changed.items()} == {
        "train": (6815, 3407),
        "val": (1333, 667),
    }
