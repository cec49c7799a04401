"""The card of a built preference set: how many negatives of each kind, how near to the truth, and some of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rsiccllm.files import atomic_write, write_json
from rsiccllm.records import Preference

CARD = "card.json"
PAGE = "README.md"
PLOTS = "plots"
SHOWN = 3
"""Examples of each kind."""


def write_card(
    folder: Path, settings: Mapping[str, Any], counts: Mapping[str, int], preferences: Sequence[Preference]
) -> None:
    """Write the plots, README.md and card.json.

    settings: of the build. counts: what it counted. Examples are the first of each kind, so the same set has the same
    card.
    """
    kinds: dict[str, list[tuple[Preference, int]]] = {}
    for preference in preferences:
        for number, rejected in enumerate(preference.rejected):
            kinds.setdefault(rejected.kind, []).append((preference, number))
    near = {
        kind: [value for p, n in found if (value := p.rejected[n].similarity) is not None]
        for kind, found in kinds.items()
    }
    table = {
        kind: {"count": len(found), "similarity": round(sum(near[kind]) / max(1, len(near[kind])), 4)}
        for kind, found in sorted(kinds.items(), key=lambda item: -len(item[1]))
    }
    a_pair = Counter(len(preference.rejected) for preference in preferences)
    facts = {
        "settings": dict(settings),
        "counts": dict(counts),
        "kinds": table,
        "rejected_a_pair": {str(number): a_pair[number] for number in sorted(a_pair)},
        "splits": dict(Counter(preference.split for preference in preferences)),
        "sources": dict(Counter(preference.source for preference in preferences)),
    }
    _plot(folder / PLOTS, table, near)
    with atomic_write(folder / PAGE) as handle:
        handle.write(_page(facts, kinds))
    write_json(folder / CARD, facts)


def _page(facts: Mapping[str, Any], kinds: Mapping[str, list[tuple[Preference, int]]]) -> str:
    lines = [
        "# RSICP, as built here",
        "",
        f"{facts['counts']['preferences']:,} chosen answers against {facts['counts']['rejected']:,} rejected ones. "
        "Each line of preferences.jsonl is one image pair; docs/records.md of RSICCLLM says what its fields are, and "
        "docs/preferences.md how each kind is made.",
        "",
        "| kind | rejected answers | mean similarity |",
        "|---|---|---|",
        *(f"| {_cell(kind)} | {row['count']:,} | {row['similarity']:.3f} |" for kind, row in facts["kinds"].items()),
        "",
        f"![kinds]({PLOTS}/kinds.png) ![similarity]({PLOTS}/similarity.png)",
        "",
        "Similarity: mean of BLEU-1, BLEU-2 and ROUGE-1 over key words, the best of the references.",
        "",
        "## Settings and counts",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {_cell(value)} |" for name, value in {**facts["settings"], **facts["counts"]}.items()),
        "",
        "## Examples",
    ]
    for kind in facts["kinds"]:
        lines += ["", f"### {_cell(kind)}", "", "| chosen | rejected | changed | similarity |", "|---|---|---|---|"]
        for preference, number in kinds[kind][:SHOWN]:
            bad = preference.rejected[number]
            cells = (preference.chosen, bad.text, ", ".join(bad.changed), bad.similarity)
            lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(value: object) -> str:
    text = "" if value is None else " ".join(str(value).split())
    return text.replace("|", "\\|").replace("<", "&lt;")


def _plot(folder: Path, table: Mapping[str, Mapping[str, Any]], near: Mapping[str, Sequence[float]]) -> None:
    from matplotlib.figure import Figure

    bars = Figure(figsize=(6, 0.9 + 0.3 * len(table)), layout="constrained")
    axes = bars.subplots()
    axes.barh(list(table)[::-1], [row["count"] for row in table.values()][::-1], color="#0b6e5f")
    axes.set_xlabel("rejected answers")
    axes.spines[["top", "right"]].set_visible(False)
    spread = Figure(figsize=(6, 3.2), layout="constrained")
    axes = spread.subplots()
    groups: dict[str, list[float]] = {}
    for kind, values in near.items():
        groups.setdefault(kind.split(":")[0], []).extend(values)
    names = [name for name, values in groups.items() if values]
    axes.hist([groups[name] for name in names], bins=20, range=(0, 1), stacked=True, label=names)
    axes.set_xlabel("similarity to the nearest reference")
    axes.set_ylabel("rejected answers")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    for name, figure in (("kinds", bars), ("similarity", spread)):
        with atomic_write(folder / f"{name}.png", "wb") as handle:
            figure.savefig(handle, format="png", dpi=120, metadata={"Software": None})
