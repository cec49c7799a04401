"""The page in a real Chromium: upload, caption, slider, question, a bad file; keyboard, phone, dark."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio")
from browser import Browser
from rsiccllm.app.page import Page, write_examples
from rsiccllm.app.viewer import fault_html, pair_html, said_html
from rsiccllm.caption.captioner import LONGEST, Captioner
from rsiccllm.caption.result import Caption
from rsiccllm.model.processor import load_processor
from rsiccllm.model.vlm import load_model
from rsiccllm.pairs import OpenedPair, open_pair

SAID = "document.querySelector('#said .text')?.innerText"


@pytest.fixture(scope="module")
def captioner(mapping_checkpoint: Path) -> Iterator[Captioner]:
    kept = dict(LONGEST)
    LONGEST.update(caption=8, describe=8)  # random weights never end an answer
    yield Captioner(load_model(mapping_checkpoint), load_processor(mapping_checkpoint))
    LONGEST.update(kept)


@pytest.fixture(scope="module")
def address(captioner: Captioner) -> str:
    return Page({"one": captioner, "two": captioner}).launch("127.0.0.1", 0, wait=False)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    for name in ("before.png", "after.png"):
        Image.fromarray(rng.integers(0, 256, (112, 112, 3), dtype=np.uint8)).save(folder / name)
    (folder / "bad.png").write_bytes(b"this is no image")
    return folder / "before.png", folder / "after.png", folder / "bad.png"


def opened(browser: Browser, address: str) -> None:
    browser.open(address)
    parts = ("#before input[type=file]", "#after input[type=file]", "#example-4", "#go", "#question", "#picture")
    browser.wait(" && ".join(f"!!document.querySelector('{part}')" for part in parts), 60)


def test_upload_caption_slider_question_and_download(
    address: str, files: tuple[Path, Path, Path], captioner: Captioner, tmp_path: Path
) -> None:
    before, after, _ = files
    expected = captioner.caption(before, after)
    with Browser() as browser:
        opened(browser, address)
        browser.upload("#before input[type=file]", before)
        browser.upload("#after input[type=file]", after)
        browser.wait("document.querySelectorAll('#viewer img').length === 2", 60)  # the pair, before any caption
        browser.run("document.querySelector('#go').click()")
        browser.wait(f"!!{SAID}", 60)
        assert browser.run(SAID).split() == expected.caption.split()
        assert browser.run("document.querySelectorAll('#viewer img').length") == 3  # the map on top
        # The slider, by keyboard.
        browser.run("document.querySelector('#viewer input[type=range]').focus()")
        for _ in range(10):
            browser.press("ArrowRight")
        assert browser.run("document.querySelector('.pair').style.getPropertyValue('--cut')") == "60%"
        clip = "getComputedStyle(document.querySelector('#viewer .after')).clipPath"
        assert browser.run(clip).endswith("60%)")
        browser.run("document.querySelector('#viewer input[type=checkbox]').click()")
        assert browser.run("getComputedStyle(document.querySelector('#viewer .map')).display") == "none"
        # What can be copied and downloaded.
        assert browser.run("document.querySelector('#text textarea').value").split() == expected.caption.split()
        browser.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
        for button, name in (("#json", "caption.json"), ("#picture", "change.png")):
            browser.run(f"document.querySelector('{button}').click()")
            end = time.monotonic() + 30
            while not (tmp_path / name).exists():
                assert time.monotonic() < end, name
                time.sleep(0.05)
        assert json.loads((tmp_path / "caption.json").read_text(encoding="utf-8")) == {"one": expected.to_dict()}
        assert Image.open(tmp_path / "change.png").size == (3 * 112 + 2 * 8, 112)
        # A question, sent by Enter.
        browser.run("document.querySelector('#question textarea, #question input').focus()")
        browser.type("what changed here?")
        browser.press("Enter")
        browser.wait("!!document.querySelector('#answer .text')", 60)
        answer = captioner.ask(before, after, "what changed here?").caption
        assert browser.run("document.querySelector('#answer .text').innerText").split() == answer.split()


def test_a_bad_file_is_told_in_words(address: str, files: tuple[Path, Path, Path]) -> None:
    before, _, bad = files
    with Browser() as browser:
        opened(browser, address)
        browser.run("document.querySelector('#go').click()")
        browser.wait("document.querySelector('#said .fault')?.innerText.includes('two images are needed')", 60)
        browser.upload("#before input[type=file]", before)
        browser.upload("#after input[type=file]", bad)
        browser.wait("document.querySelector('#said .fault')?.innerText.startsWith('bad.png: not an image')", 60)
        assert browser.run("document.querySelector('#said [role=alert]').innerText").count("/") == 0  # no server paths


@pytest.mark.parametrize(("width", "dark"), [(390, True), (1280, False)])
def test_examples_on_a_phone_and_in_the_dark(address: str, width: int, dark: bool) -> None:
    with Browser(width, 844, dark=dark) as browser:
        opened(browser, address)
        browser.run("document.querySelector('#example-1').click()")
        browser.wait(f"!!{SAID}", 60)
        assert browser.run("document.documentElement.scrollWidth") <= width
        assert browser.run("document.body.classList.contains('dark')") is dark
        assert browser.run("[...document.querySelectorAll('button')].every(b => b.tabIndex >= 0)")


def test_geotiffs_of_different_grids_are_brought_onto_one(address: str, captioner: Captioner, tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    pytest.importorskip("rasterio.shutil")
    from rasterio.transform import from_origin

    rng = np.random.default_rng(1)
    paths = tmp_path / "before.tif", tmp_path / "after.tif"
    for path, corner, side in zip(paths, ((400_000, 5_000_000), (400_008, 4_999_992)), (112, 128), strict=True):
        with rasterio.open(path, "w", driver="GTiff", width=side, height=side, count=3, dtype="uint16",
                           crs="EPSG:32633", transform=from_origin(*corner, 2, 2)) as raster:  # fmt: skip
            raster.write(rng.integers(100, 9000, (3, side, side)).astype(np.uint16))
    with Browser() as browser:
        opened(browser, address)
        for field, path in zip(("before", "after"), paths, strict=True):
            browser.upload(f"#{field} input[type=file]", path)
        browser.wait("document.querySelectorAll('#viewer img').length === 2", 60)
        assert browser.run("document.querySelector('#viewer img').naturalWidth") == 108  # what they share
        browser.run("document.querySelector('#go').click()")
        browser.wait(f"!!{SAID}", 60)
        notes = browser.run("document.querySelector('#said .notes').innerText")
        assert "resolution: a pixel is 2.00 m" in notes
        assert "bits: uint16" in notes
    # A raster that others sent is never followed to other files: a VRT by the name of a GeoTIFF is no image.
    rasterio.shutil.copy(paths[0], tmp_path / "named.vrt", driver="VRT")
    (tmp_path / "named.vrt").rename(tmp_path / "named.tif")
    viewer, said = Page({"one": captioner}).look(str(tmp_path / "named.tif"), str(paths[1]))
    assert viewer == ""
    assert "named.tif: not an image" in said


def test_two_models_are_shown_side_by_side(captioner: Captioner) -> None:
    page = Page({"one": captioner, "two": captioner})
    before, after = map(str, page.examples[0])
    viewer, said, _, data, _ = page.caption(before, after, "short", "one", "two")
    assert said.count('class="model"') == 2
    assert list(json.loads(Path(data["value"]).read_text(encoding="utf-8"))) == ["one", "two"]
    assert viewer.count("<img") == 3
    assert page.caption(before, None, "short", "one", "none")[1].count("two images are needed") == 1
    assert "no question yet" in page.ask(before, after, " ", "one")


def test_examples_are_changed_and_one_is_not(tmp_path: Path) -> None:
    files = write_examples(tmp_path)
    assert len(files) == 4
    for pair in files:
        assert open_pair(*pair).before.size == (224, 224)


def test_what_is_shown_is_escaped_and_doubt_is_shown() -> None:
    bad = "<script>alert(1)</script>"
    assert "<script>" not in said_html({bad: Caption(bad, 0.5), "b": Caption(bad, None)})
    assert "<script>" not in fault_html(bad)
    low = said_html({"m": Caption("a house is built", 0.9, 0.2)})
    assert "Low confidence, 20 %" in low
    assert "<b>building appears</b>" in low
    assert "Confidence 90 %" in said_html({"m": Caption("x", 0.5, 0.9)})
    assert "unlike" not in said_html({"m": Caption("x", 0.5, 0.9, familiarity=0.3)})
    assert "Images unlike those of the model" in said_html({"m": Caption("x", 0.5, 0.9, familiarity=0.1)})
    assert "Confidence over 99 %" in said_html({"m": Caption("x", 0.5, 0.999)})
    assert "not calibrated" in said_html({"m": Caption("x", 0.5)})
    image = Image.new("RGB", (56, 56))
    assert pair_html(OpenedPair(image, image, None)).count("<img") == 2
    assert pair_html(OpenedPair(image, image, None), np.zeros((56, 56))).count("<img") == 3
