"""Small data sets in the true layouts of the public ones, with images drawn here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

NO_CHANGE = ["there is no difference", "no change has occurred"]


def draw(path: Path, seed: int = 0, size: tuple[int, int] = (40, 32)) -> Path:
    """Noise of `size` (width, height), different for each seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def draw_mask(path: Path, value: int = 255, size: tuple[int, int] = (40, 32)) -> Path:
    """A rectangle of `value` on 0; value 0 gives an empty mask."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((size[1], size[0]), np.uint8)
    pixels[4:12, 6:20] = value
    Image.fromarray(pixels).save(path)
    return path


def entry(name: str, split: str, changed: int, sentences: list[str]) -> dict[str, Any]:
    """One entry of LevirCCcaptions.json as it is published."""
    return {
        "filename": name,
        "filepath": split,
        "split": split,
        "changeflag": changed,
        "imgid": 0,
        "sentids": list(range(len(sentences))),
        "sentences": [
            {"tokens": text.split(), "raw": f" {text} .", "imgid": 0, "sentid": number}
            for number, text in enumerate(sentences)
        ],
    }


def levir_cc(root: Path) -> list[dict[str, Any]]:
    """Two train pairs and one val pair; the second train pair has a mask. Returns the entries of the JSON."""
    entries = [
        entry("train_000001.png", "train", 0, NO_CHANGE),
        entry("train_000002.png", "train", 1, ["two houses are built", "a road appears"]),
        entry("val_000001.png", "val", 1, ["trees are removed", "the trees make way for a house"]),
    ]
    for number, item in enumerate(entries):
        for side, seed in (("A", 2 * number), ("B", 2 * number + 1)):
            draw(root / "images" / item["split"] / side / item["filename"], seed)
    draw_mask(root / "images" / "train" / "label" / "train_000002.png", 128)
    write_annotations(root, entries)
    return entries


def write_annotations(root: Path, entries: Any) -> Path:
    path = root / "LevirCCcaptions.json"
    path.write_text(json.dumps({"images": entries, "dataset": "LEVIR-CC"}), encoding="utf-8")
    return path


def levir_cd(root: Path, names: tuple[str, ...] = ("train_1", "val_1", "test_1")) -> None:
    """One pair a name, in the split that the name begins with; every second mask is empty."""
    for number, name in enumerate(names):
        folder = root / name.split("_")[0]
        draw(folder / "A" / f"{name}.png", 100 + 2 * number)
        draw(folder / "B" / f"{name}.png", 101 + 2 * number)
        draw_mask(folder / "label" / f"{name}.png", 255 * (number % 2))


def folder(root: Path, names: tuple[str, ...] = ("x", "y")) -> None:
    """A/ and B/ alone."""
    for number, name in enumerate(names):
        draw(root / "A" / f"{name}.png", 200 + 2 * number)
        draw(root / "B" / f"{name}.png", 201 + 2 * number)


def split_folders(
    root: Path, sides: tuple[str, str, str], suffix: str = ".png", splits: tuple[str, ...] = ("train",)
) -> None:
    """Two pairs a split in SYSU-CD's, S2Looking's or CDD's folders; the second mask is empty."""
    for at, split in enumerate(splits):
        for number in range(2):
            name = f"{number:05d}{suffix}"
            draw(root / split / sides[0] / name, 300 + 10 * at + 2 * number)
            draw(root / split / sides[1] / name, 301 + 10 * at + 2 * number)
            draw_mask(root / split / sides[2] / name, 255 * (1 - number))


