"""Does the difference path help? Every variant on rendered scenes, by amount of training data, over seeds.

    python bench/ablation.py [--pairs 500 2000 8000] [--arms none paper ...] [--seeds 0 1 2] [--steps 400]
    python bench/ablation.py --only-table

Each (arm, pairs, seed) is one run of fine-tuning with the same updates from the same base, and its row goes at once
into bench/results/ablation.jsonl. Rows whose settings, code and data match are not run again; what is missing is
printed, and the next call goes on. Scored on the same held-out scenes: as they are, with the second date darker by
30 %, and with it shifted by 3 pixels. "ours, map first" trains the map alone before, as the demo does: more compute
than the others, and not to be compared with them as equals.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import transformers
from matplotlib import pyplot

from rows import PARSER, RESULTS, add_row, code_digest, digest, groups, read_rows
from rsiccllm.benchmark.fact_scores import fact_scores
from rsiccllm.benchmark.probes import Case, case_of, light, shift
from rsiccllm.benchmark.scores import score
from rsiccllm.caption.captioner import Captioner
from rsiccllm.demo.base import new_model, train_base
from rsiccllm.model.precision import fast_bf16
from rsiccllm.rsici.build import BuildSettings, build_rsici
from rsiccllm.rsici.tasks import TaskSettings
from rsiccllm.sources import open_source
from rsiccllm.training.difference import train_difference
from rsiccllm.training.recipe import DifferenceRecipe, SFTRecipe
from rsiccllm.training.sft import train_sft

CODE = ("model", "training", "caption", "sources/scenes", *PARSER, "demo/base.py")
GRIDS = {"paper, grid 1": 1, "paper, grid 14": 14}
"""Pixels a side of the cells that vote in the Hough transform; 4 in "paper"."""
ARMS = ["none", "paper", "paper-no-pixel", "paper-no-texture", "paper-mean-texture", *GRIDS, "ours", "ours, map first"]
SIDE, TEST, BASE_STEPS, MAP_STEPS, BATCH = 112, 200, 60, 400, 8
FIELDS = ("object", "direction", "verb", "quantity", "place")


def settings_of(arm: str, pairs: int, seed: int, steps: int) -> dict[str, Any]:
    return {
        "arm": arm, "pairs": pairs, "seed": seed, "steps": steps, "batch": BATCH, "side": SIDE, "test": TEST,
        "base_steps": BASE_STEPS, "map_steps": MAP_STEPS if arm == "ours, map first" else 0,
    }  # fmt: skip


def test_cases() -> list[Case]:
    """Held-out scenes of another seed, all of them for testing."""
    source = open_source(f"scenes:{TEST},seed=99,size={SIDE},easy=1")
    return [case_of(pair, source.open(pair)) for pair in source.pairs]


def scored(model: Path, cases: list[Case]) -> dict[str, dict[str, float]]:
    captioner = Captioner.load(model)
    found = {}
    for name, strength, probe in (("plain", 0.0, None), ("light", 0.3, light), ("shift", 3.0, shift)):
        seen = [case if probe is None else probe(case, strength, case) for case in cases]
        captions = list(captioner.caption_all([case.pair for case in seen], 50))
        said = {str(i): caption.caption for i, caption in enumerate(captions)}
        references = {str(i): list(case.references) for i, case in enumerate(cases)}
        changed = {str(i): bool(case.changed) for i, case in enumerate(cases)}
        planted = {str(i): list(case.facts or ()) for i, case in enumerate(cases)}
        values = score(said, references, changed, meteor=False, sbs=False).changed_only
        facts = fact_scores(said, references, changed, planted)
        assert values is not None
        assert facts.planted is not None
        found[name] = {"cider_d": values.cider_d, "balanced": facts.flag.balanced_accuracy or 0.0}
        found[name] |= {field: facts.planted[field].f1 or 0.0 for field in FIELDS}
    return found


def run(work: Path, arm: str, pairs: int, seed: int, steps: int, cases: list[Case]) -> dict[str, Any]:
    """One run, or what is left of it; its scores and seconds."""
    data = work / f"data_{pairs}"
    wanted = BuildSettings(TaskSettings(("caption",), phrasings=1))
    build_rsici([f"scenes:{pairs * 5 // 4},seed=1,size={SIDE},easy=1"], data, settings=wanted)
    # One base for all: single scenes of the smallest set, so that no arm has seen more than another before.
    first = work / "data_500"
    build_rsici([f"scenes:{500 * 5 // 4},seed=1,size={SIDE},easy=1"], first, settings=wanted)
    if not (work / "random" / "config.json").exists():
        new_model(first, work / "random")
    start = train_base(work / "random", first, work / "base", BASE_STEPS)
    out = work / f"{arm.replace(', ', '_').replace(' ', '_')}_{pairs}_{seed}_{steps}"
    begin = time.monotonic()
    if arm == "ours, map first":
        start = train_difference(
            DifferenceRecipe(
                model=str(start), data=data, out=out / "map", max_steps=MAP_STEPS, batch_size=16, learning_rate=2e-3,
                bf16=fast_bf16(), workers=1, seed=seed, save_steps=200,
            )
        )  # fmt: skip
    recipe = SFTRecipe(
        model=str(start), data=data, out=out / "sft", max_steps=steps, batch_size=BATCH, learning_rate=1e-3,
        difference_learning_rate=2e-3, fact_weight=1.0, train_vision=False, bf16=fast_bf16(), workers=1, seed=seed,
        save_steps=200, variant=arm.partition(",")[0], texture_stride=GRIDS.get(arm),
        feature_cache=work / "features",  # one frozen tower for all
    )  # fmt: skip
    model = train_sft(recipe)
    seconds = time.monotonic() - begin
    return {"scores": scored(model, cases), "seconds": round(seconds, 1)}


def show(rows: list[dict[str, Any]]) -> None:
    """The table, mean and spread (smallest to largest) over seeds, and the plot of score against data."""
    groups: dict[tuple[int, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[row["settings"]["pairs"], row["settings"]["arm"]].append(row)
    names = ["CIDEr-D", *FIELDS, "light", "shift"]
    print(f"{'pairs':>6} {'arm':20} {'seeds':>5} " + " ".join(f"{name:>20}" for name in names))
    means: dict[str, dict[int, list[float]]] = defaultdict(dict)
    for (pairs, arm), found in sorted(groups.items(), key=lambda item: (item[0][0], ARMS.index(item[0][1]))):
        plain = [row["scores"]["plain"] for row in found]
        columns = [[values["cider_d"] for values in plain], *([values[f] for values in plain] for f in FIELDS)]
        columns += [[row["scores"][name]["cider_d"] for row in found] for name in ("light", "shift")]
        cells = [f"{statistics.mean(c):6.1f} ({min(c):.1f}-{max(c):.1f})" for c in columns]
        print(f"{pairs:6} {arm:20} {len(found):5} " + " ".join(f"{cell:>20}" for cell in cells))
        means[arm][pairs] = columns[0]
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for arm, by_pairs in means.items():
        sizes = sorted(by_pairs)
        middle = [statistics.mean(by_pairs[size]) for size in sizes]
        low = [m - min(by_pairs[size]) for m, size in zip(middle, sizes, strict=True)]
        high = [max(by_pairs[size]) - m for m, size in zip(middle, sizes, strict=True)]
        axes.errorbar(sizes, middle, [low, high], marker="o", capsize=3, label=arm)
    axes.set_xscale("log")
    axes.set_xlabel("training pairs")
    axes.set_ylabel("CIDEr-D, changed pairs")
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(RESULTS / "ablation.png", dpi=120)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, nargs="+", default=[500, 2000, 8000])
    parser.add_argument("--arms", nargs="+", default=ARMS, choices=ARMS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--work", type=Path, default=Path("runs/ablation"), help="where data and runs are kept")
    parser.add_argument("--only-table", action="store_true", help="train nothing; print what is there")
    given = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if given.only_table:  # also what older code found; the last is drawn
        for rows in groups("ablation", "code"):
            show(rows)
        return
    code = code_digest(CODE)
    wanted = {
        digest([settings, code]): settings
        for pairs in given.pairs
        for seed in given.seeds
        for settings in (settings_of(arm, pairs, seed, given.steps) for arm in given.arms)
    }
    missing = [key for key in wanted if key not in read_rows("ablation")]
    print(f"{len(wanted)} runs, {len(wanted) - len(missing)} there already")
    cases = test_cases()
    for number, key in enumerate(missing, start=1):
        settings = wanted[key]
        print(f"run {number} of {len(missing)}: {settings}", flush=True)
        named = (settings["arm"], settings["pairs"], settings["seed"], settings["steps"])
        found = run(given.work / code, *named, cases)
        add_row("ablation", {"key": key, "settings": settings, "code": code, **found})
    held = read_rows("ablation")
    if rows := [held[key] for key in wanted if key in held]:
        show(rows)
    for key, settings in wanted.items():
        if key not in held:
            print("missing:", settings["arm"], settings["pairs"], "pairs, seed", settings["seed"])


if __name__ == "__main__":
    main()
