"""`data show` writes one page that holds everything and runs nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import fakes
import pytest

from rsiccllm.errors import InputError
from rsiccllm.facts import Fact
from rsiccllm.sources.show import fact_line, show_source


def test_a_page(tmp_path: Path) -> None:
    fakes.levir_cc(tmp_path / "cc")
    out = show_source(f"levir-cc:{tmp_path}/cc", 12, tmp_path / "page.html")
    text = out.read_text(encoding="utf-8")
    for part in ("train_000001", "val_000001", "two houses are built", "unchanged", "40 x 32", "8.8% of the pixels"):
        assert part in text
    # Two images a pair and one outline.
    assert text.count('<img src="data:image/jpeg;base64,') == 7
    assert not re.search(r'(src|href)="(?!data:)', text)


def test_n_split_and_seed(tmp_path: Path) -> None:
    fakes.levir_cd(tmp_path / "cd", tuple(f"train_{n}" for n in range(20)))

    def shown(n: int, seed: int = 0) -> list[str]:
        page = show_source(f"levir-cd:{tmp_path}/cd", n, tmp_path / "p.html", seed=seed).read_text(encoding="utf-8")
        return re.findall(r"<h3>(\w+)</h3>", page)

    assert len(shown(5)) == 5
    assert shown(5) == shown(5)
    assert shown(5) != shown(5, seed=1)
    assert len(shown(500)) == 20
    with pytest.raises(InputError, match="no split 'val'; expected train"):
        show_source(f"levir-cd:{tmp_path}/cd", 5, tmp_path / "q.html", split="val")
    with pytest.raises(InputError, match="expected at least 1"):
        show_source(f"levir-cd:{tmp_path}/cd", 0, tmp_path / "q.html")
    assert not (tmp_path / "q.html").exists()


def test_captions_and_names_are_never_markup(tmp_path: Path) -> None:
    name = "<img src=x onerror=alert(1)>"
    fakes.folder(tmp_path, (name,))
    (tmp_path / "captions.json").write_text(json.dumps({f"{name}.png": "</li><script>alert(2)</script>"}))
    text = show_source(f"folder:{tmp_path}", 1, tmp_path / "p.html").read_text(encoding="utf-8")
    assert "<script" not in text
    assert "onerror=alert(1)&gt;" in text
    assert text.count("<img ") == 2


def test_an_empty_mask_is_said_and_proves_nothing(tmp_path: Path) -> None:
    fakes.levir_cd(tmp_path, ("train_1",))
    text = show_source(f"levir-cd:{tmp_path}", 1, tmp_path / "p.html").read_text(encoding="utf-8")
    assert "mask empty" in text
    assert "no captions" in text
    assert "change not stated" in text


def test_what_cannot_be_shown(tmp_path: Path) -> None:
    fakes.levir_cc(tmp_path)
    with pytest.raises(InputError, match="captions only"):
        show_source(f"levir-cc-captions:{tmp_path}/LevirCCcaptions.json", 1, tmp_path / "p.html")
    (tmp_path / "images" / "val" / "A" / "val_000001.png").write_text("")
    with pytest.raises(InputError, match="empty file"):
        show_source(f"levir-cc:{tmp_path}", 3, tmp_path / "p.html")
    assert not (tmp_path / "p.html").exists()


def test_fact_line() -> None:
    fact = Fact(object="parking_lot", direction="appear", verb="build", quantity="two", place="top_left")
    assert fact_line(fact) == "parking lot, appear (build), two, top left"
    assert fact_line(Fact(object="tree", direction="disappear", verb="remove")) == "tree, disappear (remove)"


def test_scenes_with_facts(tmp_path: Path) -> None:
    text = show_source("scenes:4,seed=1,size=64", 4, tmp_path / "p.html").read_text(encoding="utf-8")
    assert "Description" in text
    assert "Facts" in text
    assert "no change" in text


@pytest.mark.parametrize("spec", ["levir-cc:levir_cc", "levir-cd:levir_cd", "folder:oscd"])
def test_real_pairs(shared_data: Path, tmp_path: Path, spec: str) -> None:
    kind, _, name = spec.partition(":")
    page = show_source(f"{kind}:{shared_data / name}", 4, tmp_path / "p.html")
    assert page.stat().st_size > 100_000
