"""One picture of how a run went: `health.png`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rsiccllm.files import atomic_write
from rsiccllm.training.validation import read_evaluations

PANELS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("loss", ("loss", "answer_loss", "map_loss", "fact_loss", "preference_loss", "anchor_loss")),
    ("reward (beta x log-ratio)", ("reward_chosen", "reward_rejected", "margin")),
    ("share of rejected under the chosen, by kind", ("accuracy_",)),
    ("nats a token", ("reverse_kl", "entropy")),
    ("log-probability a token", ("log_prob_chosen", "log_prob_rejected")),
)
VALIDATION: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("validation, x 100", ("similarity", "fact_f1", "hallucination", "misses", "cut")),
    ("validation, tokens an answer", ("length",)),
    ("validation, nats a token", ("log_prob", "entropy")),
)


def plot_health(out: Path) -> Path:
    """Draw a run's log.jsonl and validation.jsonl. Returns `out/health.png`."""
    from matplotlib.figure import Figure

    path = out / "log.jsonl"
    log = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    evaluations = read_evaluations(out)
    panels = [(title, names, log) for title, names in PANELS if _names(log, names)]
    panels += [(title, names, evaluations) for title, names in VALIDATION if _names(evaluations, names)]
    rows = max(1, -(-len(panels) // 2))
    drawn = Figure(figsize=(10, 2.6 * rows), layout="constrained")
    for place, (title, wanted, entries) in enumerate(panels, start=1):
        axes = drawn.add_subplot(rows, 2, place)
        for name in _names(entries, wanted):
            points = [(entry["step"], entry[name]) for entry in entries if name in entry]
            axes.plot(*zip(*points, strict=True), label=name.removeprefix("accuracy_").replace("_", " "), marker=".")
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel("update")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    with atomic_write(out / "health.png", "wb") as handle:
        drawn.savefig(handle, format="png", dpi=110)
    return out / "health.png"


def _names(entries: Sequence[dict[str, Any]], wanted: Sequence[str]) -> list[str]:
    """The logged names that a panel shows: as they are, or all that begin with one ending in "_"."""
    seen = dict.fromkeys(name for entry in entries for name in entry)
    return [name for name in seen if name in wanted or any(w.endswith("_") and name.startswith(w) for w in wanted)]
