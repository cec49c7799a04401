"""Pages: nothing from the data is markup, nothing is fetched, and outlines are where the mask is."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rsiccllm.errors import InputError
from rsiccllm.page import Html, element, escape, figure, image_uri, join, overlay, page, table, write_page

ATTACK = "\"'><script>alert(1)</script><img src=x onerror=alert(2)>"


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def decoded(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition("base64,")[2])))


def test_everything_from_the_data_is_escaped() -> None:
    body = join(
        [
            element("p", ATTACK, css=ATTACK),
            table([ATTACK, "n"], [[ATTACK, 1]]),
            figure(Image.new("RGB", (8, 8)), ATTACK),
            ATTACK,
        ]
    )
    tags = Tags(page(ATTACK, body)).found
    assert "script" not in [tag for tag, _ in tags]
    assert [tag for tag, _ in tags].count("img") == 1
    assert not any(name.startswith("on") for _, attributes in tags for name in attributes)


def test_html_stays_html() -> None:
    assert escape(Html("<b>x</b>")) == "<b>x</b>"
    assert escape("<b>") == "&lt;b&gt;"
    assert escape(None) == "–"
    assert element("td", element("b", "<"), 3) == "<td><b>&lt;</b>3</td>"
    assert isinstance(element("p"), Html)


def test_a_page_fetches_nothing() -> None:
    text = page("t", figure(Image.new("RGB", (8, 8)), "x"))
    assert "http" not in text.replace("http-equiv", "")
    assert "default-src 'none'" in text
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text
    sources = [attributes["src"] for tag, attributes in Tags(text).found if tag == "img"]
    assert all(source and source.startswith("data:image/") for source in sources)


def test_image_uri() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 60, 3), dtype=np.uint8)
    exact = decoded(image_uri(Image.fromarray(pixels), lossless=True))
    assert exact.format == "PNG"
    assert np.array_equal(np.asarray(exact), pixels)
    original = Image.fromarray(pixels)
    assert decoded(image_uri(original, max_side=20)).size == (20, 10)
    assert original.size == (60, 30)
    assert decoded(image_uri(Image.new("RGBA", (5, 4)))).format == "JPEG"
    assert decoded(image_uri(original, max_side=None)).size == (60, 30)


def test_overlay_draws_the_border_alone() -> None:
    mask = np.zeros((20, 20), bool)
    mask[5:12, 6:14] = True
    drawn = np.asarray(overlay(Image.new("RGB", (20, 20), (90, 90, 90)), mask, color=(255, 0, 0)))
    ring = np.zeros((20, 20), bool)
    ring[4:13, 5:15] = True
    ring &= ~mask
    assert np.array_equal((drawn == (255, 0, 0)).all(axis=2), ring)
    inner = mask.copy()
    inner[6:11, 7:13] = False
    assert np.array_equal((drawn == 30).all(axis=2), inner)
    assert (drawn[~ring & ~inner] == 90).all()


def test_overlay_of_nothing_and_of_all_changes_nothing() -> None:
    image = Image.new("RGB", (30, 20), (9, 8, 7))
    for mask in (np.zeros((20, 30), bool), np.ones((20, 30), bool)):
        assert np.array_equal(np.asarray(overlay(image, mask)), np.asarray(image))


def test_table_sets_numbers_to_the_right() -> None:
    text = table(["name", "score", "n"], [["a", "12.5 ± 0.3", 3], ["b", None, "1,204"]])
    assert text.count('class="number"') == 2 + 4
    assert "<tbody></tbody>" in table(["a"], [])


def test_write_page(tmp_path: Path) -> None:
    path = write_page(tmp_path / "deep" / "p.html", "title", Html("<p>x</p>"))
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    write_page(path, "a\udcff", Html(""))
    assert "a?" in path.read_text(encoding="utf-8")
    with pytest.raises(InputError, match="cannot be written"):
        write_page(tmp_path, "t", Html(""))
