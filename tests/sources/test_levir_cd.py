"""LEVIR-CD, whole images and crops, any of its splits."""

from __future__ import annotations

import shutil
from pathlib import Path

import fakes
import pytest

from rsiccllm.errors import InputError
from rsiccllm.sources.levir_cd import LevirCD


def test_pairs(tmp_path: Path) -> None:
    fakes.levir_cd(tmp_path)
    source = LevirCD(tmp_path)
    assert [(pair.id, pair.split) for pair in source.pairs] == [
        ("train_1", "train"),
        ("val_1", "val"),
        ("test_1", "test"),
    ]
    assert source.pairs[0].mask == "train/label/train_1.png"
    assert [pair.changed for pair in source.pairs] == [None, None, None]
    # An empty building mask may hide a new road.
    assert [source.changed(pair) for pair in source.pairs] == [None, True, None]
    opened = source.open(source.pairs[1])
    assert opened.mask is not None
    assert opened.mask.sum() == 8 * 14


def test_one_split_is_enough_and_crops_of_one_name_stay_apart(tmp_path: Path) -> None:
    fakes.levir_cd(tmp_path)
    shutil.rmtree(tmp_path / "test")
    for split in ("train", "val"):
        for side in ("A", "B"):
            fakes.draw(tmp_path / split / side / "panel_0_256.png")
        fakes.draw_mask(tmp_path / split / "label" / "panel_0_256.png")
    assert [pair.id for pair in LevirCD(tmp_path).pairs] == ["train_panel_0_256", "train_1", "val_panel_0_256", "val_1"]


def test_faults(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such folder; expected \{train,val,test\}.*justchenhao"):
        LevirCD(tmp_path / "no")
    with pytest.raises(InputError, match="has none of the folders train, val, test"):
        LevirCD(tmp_path)
    (tmp_path / "test" / "A").mkdir(parents=True)
    with pytest.raises(InputError, match="B: no such folder"):
        LevirCD(tmp_path)
    (tmp_path / "test" / "B").mkdir()
    (tmp_path / "test" / "label").mkdir()
    with pytest.raises(InputError, match="holds no images"):
        LevirCD(tmp_path)


@pytest.mark.parametrize("side", ["A", "B", "label"])
def test_a_file_that_is_missing(tmp_path: Path, side: str) -> None:
    fakes.levir_cd(tmp_path)
    (tmp_path / "val" / side / "val_1.png").unlink()
    with pytest.raises(InputError) as caught:
        LevirCD(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'val' / side / 'val_1.png'}: no such file")
    faults: list[str] = []
    assert len(LevirCD(tmp_path, faults.append).pairs) == 3
    assert len(faults) == 1


def test_the_real_set(shared_data: Path) -> None:
    source = LevirCD(shared_data / "levir_cd")
    assert source.splits() == ["test"]
    changed = [source.changed(pair) for pair in source.pairs]
    assert (len(changed), changed.count(True), changed.count(None)) == (110, 52, 58)
