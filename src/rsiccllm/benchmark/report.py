"""`rsiccllm bench report`: results side by side on one page that needs nothing but itself, a PNG and a LaTeX table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from rsiccllm.benchmark import plots
from rsiccllm.benchmark.columns import Cell, Column, fact_columns, grounding_columns, score_columns, title_of
from rsiccllm.benchmark.judge_people import shown_alpha
from rsiccllm.benchmark.judge_questions import DIMENSIONS
from rsiccllm.benchmark.results import Board, comparisons, load_boards, load_judge, short_spec
from rsiccllm.benchmark.samples import browser
from rsiccllm.errors import InputError
from rsiccllm.files import atomic_write
from rsiccllm.page import Html, element, join, table, write_page

ABSENT = "–"
DELTA = "Δ: gain over the same captions dealt out at random"
PROBED = {
    "flag": "change flag right, %",
    "object_direction_f1": "what and which way, F1",
    "place_f1": "where, F1",
    "reversed": "changes stated the other way round, %",
}
S_M = "S*m: the mean of BLEU-4, METEOR, ROUGE-L and CIDEr-D; mean of 3: without METEOR."
PLOTTED = 4  # columns that a plot has room for


def write_report(folders: Sequence[Path], out: Path, samples: int = 60, judged: Path | None = None) -> list[Path]:
    """Write `out` (.html) and beside it a .png and a .tex of the same name. Returns their paths.

    folders: that `bench run` wrote. samples: cards of the browser, a board. judged: a folder that `bench judge` wrote
    for one of the boards. Raises InputError for a folder without a finished run, and where `out` does not end in .html.
    """
    if out.suffix != ".html":
        raise InputError(f"--out {out}: expected a name that ends in .html")
    boards = load_boards(folders)
    judge = None if judged is None else load_judge(judged, boards)
    here = files("rsiccllm.benchmark")
    body = join(section for board in boards for section in _board(board, samples, judge, len(boards) > 1))
    style, script = ((here / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    title = "Change captioning" if len(boards) > 1 else f"Change captioning: {boards[0].title}"
    write_page(out, title, body, style, script)
    plots.write_png(_dots(boards[0]), out.with_suffix(".png"))
    with atomic_write(out.with_suffix(".tex")) as handle:
        handle.write("\n".join(latex(board) for board in boards))
    return [out, out.with_suffix(".png"), out.with_suffix(".tex")]


def _board(board: Board, samples: int, judge: dict[str, Any] | None, titled: bool) -> Iterator[Html]:
    if titled:
        yield element("h2", board.title)
    yield element("p", "Press a heading to sort. Below a value: its 95 % interval over pairs. Grey: no model.")
    yield _sortable(board, "Scores, all pairs", score_columns(board.rows))
    if changed := score_columns(board.rows, "changed_only"):
        yield _sortable(board, "Scores, changed pairs alone", changed)
    if facts := fact_columns(board.rows):
        yield _sortable(board, f"Change flag, and F1 of facts on changed pairs ({DELTA})", facts)
    if grounding := grounding_columns(board.rows):
        yield _sortable(board, "Change maps against masks", grounding)
    yield from _legend(board)
    yield plots.svg(_dots(board), f"scores and intervals of {board.title}")
    yield from _published(board)
    yield from _compared(board)
    yield from _probes(board)
    yield from _judged(judge if judge is not None and judge["board"] == board.title else None)
    yield element("h3", "Samples")
    yield browser(board, samples)
    yield element("h3", "How it was run")
    yield table(*_settings(board))


def _legend(board: Board) -> Iterator[Html]:
    """What the rows without a model are, and what each run had to say."""
    lines = [*_made_by(board), *(f"{row['name']}: {row['legend']}." for row in board.baselines if row.get("legend"))]
    notes = [[note.replace(f"{r.folder}/", "") for note in r.scores.get("notes", ())] for r in board.results]
    for result, own in zip(board.results, notes, strict=True):
        for note in own:
            shared = note.startswith(result.name) or all(note in others for others in notes)
            lines.append(note if shared else f"{result.name}: {note}")
    if lines:
        yield element("ul", *(element("li", line) for line in dict.fromkeys(lines)), css="quiet")


def _made_by(board: Board) -> Iterator[str]:
    """Packages and settings of the scores, and why one is absent, as scores.json has them."""
    yield f"BLEU (of the corpus, closest length) and CIDEr-D (sigma 6): pycocoevalcap; METEOR 1.5. {S_M}"
    made = {title_of(name): by for row in board.rows for name, by in row["scores"].get("rouge", {}).items()}
    yield "; ".join(f"{name}: {by}" for name, by in made.items()) + "."
    models = dict.fromkeys(model for row in board.rows if (model := row["scores"].get("sbs_model")))
    if models:
        first, *others = models
        yield f"SBS by {first}: cosine with the nearest reference."
    if models and others:
        yield f"SBS by {', '.join(others)} does not compare with it and is not shown."
    yield f"Intervals: {board.results[0].scores['bootstrap']}."
    yield from dict.fromkeys(f"{note}." for row in board.rows for note in row["scores"].get("notes", ()))


def _compared(board: Board) -> Iterator[Html]:
    try:
        found = comparisons(board)
    except InputError as error:
        yield element("p", f"No paired tests: the data cannot be read here ({error}).", css="quiet")
        return
    columns = ["captions", "against", "score", "difference", "95 % interval", "p", "p, Holm", "detectable"]
    lines = [
        [
            test["first"],
            test["second"],
            title_of(test["score"]) if test["score"].islower() and " " not in test["score"] else test["score"],
            f"{test['difference']:+.2f}",
            "{:+.2f} to {:+.2f}".format(*test["interval_95"]),
            f"{test['p']:.4f}",
            f"{test['p_holm']:.4f}",
            f"{test['detectable']:.2f}",
        ]
        for test in found
    ]
    if lines:
        about = "detectable: the smallest true difference found in 80 % of samples of this size."
        summary = element("summary", f"{len(lines)} paired tests on the same pairs, corrected together (Holm)")
        yield element("details", summary, element("p", about, css="quiet"), table(columns, lines))


def _sortable(board: Board, caption: str, columns: Sequence[Column]) -> Html:
    models = len(board.results)
    heads = [
        element("th", element("button", title, attributes={"type": "button"}), css="number" if place else "",
                attributes={"scope": "col", "data-down": int(down)})
        for place, (title, down) in enumerate([("captions", False), *((c.title, c.down) for c in columns)])
    ]  # fmt: skip
    lines = []
    for row, content in enumerate(board.rows):
        if all(column.cells[row].value is None for column in columns):
            continue
        cells = [_value(column.cells[row]) for column in columns]
        name = element("th", content["name"], attributes={"scope": "row", "data-v": content["name"]})
        lines.append(element("tr", name, *cells, css="" if row < models else "trivial"))
    head, body = element("thead", element("tr", *heads)), element("tbody", *lines)
    grid = element("table", element("caption", caption), head, body, css="sortable")
    return element("div", grid, css="wide")


def _value(cell: Cell) -> Html:
    if cell.value is None:
        return element("td", ABSENT, css="number", attributes={"data-v": ""})
    below = [] if cell.low is None else [element("small", f"{cell.low:.1f} to {cell.high:.1f}")]
    if cell.gain is not None:
        below.append(element("small", f"Δ {cell.gain:+.1f}"))
    return element("td", f"{cell.value:.2f}", *below, css="number", attributes={"data-v": f"{cell.value:.6f}"})


def _dots(board: Board) -> Any:
    """S*m or its stand-in on all pairs, CIDEr-D on the changed ones, and what facts are known, to the room there is."""
    rows = board.rows
    overall, changed = score_columns(rows), score_columns(rows, "changed_only")
    chosen = [column for column in overall if column.title in {"S*m", "mean of 3"}][:1]
    chosen += [Column("CIDEr-D, changed", column.cells) for column in changed if column.title == "CIDEr-D"]
    facts = {column.title: column for column in fact_columns(rows)}
    chosen += [facts[name] for name in ("balanced", "object + direction", "place") if name in facts]
    return plots.dots([row["name"] for row in rows], (chosen or overall)[:PLOTTED], len(board.results))


def _published(board: Board) -> Iterator[Html]:
    every = yaml.safe_load((files("rsiccllm.benchmark") / "published.yaml").read_text(encoding="utf-8"))
    for block in every:
        if block["suite"] != board.settings["data"].get("suite"):
            continue
        yield element(
            "section",
            element("h3", "Published by others, not run here"),
            element("p", f"{block['title']}. {block['note']}"),
            table(["model", *block["columns"]], [[name, *map(_figure, values)] for name, *values in block["rows"]]),
            css="card published",
        )


def _figure(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.2f}"


def _probes(board: Board) -> Iterator[Html]:
    with_probes = [result for result in board.results if result.probes]
    if not with_probes:
        return
    found: list[dict[str, Any]] = [dict(result.probes or {})["probes"] for result in with_probes]
    yield element("h3", "Probes: the same pairs, disturbed")
    yield element("p", "Left in each panel, at 0, the pairs as they are. What each probe does: docs/benchmark.md.")
    for score, title in PROBED.items():
        if drawn := plots.curves([result.name for result in with_probes], found, score):
            yield element("p", title, css="label")
            yield plots.svg(drawn, f"{title}, against the strength of each probe")


def _judged(judge: dict[str, Any] | None) -> Iterator[Html]:
    if judge is None:
        return
    judges = judge["judges"].items()
    yield element("h3", "Judged by a language model, 1 to 5")
    yield element(
        "p", f"{len(judge['pairs']):,} pairs, blind and in random order; means and their 95 % intervals over pairs."
    )
    lines = [
        [model, name, *(_marks(means.get(dimension)) for dimension in (*DIMENSIONS, "mean"))]
        for name, found in judges
        for model, means in found["means"].items()
    ]
    yield table(["captions", "judge", *DIMENSIONS, "mean"], lines)
    matches = [[name, *match.values()] for name, found in judges for match in found["pairwise"]]
    if matches:
        yield element("p", "Each two compared both ways round; turned: ties because the verdict turned with the order.")
        heads = ["judge", "first", "second", "first better", "second better", "ties", "turned", "unreadable"]
        yield table(heads, matches)
    agreed = [
        [who, name, shown_alpha(found["alpha"]), found["items"]]
        for who, dimensions in judge["agreement"].items()
        for name, found in dimensions.items()
    ]
    if agreed:
        yield table(["agreement of", "dimension", "Krippendorff's alpha", "captions"], agreed)
    else:
        yield element("p", "One judge and no people's ratings: how far it can be believed is not known.", css="quiet")


def _marks(found: dict[str, float] | None) -> str:
    return ABSENT if found is None else f"{found['value']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


def _settings(board: Board) -> tuple[list[str], list[list[object]]]:
    names = [result.name for result in board.results]
    flat = [dict(_lines(result.settings)) for result in board.results]
    keys = dict.fromkeys(key for settings in flat for key in settings)
    return ["", *names], [[key, *(settings.get(key, ABSENT) for settings in flat)] for key in keys]


def _lines(settings: dict[str, Any], before: str = "") -> Iterator[tuple[str, object]]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _lines(value, f"{before}{name}.")
        elif value is not None:
            yield f"{before}{name}", _shown(name, str(value))


def _shown(name: str, value: str) -> str:
    """A setting as the page shows it: digests cut short, no folders of the machine."""
    if len(value) == 64 and name in {"digest", "sha256", "records", "images"}:
        return value[:16] + "…"
    return short_spec(value) if name == "spec" else Path(value).name if Path(value).is_absolute() else value


def latex(board: Board) -> str:
    """The board as two LaTeX tables, scores and facts, half the width of each interval beside its value."""
    parts = [("scores", score_columns(board.rows)), ("facts", fact_columns(board.rows))]
    return "\n".join(_latex(board, what, columns) for what, columns in parts if columns)


def _latex(board: Board, what: str, columns: Sequence[Column]) -> str:
    lines = [
        "% Written by `rsiccllm bench report`. Needs \\usepackage{booktabs}.",
        "\\begin{table}",
        f"  \\caption{{{tex(board.title)}: {what}. Beside a value: half of its 95\\,\\% interval over pairs. "
        + f"{tex(' '.join(_made_by(board)))}}}",
        f"  \\begin{{tabular}}{{l{'r' * len(columns)}}}",
        "    \\toprule",
        "    " + " & ".join(["captions", *(tex(column.title) for column in columns)]) + " \\\\",
        "    \\midrule",
    ]
    for row, content in enumerate(board.rows):
        if row == len(board.results):
            lines.append("    \\midrule")
        lines.append("    " + " & ".join([tex(content["name"]), *(_tex_cell(c.cells[row]) for c in columns)]) + " \\\\")
    return "\n".join([*lines, "    \\bottomrule", "  \\end{tabular}", "\\end{table}", ""])


def _tex_cell(cell: Cell) -> str:
    if cell.value is None:
        return "--"
    half = "" if cell.low is None or cell.high is None else f" $\\pm$ {(cell.high - cell.low) / 2:.1f}"
    return f"{cell.value:.2f}{half}"


_TEX = str.maketrans(
    {
        "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "<": "\\textless{}",
        ">": "\\textgreater{}", '"': "''", "|": "\\textbar{}", **{c: f"\\{c}" for c in "&%$#_{}"},
    }
)  # fmt: skip


def tex(text: str) -> str:
    """Text with everything that LaTeX would take for a command made harmless."""
    return text.translate(_TEX)
