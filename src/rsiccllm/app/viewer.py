"""The page's own HTML: both dates behind one slider with the change map on top, and what was said of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from rsiccllm.caption.result import Caption
from rsiccllm.facts import Fact
from rsiccllm.page import Html, element, image_uri, join
from rsiccllm.pairs import OpenedPair

MAX_SIDE = 1024

# The parts are plain form controls, so that keyboard, touch and screen readers work as anywhere.
_MOVE = "this.closest('.pair').style.setProperty('--cut', this.value + '%')"
_SHOW = "this.closest('.pair').classList.toggle('mapless', !this.checked)"

STYLE = """
.pair, .said { --quiet: color-mix(in srgb, var(--body-text-color) 70%, transparent); }
.pair { --cut: 50%; max-width: 640px; }
.pair .stack { position: relative; border-radius: 10px; overflow: hidden; line-height: 0;
  border: 1px solid var(--border-color-primary); }
.pair img { width: 100%; height: auto; display: block; image-rendering: auto; margin: 0; }
.pair .over { position: absolute; inset: 0; }
.pair .after, .pair .map { clip-path: inset(0 0 0 var(--cut)); }
.pair.mapless .map { display: none; }
.pair .line { position: absolute; top: 0; bottom: 0; left: var(--cut); width: 2px; margin-left: -1px; background: #fff;
  box-shadow: 0 0 3px #000a; }
.pair .dates { display: flex; justify-content: space-between; font-size: 13px; color: var(--quiet);
  margin-bottom: 4px; }
.pair input[type=range] { width: 100%; height: 32px; margin: 4px 0 0; accent-color: var(--color-accent); }
.pair label { display: inline-flex; gap: 8px; align-items: center; min-height: 32px; font-size: 14px;
  color: var(--body-text-color); }
.said { color: var(--body-text-color); }
.said .text { font-size: 18px; line-height: 1.45; margin: 0 0 8px; white-space: pre-line; overflow-wrap: anywhere; }
.said .model { font-size: 13px; font-weight: 600; color: var(--quiet); margin: 14px 0 2px; }
.said .sure, .said .doubt, .said .raw { display: inline-block; margin: 0 6px 4px 0; font-size: 13px; line-height: 1.3;
  padding: 4px 10px; border-radius: 12px; border: 1px solid var(--border-color-primary); }
.said .doubt { border-color: #b45309; color: #92400e; background: #fef3c7; }
.dark .said .doubt { border-color: #d97706; color: #fcd34d; background: #451a03; }
.said .facts { list-style: none; padding: 0; margin: 10px 0 0; }
.said .facts li { display: flex; flex-wrap: wrap; gap: 2px 14px; padding: 6px 0; font-size: 14px;
  border-top: 1px solid var(--border-color-primary); }
.said .facts span { color: var(--quiet); }
.notes { margin: 10px 0 0; padding: 8px 14px 8px 30px; list-style: disc; border-radius: 10px; font-size: 14px;
  border: 1px solid #b45309; color: #92400e; background: #fef3c7; overflow-wrap: anywhere; }
.dark .notes { border-color: #d97706; color: #fcd34d; background: #451a03; }
.fault { padding: 10px 14px; border-radius: 10px; border: 1px solid #b91c1c; color: #991b1b; background: #fee2e2;
  overflow-wrap: anywhere; }
.dark .fault { color: #fecaca; background: #450a0a; }
"""


def pair_html(pair: OpenedPair, change_map: np.ndarray | None = None) -> Html:
    """Both dates over one another, a slider between them, and the change map on the second with a switch for it."""

    def image(picture: Image.Image, text: str, css: str) -> Html:
        source = image_uri(picture, MAX_SIDE, lossless=picture.mode == "RGBA")
        return Html(f'<img src="{source}" alt="{text}" class="{css}">')

    layers = [image(pair.before, "the first date", "before"), image(pair.after, "the second date", "over after")]
    switch = Html("")
    if change_map is not None:
        layers.append(image(_reddened(change_map), "where change was seen, in red", "over map"))
        switch = Html(f'<label><input type="checkbox" checked onchange="{_SHOW}"> show the change map</label>')
    slider = Html(
        f'<input type="range" min="0" max="100" value="50" step="1" oninput="{_MOVE}" '
        'aria-label="Slider between the two dates">'
    )
    dates = element("div", element("span", "first date"), element("span", "second date"), css="dates")
    stack = element("div", *layers, element("div", css="line"), css="stack")
    return element("div", dates, stack, slider, switch, css="pair")


def _reddened(change_map: np.ndarray) -> Image.Image:
    """The map as red, the surer the more opaque. change_map: [height, width] in 0..1."""
    red = np.zeros((*change_map.shape, 4), np.uint8)
    red[..., :3] = (255, 40, 40)
    red[..., 3] = np.rint(190 * change_map)
    return Image.fromarray(red, "RGBA")


def said_html(results: Mapping[str, Caption]) -> Html:
    """What each model says: the text, how sure it is, and the facts in it. The names are shown where there are two."""
    return element("div", *(_one(name if len(results) > 1 else "", result) for name, result in results.items()),
                   css="said", attributes={"aria-live": "polite"})  # fmt: skip


def _one(name: str, result: Caption) -> Html:
    parts = [element("p", name, css="model")] if name else []
    parts += [element("p", result.caption or "(no words)", css="text"), _surety(result)]
    if result.facts:
        parts.append(element("ul", *(element("li", *_fact(fact)) for fact in result.facts), css="facts"))
    return join(parts)


def _fact(fact: Fact) -> list[Html]:
    said = [f"verb: {fact.verb}", fact.quantity, fact.place and fact.place.replace("_", " ")]
    head = element("b", f"{fact.object.replace('_', ' ')} {fact.direction}s")
    return [head, *(element("span", part) for part in said if part)]


def _surety(result: Caption) -> Html:
    """How far it is to be believed, and whether the images are unlike those of training."""
    strange = (
        element("span", "Images unlike those of the model's training", css="doubt") if result.strange else Html("")
    )
    return join([_believed(result), strange])


def _believed(result: Caption) -> Html:
    if result.confidence is not None:
        share = "over 99 %" if result.confidence > 0.99 else f"{100 * result.confidence:.0f} %"
        if result.uncertain:
            return element("span", f"Low confidence, {share}: more likely wrong than right", css="doubt")
        return element("span", f"Confidence {share}", css="sure")
    if result.probability is None:
        return Html("")
    return element("span", f"Raw probability {result.probability:.2f}, not calibrated", css="raw")


def notes_html(notes: Sequence[str]) -> Html:
    """What is to be known of two rasters: far from training, shifted, cloudy. Nothing where there is nothing."""
    if not notes:
        return Html("")
    return element("ul", *(element("li", note) for note in notes), css="notes", attributes={"aria-label": "Notes"})


def fault_html(message: str) -> Html:
    """A mistake of the user's, in words."""
    return element("div", message, css="fault", attributes={"role": "alert"})
