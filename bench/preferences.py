"""Do the negatives help? DNPO from one SFT checkpoint of rendered scenes, by kind of negative and loss, over seeds.

    python bench/preferences.py [--demo runs/demo] [--arms sft both ...] [--seeds 0 1 2] [--steps 60]
    python bench/preferences.py --only-table

--demo: what `rsiccllm demo` left behind: its scenes, its change map and its SFT checkpoint. Each (arm, seed) is one run
whose row goes at once into bench/results/preferences.jsonl. Rows whose settings, code, data and checkpoint match are
not run again; what is missing is printed, and the next call goes on. Scored on the test split with the last weights,
not with the best evaluation's, so that a collapse shows; each row holds the curve on the validation split.

Arms: "sft", the checkpoint; "more sft", as many passes over a batch as DNPO with its reference (a step of DNPO is one
forward more, so 4 updates for 3); "filtering", "replacement", "both": the paper's loss and negatives; "both, no KL";
"ours": our negatives and loss. "hard": the quarter of the test pairs on which an SFT model of another seed, in no arm,
is least like its references.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import transformers
from matplotlib import pyplot

from rows import PARSER, RESULTS, add_row, code_digest, digest, groups, read_rows
from rsiccllm.benchmark.fact_scores import fact_scores
from rsiccllm.benchmark.probe_scores import score_point
from rsiccllm.benchmark.probes import Case, case_of, swap_dates
from rsiccllm.benchmark.scores import score
from rsiccllm.caption.captioner import Captioner
from rsiccllm.files import read_json, read_jsonl
from rsiccllm.keywords import similarity
from rsiccllm.model.checkpoint import weights_digest
from rsiccllm.model.precision import fast_bf16
from rsiccllm.records import PREFERENCES, Preference
from rsiccllm.rsicp.build import build_rsicp
from rsiccllm.rsicp.sample import SAMPLES
from rsiccllm.sources import open_source
from rsiccllm.training.dnpo import train_dnpo
from rsiccllm.training.recipe import DNPORecipe, SFTRecipe
from rsiccllm.training.sft import train_sft
from rsiccllm.training.validation import read_evaluations

FIELDS = ("object", "direction", "verb", "quantity", "place")
CODE = ("model", "training", *PARSER,
        *(f"rsicp/{name}.py" for name in ("build", "dates", "filter", "replace", "sample", "swaps")))  # fmt: skip
ARMS = ("sft", "more sft", "filtering", "replacement", "both", "both, no KL", "ours")
BATCH, RATE, BETA, KL, PAIRS, HARD_SEED = 8, 5e-5, 0.1, 0.1, 600, 7
COLUMNS = ("cider_d", *FIELDS, "hallucination", "misses", "reversed", "hard_cider_d", "hard_object")


def settings_of(arm: str, seed: int, steps: int) -> dict[str, Any]:
    if arm == "sft":
        return {"arm": arm}
    fields: dict[str, Any] = {"arm": arm, "seed": seed, "batch": BATCH, "rate": RATE}
    if arm == "more sft":
        return {**fields, "steps": steps * 4 // 3}
    return {
        **fields,
        "steps": steps,
        "pairs": PAIRS,
        "beta": BETA,
        "kl_weight": 0.0 if arm == "both, no KL" else KL,
        "variant": "ours" if arm == "ours" else "paper",
    }


def preferences(work: Path, demo: Path, arm: str) -> Path:
    """The preference set of an arm, from as many pairs as a short run can need. Answers are drawn from the model once,
    and serve all arms that want them."""
    variant: Any = "ours" if arm == "ours" else "paper"
    kinds: Any = arm if arm in {"filtering", "replacement"} else "both"
    folder = work / f"rsicp_{variant}_{kinds}"
    if (folder / PREFERENCES).exists():
        return folder
    if kinds == "replacement":
        build_rsicp(demo / "rsici", folder, variant=variant, kinds=kinds, pairs=PAIRS)
        return folder
    for other in work.glob(f"rsicp_{variant}_*/{SAMPLES}"):  # ours asks more of the model
        if (other.parent / PREFERENCES).exists() and not (folder / SAMPLES).exists():
            folder.mkdir(exist_ok=True)
            shutil.copy(other, folder / SAMPLES)  # a journal: a link would be written to by both
    build_rsicp(demo / "rsici", folder, variant=variant, kinds=kinds, pairs=PAIRS, model=str(demo / "sft"))
    return folder


def run(work: Path, demo: Path, settings: dict[str, Any]) -> tuple[Path, list[dict[str, float]], int]:
    """One run, or what is left of it: the folder of its last weights, its curve, and how many rows it learnt from."""
    arm = settings["arm"]
    if arm == "sft":
        return demo / "sft" / "model", [], 0
    steps, seed = settings["steps"], settings["seed"]
    out = work / f"{arm.replace(', ', '_').replace(' ', '_')}_{seed}_{steps}"
    common: dict[str, Any] = {
        "model": str(demo / "sft"), "out": out, "max_steps": steps, "batch_size": BATCH, "learning_rate": RATE,
        "train_vision": False, "bf16": fast_bf16(), "workers": 1, "seed": seed, "save_steps": steps,
    }  # fmt: skip
    if arm == "more sft":
        return train_sft(SFTRecipe(data=demo / "rsici", fact_weight=1.0, **common)), [], 0
    data = preferences(work, demo, arm)
    recipe = DNPORecipe(
        data=data, beta=settings["beta"], kl_weight=settings["kl_weight"], variant=settings["variant"],
        max_rejected=4 if arm == "ours" else 3, validation=demo / "rsici", validation_pairs=60,
        eval_steps=max(1, steps // 4), patience=None, **common,
    )  # fmt: skip
    train_dnpo(recipe)
    rows = len(read_jsonl(data / PREFERENCES, Preference))
    return out / "checkpoints" / f"checkpoint-{steps}", read_evaluations(out), rows


def hard_pairs(work: Path, demo: Path, cases: list[Case]) -> list[int]:
    """The quarter of the test pairs on which a model of another seed does worst."""
    held = read_json(demo / "sft" / "recipe.json")
    fields = {name: held[name] for name in ("max_steps", "batch_size", "learning_rate", "difference_learning_rate",
                                            "fact_weight", "train_vision", "bf16", "workers", "variant")}  # fmt: skip
    recipe = SFTRecipe(
        model=str(demo / "difference"), data=demo / "rsici", out=work / "hard_sft", seed=HARD_SEED, **fields
    )
    captions = captions_of(train_sft(recipe), cases)
    near = [similarity(text, list(case.references)) for text, case in zip(captions, cases, strict=True)]
    return sorted(sorted(range(len(cases)), key=lambda index: near[index])[: len(cases) // 4])


def captions_of(model: Path, cases: Sequence[Case]) -> list[str]:
    return [found.caption for found in Captioner.load(model).caption_all([case.pair for case in cases], 50)]


def scored(model: Path, cases: list[Case], hard: list[int]) -> dict[str, float]:
    captions = captions_of(model, cases)
    swapped = [swap_dates(case, 0, case) for case in cases]
    turned = score_point(0, captions_of(model, swapped), swapped, captions).scores
    found = scores_of(captions, cases)
    few = scores_of([captions[index] for index in hard], [cases[index] for index in hard])
    return {**found, "reversed": turned["reversed"].value, **{f"hard_{name}": value for name, value in few.items()}}


def scores_of(captions: list[str], cases: list[Case]) -> dict[str, float]:
    said = {str(i): caption for i, caption in enumerate(captions)}
    references = {str(i): list(case.references) for i, case in enumerate(cases)}
    changed = {str(i): bool(case.changed) for i, case in enumerate(cases)}
    planted = {str(i): list(case.facts or ()) for i, case in enumerate(cases)}
    values = score(said, references, changed, meteor=False, sbs=False).changed_only
    facts = fact_scores(said, references, changed, planted)
    assert values is not None
    assert facts.planted is not None
    found = {"cider_d": values.cider_d, "hallucination": facts.flag.hallucination, "misses": facts.flag.misses}
    found |= {field: facts.planted[field].f1 for field in FIELDS}
    return {name: round(value or 0.0, 3) for name, value in found.items()}


def show(rows: list[dict[str, Any]]) -> None:
    """Mean and spread (smallest to largest) over seeds; and the curves on the validation split."""
    groups: dict[tuple[int, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["settings"].get("steps", 0), row["settings"]["arm"]].append(row)
    print(f"{'arm':14} {'steps':>5} {'seeds':>5} " + " ".join(f"{name:>19}" for name in COLUMNS))
    order = sorted(groups.items(), key=lambda item: (ARMS.index(item[0][1]), item[0][0]))
    for (steps, arm), found in order:
        cells = []
        for name in COLUMNS:
            values = [row["scores"][name] for row in found]
            spread = f" ({min(values):.1f}-{max(values):.1f})" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{spread}")
        print(f"{arm:14} {steps:5} {len(found):5} " + " ".join(f"{cell:>19}" for cell in cells))
    figure, panels = pyplot.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    for axes, name in zip(panels, ("similarity", "log_prob", "fact_f1"), strict=True):
        for (steps, arm), found in order:
            curves = [row["curve"] for row in found if row["curve"]]
            if curves:
                at = [entry["step"] for entry in curves[0]]
                means = [statistics.mean(curve[i][name] for curve in curves) for i in range(len(at))]
                axes.plot(at, means, marker=".", label=f"{arm}, {steps} updates")
        axes.set_title(f"validation: {name.replace('_', ' ')}", loc="left", fontsize=10)
        axes.set_xlabel("update")
    panels[0].legend(frameon=False, fontsize=7)
    figure.savefig(RESULTS / "preferences.png", dpi=110)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"))
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--work", type=Path, default=Path("runs/preferences"), help="where data and runs are kept")
    parser.add_argument("--only-table", action="store_true", help="train nothing; print what is there")
    given = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if given.only_table:  # also what older code found; the last is drawn
        for rows in groups("preferences", "code", "weights"):
            show(rows)
        return
    code = code_digest(CODE)
    weights = weights_digest(str(given.demo / "sft" / "model"))
    data = hashlib.sha256((given.demo / "rsici" / "pairs.jsonl").read_bytes()).hexdigest()[:16]
    listed = [settings_of(arm, seed, given.steps) for seed in given.seeds for arm in given.arms]
    wanted = {digest([settings, code, weights, data]): settings for settings in listed}
    missing = [key for key in wanted if key not in read_rows("preferences")]
    print(f"{len(wanted)} runs, {len(wanted) - len(missing)} there already")
    if missing:
        work = given.work / digest([code, weights, data])
        source = open_source(f"rsici:{given.demo / 'rsici'}")
        cases = [case_of(pair, source.open(pair)) for pair in source.pairs if pair.split == "test"]
        hard = hard_pairs(work, given.demo, cases)
        for number, key in enumerate(missing, start=1):
            settings = wanted[key]
            print(f"run {number} of {len(missing)}: {settings}", flush=True)
            model, curve, rows = run(work, given.demo, settings)
            row = {"key": key, "settings": settings, "code": code, "weights": weights[:16], "data": data,
                   "preferences": rows, "scores": scored(model, cases, hard), "curve": curve}  # fmt: skip
            add_row("preferences", row)
    held = read_rows("preferences")
    show([held[key] for key in wanted if key in held])
    for key, settings in wanted.items():
        if key not in held:
            print("missing:", settings)


if __name__ == "__main__":
    main()
