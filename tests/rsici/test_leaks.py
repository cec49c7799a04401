"""Training pairs that another split or set shows too: left out of a build by default, and always written down."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from rsiccllm.errors import InputError
from rsiccllm.files import read_jsonl
from rsiccllm.records import PAIRS, ImagePair
from rsiccllm.rsici.build import BuildSettings, build_rsici
from rsiccllm.rsici.leaks import DUPLICATES, Duplicate, repeated_texts
from rsiccllm.rsici.output import CHECKSUMS
from rsiccllm.rsici.tasks import TaskSettings
from rsiccllm.sources import open_source


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two sets of rendered pairs on disk: train_a of the first is the second's test pair, mirrored and recompressed."""
    root = tmp_path_factory.mktemp("sets")
    scenes = open_source("scenes:6,seed=21")
    opened = [scenes.open(pair) for pair in scenes.pairs]

    def save(folder: str, name: str, index: int, mirrored: bool = False) -> None:
        before, after, mask = opened[index]
        assert mask is not None
        for side, image in (("A", before), ("B", after), ("label", Image.fromarray(mask))):
            path = root / folder / side / f"{name}.{'jpg' if mirrored and side != 'label' else 'png'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            turned = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else image
            turned.save(path, **({"quality": 60} if path.suffix == ".jpg" else {}))

    save("one/train", "a", 0)
    save("one/train", "b", 1)
    save("one/test", "c", 2)
    save("two/test", "d", 0, mirrored=True)
    save("two/test", "e", 3)
    return [f"levir-cd:{root / 'one'}", f"levir-cd:{root / 'two'}"]


def test_a_leak_is_dropped_and_written_down(specs: list[str], tmp_path: Path) -> None:
    settings = BuildSettings(TaskSettings(("count",)))
    counts = build_rsici(specs, tmp_path / "drop", settings=settings)
    assert counts["duplicates"] == 1
    ids = [pair.id for pair in read_jsonl(tmp_path / "drop" / PAIRS, ImagePair)]
    assert ids == ["levir-cd-one/train_b", "levir-cd-one/test_c", "levir-cd-two/test_d", "levir-cd-two/test_e"]
    (found,) = read_jsonl(tmp_path / "drop" / DUPLICATES, Duplicate)
    assert found.kind == "image"
    assert found.pairs == ["levir-cd-one/train_a", "levir-cd-two/test_d"]
    assert found.groups == ["levir-cd-one, train", "levir-cd-two, test"]
    assert found.dropped == ["levir-cd-one/train_a"]
    assert DUPLICATES in (tmp_path / "drop" / CHECKSUMS).read_text(encoding="utf-8")
    card = json.loads((tmp_path / "drop" / "card.json").read_text(encoding="utf-8"))
    assert (card["duplicates"], card["counts"]["duplicates"]) == ("drop", 1)


@pytest.mark.parametrize("handling", ["report", "ignore"])
def test_it_may_be_kept(handling: str, specs: list[str], tmp_path: Path) -> None:
    settings = BuildSettings(TaskSettings(("count",)), duplicates=handling)  # type: ignore[arg-type]
    counts = build_rsici(specs, tmp_path, settings=settings)
    assert counts["pairs"] == 5
    assert "duplicates" not in counts
    if handling == "report":
        (found,) = read_jsonl(tmp_path / DUPLICATES, Duplicate)
        assert found.dropped == []
    else:
        assert not (tmp_path / DUPLICATES).exists()


def test_where_nothing_is_left(specs: list[str], tmp_path: Path) -> None:
    lines = [
        Duplicate(kind="image", pairs=["train_a", "x"], groups=["a", "b"], alike=1, dropped=["train_a", "train_b"])
    ]
    (tmp_path / DUPLICATES).write_text(lines[0].model_dump_json() + "\n", encoding="utf-8")
    with pytest.raises(InputError, match="every pair is a near-duplicate"):
        build_rsici(specs[:1], tmp_path, settings=BuildSettings(TaskSettings(("count",)), split="train"))


def test_texts_of_a_model_across_splits() -> None:
    text = "A row of five houses with dark roofs was built along the new road that crosses the field from the left."
    near = text.replace("the left", "the right")  # one of 18 runs differs
    texts = [
        ("a", "train", text),
        ("b", "train", text),
        ("c", "val", near),
        ("d", "train", "short text"),
        ("e", "test", "short text"),
    ]
    assert repeated_texts(texts) == {"a": "c", "b": "c"}
    assert repeated_texts(texts[:2]) == {}
