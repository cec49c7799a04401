"""Tags in captions, file names, model names and notes: shown as text on every page, and run on none."""

from __future__ import annotations

import json
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmark"))
import boards

from browser import Browser
from people_page import Served
from rsiccllm.benchmark.rate import Rate
from rsiccllm.benchmark.report import write_report
from rsiccllm.benchmark.results import load_board
from rsiccllm.caption.result import Caption
from rsiccllm.page import write_page
from rsiccllm.rsici.build import BuildSettings, build_rsici
from rsiccllm.rsici.review.items import Review
from rsiccllm.rsici.tasks import TaskSettings
from rsiccllm.rsicp.build import build_rsicp
from rsiccllm.sources.show import show_source

RUN = "<img src=x onerror=document.title='owned'>"
"""Fits into a file name, which takes no slash."""
ATTACK = f"a house is built '\"><script>document.title='owned'</script>{RUN} &lt; $\\frac{{$ in the top left"


class Tags(HTMLParser):
    """Tags with their attributes, as a browser reads them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def harmless(text: str, scripts: int) -> None:
    """No script but so many of ours, no picture but embedded ones, nothing that runs on an event."""
    tags = Tags(text).found
    assert [tag for tag, _ in tags].count("script") <= scripts
    for tag, attributes in tags:
        assert tag not in {"iframe", "object", "embed", "base"}
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        assert tag != "img" or str(attributes["src"]).startswith("data:image/"), attributes
        assert not str(attributes.get("href", "")).lower().startswith("javascript:")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set whose file names, captions and splits are markup."""
    root = tmp_path_factory.mktemp("set")
    noise = np.random.default_rng(0)
    entries = []
    for number in range(4):
        name = f"{number}{RUN}.png"
        for side in "AB":
            (root / side).mkdir(exist_ok=True)
            Image.fromarray(noise.integers(0, 255, (64, 64, 3), np.uint8)).save(root / side / name)
        captions = [ATTACK, f"a road appears {RUN}"]
        entries.append({"filename": name, "sentences": captions, "split": ("train", RUN)[number % 2], "changeflag": 1})
    (root / "captions.json").write_text(json.dumps(entries), encoding="utf-8")
    return root


def test_the_pages_of_data(hostile: Path, tmp_path: Path) -> None:
    """The page of pairs, the review, and the cards that a hub shows as HTML."""
    show_source(f"folder:{hostile}", 4, tmp_path / "page.html", None, 0)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    harmless(text, 0)
    assert "onerror=document.title" in text.replace("&#x27;", "'")  # it is shown, as text
    settings = BuildSettings(TaskSettings(("caption",)), duplicates="ignore")
    build_rsici([f"folder:{hostile}"], tmp_path / "rsici", settings=settings)
    build_rsicp(tmp_path / "rsici", tmp_path / "rsicp", split="train")
    for card in (tmp_path / "rsici" / "README.md", tmp_path / "rsicp" / "README.md"):
        assert "<img" not in card.read_text(encoding="utf-8")
        assert "<script" not in card.read_text(encoding="utf-8")
    review = Review(tmp_path / "rsici", ("caption",))
    served = Served(review)
    try:
        with Browser() as browser:
            for place in range(len(review.records)):
                browser.open(f"{served.address}item/{place}?by=x")
                assert "owned" not in browser.run("document.title")
                assert "onerror" in browser.run("document.body.innerText + document.body.innerHTML")
                harmless(browser.run("document.documentElement.outerHTML"), 1)
            browser.open((tmp_path / "page.html").as_uri())
            assert "owned" not in browser.run("document.title")
    finally:
        served.stop()


def test_the_pages_of_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report and the page on which people rate: model names and captions that are markup."""
    monkeypatch.setenv("PATH", "")  # no Java
    said = {key: f"{text} {ATTACK}" for key, text in boards.good().items()}
    folder = boards.finish(tmp_path / f"model {RUN}", said)
    monkeypatch.undo()
    out = tmp_path / "report.html"
    write_report([folder], out, samples=3)
    harmless(out.read_text(encoding="utf-8"), 1)
    served = Served(Rate(load_board([folder]), tmp_path / "rated", 2))
    try:
        with Browser() as browser:
            browser.open(out.as_uri())
            browser.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
            assert "owned" not in browser.run("document.title")
            assert "onerror=" in browser.run("document.body.innerText")
            browser.open(f"{served.address}item/0?by=x")
            assert "owned" not in browser.run("document.title")
            harmless(browser.run("document.documentElement.outerHTML"), 1)
    finally:
        served.stop()


def test_the_app_escapes_models_and_captions() -> None:
    pytest.importorskip("gradio")
    from rsiccllm.app.viewer import fault_html, said_html

    results = {RUN: Caption(ATTACK, 0.5), ATTACK: Caption(RUN, 0.5)}
    harmless(said_html(results), 0)
    harmless(fault_html(ATTACK), 0)


def test_a_page_whose_escape_is_left_out_would_be_seen(tmp_path: Path) -> None:
    """The checks above can fail: the policy of our pages still stops the script, and the parser sees the tag."""
    from rsiccllm.page import Html

    out = write_page(tmp_path / "x.html", "t", Html(f"<p>{RUN}</p>"))
    with pytest.raises(AssertionError):
        harmless(out.read_text(encoding="utf-8"), 0)
    with Browser() as browser:
        browser.open(out.as_uri())
        assert browser.run("document.title") == "t"  # default-src 'none'
