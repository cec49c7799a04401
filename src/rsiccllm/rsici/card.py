"""The card of a built set: what is in it, where it comes from, what was rejected and why, in words and in plots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from rsiccllm.files import atomic_write, write_json
from rsiccllm.records import ImagePair, Instruction
from rsiccllm.rsici.output import PARQUET, split_name
from rsiccllm.rsici.prior import Prior
from rsiccllm.rsici.prompts import FILE
from rsiccllm.sources.base import Source

CARD = "card.json"
PAGE = "README.md"
PLOTS = "plots"
COMMON = 30
"""Words shown in the plot of words."""


_FLAG = {True: "yes", False: "no", None: "not stated"}


class Tally:
    """What is counted of the instructions as they are written."""

    def __init__(self) -> None:
        self.tasks: Counter[tuple[str, str]] = Counter()
        self.teachers: Counter[tuple[str, str]] = Counter()
        self.words: Counter[str] = Counter()
        self.lengths: dict[str, Counter[int]] = {}

    @property
    def total(self) -> int:
        """Instructions in all."""
        return self.tasks.total()

    def add(self, record: Instruction) -> None:
        """Count one instruction."""
        self.tasks[record.task, record.split] += 1
        self.teachers[record.task, record.teacher] += 1
        if record.task in {"caption", "describe"}:
            for text in record.answers:
                said = text.lower().replace(",", " ").replace(".", " ").split()
                self.words.update(word for word in said if len(word) > 3)
                self.lengths.setdefault(record.task, Counter())[len(said)] += 1


def write_card(
    folder: Path,
    about: Mapping[str, Any],
    sources: Mapping[str, Source],
    tally: Tally,
    pairs: Sequence[tuple[ImagePair, Prior]],
    rejected: Sequence[Mapping[str, Any]],
) -> None:
    """Write the plots, the prompt file, README.md and card.json, in this order.

    about: the settings of the build, its counts, and what the teacher failed at. sources: by label.
    """
    table = Counter((str(note["task"]), str(note["gate"]), str(note["reason"])) for note in rejected)
    facts = {
        **about,
        "splits": dict(Counter(pair.split for pair, _ in pairs)),
        "changed": {_FLAG[key]: n for key, n in Counter(pair.changed for pair, _ in pairs).items()},
        "instructions": {f"{task}/{split}": n for (task, split), n in sorted(tally.tasks.items())},
        "teachers": {f"{task}/{name}": n for (task, name), n in sorted(tally.teachers.items())},
        "words": {task: round(_mean(found), 2) for task, found in sorted(tally.lengths.items())},
        "specks": sum(prior.specks for _, prior in pairs),
        "rejections": {"/".join(key): n for key, n in sorted(table.items())},
        "origin": {
            label: {"home": source.home, "licence": source.licence, "pairs": _of(pairs, label)}
            for label, source in sources.items()
        },
    }
    places: Counter[str] = Counter(region.place for _, prior in pairs for region in prior.regions)
    _plot(folder / PLOTS, tally, places, [prior.share for _, prior in pairs if prior.masked])
    with atomic_write(folder / FILE) as handle:
        handle.write(resources.files("rsiccllm.rsici").joinpath(FILE).read_text(encoding="utf-8"))
    with atomic_write(folder / PAGE) as handle:
        handle.write(_page(facts))
    write_json(folder / CARD, facts)


def _of(pairs: Sequence[tuple[ImagePair, Prior]], label: str) -> int:
    return sum(pair.before.split("/")[1] == label for pair, _ in pairs)


def _mean(lengths: Counter[int]) -> float:
    return sum(length * number for length, number in lengths.items()) / max(1, lengths.total())


HEAD = """---
language: [en]
task_categories: [image-text-to-text]
tags: [remote-sensing, change-captioning]
configs:
- config_name: default
  data_files:
{files}
---

