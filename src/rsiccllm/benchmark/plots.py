"""Plots of a board: scores with their intervals, probe curves. As SVG in the ink of the page, or as a PNG file."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
matplotlib.rcParams["text.parse_math"] = False  # a "$" in a caption is no formula
from matplotlib import pyplot  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from rsiccllm.benchmark.columns import Column  # noqa: E402
from rsiccllm.files import atomic_write  # noqa: E402
from rsiccllm.page import Html, escape  # noqa: E402

# Told apart by people with any common form of colour blindness (Okabe and Ito 2008), readable on light and dark.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
INK = "#000000"  # stands for the page's ink in an SVG
QUIET = "#808080"


def dots(names: Sequence[str], columns: Sequence[Column], models: int) -> Figure:
    """One panel a column, one line a row: the value as a dot, its 95 % interval as a bar. Hollow grey: trivial rows.

    models: how many of the rows, the first ones, are models.
    """
    panels = max(1, len(columns))
    drawn, axes = pyplot.subplots(
        1,
        panels,
        figsize=(2.6 + 2.1 * panels, 0.8 + 0.3 * len(names)),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axis, column in zip(axes[0], columns, strict=False):
        for row, cell in enumerate(column.cells):
            if cell.value is None:
                continue
            colour = COLOURS[row % len(COLOURS)] if row < models else QUIET
            if cell.low is not None and cell.high is not None:
                axis.plot([cell.low, cell.high], [row, row], color=colour, linewidth=1.6, solid_capstyle="butt")
            fill = colour if row < models else "none"
            axis.plot([cell.value], [row], "o", color=colour, markerfacecolor=fill, markersize=5)
        axis.set_title(column.title + (" (less is better)" if column.down else ""), loc="left", fontsize=9)
        axis.grid(axis="x", color=QUIET, alpha=0.25, linewidth=0.6)
        _plain(axis)
    axes[0][0].set_yticks(range(len(names)), [_short(name) for name in names], fontsize=8)
    axes[0][0].set_ylim(len(names) - 0.5, -0.5)
    return drawn


def curves(names: Sequence[str], probes: Sequence[dict[str, Any]], score: str) -> Figure | None:
    """One panel a probe, one line a model: a score in % against the strength.

    probes: of each model, as in probes.json. A probe under which the score is not defined has no panel; without any
    panel there is no figure.
    """
    every = list(dict.fromkeys(probe for found in probes for probe in found if len(_points(found, probe, score)) > 1))
    if not every:
        return None
    width = min(4, len(every))
    height = -(-len(every) // width)
    drawn, axes = pyplot.subplots(
        height, width, figsize=(2.4 * width, 1.9 * height + 0.4), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(every) :]:
        axis.set_axis_off()
    for axis, probe in zip(axes.flat, every, strict=False):
        for number, (name, found) in enumerate(zip(names, probes, strict=True)):
            if points := _points(found, probe, score):
                axis.plot(*zip(*points, strict=True), "o-", color=COLOURS[number % len(COLOURS)], label=name,
                          markersize=3, linewidth=1.4)  # fmt: skip
        axis.set_title(probe.replace("_", " "), loc="left", fontsize=9)
        axis.set_ylim(-4, 104)
        _plain(axis)
    drawn.get_layout_engine().set(h_pad=0.12)
    if len(names) > 1:
        handles, labels = axes.flat[0].get_legend_handles_labels()
        drawn.legend(handles, labels, loc="outside lower center", ncols=min(4, len(names)), frameon=False, fontsize=8)
    return drawn


def _points(found: dict[str, Any], probe: str, score: str) -> list[tuple[float, float]]:
    points = ((point["strength"], point["scores"].get(score)) for point in found.get(probe, []))
    return [(strength, value) for strength, value in points if value is not None]


def svg(drawn: Figure, alt: str) -> Html:
    """The figure as an inline SVG without a background; black is the ink of the page, so that it reads on dark too."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "rsiccllm"}):
        drawn.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    pyplot.close(drawn)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = text.replace(INK, "currentColor").replace("<svg ", f'<svg role="img" aria-label="{escape(alt)}" ', 1)
    return Html(f'<figure class="plot">{text}</figure>')


def write_png(drawn: Figure, path: Path) -> None:
    """Write the figure as a PNG on white, whole or not at all."""
    with atomic_write(path, "wb") as handle:
        drawn.savefig(handle, format="png", dpi=160, facecolor="white")
    pyplot.close(drawn)


def _plain(axis: Any) -> None:
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.spines["bottom"].set_color(QUIET)
    axis.tick_params(axis="both", length=0, labelsize=8, labelcolor=INK)


def _short(name: str) -> str:
    return name if len(name) <= 34 else name[:32] + "…"