def draw_labels(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (40, 32)) -> Path:
    """SECOND's colours: white, and a rectangle of `colour`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((size[1], size[0], 3), 255, np.uint8)
    pixels[4:12, 6:20] = colour
    Image.fromarray(pixels).save(path)
    return path


def second(root: Path) -> None:
    """One pair: low vegetation gives way to a building; one where nothing changed."""
    for number, (before, after) in enumerate([((0, 128, 0), (128, 0, 0)), ((255,) * 3, (255,) * 3)]):
        name = f"{number:05d}.png"
        draw(root / "im1" / name, 400 + 2 * number)
        draw(root / "im2" / name, 401 + 2 * number)
        draw_labels(root / "label1" / name, before)
        draw_labels(root / "label2" / name, after)


def second_cc(root: Path) -> None:
    """Two train pairs, the first with its maps."""
    entries = []
    for number in range(2):
        name = f"{number:05d}.png"
        draw(root / "train/rgb/A" / name, 500 + 2 * number)
        draw(root / "train/rgb/B" / name, 501 + 2 * number)
        item = entry(
            name, "train", 1 - number, ["the trees become a building"] if number == 0 else ["no change is occurred"]
        )
        del item["filepath"]
        entries.append(item)
    draw_labels(root / "train/sem/A/00000.png", (0, 255, 0))
    draw_labels(root / "train/sem/B/00000.png", (128, 0, 0))
    (root / "SECOND-CC-AUG.json").write_text(json.dumps({"images": entries}), encoding="utf-8")


def whu_cdc(root: Path) -> None:
    """One pair with a boolean mask, one without; the split stands in `filepath` alone."""
    entries = []
    for number, split in enumerate(("train", "test")):
        name = f"{split}_{number}.png"
        draw(root / "images" / split / "A" / name, 600 + 2 * number)
        draw(root / "images" / split / "B" / name, 601 + 2 * number)
        item = entry(name, split, 1, ["a new building has appeared"])
        del item["split"], item["changeflag"]
        entries.append(item)
    mask = root / "images/train/label/train_0.png"
    mask.parent.mkdir(parents=True)
    pixels = np.zeros((32, 40), bool)
    pixels[4:12, 6:20] = True
    Image.fromarray(pixels).save(mask)
    (root / "whuCCcaptions.json").write_text(json.dumps({"images": entries}), encoding="utf-8")


def xbd(root: Path) -> None:
    """A train pair with damage of all grades, a test pair without a target."""
    for number, folder in enumerate(("train", "test")):
        for date in ("pre", "post"):
            draw(root / folder / "images" / f"palu-tsunami_{number:08d}_{date}_disaster.png", 700 + number)
    pixels = np.zeros((32, 40), np.uint8)
    for grade in range(1, 6):
        pixels[4:12, 7 * grade - 6 : 7 * grade - 1] = grade
    target = root / "train/targets/palu-tsunami_00000000_post_disaster_target.png"
    target.parent.mkdir(parents=True)
    Image.fromarray(pixels).save(target)


def dubai_cc(root: Path) -> None:
    """A pair a split; captions name PNGs, images are TIFFs."""
    folder = root / "description_jsontr_te_val"
    folder.mkdir(parents=True)
    for number, split in enumerate(("Train", "Validation", "Test")):
        item = entry(f"tile_{number}.png", split, 0, ["Nothing has changed" if number else "New roads appeared"])
        for key in ("filepath", "split", "changeflag"):
            del item[key]
        (folder / f"{split}_Dubai.json").write_text(json.dumps({"images": [item]}), encoding="utf-8")
        for date in ("500_2000", "500_2010"):
            draw(root / "imgs_tiles/RGB" / date / f"tile_{number}.tif", 800 + number, (50, 50))


def rscc(root: Path) -> None:
    """Three pairs, the first with captions of two models, the third in the subset that is the benchmark."""
    lines = []
    for number, model in ((0, "a"), (0, "b"), (1, "a"), (2, "a")):
        folder = "xbdsubset/storm/images" if number == 2 else "xbd/images-w512-h512"
        pre, post = (f"{folder}/storm_{number}_{date}.png" for date in ("pre", "post"))
        draw(root / pre, 900 + number)
        draw(root / post, 910 + number)
        caption = f"Several buildings were destroyed, as {model} saw it."
        lines.append({"pre_image": pre, "post_image": post, "change_caption": caption, "model_id": model,
                      "inference_type": "naive"})  # fmt: skip
    (root / "RSCC_qvq.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")


def changechat(root: Path) -> None:
    """One train pair with two captions, a question and a dialogue; one test pair with captions."""
    draw(root / "images/train/A/train_000001.png", 950)
    draw(root / "images/train/B/train_000001.png", 951)
    draw(root / "images/test/A/test_000001.png", 952)
    draw(root / "images/test/B/test_000001.png", 953)
    images = ["train/A/train_000001.png", "train/B/train_000001.png"]

    def conversation(*texts: str) -> dict[str, Any]:
        said = [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]
        return {"id": "1", "image": images, "changeflag": 1, "conversations": said}

    question = "<image>\nPlease briefly describe the changes in these two images."
    entries = [
        conversation(question, "two houses are built"),
        conversation(question, "houses appear"),
        conversation("<image>\nHave these two images changed? Answer yes or no.", "yes"),
        conversation("What was built?", "Two houses.", "Where?", "In the top left."),
    ]
    (root / "changechat_105k_train.json").write_text(json.dumps(entries), encoding="utf-8")
    test = [{"image_A": "test/A/test_000001.png", "image_B": "test/B/test_000001.png", "changeflag": 0,
             "captions": ["there is no difference", "the scene is the same as before"]}]  # fmt: skip
    (root / "changechat_105k_test.json").write_text(json.dumps(test), encoding="utf-8")
