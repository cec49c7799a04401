"""`data check` finds every fault, and finds none where there is none."""

from __future__ import annotations

import shutil
from pathlib import Path

import fakes
import numpy as np
import pytest
from PIL import Image

from rsiccllm.errors import InputError
from rsiccllm.sources.check import CheckReport, check_source


def check(spec: str, **options: bool) -> CheckReport:
    return check_source(spec, progress=False, **options)


def test_a_good_set(tmp_path: Path) -> None:
    fakes.levir_cc(tmp_path)
    report = check(f"levir-cc:{tmp_path}")
    assert report.ok
    train, val = report.splits["train"], report.splits["val"]
    assert (train.pairs, train.captions, train.masks, train.marked) == (2, 4, 1, 1)
    assert train.changed == {True: 1, False: 1}
    assert train.sizes == {(40, 32): 2}
    assert (val.pairs, val.captions, val.masks) == (1, 2, 0)
    text = report.render()
    for part in ("train", "val", "1 (50.0%)", "40x32", "3 pairs, every image decoded: no faults", "1 of 3 pairs"):
        assert part in text


def test_every_fault_is_listed_once(tmp_path: Path) -> None:
    """One of each kind, all in one set."""
    entries = fakes.levir_cc(tmp_path)
    images = tmp_path / "images"
    entries += [fakes.entry(f"train_00000{n}.png", "train", 1, ["a house is built"]) for n in range(3, 9)]
    entries += [fakes.entry("val_000002.png", "val", 1, ["a house is built"]), entries[0]]
    for number in range(3, 9):
        for side, seed in (("A", 0), ("B", 1)):
            fakes.draw(images / "train" / side / f"train_00000{number}.png", 10 * number + seed)
    for side in ("A", "B"):  # the same pair under another name in another split
        shutil.copy(images / "train" / side / "train_000001.png", images / "val" / side / "val_000002.png")
    whole = (images / "train" / "A" / "train_000003.png").read_bytes()
    (images / "train" / "A" / "train_000003.png").write_bytes(whole[: len(whole) // 2])
    fakes.draw(images / "train" / "B" / "train_000004.png", size=(44, 32))
    (images / "train" / "A" / "train_000005.png").unlink()
    (images / "train" / "B" / "train_000005.png").write_text("not an image")
    entries[7]["sentences"] = []  # train_000007
    entries[8]["sentences"] = [{"raw": "word " * 10_000}]  # train_000008
    fakes.draw_mask(images / "train" / "label" / "train_000006.png", size=(32, 40))
    Image.fromarray(np.arange(40 * 32, dtype=np.uint8).reshape(32, 40)).save(images / "train/label/train_000007.png")
    secret = fakes.draw(tmp_path.parent / f"{tmp_path.name}_secret.png")
    (images / "train" / "label" / "train_000008.png").symlink_to(secret)
    fakes.draw(images / "val" / "A" / "val_000009.png")
    fakes.write_annotations(tmp_path, entries)

    report = check(f"levir-cc:{tmp_path}")
    expected = [
        "duplicate id 'train_000001' (in train)",
        "A/train_000005.png: no such file",
        "train_000003.png: truncated or damaged",
        "B/train_000004.png: 44x32 pixels, but images/train/A/train_000004.png has 40x32; sizes differ",
        "B/train_000005.png: not an image",
        "label/train_000006.png: 32x40 pixels, but",
        "label/train_000007.png: mask values 0, 1, 2, 3, 4, ...",
        "pair 'train_000007': captions missing",
        "pair 'train_000008': a caption of 10,000 words",
        "'images/train/label/train_000008.png' leaves the data root",
        "pair 'val_000002' of val has the same two images as 'train_000001' of train",
        "val_000009.png (in A): captions missing, no entry",
    ]
    for part in expected:
        assert len([fault for fault in report.faults if part in fault]) == 1, part
    assert len(report.faults) == len(expected), report.faults
    assert not report.ok
    text = report.render(width=80)
    assert text.count("fault ") == len(expected)
    assert f"{len(expected)} faults" in text
    # Headers alone show all but what is behind the header: a truncated file and the values of a mask.
    assert len(check(f"levir-cc:{tmp_path}", decode=False).faults) == len(expected) - 2


def test_a_broken_entry_is_one_fault_and_its_images_do_not_count_as_unnamed(tmp_path: Path) -> None:
    entries = fakes.levir_cc(tmp_path)
    entries[1]["changeflag"] = "yes"
    fakes.write_annotations(tmp_path, entries)
    faults = check(f"levir-cc:{tmp_path}").faults
    assert len(faults) == 1
    assert "images[1]: field 'changeflag'" in faults[0]


def test_the_same_id_in_two_splits(tmp_path: Path) -> None:
    entries = fakes.levir_cc(tmp_path)
    for side in ("A", "B"):
        fakes.draw(tmp_path / "images" / "val" / side / "train_000001.png", 9)
    fakes.write_annotations(tmp_path, [*entries, fakes.entry("train_000001.png", "val", 0, ["x"])])
    assert any("duplicate id 'train_000001' (in train and val)" in f for f in check(f"levir-cc:{tmp_path}").faults)


def test_images_shared_by_one_side_only_are_no_leak(tmp_path: Path) -> None:
    fakes.levir_cd(tmp_path)
    shutil.copy(tmp_path / "train" / "A" / "train_1.png", tmp_path / "val" / "A" / "val_1.png")
    assert check(f"levir-cd:{tmp_path}").ok
    shutil.copy(tmp_path / "train" / "B" / "train_1.png", tmp_path / "val" / "B" / "val_1.png")
    assert len(check(f"levir-cd:{tmp_path}").faults) == 1


@pytest.mark.parametrize("values", [[0], [0, 1], [0, 255], [255], [0, 128], [0, 128, 255], [128, 255], [0, 7]])
def test_masks_that_are_right(tmp_path: Path, values: list[int]) -> None:
    fakes.folder(tmp_path, ("x",))
    mask = np.resize(np.array(values, np.uint8), (32, 40))
    (tmp_path / "label").mkdir()
    Image.fromarray(mask).save(tmp_path / "label" / "x.png")
    assert check(f"folder:{tmp_path}").ok


@pytest.mark.parametrize("values", [[0, 1, 2], [0, 128, 254], [3, 4]])
def test_masks_that_are_wrong(tmp_path: Path, values: list[int]) -> None:
    fakes.folder(tmp_path, ("x",))
    (tmp_path / "label").mkdir()
    Image.fromarray(np.resize(np.array(values, np.uint8), (32, 40))).save(tmp_path / "label" / "x.png")
    assert f"mask values {', '.join(map(str, values))}" in check(f"folder:{tmp_path}").faults[0]


def test_a_mask_against_the_flag_is_noted(tmp_path: Path) -> None:
    fakes.levir_cc(tmp_path)
    fakes.draw_mask(tmp_path / "images" / "train" / "label" / "train_000001.png")
    report = check(f"levir-cc:{tmp_path}")
    assert report.ok
    assert any("1 pair said to be unchanged with a mask that is not empty: train_000001" in n for n in report.notes)


def test_broken_captions_do_not_hide_broken_images(tmp_path: Path) -> None:
    fakes.folder(tmp_path)
    (tmp_path / "captions.json").write_text("{")
    (tmp_path / "A" / "x.png").write_text("")
    faults = check(f"folder:{tmp_path}").faults
    assert len(faults) == 2
    assert "captions.json:1: not valid JSON" in faults[0]
    assert "x.png: empty file" in faults[1]


def test_markup_in_names_is_printed_as_it_is(tmp_path: Path) -> None:
    fakes.folder(tmp_path, ("[red]x[", "[/]"))
    (tmp_path / "B" / "[red]x[.png").write_text("")
    text = check(f"folder:{tmp_path}").render(width=300)
    assert "B/[red]x[.png: empty file" in text


def test_nothing_to_look_at(tmp_path: Path) -> None:
    for spec in ("nonsense:x", f"levir-cc:{tmp_path / 'no'}"):
        with pytest.raises(InputError):
            check(spec)


def test_captions_alone(tmp_path: Path) -> None:
    fakes.levir_cc(tmp_path)
    report = check(f"levir-cc-captions:{tmp_path}/LevirCCcaptions.json")
    assert report.ok
    assert report.splits["train"].captions == 4
    assert "images not decoded" in report.render()


def test_scenes() -> None:
    report = check("scenes:4,seed=1,size=64")
    assert report.ok
    assert sum(row.pairs for row in report.splits.values()) == 4


@pytest.mark.parametrize(
    ("spec", "pairs", "faults"),
    [
        ("levir-cc:levir_cc", 21, 0),
        ("levir-cd:levir_cd", 110, 0),
        ("levir-cc-captions:levir_cc_captions_train_val.json", 8148, 0),
        ("folder:dsifn", 10, 0),
        ("folder:egy_bcd", 6, 0),
        ("folder:sztaki", 3, 0),
        ("folder:captioned_crops", 20, 0),
        ("folder:other_captioned", 13, 0),
        ("folder:xbd_flooding", 16, 8),  # eight of the pairs have no caption
        ("folder:xbd_mexico", 8, 0),
        ("folder:oscd", 5, 0),
        ("folder:large_1024", 2, 0),
    ],
)
def test_the_real_sets(shared_data: Path, spec: str, pairs: int, faults: int) -> None:
    kind, _, name = spec.partition(":")
    report = check(f"{kind}:{shared_data / name}")
    assert sum(row.pairs for row in report.splits.values()) == pairs
    assert len(report.faults) == faults, report.faults
    assert all("captions missing" in fault for fault in report.faults)
