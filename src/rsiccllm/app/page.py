"""The page: two images in, a slider between them, the caption; questions, a second model, examples, downloads."""

from __future__ import annotations

import atexit
import os
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
import gradio as gr

from rsiccllm.app.viewer import STYLE, fault_html, notes_html, pair_html, said_html
from rsiccllm.caption.captioner import EMBEDDED, Captioner, model_name
from rsiccllm.caption.overlay import draw_overlay
from rsiccllm.errors import InputError
from rsiccllm.files import write_json
from rsiccllm.page import join
from rsiccllm.pairs import OpenedPair, open_pair, save_png

ENDINGS = [".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"]
PIXELS = 25_000_000
NONE = "none"
EXAMPLES = 4

_FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"]
_CSS = (
    STYLE
    + """
.gradio-container { max-width: 1160px !important; margin: 0 auto; }
#title h1 { font-size: 24px; margin: 0 0 2px; }
footer { display: none !important; }
@media (max-width: 600px) { .gradio-container .main { padding: 12px !important; } }
"""
)


class Page:
    """The models on offer, by name, and what the page does with them. The first is the one that is chosen at first."""

    def __init__(self, models: dict[str, Captioner]) -> None:
        self.models = models
        self._folder = tempfile.TemporaryDirectory(prefix="rsiccllm-app-")
        atexit.register(self._folder.cleanup)
        self.folder = Path(self._folder.name)
        self.examples = write_examples(self.folder)

    def look(self, before: str | None, after: str | None) -> tuple[Any, Any]:
        """(viewer, said): the pair as soon as both images are there, or what is wrong with them."""
        if not before or not after:
            return gr.skip(), ""
        try:
            pair, notes = _open(before, after)
            return pair_html(pair), notes_html(notes)
        except InputError as error:
            return "", fault_html(_plain(error, before, after))

    def caption(self, before: str | None, after: str | None, length: str, name: str, other: str) -> tuple[Any, ...]:
        """(viewer, said, text to copy, JSON to download, picture to download)."""
        try:
            pair, notes = _open(before, after)
            task = "describe" if length == "long" else "caption"
            chosen = {model: self.models[model] for model in (name, other) if model != NONE}
            results = {
                model: next(captioner.caption_all([pair], task=task, candidates=captioner.usual(task)))
                for model, captioner in chosen.items()
            }
        except InputError as error:
            hidden = gr.update(value=None, interactive=False)
            return gr.skip(), fault_html(_plain(error, before, after)), "", hidden, hidden
        first = results[name]
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        write_json(folder / "caption.json", {model: result.to_dict() for model, result in results.items()})
        picture = gr.update(value=None, interactive=False)
        if first.change_map is not None:
            draw_overlay(pair, first.change_map, folder / "change.png")
            picture = gr.update(value=str(folder / "change.png"), interactive=True)
        text = "\n".join(result.caption for result in results.values())
        data = gr.update(value=str(folder / "caption.json"), interactive=True)
        said = join([said_html(results), notes_html(notes)])
        return pair_html(pair, first.change_map), said, text, data, picture

    def ask(self, before: str | None, after: str | None, question: str, name: str) -> str:
        """The answer to a question, as HTML."""
        try:
            if not (question or "").strip():
                raise InputError("no question yet; write one above")
            pair, _ = _open(before, after)
            answer = self.models[name].ask(pair.before, pair.after, question)
        except InputError as error:
            return fault_html(_plain(error, before, after))
        return said_html({name: answer})

    def build(self) -> gr.Blocks:
        """The page, not launched yet."""
        names = list(self.models)
        with gr.Blocks(title="RSICCLLM: what changed?", analytics_enabled=False, delete_cache=(3600, 86400)) as blocks:
            gr.Markdown("# What changed?\nTwo images or GeoTIFFs of one place, the earlier one first.", elem_id="title")
            with gr.Row():
                with gr.Column(scale=5, min_width=300):
                    before = gr.File(label="First date", file_types=ENDINGS, elem_id="before", height=140)
                    after = gr.File(label="Second date", file_types=ENDINGS, elem_id="after", height=140)
                    with gr.Row():
                        shown = [
                            gr.Button(f"Example {number}", size="sm", min_width=90, elem_id=f"example-{number}")
                            for number in range(1, len(self.examples) + 1)
                        ]
                    length = gr.Radio(["short", "long"], value="short", label="Answer", elem_id="length")
                    name = gr.Dropdown(names, value=names[0], label="Model", visible=len(names) > 1)
                    other = gr.Dropdown(
                        [NONE, *names], value=NONE, label="Compare with", visible=len(names) > 1, elem_id="other"
                    )
                    go = gr.Button("Say what changed", variant="primary", elem_id="go")
                    question = gr.Textbox(
                        label="Or ask a question", placeholder="Was a road built?", max_length=500, elem_id="question"
                    )
                    ask = gr.Button("Ask", elem_id="ask")
                with gr.Column(scale=6, min_width=300):
                    said = gr.HTML(elem_id="said", padding=False)
                    answer = gr.HTML(elem_id="answer", padding=False)
                    viewer = gr.HTML(elem_id="viewer", padding=False)
                    text = gr.Textbox(
                        label="Text", interactive=False, lines=2, max_lines=12, buttons=["copy"], elem_id="text"
                    )
                    with gr.Row():
                        data = gr.DownloadButton("JSON", size="sm", interactive=False, elem_id="json")
                        picture = gr.DownloadButton("Picture", size="sm", interactive=False, elem_id="picture")
            outputs = [viewer, said, text, data, picture]
            inputs: list[Any] = [before, after, length, name, other]
            for file in (before, after):
                file.upload(self.look, [before, after], [viewer, said])
            go.click(self.caption, inputs, outputs)
            for trigger in (ask.click, question.submit):
                trigger(self.ask, [before, after, question, name], answer)
            for number, button in enumerate(shown):
                paths = [str(path) for path in self.examples[number]]
                chosen = button.click(lambda paths=paths: paths, None, [before, after])
                chosen.then(self.caption, inputs, outputs)
        return blocks

    def launch(self, host: str, port: int, wait: bool = True) -> str:
        """Serve the page; returns its address (with `wait` only after it was stopped)."""
        theme = gr.themes.Default(primary_hue="teal", font=_FONTS, font_mono=["ui-monospace", "monospace"])
        _, address, _ = self.build().launch(
            server_name=host, server_port=port or None, prevent_thread_lock=not wait, share=False, quiet=not wait,
            theme=theme, css=_CSS, max_file_size="50mb", footer_links=[], ssr_mode=False, show_error=False,
        )  # fmt: skip
        return str(address)


