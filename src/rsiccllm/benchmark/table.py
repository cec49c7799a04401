"""Tables of rows, for the terminal (rich) and for a page (HTML), with the tokenisation in every title.

They fit 80 columns: row names are short and explained below, and the scores are split over several tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from rsiccllm.benchmark.bootstrap import Interval
from rsiccllm.benchmark.compare import Comparison
from rsiccllm.benchmark.fact_scores import FLAG, KINDS, FactScore
from rsiccllm.benchmark.rows import Row
from rsiccllm.benchmark.scores import Segments
from rsiccllm.benchmark.tokenise import LABELS

ABSENT = "–"
CHANGED = "  changed only"
FIELD_MADE_BY = (
    "Values x 100 ± half the 95 % interval (bootstrap over pairs). Lower case, no final full stop. BLEU (corpus, "
    "closest length), ROUGE-L (beta 1.2), CIDEr-D (sigma 6, idf of the whole set) by pycocoevalcap, METEOR 1.5 (Java). "
    "S*m: mean of BLEU-4, METEOR, ROUGE-L, CIDEr-D. changed only: the changed pairs as a corpus of their own."
)
MEAN_OF_3 = "mean of 3: of BLEU-4, ROUGE-L and CIDEr-D, because METEOR is absent. It is not S*m."
PAPER_MADE_BY = (
    "With BLEU-4 and METEOR above, the eight of the paper; which package it used is not known. ROUGE-1 and L (F1): "
    "rouge-score, beta 1, our tokens. SBS: cosine of sentence embeddings with the nearest reference"
)
FLAG_MADE_BY = (
    "In %. right: captions that say rightly whether there is a change. balanced: mean of the shares right on changed "
    "and on unchanged pairs. invented: unchanged pairs said to have changed. missed: changed pairs not said to have "
    "changed. unclear: captions that say neither. copied: captions of changed pairs that stand word for word in the "
    "training split."
)
FACTS_MADE_BY = (
    "Over changed pairs, x 100: F1 ± half its 95 % interval; precision / recall; gain of F1 over the same captions "
    "dealt out at random among the changed pairs (a constant caption gains 0)."
)
VALUES_MADE_BY = (
    "Against the union of the references. true: changed pairs of which it is true. said: captions that say it. dealt: "
    "F1 of the same captions dealt out at random."
)
GROUNDING_MADE_BY = (
    "Change maps against masks that mark something, in %, ± half the 95 % interval. IoU: of all pixels together, at "
    "0.5; mean IoU: mean over pairs; pointing: pairs whose highest point lies in the mask. A map that is 1 everywhere "
    "has the IoU under area; pointing at random hits mean area."
)
TESTS_MADE_BY = (
    "first minus second, 95 % bootstrap interval; p by approximate randomisation (10,000 draws), corrected by Holm for "
    "all lines of this table; detects: the smallest true difference found in 80 % of samples of this size."
)
AGAINST = {
    "references": "the union of the references",
    "consensus": "what most references of a pair say",
    "planted": "the planted facts",
}
LABEL_OF = {
    "bleu_1": "BLEU-1", "bleu_2": "BLEU-2", "bleu_3": "BLEU-3", "bleu_4": "BLEU-4", "meteor": "METEOR",
    "rouge_l": "ROUGE-L", "cider_d": "CIDEr-D", "s_m": "S*m", "mean_without_meteor": "mean of 3",
    "rouge_1": "ROUGE-1", "rouge_l_f1": "L (F1)", "sbs": "SBS",
}  # fmt: skip
HEADS = dict(zip(KINDS, ("object", "direction", "obj.+dir.", "verb", "quantity", "place"), strict=True))


class Grid(NamedTuple):
    """A table before it is drawn. Cells may hold line breaks. new: rows that start a new block."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    new: list[bool]
    caption: str


