"""Change detection sets in their published folders: what a mask means, and what is said where something is missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import fakes
import numpy as np
import pytest
from PIL import Image

from rsiccllm.errors import InputError
from rsiccllm.facts import Known
from rsiccllm.sources import open_source
from rsiccllm.sources.check import check_source
from rsiccllm.sources.tiles import Tiles

AREA = 8 * 14

MAKERS: dict[str, Callable[[Path], object]] = {
    "sysu-cd": lambda root: fakes.split_folders(root, ("time1", "time2", "label"), splits=("train", "test")),
    "s2looking": lambda root: fakes.split_folders(root, ("Image1", "Image2", "label")),
    "cdd": lambda root: fakes.split_folders(root / "ChangeDetectionDataset/Real/subset", ("A", "B", "OUT"), ".jpg"),
    "levir-cd": fakes.levir_cd,
    "second": fakes.second,
    "second-cc": fakes.second_cc,
    "whu-cdc": fakes.whu_cdc,
    "xbd": fakes.xbd,
    "dubai-cc": fakes.dubai_cc,
    "rscc": fakes.rscc,
    "changechat": fakes.changechat,
}


@pytest.mark.parametrize("kind", MAKERS)
def test_every_set_is_read_as_published_and_checks_clean(kind: str, tmp_path: Path) -> None:
    MAKERS[kind](tmp_path)
    source = open_source(f"{kind}:{tmp_path}")
    assert source.pairs
    for pair in source.pairs:
        opened = source.open(pair)
        assert opened.before.size == source.size_of(pair)
    report = check_source(f"{kind}:{tmp_path}", progress=False)
    assert report.ok, report.faults
    assert source.licence != "not stated" or kind == "folder"


@pytest.mark.parametrize("kind", MAKERS)
def test_what_is_not_there_is_named_with_the_layout_and_where_it_is_had(kind: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        open_source(f"{kind}:{tmp_path / 'none'}")
    assert str(caught.value).startswith(f"{tmp_path / 'none'}: no such folder; expected ")
    assert "; had from " in str(caught.value)
    with pytest.raises(InputError, match=r"expected .*; had from "):
        open_source(f"{kind}:{tmp_path}")  # an empty folder


@pytest.mark.parametrize("kind", ["sysu-cd", "s2looking", "cdd", "second", "xbd", "second-cc", "whu-cdc", "rscc"])
def test_an_image_that_is_missing_is_one_fault_that_names_it(kind: str, tmp_path: Path) -> None:
    MAKERS[kind](tmp_path)
    pair = open_source(f"{kind}:{tmp_path}").pairs[0]
    gone = open_source(f"{kind}:{tmp_path}").root / pair.after
    gone.unlink()
    with pytest.raises(InputError) as caught:
        open_source(f"{kind}:{tmp_path}")
    assert gone.stem in str(caught.value)
    faults: list[str] = []
    open_source(f"{kind}:{tmp_path}", faults.append)
    assert len(faults) == 1


def test_sysu_cd(tmp_path: Path) -> None:
    MAKERS["sysu-cd"](tmp_path)
    source = open_source(f"sysu-cd:{tmp_path}")
    assert [pair.id for pair in source.pairs] == ["train_00000", "train_00001", "test_00000", "test_00001"]
    assert source.scope is None
    mask = source.classes(source.pairs[0])
    assert mask is not None
    assert (mask.values.sum(), mask.meaning) == (AREA, {})


def test_s2looking_says_which_way_where_its_two_further_masks_are_there(tmp_path: Path) -> None:
    MAKERS["s2looking"](tmp_path)
    source = open_source(f"s2looking:{tmp_path}")
    mask = source.classes(source.pairs[0])
    assert mask is not None
    assert mask.meaning == {1: (Known("building"),)}
    fakes.draw_mask(tmp_path / "train/label1/00000.png")
    fakes.draw_mask(tmp_path / "train/label2/00000.png", 0)
    mask = source.classes(source.pairs[0])
    assert mask is not None
    assert np.unique(mask.values).tolist() == [0, 1]
    assert mask.meaning[1] == (Known("building", "appear", "build"),)
    assert mask.meaning[2] == (Known("building", "disappear", "remove"),)
    fakes.draw_mask(tmp_path / "train/label2/00000.png")  # torn down and built anew: it came and it went
    both = source.classes(source.pairs[0])
    assert both is not None
    assert np.unique(both.values).tolist() == [0, 3]


def test_cdd_drops_the_shades_of_jpeg(tmp_path: Path) -> None:
    MAKERS["cdd"](tmp_path)
    source = open_source(f"cdd:{tmp_path}")
    path = source.root / str(source.pairs[0].mask)
    raw = np.asarray(Image.open(path))
    assert ((raw > 0) & (raw < 128)).any(), "the fake has no shades to drop"
    mask = source.mask(source.pairs[0])
    assert mask is not None
    assert abs(int(mask.sum()) - AREA) <= 4
    opened = source.open(source.pairs[0])
    assert opened.mask is not None
    assert (opened.mask == mask).all()


def test_second_reads_what_was_and_what_became(tmp_path: Path) -> None:
    fakes.second(tmp_path)
    source = open_source(f"second:{tmp_path}")
    mask = source.classes(source.pairs[0])
    assert mask is not None
    value = int(mask.values.max())
    assert (mask.values > 0).sum() == AREA
    assert mask.meaning[value] == (Known("building", "appear", "replace"), Known("grass", "disappear", "replace"))
    empty = source.mask(source.pairs[1])
    assert empty is not None
    assert not empty.any()
    fakes.draw_labels(tmp_path / "label1/00000.png", (1, 2, 3))
    with pytest.raises(InputError, match=r"label1/00000.png: colour \(1, 2, 3\) at column 6, row 4"):
        source.open(source.pairs[0])


def test_second_cc_has_captions_and_maps(tmp_path: Path) -> None:
    fakes.second_cc(tmp_path)
    first, second = open_source(f"second-cc:{tmp_path}").pairs
    assert (first.split, first.changed, first.captions) == ("train", True, ["the trees become a building"])
    assert first.mask == "train/sem/A/00000.png"
    assert (second.mask, second.changed) == (None, False)


def test_whu_cdc_reads_boolean_masks(tmp_path: Path) -> None:
    fakes.whu_cdc(tmp_path)
    source = open_source(f"whu-cdc:{tmp_path}")
    assert [(pair.split, pair.mask is not None) for pair in source.pairs] == [("train", True), ("test", False)]
    mask = source.classes(source.pairs[0])
    assert mask is not None
    assert (mask.values.sum(), mask.meaning) == (AREA, {1: (Known("building"),)})


def test_xbd_counts_damage_of_two_or_more(tmp_path: Path) -> None:
    fakes.xbd(tmp_path)
    source = open_source(f"xbd:{tmp_path}")
    assert [(pair.split, pair.mask is not None) for pair in source.pairs] == [("test", False), ("train", True)]
    mask = source.classes(source.pairs[1])
    assert mask is not None
    assert np.unique(mask.values).tolist() == [0, 2, 3, 4]  # 1: no damage, 5: nobody could judge
    assert (mask.values > 0).sum() == 3 * 40
    assert mask.meaning[4] == (Known("building", "disappear", "remove"),)


def test_dubai_cc_matches_images_by_name_and_takes_the_split_from_the_file(tmp_path: Path) -> None:
    fakes.dubai_cc(tmp_path)
    source = open_source(f"dubai-cc:{tmp_path}")
    assert [(pair.id, pair.split) for pair in source.pairs] == [
        ("train_tile_0", "train"), ("val_tile_1", "val"), ("test_tile_2", "test"),
    ]  # fmt: skip
    assert source.pairs[0].after == "imgs_tiles/RGB/500_2010/tile_0.tif"


def test_rscc_keeps_one_description_a_pair(tmp_path: Path) -> None:
    fakes.rscc(tmp_path)
    source = open_source(f"rscc:{tmp_path}")
    assert [pair.split for pair in source.pairs] == ["train", "train", "test"]
    assert source.pairs[0].description == "Several buildings were destroyed, as a saw it."
    assert any("1 further captions" in note for note in source.notes)


def test_changechat_gathers_the_entries_of_a_pair(tmp_path: Path) -> None:
    fakes.changechat(tmp_path)
    test, train = open_source(f"changechat:{tmp_path}").pairs
    assert (test.split, test.changed, len(test.captions)) == ("test", False, 2)
    assert train.captions == ["two houses are built", "houses appear"]
    assert train.before == "images/train/A/train_000001.png"
    said = [[(turn.question, turn.answer) for turn in dialogue] for dialogue in train.dialogues]
    assert said == [
        [("Have these two images changed? Answer yes or no.", "yes")],
        [("What was built?", "Two houses."), ("Where?", "In the top left.")],
    ]


def test_changechat_never_mixes_splits(tmp_path: Path) -> None:
    fakes.changechat(tmp_path)
    other = [{"image_A": "train/A/train_000001.png", "image_B": "train/B/train_000001.png", "captions": ["x"]}]
    (tmp_path / "more_test.json").write_text(json.dumps(other), encoding="utf-8")
    with pytest.raises(InputError, match=r"entry 0: its images are in split 'train' already, here in 'test'"):
        open_source(f"changechat:{tmp_path}")


def test_a_part_of_a_changed_pair_may_be_unchanged(tmp_path: Path) -> None:
    fakes.folder(tmp_path)
    source = open_source(f"folder:{tmp_path}")
    for flag, told in ((True, None), (False, False)):
        source.pairs = [pair.model_copy(update={"changed": flag, "captions": []}) for pair in source.pairs]
        tiles = [pair for pair in Tiles(source, 28).pairs if "_" in pair.id]
        assert tiles
        assert {pair.changed for pair in tiles} == {told}


def test_tiles_cover_every_pixel_and_keep_their_masks(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    first, second = (rng.integers(0, 256, (64, 100, 3), dtype=np.uint8) for _ in range(2))
    mask = np.zeros((64, 100), np.uint8)
    mask[30:40, 60:95] = 255
    for side, pixels in (("A", first), ("B", second), ("label", mask)):
        (tmp_path / "train" / side).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "train" / side / "1.png")
    tiles = Tiles(open_source(f"levir-cd:{tmp_path}"), 32)
    names = [pair.id for pair in tiles.pairs]
    assert names[:4] == ["train_1_0000_0000", "train_1_0000_0032", "train_1_0000_0064", "train_1_0000_0068"]
    assert len(names) == 8
    seen = np.zeros((64, 100), int)
    for pair in tiles.pairs:
        top, left = (int(part) for part in pair.id.split("_")[-2:])
        opened = tiles.open(pair)
        assert (np.asarray(opened.after) == second[top : top + 32, left : left + 32]).all()
        assert opened.mask is not None
        assert (opened.mask == (mask[top : top + 32, left : left + 32] > 0)).all()
        own = tiles.mask(pair)
        assert own is not None
        assert (own == opened.mask).all()
        seen[top : top + 32, left : left + 32] += 1
    assert (seen > 0).all()


def test_pairs_with_captions_stay_whole(tmp_path: Path) -> None:
    fakes.folder(tmp_path)
    (tmp_path / "captions.json").write_text('{"x.png": ["a house is built"]}', encoding="utf-8")
    tiles = Tiles(open_source(f"folder:{tmp_path}"), 28)
    assert [pair.id for pair in tiles.pairs] == [
        "x", "y_0000_0000", "y_0000_0012", "y_0004_0000", "y_0004_0012",
    ]  # fmt: skip


def test_real_damage(shared_data: Path) -> None:
    source = open_source(f"xbd:{shared_data / 'xbd_mexico'}")
    assert len(source.pairs) == 8
    marked = [source.mask(pair) for pair in source.pairs]
    assert 0 < sum(bool(mask is not None and mask.any()) for mask in marked) < 8
