"""HTML pages that need nothing but themselves: one style sheet, images embedded, no network, no script but our own.

Every string is escaped unless it is `Html`: what a data set holds (captions, file names) is shown and never run.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import PIL.Image

from rsiccllm.files import atomic_write


class Html(str):
    """Text that is HTML already. Every function here returns it and puts it in as it is."""

    __slots__ = ()


def escape(value: object) -> Html:
    """`value` as HTML: unchanged if it is Html, a dash if it is None, else its text with markup made harmless."""
    if isinstance(value, Html):
        return value
    return Html("–" if value is None else html.escape(str(value), quote=True))


def join(parts: Iterable[object]) -> Html:
    """The parts one after another, each escaped unless it is Html."""
    return Html("".join(escape(part) for part in parts))


def element(tag: str, *content: object, css: str = "", attributes: Mapping[str, object] | None = None) -> Html:
    """`<tag class="css" name="value">content</tag>`; attributes: by name, values escaped."""
    given = {**({"class": css} if css else {}), **(attributes or {})}
    written = "".join(f' {name}="{html.escape(str(value), quote=True)}"' for name, value in given.items())
    return Html(f"<{tag}{written}>{join(content)}</{tag}>")


def image_uri(image: PIL.Image.Image, max_side: int | None = 512, lossless: bool = False) -> str:
    """The image as a data URI: JPEG of quality 88, or PNG if lossless; shrunk so that no side is over `max_side`."""
    if max_side is not None and max(image.size) > max_side:
        image = image.copy()
        image.thumbnail((max_side, max_side), PIL.Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if lossless:
        image.save(buffer, "PNG")
    else:
        image.convert("RGB").save(buffer, "JPEG", quality=88, subsampling=0)
    kind = "png" if lossless else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def overlay(image: PIL.Image.Image, mask: np.ndarray, color: tuple[int, int, int] = (255, 214, 10)) -> PIL.Image.Image:
    """The image with the borders of `mask` [height, width] bool drawn in `color`, dark on their inner side.

    The line is 1/256 of the longer side, at least one pixel. Nothing inside the border is covered.
    """
    changed = np.asarray(mask, dtype=bool)
    width = max(1, round(max(image.size) / 256))
    pixels = np.asarray(image.convert("RGB")).copy()  # [height, width, 3]
    outside = _grow(changed, width) & ~changed
    inside = changed & _grow(~changed, width)
    pixels[inside] = pixels[inside] // 3
    pixels[outside] = color
    return PIL.Image.fromarray(pixels)


def _grow(mask: np.ndarray, steps: int) -> np.ndarray:
    """`mask` [height, width] with every pixel that is at most `steps` rows and columns away from it."""
    for axis in (0, 1):
        for _ in range(steps):
            grown = mask.copy()
            ahead, behind = (slice(1, None), slice(None, -1)) if axis == 0 else (np.s_[:, 1:], np.s_[:, :-1])
            grown[ahead] |= mask[behind]
            grown[behind] |= mask[ahead]
            mask = grown
    return mask


def figure(image: PIL.Image.Image, caption: str, max_side: int | None = 512) -> Html:
    """An image with a line under it, which is also its text for those who cannot see it."""
    text = escape(caption)
    source = image_uri(image, max_side)
    return Html(f'<figure><img src="{source}" alt="{text}"><figcaption>{text}</figcaption></figure>')


def table(headers: Sequence[object], rows: Iterable[Sequence[object]]) -> Html:
    """A table that scrolls sideways where it is too wide. Columns of numbers alone are set to the right."""
    body = [list(row) for row in rows]
    right = [bool(body) and all(_is_number(row[column]) for row in body) for column in range(len(headers))]
    head = join(element("th", cell, css="number" if right[column] else "") for column, cell in enumerate(headers))
    lines = join(
        element("tr", *(element("td", cell, css="number" if right[column] else "") for column, cell in enumerate(row)))
        for row in body
    )
    return element("div", element("table", element("thead", element("tr", head)), element("tbody", lines)), css="wide")


def _is_number(cell: object) -> bool:
    if cell is None or isinstance(cell, int | float):
        return True
    text = str(cell).replace(",", "").replace("±", " ").rstrip("%")
    try:
        return bool([float(part) for part in text.split()])
    except ValueError:
        return text.strip() in {"", "–", "-"}


def page(title: str, body: Html, style: str = "", script: str = "") -> Html:
    """A whole HTML document: light or dark as the reader's system is, for phones, screens and paper.

    style: CSS after the common one. script: JavaScript of ours, run once the page is there; the page's policy names its
    digest, so that nothing else can run.
    """
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
        policy += f"; script-src 'sha256-{digest}'"
        body = join([body, Html(f"<script>{script}</script>")])
    return Html(
        f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{escape(title)}</title>
<style>{_STYLE}{style}</style>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
{escape(body)}
</main>
</body>
</html>
"""
    )