def score_grids(rows: Sequence[Row]) -> list[Grid]:
    """The field's scores, and the rest of the paper's: two lines a row, all pairs and the changed pairs alone."""
    with_meteor = all(row.scores.overall.meteor is not None for row in rows)
    # Without METEOR there is no S*m; a mean of three must not stand under its name.
    field = ("bleu_4", "meteor", "rouge_l", "cider_d", "s_m" if with_meteor else "mean_without_meteor")
    rest = ("bleu_1", "bleu_2", "bleu_3", "rouge_1", "rouge_l_f1", "sbs")
    every, part = rows[0].scores.segments, rows[0].scores.changed_segments
    pairs = f"{len(every.ids)} pairs" + (f", {len(part.ids)} changed" if part else "")
    cut = "; ".join(LABELS[how] for how in dict.fromkeys(row.scores.tokenisation for row in rows))
    legend = [f"{row.name}: {row.legend}." for row in rows if row.legend]
    notes = dict.fromkeys(note for row in rows for note in row.scores.notes)
    models = dict.fromkeys(row.scores.sbs_model for row in rows if row.scores.sbs_model)
    lines, new = _score_lines(rows, field)
    more, _ = _score_lines(rows, rest)
    made_by = PAPER_MADE_BY + (f", by {', '.join(models)}." if models else ".")
    return [
        Grid(f"Scores of {pairs}; tokens: {cut}", ["", *(LABEL_OF[name] for name in field)], lines, new,
             "\n".join([FIELD_MADE_BY, *([] if with_meteor else [MEAN_OF_3]), *legend, *notes])),
        Grid(f"The rest of the paper's scores; tokens: {cut}", ["", *(LABEL_OF[name] for name in rest)], more, new,
             made_by),
    ]  # fmt: skip


def flag_grid(rows: Sequence[Row]) -> Grid | None:
    """The change flag of every row, and how many captions are copies; None where change flags are unknown."""
    copied = any(row.copied is not None for row in rows)
    lines = []
    for row in rows:
        if row.facts is None:
            continue
        flag = row.facts.flag
        found = flag.interval_95
        cells = [_value(found.get(name), 1) for name in FLAG]
        if copied:
            share = None if row.copied is None else row.copied.changed_share
            cells.append(_number(share))
        lines.append([row.name, *cells])
    columns = ["", "right", "balanced", "invented", "missed", "unclear", *(["copied"] if copied else [])]
    return Grid("Change flag", columns, lines, [True] * len(lines), FLAG_MADE_BY) if lines else None


def fact_grid(rows: Sequence[Row], against: str = "references") -> Grid | None:
    """Facts against "references" (their union), "consensus" or "planted" facts; None where no row has them."""
    lines = []
    for row in rows:
        found = None if row.facts is None else vars(row.facts)[against]
        if found:
            lines.append([f"{row.name}\n  prec./rec.\n  gain", *(_fact(found[kind]) for kind in KINDS)])
    if not lines:
        return None
    return Grid(f"Facts against {AGAINST[against]}", ["", *HEADS.values()], lines, [True] * len(lines), FACTS_MADE_BY)


def value_grid(row: Row) -> Grid | None:
    """F1 of one row for each object, and for each place; None where there is nothing."""
    if row.facts is None or not row.facts.references:
        return None
    lines, new = [], []
    for kind in ("object", "place"):
        for place, (name, found) in enumerate(row.facts.references[kind].values.items()):
            numbers = [found.precision, found.recall, found.f1, found.shuffled]
            gain = ABSENT if found.gain is None else f"{found.gain:+.1f}"
            lines.append([name, str(found.true), str(found.stated), *map(_number, numbers), gain])
            new.append(place == 0)
    columns = ["", "true", "said", "precision", "recall", "F1", "dealt", "gain"]
    return Grid(f"{row.name}: by object and by place", columns, lines, new, VALUES_MADE_BY) if lines else None


def grounding_grid(rows: Sequence[Row]) -> Grid | None:
    """Change maps against masks; None where no row has any."""
    lines = []
    for row in rows:
        if row.grounding is not None:
            found = row.grounding.intervals()
            cells = [_value(found[name], 1) for name in ("iou", "mean_iou", "pointing", "area", "mean_area")]
            lines.append([row.name, str(len(row.grounding.ids)), *cells])
    columns = ["", "pairs", "IoU", "mean IoU", "pointing", "area", "mean area"]
    return Grid("Grounding", columns, lines, [True] * len(lines), GROUNDING_MADE_BY) if lines else None


