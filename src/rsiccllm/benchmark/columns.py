"""What a leaderboard shows of a row of scores.json: named columns of a value and its interval."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from rsiccllm.benchmark.fact_scores import KINDS


class Cell(NamedTuple):
    """value: None where the row has none. low, high: its 95 % interval, or None. gain: over shuffled captions."""

    value: float | None
    low: float | None = None
    high: float | None = None
    gain: float | None = None


class Column(NamedTuple):
    """title; cells, one a row; down: True where less is better."""

    title: str
    cells: list[Cell]
    down: bool = False


# Names of scores that are not what capital letters make of their key.
TITLES = {
    "meteor": "METEOR",
    "rouge_l_f1": "ROUGE-L, beta 1",
    "s_m": "S*m",
    "cider_d": "CIDEr-D",
    "sbs": "SBS",
    "mean_without_meteor": "mean of 3",
}


def score_columns(rows: Sequence[dict[str, Any]], part: str = "overall") -> list[Column]:
    """Every score that some row has, of all pairs ("overall") or "changed_only". S*m first, where there is one."""
    held = [row["scores"].get(part) or {} for row in rows]
    # Cosines by two models do not compare: the first model's stand, and the legend names it.
    encoder = next((model for row in rows if (model := row["scores"].get("sbs_model"))), None)
    held = [
        {name: value for name, value in scores.items() if name != "sbs" or row["scores"].get("sbs_model") == encoder}
        for row, scores in zip(rows, held, strict=True)
    ]
    names = list(dict.fromkeys(name for scores in held for name, value in scores.items() if _is_score(name, value)))
    if "s_m" in names:  # the mean of three is there for want of METEOR alone
        names = ["s_m", *(name for name in names if name not in {"s_m", "mean_without_meteor"})]
    return [Column(title_of(name), [_cell(scores, name) for scores in held]) for name in names]


def fact_columns(rows: Sequence[dict[str, Any]]) -> list[Column]:
    """Change flag and F1 of each kind of fact: against planted facts where every row has them, else references."""
    return list(_fact_columns([row.get("facts") or {} for row in rows]))


def _fact_columns(held: Sequence[dict[str, Any]]) -> Iterator[Column]:
    flags = [facts.get("change_flag") or {} for facts in held]
    for name, title, down in (
        ("accuracy", "flag", False),
        ("balanced_accuracy", "balanced", False),
        ("hallucination", "invented", True),
        ("misses", "missed", True),
        ("unclear", "unclear", True),
    ):
        column = Column(title, [_cell(flag, name) for flag in flags], down)
        if any(cell.value is not None for cell in column.cells):
            yield column
    against = "planted" if held and all(facts.get("planted") for facts in held) else "references"
    for kind in KINDS:
        scores = [(facts.get(against) or {}).get(kind) or {} for facts in held]
        cells = []
        for score in scores:
            low, high = score.get("interval_95") or (None, None)  # of F1
            cells.append(Cell(score.get("f1"), low, high, score.get("gain")))
        if any(cell.value is not None for cell in cells):
            yield Column(kind.replace("_", " + "), cells)


def grounding_columns(rows: Sequence[dict[str, Any]]) -> list[Column]:
    """Change maps against masks, for the rows that have maps; area and mean area: what knows nothing would get."""
    held = [row.get("grounding") or {} for row in rows]
    names = {"iou": "IoU", "area": "area", "mean_iou": "mean IoU", "pointing": "pointing", "mean_area": "mean area"}
    if not any(held):
        return []
    return [Column(title, [_cell(scores, name) for scores in held]) for name, title in names.items()]


def title_of(name: str) -> str:
    """A score's name as the field writes it."""
    return TITLES.get(name, name.upper().replace("_", "-"))


def _is_score(name: str, value: object) -> bool:
    return name != "pairs" and isinstance(value, int | float) and not isinstance(value, bool)


def _cell(scores: dict[str, Any], name: str) -> Cell:
    low, high = (scores.get("interval_95") or {}).get(name) or (None, None)
    return Cell(scores.get(name), low, high)