# RSICI, as built here
"""


def _page(facts: Mapping[str, Any]) -> str:
    """The card in Markdown, with the front matter that dataset hubs read."""
    counts = facts["counts"]
    origin = [(label, f"{o['pairs']:,}", o["licence"], o["home"] or "your own") for label, o in facts["origin"].items()]
    words = ", ".join(f"{task} {mean}" for task, mean in facts["words"].items()) or "none written"
    splits = dict.fromkeys(split_name(key.rpartition("/")[2]) for key in facts["instructions"])
    plots = " ".join(f"![{name}]({PLOTS}/{name}.png)" for name in ("length", "words", "places", "tasks", "changed"))
    parts = [
        HEAD.format(files="\n".join(f"  - split: {name}\n    path: {PARQUET}/{name}-*.parquet" for name in splits)),
        f"{counts['instructions']:,} instructions over {counts['pairs']:,} image pairs, built with the teacher "
        f"`{_plain(facts['teacher']).replace('`', '')}` and the prompts `{facts['prompts']}` (`{FILE}` beside this "
        "file). "
        f"Pairs left out because nothing is known or said of them: {counts['left_out']:,}.\n",
        "Each line of the lists is one sample; docs/records.md of RSICCLLM says what its fields are. Paths are "
        "relative to this folder. `SHA256SUMS` holds the checksum of every file.\n",
        "## Sources\n",
        _table(("source", "pairs", "licence", "had from"), origin),
        "The licences of the sources hold for the images and for the texts taken from them.\n",
        "## Instructions\n",
        _counted("task/split", facts["instructions"]),
        _counted("task/teacher", facts["teachers"]),
        f"Words an answer on average: {words}.\n",
        "## Pairs\n",
        _counted("split", facts["splits"]),
        _counted("changed", facts["changed"]),
        f"{facts['specks']:,} specks under {facts['speck']} pixels, and slivers at the border, were dropped from the "
        "masks.\n",
        "## Rejected answers\n",
        _counted("task/gate/reason", facts["rejections"]),
        f"Given up after every attempt: {_listed(facts['given_up'])}. Failures of the teacher: "
        f"{_listed(facts['failed'])}. Not answered yet: {_listed(facts['unanswered'])}. Every rejected answer is in "
        "`rejected.jsonl`.\n",
        "## Plots\n",
        f"{plots}\n",
    ]
    return "\n".join(parts)


def _counted(name: str, counts: Mapping[str, int]) -> str:
    return _table((name, "number"), [(key, f"{number:,}") for key, number in counts.items()])


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{_plain(name)} {number:,}" for name, number in counts.items()) or "none"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return "None.\n"
    cells = [[_plain(cell) for cell in row] for row in rows]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *(f"| {' | '.join(row)} |" for row in cells)]
    return "\n".join(lines) + "\n"


def _plain(value: object) -> str:
    """Text as it is, without a line break, a column or a tag of its own: a page that shows Markdown runs its HTML."""
    return " ".join(str(value).split()).replace("|", "\\|").replace("<", "&lt;")


def _plot(folder: Path, tally: Tally, places: Counter[str], shares: Sequence[float]) -> None:
    """Five plots. Figures are drawn without a display and hold no date, so the same set gives the same bytes."""
    import matplotlib
    from matplotlib.figure import Figure

    def save(name: str, title: str, draw: Any, wide: float = 6.4, high: float = 3.6, left: float = 0.85) -> None:
        # Fixed margins (inches): a layout that is computed draws every plot twice.
        matplotlib.rcParams["text.parse_math"] = False  # a "$" in the name of a split is no formula
        figure = Figure(figsize=(wide, high))
        edges = {"left": left / wide, "right": 1 - 0.2 / wide, "bottom": 0.5 / high, "top": 1 - 0.35 / high}
        axes = figure.subplots(gridspec_kw=edges)
        axes.spines[["top", "right"]].set_visible(False)
        draw(axes)
        axes.set_title(title, loc="left", fontsize=11)
        with atomic_write(folder / f"{name}.png", "wb") as handle:
            figure.savefig(handle, format="png", dpi=110, metadata={"Software": None})

    def length(axes: Any) -> None:
        for task, found in sorted(tally.lengths.items()):
            most = max(found)
            axes.step(range(most + 2), [found[n] for n in range(most + 2)], where="mid", label=task)
        axes.set(xlabel="words in an answer", ylabel="answers")
        if tally.lengths:
            axes.legend(frameon=False)

    def common(axes: Any) -> None:
        top = sorted(tally.words.items(), key=lambda item: (-item[1], item[0]))[:COMMON][::-1]
        axes.barh([word for word, _ in top], [number for _, number in top], color="#0b6e5f")
        axes.set(xlabel="times, in captions and descriptions")

    def grid(axes: Any) -> None:
        rows = [
            ["top_left", "top", "top_right"],
            ["left", "center", "right"],
            ["bottom_left", "bottom", "bottom_right"],
        ]
        values = [[places[name] for name in row] for row in rows]
        axes.imshow(values, cmap="Greens", vmin=0)
        dark = max(max(row) for row in values) * 0.6
        for y, row in enumerate(values):
            for x, value in enumerate(row):
                axes.text(x, y, f"{value:,}", ha="center", va="center", color="white" if value > dark else "black")
        axes.set(xticks=[0, 1, 2], xticklabels=["left", "center", "right"], yticks=[0, 1, 2])
        axes.set_yticklabels(["top", "middle", "bottom"])

    def task(axes: Any) -> None:
        names = sorted({name for name, _ in tally.tasks})
        base = [0] * len(names)
        for split in sorted({split for _, split in tally.tasks}):
            values = [tally.tasks[name, split] for name in names]
            axes.bar(names, values, bottom=base, label=split)
            base = [a + b for a, b in zip(base, values, strict=True)]
        axes.set(ylabel="instructions")
        axes.legend(frameon=False)

    def share(axes: Any) -> None:
        axes.hist([100 * value for value in shares], bins=range(0, 101, 5), color="#0b6e5f")
        axes.set(xlabel="changed share of a pair, % of its pixels", ylabel="pairs", xlim=(0, 100))

    save("length", "Length of the answers", length)
    save("words", f"The {COMMON} commonest words of four letters or more", common, high=6, left=1.3)
    save("places", "Where the changed regions lie", grid, wide=4.2)
    save("tasks", "Instructions by task and split", task)
    save("changed", "How much of a pair changed (pairs with a mask)", share)