def comparison_grid(comparisons: Sequence[Comparison]) -> Grid | None:
    """The paired tests; None where there are none."""
    lines, new = [], []
    last: tuple[str, str] | None = None
    for found in comparisons:
        names = (found.first, found.second)
        new.append(names != last)
        last = names
        interval = found.difference
        lines.append(
            [
                f"{found.first}\n  minus {found.second}" if new[-1] else "",
                LABEL_OF.get(found.score, found.score),
                f"{interval.value:+.2f}",
                f"{interval.low:.1f} to {interval.high:.1f}",
                _p(found.p),
                _p(found.p_holm),
                f"{found.detectable:.2f}",
            ]
        )
    columns = ["", "score", "diff.", "95 % interval", "p", "p Holm", "detects"]
    return Grid("Paired tests", columns, lines, new, TESTS_MADE_BY) if comparisons else None


def grids(rows: Sequence[Row], comparisons: Sequence[Comparison] = ()) -> list[Grid]:
    """All tables that `rows` allow."""
    found: Iterable[Grid | None] = [
        *score_grids(rows),
        flag_grid(rows),
        *(fact_grid(rows, against) for against in AGAINST),
        *(value_grid(row) for row in rows if not row.baseline),
        grounding_grid(rows),
        comparison_grid(comparisons),
    ]
    return [grid for grid in found if grid is not None]


def render_table(rows: Sequence[Row], comparisons: Sequence[Comparison] = ()) -> list[Table]:
    """Tables for `rich.console.Console.print`."""
    tables = []
    for grid in grids(rows, comparisons):
        # Text, because a caption may hold what rich would take for its markup
        table = Table(title=Text(grid.title), caption=Text(grid.caption), box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        table.title_justify = table.caption_justify = "left"
        table.show_edge = table.pad_edge = False
        table.add_column(grid.columns[0], overflow="fold")
        for column in grid.columns[1:]:
            # on a narrow terminal a number is folded and never cut
            table.add_column(column, justify="right", overflow="fold")
        for place, cells in enumerate(grid.rows):
            table.add_row(*map(Text, cells), end_section=place + 1 == len(grid.rows) or grid.new[place + 1])
        tables.append(table)
    return tables


def render_html(rows: Sequence[Row], comparisons: Sequence[Comparison] = ()) -> str:
    """The same tables as HTML `<table>` elements, text escaped, without styles or scripts.

    All columns but the first are of class "number", which the project's pages set to the right (page.py).
    """
    return "\n".join(_html(grid) for grid in grids(rows, comparisons))


def _html(grid: Grid) -> str:
    head = _line("th", grid.columns)
    body = "\n".join(
        ('<tr class="new">' if new else "<tr>") + _line("td", cells) + "</tr>"
        for cells, new in zip(grid.rows, grid.new, strict=True)
    )
    return (
        f"<table>\n<caption>{_text(grid.title)}</caption>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{body}\n</tbody>\n</table>\n<p>{_text(grid.caption)}</p>"
    )


def _line(tag: str, cells: Sequence[str]) -> str:
    return "".join(
        f'<{tag} class="number">{_text(cell)}</{tag}>' if place else f"<{tag}>{_text(cell)}</{tag}>"
        for place, cell in enumerate(cells)
    )


def _text(text: str) -> str:
    return escape(text).replace("\n", "<br>")


def _score_lines(rows: Sequence[Row], names: Iterable[str]) -> tuple[list[list[str]], list[bool]]:
    lines, new = [], []
    for row in rows:
        for label, segments in ((row.name, row.scores.segments), (CHANGED, row.scores.changed_segments)):
            if segments is not None:
                lines.append([label, *_cells(segments, names)])
                new.append(label is row.name)
    return lines, new


def _cells(segments: Segments, names: Iterable[str]) -> list[str]:
    return [_value(segments.interval_95.get(name), 2) for name in names]


def _value(found: Interval | None, digits: int) -> str:
    return ABSENT if found is None else f"{found.value:.{digits}f}±{found.half:.1f}"


def _number(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.1f}"


def _whole(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.0f}"


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _fact(found: FactScore) -> str:
    if found.f1 is None or found.gain is None:
        return ABSENT
    return f"{_value(found.interval_95, 1)}\n{_whole(found.precision)}/{_whole(found.recall)}\n{found.gain:+.1f}"