def write_page(path: Path | str, title: str, body: Html, style: str = "", script: str = "") -> Path:
    """Write the page, whole or not at all, and return its path. Raises InputError where it cannot be written."""
    with atomic_write(path) as handle:
        # A lone surrogate (a file name that is not UTF-8) cannot be encoded; it is shown as a question mark.
        handle.write(page(title, body, style, script).encode("utf-8", "replace").decode("utf-8"))
    return Path(path)


_STYLE = """
:root {
  color-scheme: light dark;
  --paper: #f6f7f5; --card: #ffffff; --ink: #1c2321; --quiet: #5d6a66; --line: #dde2df;
  --accent: #0b6e5f; --tint: #e3f1ee; --shadow: 0 1px 2px #0b1f1a14, 0 4px 16px #0b1f1a0d;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #101513; --card: #181f1c; --ink: #e4eae7; --quiet: #94a39d; --line: #2a3430;
    --accent: #5cc8b3; --tint: #1b332e; --shadow: none;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
  -webkit-text-size-adjust: 100%; overflow-wrap: anywhere;
}
main { max-width: 1120px; margin: 0 auto; padding: 28px 20px 64px; }
h1 { font-size: 26px; line-height: 1.2; letter-spacing: -.01em; margin: 0 0 6px; }
h2 { font-size: 19px; line-height: 1.3; margin: 36px 0 12px; }
h3 { font-size: 15px; line-height: 1.3; margin: 0; }
p { margin: 8px 0; max-width: 80ch; }
a { color: var(--accent); }
code { font: 13px/1.4 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
ul, ol { margin: 8px 0; padding-left: 20px; max-width: 80ch; }
li { margin: 2px 0; }
.quiet { color: var(--quiet); }
.text { white-space: pre-line; }
.card {
  background: var(--card); border: 1px solid var(--line); border-radius: 12px; box-shadow: var(--shadow);
  padding: 16px; margin: 16px 0;
}
.head { display: flex; flex-wrap: wrap; gap: 6px 8px; align-items: center; margin-bottom: 12px; }
.head h3 { margin-right: 4px; }
.badge {
  font-size: 12px; line-height: 1; padding: 5px 9px; border-radius: 99px; background: var(--tint); color: var(--accent);
  white-space: nowrap;
}
.label { font-size: 12px; font-weight: 600; letter-spacing: .05em; text-transform: uppercase; color: var(--quiet);
  margin: 14px 0 4px; }
.figures { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 10px; }
.words > .label:first-child { margin-top: 0; }
.figures + .words { margin-top: 14px; }
.card td:not(:first-child) { overflow-wrap: anywhere; }
figure { margin: 0; }
img { display: block; width: 100%; height: auto; border-radius: 8px; background: var(--line); }
figcaption { font-size: 13px; color: var(--quiet); margin-top: 4px; }
.wide { overflow-x: auto; margin: 12px 0; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { padding: 7px 14px 7px 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { font-weight: 600; color: var(--quiet); white-space: nowrap; }
th.number, td.number { text-align: right; white-space: nowrap; }
@media (max-width: 560px) {
  main { padding: 20px 12px 40px; }
  .figures { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 6px; }
  .figures > .words { grid-column: 1 / -1; margin-top: 8px; }
  .card { padding: 12px; border-radius: 10px; }
}
@media print { .card { break-inside: avoid; box-shadow: none; } }
"""
