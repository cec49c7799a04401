"""Near-duplicates across sets and splits: what is one image in another form is found, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from rsiccllm.near_duplicates import Item, blind, find_near_duplicates
from rsiccllm.near_duplicates.images import Signature, candidates, overlap, sign
from rsiccllm.near_duplicates.report import report_near_duplicates
from rsiccllm.near_duplicates.texts import Alike, _candidates, alike, words_of
from rsiccllm.records import ImagePair
from rsiccllm.sources import open_source
from rsiccllm.sources.base import Source

Image_ = np.ndarray


def jpeg(image: Image_, quality: int) -> Image_:
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_GRAYSCALE)


FORMS: dict[str, tuple[Callable[[Image_], Image_], float]] = {
    # form: what is done to a 256 x 256 image, and the part of the smaller that the other shows
    "recompressed": (lambda image: jpeg(image, 40), 1),
    "half size": (lambda image: cv2.resize(image, (128, 128), interpolation=cv2.INTER_AREA), 1),
    "mirrored": (lambda image: image[:, ::-1], 1),
    "upside down": (lambda image: image[::-1], 1),
    "transposed": (lambda image: image.T, 1),
    "quarter turn": (lambda image: np.rot90(image), 1),
    "brighter": (lambda image: np.clip(image * 1.2 + 15.0, 0, 255).astype(np.uint8), 1),
    "cut by a tenth": (lambda image: image[12:244, 14:240], 1),
    "cut by a half": (lambda image: image[40:220, 60:245], 1),
    "shifted tile": (lambda image: np.hstack([image[:, 90:], np.full((256, 90), 128, np.uint8)]), 0.64),
    "cut, mirrored, recompressed": (lambda image: jpeg(np.ascontiguousarray(image[20:230, 10:230][:, ::-1]), 60), 1),
}


@pytest.fixture(scope="module")
def rendered() -> list[Image_]:
    source = open_source("scenes:24,seed=5")
    pairs = [source.open(pair).before for pair in source.pairs]
    return [cv2.cvtColor(np.asarray(image), cv2.COLOR_RGB2GRAY) for image in pairs]


@pytest.fixture(scope="module")
def signatures(rendered: list[Image_]) -> list[Signature]:
    return [sign(image) for image in rendered]


@pytest.mark.parametrize("form", FORMS)
def test_one_image_in_another_form(form: str, rendered: list[Image_], signatures: list[Signature]) -> None:
    change, share = FORMS[form]
    changed = [np.ascontiguousarray(change(image)) for image in rendered]
    others = [sign(image) for image in changed]
    count = len(rendered)
    found = set()
    for i, j in candidates([*signatures, *others], [0] * count + [1] * count):
        shared = overlap(rendered[i], changed[j - count], signatures[i], others[j - count])
        if shared is not None:
            found.add((i, j - count))
            assert shared.share == pytest.approx(share, abs=0.05)
            assert shared.mirrored is (form in {"mirrored", "upside down", "transposed", "cut, mirrored, recompressed"})
    assert {i for i, j in found if i == j} == set(range(count)), "missed"
    assert not [(i, j) for i, j in found if i != j], "two different scenes"


def test_what_shows_nothing_is_no_duplicate() -> None:
    blank = [np.full((64, 64), value, np.uint8) for value in (0, 0, 255)]
    assert candidates([sign(image) for image in blank], [0, 1, 1]) == []
    assert candidates([], []) == []
    slopes = [np.tile(np.linspace(0, 255, 40), (40, 1)).astype(np.uint8)[:, ::way] for way in (1, -1)]
    assert candidates([sign(np.ascontiguousarray(slope)) for slope in slopes], [0, 0]) == []  # no corner at all
    dots = []
    for places in ((20, 44), (22, 40)):  # corners that nothing matches
        dot = np.full((64, 64), 90, np.uint8)
        dot[places, places] = 255
        dots.append(sign(dot))
    assert candidates(dots, [0, 0]) == []


def save(root: Path, name: str, before: Image.Image, after: Image.Image) -> None:
    for folder, image in (("A", before), ("B", after), ("label", Image.new("L", before.size))):
        (root / folder).mkdir(parents=True, exist_ok=True)
        image.save(root / folder / f"{name}.png")


def test_both_dates_count_and_training_is_cleaned(tmp_path: Path) -> None:
    source = open_source("scenes:8,seed=9")
    opened = [source.open(pair) for pair in source.pairs]
    for index in range(4):
        save(tmp_path / "train", f"a{index}", opened[index].before, opened[index].after)
    mirrored = opened[1].after.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    save(tmp_path / "test", "b0", opened[5].before, mirrored)
    save(tmp_path / "test", "b1", opened[6].before, opened[6].after)
    save(tmp_path / "test", "b2", opened[6].before, opened[6].after)  # twice within a group: nothing is given away
    save(tmp_path / "val", "c0", opened[3].after, opened[7].after)  # the dates swapped
    built = open_source(f"levir-cd:{tmp_path}")
    items: list[Item] = [(built, pair) for pair in built.pairs]
    found = find_near_duplicates(items)
    ids = [pair.id for _, pair in items]
    assert {(ids[m.first], ids[m.second], m.roles) for m in found.images} == {
        ("train_a1", "test_b0", ("after", "after")),
        ("train_a3", "val_c0", ("after", "before")),
    }
    assert {ids[item] for item in found.training_leaks()} == {"train_a1", "train_a3"}
    assert sum(found.between().values()) == 2


def test_the_command_reports_and_shows(tmp_path: Path) -> None:
    source = open_source("scenes:3,seed=9")
    for split, name, index in (("train", "a", 0), ("test", "<b>", 0), ("test", "c", 1)):
        opened = source.open(source.pairs[index])
        save(tmp_path / "set" / split, name, opened.before, opened.after)
    lines = report_near_duplicates([f"levir-cd:{tmp_path / 'set'}"], tmp_path / "page.html")
    root = f"levir-cd:{tmp_path / 'set'}"
    assert lines == [
        "3 pairs in 2 groups (a set and a split each)",
        f"1 pairs share an image: {root}, train | {root}, test",
        "0 long texts are in two groups or nearly so",
        "1 pairs of the split train would give something of another split away",
    ]
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.count("<img ") == 2
    assert "train_a | test_&lt;b&gt;" in page


class Texts(Source):
    name = "texts"
    has_images = False

    def __init__(self, texts: dict[str, list[str]]) -> None:
        pairs = [
            ImagePair(id=f"{split}_{n}", split=split, before="a.png", after="b.png", description=text)
            for split, every in texts.items()
            for n, text in enumerate(every)
        ]
        super().__init__(Path(), pairs)


LONG = (
    "In the upper left part of the scene a row of seven detached houses with grey roofs has been built along the new "
    "road, where the first image shows bare soil and a few scattered trees near the old farm."
)


def test_long_texts_across_splits(tmp_path: Path) -> None:
    near = LONG.replace("seven", "eight").upper()
    far = LONG.replace("houses", "halls").replace("bare soil", "a pond").replace("upper left", "lower right")
    source = Texts(
        {"train": [LONG, far, "the scene is the same as before"], "test": [near, "The scene is the same as before."]}
    )
    found = find_near_duplicates([(source, pair) for pair in source.pairs], images=False)
    assert [(one.items, one.similarity) for one in found.texts] == [((0, 3), 35 / 41)]  # 38 runs each, 3 differ
    assert found.training_leaks() == {0}
    assert found.training_leaks(texts=False) == set()
    inside = Texts({"train": [LONG, LONG], "test": [far]})
    assert find_near_duplicates([(inside, pair) for pair in inside.pairs], images=False).texts == []


def test_a_text_that_hundreds_carry_is_one_finding() -> None:
    found = alike([(item, LONG) for item in range(500)])
    assert len(found) == 1
    assert found[0].items == tuple(range(500))
    assert found[0].similarity == 1.0


def test_words_are_lower_case_without_punctuation() -> None:
    assert words_of("The two-storey HOUSE, no. 7_b, été.") == (
        "the", "two", "storey", "house", "no", "7", "b", "été",
    )  # fmt: skip


def counted(count: int, **other: str) -> str:
    """`count` different words; other: what stands in place of some of them (w3="x")."""
    return " ".join(other.get(f"w{at}", f"w{at}") for at in range(count))


def test_which_texts_are_alike_by_hand() -> None:
    # Twenty words have 18 runs of three. Another word before the last changes two: 16 of 20 are shared, just enough.
    text, near = counted(20), counted(20, w18="x")
    assert alike([(0, text), (1, near)]) == [Alike((text, near), (0, 1), 0.8)]
    # Another in the middle changes three: 15 of 21 are shared.
    assert alike([(0, text), (1, counted(20, w10="x"))]) == []
    assert alike([(0, text), (1, text.upper() + ".")]) == [Alike((text,), (0, 1), 1.0)]
    # Nineteen words are nobody's own.
    assert alike([(0, counted(19)), (1, counted(19))]) == []
    # One item has both.
    assert alike([(0, text), (0, near), (0, text)]) == []


def test_the_most_alike_come_first() -> None:
    # Of 30 words 28 runs; three of them differ: 25 of 31. One differs: 27 of 29.
    text, third, one = counted(30), counted(30, w15="x"), counted(30, w29="x")
    found = alike([(0, text), (1, third), (2, one), (3, "no " + counted(40, w3="y")), (4, "No " + counted(40, w3="y"))])
    assert [(alike_.items, alike_.similarity) for alike_ in found] == [
        ((3, 4), 1.0),
        ((0, 2), 27 / 29),
        ((0, 1), 25 / 31),
    ]


def test_candidates_are_nearly_all_the_alike_and_few_of_the_others() -> None:
    # Of nine runs each eight are shared, of 10 in all; of six each two.
    alike_, others = [], []
    for pair in range(300):
        shared = {(str(pair), "shared", str(at)) for at in range(8)}
        alike_ += [frozenset({*shared, (str(pair), side, "")}) for side in "ab"]
        own = {side: {(str(pair), side, str(at)) for at in range(4)} for side in "cd"}
        others += [frozenset({*sorted(shared)[:2], *own[side]}) for side in "cd"]
    pairs = {(2 * pair, 2 * pair + 1) for pair in range(300)}
    found, chance = _candidates(alike_), _candidates(others)
    assert len(found & pairs) >= 298  # 299.94 are to be expected
    assert len(found - pairs) == 0  # these share nothing
    assert 0 < len(chance & pairs) < 25  # 7.6 are to be expected
    assert len(chance - pairs) == 0


def test_levir_cd_and_levir_cc_share_their_images(shared_data: Path, tmp_path: Path) -> None:
    """LEVIR-CC is LEVIR-CD in a 4 x 4 grid, row first: id = 16 (k - 1) + 4 row + column + 1. The tiles of image 1 that
    are at hand are put together again as LEVIR-CD has them, in its test split, and recompressed besides."""
    tiles = open_source(f"levir-cc:{shared_data / 'levir_cc'}")
    of_first = [pair for pair in tiles.pairs if pair.split == "train" and int(pair.id.split("_")[1]) <= 16]
    assert len(of_first) == 15
    whole = {role: Image.new("RGB", (1024, 1024)) for role in ("before", "after")}
    for pair in of_first:
        row, column = divmod(int(pair.id.split("_")[1]) - 1, 4)
        opened = tiles.open(pair)
        for role, image in whole.items():
            image.paste(getattr(opened, role), (256 * column, 256 * row))
    save(tmp_path / "test", "test_1", whole["before"], whole["after"])
    for role, folder in (("before", "A"), ("after", "B")):
        whole[role].save(tmp_path / "test" / folder / "test_1.png")
        whole[role].resize((900, 900)).save(tmp_path / "test" / folder / "test_2.jpg", quality=70)
    Image.new("L", (900, 900)).save(tmp_path / "test" / "label" / "test_2.png")
    large, crops = open_source(f"levir-cd:{tmp_path}"), open_source(f"levir-cd:{shared_data / 'levir_cd'}")
    items: list[Item] = [(source, pair) for source in (tiles, large, crops) for pair in source.pairs]
    found = find_near_duplicates(items)
    for name, scale in (("test_1", 1.0), ("test_2", 900 / 1024)):
        matches = [m for m in found.images if items[m.second][1].id == name]
        assert {items[m.first][1].id for m in matches} == {pair.id for pair in of_first}
        assert all(m.overlap.share > 0.95 and m.overlap.scale == pytest.approx(scale, abs=0.02) for m in matches)
    assert len(found.images) == 30, "something else was taken for the same image"
    assert {items[item][1].id for item in found.training_leaks()} == {pair.id for pair in of_first}


def test_of_hundreds_of_texts_that_are_nearly_one_the_last_is_found() -> None:
    words = [f"word{place}" for place in range(60)]
    texts = [(item, " ".join([*words[:30], f"other{item}", *words[31:]])) for item in range(400)]
    assert any(399 in one.items for one in alike(texts))


def test_a_date_that_stands_in_a_hundred_pairs_hides_no_cut_of_itself(tmp_path: Path) -> None:
    """A time series: one first date, many later ones, and a cut of the first in the test split."""
    source = open_source("scenes:2,seed=9")
    first, later = source.open(source.pairs[0])[:2]
    random = np.random.default_rng(0)
    for index in range(80):
        noise = random.integers(0, 40, (*later.size[::-1], 3), np.uint8)
        save(tmp_path / "train", f"a{index}", first, Image.fromarray(np.asarray(later) // 2 + noise))
    side = first.size[0]
    cut = first.crop((20, 20, side - 20, side - 20))
    other = source.open(source.pairs[1]).before.crop((20, 20, side - 20, side - 20))
    save(tmp_path / "test", "b0", cut, other)
    built = open_source(f"levir-cd:{tmp_path}")
    found = find_near_duplicates([(built, pair) for pair in built.pairs])
    assert len(found.training_leaks()) == 80


def test_a_source_without_images_hides_no_other(tmp_path: Path) -> None:
    source = open_source("scenes:3,seed=9")
    for split, name in (("train", "a"), ("test", "b")):
        opened = source.open(source.pairs[0])
        save(tmp_path / split, name, opened.before, opened.after)
    built, texts = open_source(f"levir-cd:{tmp_path}"), Texts({"train": [LONG]})
    items: list[Item] = [(each, pair) for each in (texts, built) for pair in each.pairs]
    found = find_near_duplicates(items)
    assert [(match.first, match.second) for match in found.images] == [(1, 2)]
    assert blind(items) == ["texts:., train"]
