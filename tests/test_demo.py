from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rsiccllm.demo.run import run_demo


@pytest.fixture(scope="module", autouse=True)
def no_java() -> Iterator[None]:
    """METEOR's program starts anew for each of many rows, and has tests of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", "")
        yield


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo")
    run_demo(out, quick=True)
    return out


def test_the_report_holds_pairs_scores_curves_and_times(quick: Path) -> None:
    text = (quick / "report.html").read_text(encoding="utf-8")
    assert text.count('<section class="card"') == 6  # all test pairs of so few scenes
    for part in ("CIDEr-D", "DNPO minus SFT", "not learnt", "losses of sft", "supervised fine-tuning", "true flag"):
        assert part in text, part
    assert "http://" not in text.replace("http://www.w3.org", "")


def test_a_second_call_does_nothing_again(quick: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in quick.rglob("*.safetensors")}
    run_demo(quick, quick=True)
    assert before == {path: path.stat().st_mtime_ns for path in quick.rglob("*.safetensors")}