def _open(before: str | None, after: str | None) -> tuple[OpenedPair, list[str]]:
    """The pair, and what is to be noted of it. Two GeoTIFFs are brought onto one grid, other images to one size."""
    if not before or not after:
        raise InputError("two images are needed: drop one in each field, or take an example")
    paths = Path(before), Path(after)
    if find_spec("rasterio") is not None:
        from rsiccllm.geo.pair import georeferenced, open_rasters

        if all(map(georeferenced, paths)):
            return open_rasters(*paths, PIXELS)
    return open_pair(*paths, max_pixels=PIXELS, resize=True), []


def _plain(error: InputError, *paths: str | None) -> str:
    """The error without the server's folders: the user knows the file by its name alone."""
    message = str(error)
    for path in filter(None, paths):
        message = message.replace(path, Path(path).name)
    return message


def write_examples(folder: Path) -> list[tuple[Path, Path]]:
    """A few rendered scenes, the last one unchanged; returns the files of each."""
    from rsiccllm.sources import open_source

    source = open_source("scenes:24,seed=11,size=224,easy=1")
    changed = [pair for pair in source.pairs if pair.changed][: EXAMPLES - 1]
    chosen = [*changed, *[pair for pair in source.pairs if not pair.changed][:1]]
    files = []
    for number, pair in enumerate(chosen, start=1):
        opened = source.open(pair)
        paths = folder / f"example_{number}_before.png", folder / f"example_{number}_after.png"
        for image, path in zip((opened.before, opened.after), paths, strict=True):
            save_png(image, path)
        files.append(paths)
    return files


def run_app(models: list[str], host: str, port: int) -> None:
    """Load the models and serve the page until stopped. Raises InputError where a model is not there."""
    wanted: list[str | None] = [*models] or [None]
    loaded = {
        "in the box" if path == str(EMBEDDED) else str(model): Captioner.load(path)
        for model, path in [(model, model_name(model)) for model in wanted]
    }
    Page(loaded).launch(host, port)
