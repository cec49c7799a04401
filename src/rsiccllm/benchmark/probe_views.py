"""Points of probes as a table for the terminal and as a picture."""

from __future__ import annotations

from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from rsiccllm.benchmark.bootstrap import Interval
from rsiccllm.benchmark.probe_scores import Point, Probed
from rsiccllm.benchmark.probes import PROBES
from rsiccllm.files import atomic_write

HEADS = {
    "flag": "flag", "invented": "invent.", "object_direction_f1": "obj+dir", "place_f1": "place",
    "rouge_l": "ROUGE-L", "same_answer": "same", "reversed": "revers.",
}  # fmt: skip
TABLE_SAYS = (
    "In % or x 100, ± half the 95 % interval. flag: change or none said rightly. invent.: unchanged pairs said to have "
    "changed. obj+dir, place: F1 against what is true of the disturbed pair. same: the caption of the pair as it is "
    "(at 0). revers.: changes stated at 0 and now stated the other way round. Gains over shuffled captions, CIDEr-D "
    "and all intervals are in probes.json, curves in probes.png."
)


DRAWN = {
    "flag": ("change flag right", "#0b6bcb"),
    "object_direction_f1": ("what and which way, F1", "#c2410c"),
    "place_f1": ("where, F1", "#15803d"),
    "reversed": ("stated the other way round", "#7c3aed"),
}
"""What the picture shows, in what colour."""


def probe_table(found: Probed) -> Group:
    """A table for `rich.console.Console.print`, which fits 80 columns."""
    table = Table(title=f"Probes on {found.pairs} pairs", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), title_justify="left")
    table.show_edge = table.pad_edge = False
    for name in ("probe", "at", *HEADS.values()):
        table.add_column(name, justify="left" if name == "probe" else "right", overflow="fold")
    for name, points in found.points.items():
        if name == next(iter(found.points)):
            table.add_row("as they are", "0", *_cells(points[0]), end_section=True)
        for row, point in enumerate(points[1:], start=2):
            table.add_row(
                "" if row > 2 else name, f"{point.strength:g}", *_cells(point), end_section=row == len(points)
            )
    return Group(table, Text(TABLE_SAYS))


def draw_probes(found: Probed, path: Path) -> None:
    """A PNG with one panel a probe: each score of DRAWN against the strength, with its 95 % interval as a band."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    width = min(4, len(found.points))
    height = -(-len(found.points) // width)
    drawn, axes = pyplot.subplots(
        height, width, figsize=(3 * width, 2.3 * height + 0.4), squeeze=False, sharey=True, layout="constrained"
    )
    units = {probe.name: probe.unit for probe in PROBES}
    for axis in axes.flat[len(found.points) :]:
        axis.set_axis_off()
    for axis, (name, points) in zip(axes.flat, found.points.items(), strict=False):
        for key, (label, colour) in DRAWN.items():
            if key == "reversed" and name != "swapped_dates":
                continue  # elsewhere nothing should turn round; the table has it
            held = [(point.strength, point.scores[key]) for point in points if key in point.scores]
            if held:
                at = [strength for strength, _ in held]
                axis.plot(at, [value.value for _, value in held], "o-", color=colour, label=label, markersize=3)
                axis.fill_between(
                    at, [v.low for _, v in held], [v.high for _, v in held], color=colour, alpha=0.15, linewidth=0
                )
        axis.set_title(name.replace("_", " "), loc="left", fontsize=10)
        axis.set_xlabel(units[name], fontsize=8)
        axis.set_ylim(-4, 104)
        axis.set_xticks([point.strength for point in points])
        axis.tick_params(labelsize=8)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    handles = {label: line for axis in axes.flat for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    drawn.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=len(DRAWN), frameon=False, fontsize=9
    )
    with atomic_write(path, "wb") as handle:
        drawn.savefig(handle, format="png", dpi=140, facecolor="white")
    pyplot.close(drawn)


def _cells(point: Point) -> list[str]:
    return [_cell(point.scores.get(key)) for key in HEADS]


def _cell(found: Interval | None) -> str:
    return "–" if found is None else f"{found.value:.0f}±{found.half:.0f}"
