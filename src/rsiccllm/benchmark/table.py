"""Tables of rows, for the terminal (rich) and for a page (HTML), with the tokenisation in every title."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from rsiccllm.benchmark.bootstrap import Interval
from rsiccllm.benchmark.fact_scores import KINDS, FactScore, FactScores
from rsiccllm.benchmark.rows import Row
from rsiccllm.benchmark.scores import Segments

ABSENT = "–"
MADE_BY = (
    "Values x 100, below them half the width of the 95 % interval over pairs. BLEU (corpus, closest length), ROUGE-L "
    "(beta 1.2) and CIDEr-D (sigma 6) by pycocoevalcap, METEOR 1.5 by its Java program; rouge-score and sacrebleu give "
    "other figures. changed only: the changed pairs as a corpus of their own."
)
MEAN_OF_3 = "mean of 3: of BLEU-4, ROUGE-L and CIDEr-D, because METEOR is absent. It is not S*m."
FACTS_MADE_BY = (
    "flag: pairs of which the caption says rightly whether they changed; balanced: the mean over changed and unchanged "
    "ones; halluc.: unchanged pairs said to have changed; missed: changed pairs not said to have changed; all in %. "
    "Then F1 x 100 over changed pairs, half the width of its 95 % interval, and its gain over the same captions dealt "
    "out at random among the changed pairs."
)


KIND_HEADS = ["object", "direc-\ntion", "object\n+dir.", "verb", "quan-\ntity", "place"]  # as KINDS, to fit 80 columns


class Grid(NamedTuple):
    """A table before it is drawn. Columns and cells may hold line breaks. new: rows that start a new block."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    new: list[bool]
    caption: str


def score_grid(rows: Sequence[Row]) -> Grid:
    """Every score, two lines a row: all pairs, and below it the changed pairs alone."""
    with_meteor = all(row.scores.overall.meteor is not None for row in rows)
    # Without METEOR there is no S*m; a mean of three must not stand under its name.
    mean = "S*m" if with_meteor else "mean\nof 3"
    lines, new = [], []
    for row in rows:
        for label, segments in (("all", row.scores.segments), ("changed", row.scores.changed_segments)):
            if segments is not None:
                new.append(label == "all")
                lines.append([row.name if new[-1] else "… changed only", *_scores(segments, with_meteor)])
    columns = ["captions", "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr-D", mean]
    notes = [*([] if with_meteor else [MEAN_OF_3]), *(row.scores.note for row in rows if row.scores.note)]
    every, part = rows[0].scores.segments, rows[0].scores.changed_segments
    pairs = f"{len(every.ids)} pairs" + (f", {len(part.ids)} changed" if part else "")
    return Grid(f"Scores of {pairs}; {_tokens(rows)}", columns, lines, new, "\n".join([MADE_BY, *dict.fromkeys(notes)]))


def fact_grid(rows: Sequence[Row], against: str = "references") -> Grid | None:
    """Change flag and facts against "references" (their union) or "planted" facts; None where no row has them."""
    pick: Callable[[FactScores], dict[str, FactScore] | None] = (
        (lambda facts: facts.references) if against == "references" else (lambda facts: facts.planted)
    )
    lines = []
    for row in rows:
        found = pick(row.facts) if row.facts else None
        if row.facts is None or found is None:
            continue
        flag = row.facts.flag
        cells = [_number(value) for value in (flag.accuracy, flag.balanced_accuracy, flag.hallucination, flag.misses)]
        lines.append([row.name, *cells, *(_fact(found.get(kind)) for kind in KINDS)])
    if not lines:
        return None
    what = "the union of the references" if against == "references" else "the planted facts"
    columns = ["captions", "flag", "bal-\nanced", "hal-\nluc.", "missed", *KIND_HEADS]
    return Grid(f"Facts against {what}", columns, lines, [True] * len(lines), FACTS_MADE_BY)


def grids(rows: Sequence[Row]) -> list[Grid]:
    """All tables that `rows` allow: scores, facts against the references, facts against planted ones."""
    found = [score_grid(rows), fact_grid(rows, "references"), fact_grid(rows, "planted")]
    return [grid for grid in found if grid is not None]


def render_table(rows: Sequence[Row]) -> list[Table]:
    """Tables for `rich.console.Console.print`."""
    tables = []
    for grid in grids(rows):
        # Text, because a caption may hold what rich would take for its markup
        table = Table(title=Text(grid.title), caption=Text(grid.caption), box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        table.caption_justify = "left"
        table.show_edge = table.pad_edge = False
        table.add_column(grid.columns[0], overflow="fold")
        for column in grid.columns[1:]:
            # on a narrow terminal a number is folded and never cut
            table.add_column(column, justify="right", overflow="fold")
        for place, cells in enumerate(grid.rows):
            table.add_row(*map(Text, cells), end_section=place + 1 == len(grid.rows) or grid.new[place + 1])
        tables.append(table)
    return tables


def render_html(rows: Sequence[Row]) -> str:
    """The same tables as HTML `<table>` elements, text escaped, without styles or scripts."""
    return "\n".join(_html(grid) for grid in grids(rows))


def _html(grid: Grid) -> str:
    head = "".join(f"<th>{_text(column)}</th>" for column in grid.columns)
    body = "\n".join(
        ('<tr class="new">' if new else "<tr>") + "".join(f"<td>{_text(cell)}</td>" for cell in cells) + "</tr>"
        for cells, new in zip(grid.rows, grid.new, strict=True)
    )
    return (
        f"<table>\n<caption>{_text(grid.title)}</caption>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{body}\n</tbody>\n</table>\n<p>{_text(grid.caption)}</p>"
    )


def _text(text: str) -> str:
    return escape(text).replace("\n", "<br>")


def _tokens(rows: Sequence[Row]) -> str:
    names = {
        "word": "words as given, lower case, no final full stop",
        "character": "CHARACTERS, lower case, no final full stop: not comparable with word scores",
    }
    return "; ".join(names[how] for how in dict.fromkeys(row.scores.tokenisation for row in rows))


def _scores(segments: Segments, with_meteor: bool) -> list[str]:
    values, intervals = segments.values(), segments.intervals()
    mean = values.s_m if with_meteor else values.mean_without_meteor
    cells = [f"{value:.2f}" for value in (values.bleu_1, values.bleu_2, values.bleu_3)]
    for name in ("bleu_4", "meteor", "rouge_l", "cider_d"):
        value = vars(values)[name]
        cells.append(ABSENT if value is None else f"{value:.2f}\n{_half(intervals[name])}")
    return [*cells, ABSENT if mean is None else f"{mean:.2f}"]


def _half(interval: Interval) -> str:
    return f"±{(interval.high - interval.low) / 2:.1f}"


def _number(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.1f}"


def _fact(found: FactScore | None) -> str:
    if found is None or found.f1 is None or found.gain is None:
        return ABSENT
    return f"{found.f1:.1f}\n{_half(found.interval())}\n{found.gain:+.1f}"
