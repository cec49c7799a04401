"""Does preference optimisation collapse without the reverse KL, and what holds it? Curves at a high rate, for longer.

    python bench/collapse.py --demo runs/demo --preferences DIR [--steps 200] [--rate 5e-4] [--seeds 0]
    python bench/collapse.py --only-table

--demo: what `rsiccllm demo` left behind: its SFT checkpoint and its validation split. --preferences: a folder that
`rsicp build` wrote (bench/preferences.py leaves one, `rsicp_paper_both`). Each (arm, seed) is one run whose row goes at
once into bench/results/collapse.jsonl; rows whose settings, code and data match are not run again, and what is missing
is printed. Printed: the validation split's score and the log-probability of its references at the start, at best and at
the end, and where training's chosen and rejected answers ended; drawn: bench/results/collapse.png.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import transformers
from matplotlib import pyplot

from rows import RESULTS, add_row, code_digest, digest, groups, read_rows
from rsiccllm.model.checkpoint import weights_digest
from rsiccllm.model.precision import fast_bf16
from rsiccllm.records import PREFERENCES
from rsiccllm.training.dnpo import train_dnpo
from rsiccllm.training.recipe import DNPORecipe
from rsiccllm.training.validation import read_evaluations

CODE = ("model", "training")
ARMS: dict[str, dict[str, Any]] = {
    "paper, no KL": {"kl_weight": 0.0},
    "paper, KL 0.1": {"kl_weight": 0.1},
    "paper, KL 1": {"kl_weight": 1.0},
    "DPOP, no KL": {"variant": "positive", "kl_weight": 0.0},
    "ours, no KL": {"variant": "ours", "kl_weight": 0.0},
}
BATCH, REJECTED, PAIRS = 4, 2, 60
PANELS = {"similarity": "validation: similarity", "log_prob": "validation: nats a token of the references",
          "log_prob_chosen": "training: nats a token of the chosen"}  # fmt: skip


def settings_of(arm: str, seed: int, steps: int, rate: float) -> dict[str, Any]:
    return {"arm": arm, "seed": seed, "steps": steps, "rate": rate, "batch": BATCH, "rejected": REJECTED,
            "validation_pairs": PAIRS, **ARMS[arm]}  # fmt: skip


def run(work: Path, demo: Path, preferences: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """One run, or what is left of it: its curves."""
    steps = settings["steps"]
    recipe = DNPORecipe(
        model=str(demo / "sft"), data=preferences, out=work / digest(settings), max_steps=steps, batch_size=BATCH,
        learning_rate=settings["rate"], max_rejected=REJECTED, train_vision=False, bf16=fast_bf16(), workers=1,
        seed=settings["seed"], log_steps=5, save_steps=100, validation=demo / "rsici", validation_pairs=PAIRS,
        eval_steps=max(1, steps // 8), patience=None, **ARMS[settings["arm"]],
    )  # fmt: skip
    train_dnpo(recipe)
    logged = map(json.loads, (recipe.out / "log.jsonl").read_text(encoding="utf-8").splitlines())
    names = ("step", "log_prob_chosen", "log_prob_rejected", "margin", "reward_accuracy", "reverse_kl")
    trained = [{name: entry[name] for name in names if name in entry} for entry in logged if "margin" in entry]
    return {"validation": read_evaluations(recipe.out), "training": trained}


def show(rows: list[dict[str, Any]]) -> None:
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["settings"]["arm"]].append(row)
    figure, axes = pyplot.subplots(1, len(PANELS), figsize=(12, 3.6), layout="constrained")
    print(f"{'arm':14} seeds  similarity: start, best, last    references' nats a token: start, last   "
          "chosen, rejected at the end   margin")  # fmt: skip
    for arm, found in sorted(groups.items(), key=lambda item: list(ARMS).index(item[0])):
        curves = {name: [row["validation"] for row in found] for name in ("similarity", "log_prob")}
        curves["log_prob_chosen"] = [row["training"] for row in found]
        for panel, name in zip(axes, PANELS, strict=True):
            at = [entry["step"] for entry in curves[name][0]]
            mean = [statistics.mean(curve[i][name] for curve in curves[name]) for i in range(len(at))]
            panel.plot(at, mean, marker="." if name != "log_prob_chosen" else None, label=arm)

        def of(curve: str, name: str, at: int, found: list[dict[str, Any]] = found) -> float:
            return statistics.mean(row[curve][at][name] for row in found)

        best = statistics.mean(max(entry["similarity"] for entry in row["validation"]) for row in found)
        print(f"{arm:14} {len(found):5}  {of('validation', 'similarity', 0):10.1f} {best:6.1f} "
              f"{of('validation', 'similarity', -1):6.1f} {of('validation', 'log_prob', 0):16.2f} "
              f"{of('validation', 'log_prob', -1):6.2f} {of('training', 'log_prob_chosen', -1):22.2f} "
              f"{of('training', 'log_prob_rejected', -1):6.2f} {of('training', 'margin', -1):17.2f}")  # fmt: skip
    for panel, title in zip(axes, PANELS.values(), strict=True):
        panel.set_title(title, loc="left", fontsize=10)
        panel.set_xlabel("update")
        panel.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(RESULTS / "collapse.png", dpi=100)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"))
    parser.add_argument("--preferences", type=Path, default=Path("runs/demo/rsicp"))
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--work", type=Path, default=Path("runs/collapse"), help="where runs are kept")
    parser.add_argument("--only-table", action="store_true", help="train nothing; print and draw what is there")
    given = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if given.only_table:  # also what older code found; the last is drawn
        for rows in groups("collapse", "code", "weights"):
            show(rows)
        return
    code, weights = code_digest(CODE), weights_digest(str(given.demo / "sft" / "model"))[:16]
    data = hashlib.sha256((given.preferences / PREFERENCES).read_bytes()).hexdigest()[:16]
    listed = [settings_of(arm, seed, given.steps, given.rate) for seed in given.seeds for arm in given.arms]
    wanted = {digest([settings, code, weights, data]): settings for settings in listed}
    for number, (key, settings) in enumerate(wanted.items(), start=1):
        if key not in read_rows("collapse"):
            print(f"run {number} of {len(wanted)}: {settings}", flush=True)
            curves = run(given.work / digest([code, weights, data]), given.demo, given.preferences, settings)
            row = {"key": key, "settings": settings, "code": code, "weights": weights, "data": data, **curves}
            add_row("collapse", row)
    held = read_rows("collapse")
    show([held[key] for key in wanted])


if __name__ == "__main__":
    main()
