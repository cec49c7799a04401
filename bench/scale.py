"""How cost grows: what is measured here, and what is computed from it, from a laptop to 1,000 GPUs.

    python bench/scale.py [--sizes 10 100 1000] [--training 1 8 64 1000]
    python bench/scale.py --only-computed

Measured: every stage at several sizes, each in a process of its own with one thread: seconds that the processor worked,
what one more pair costs, and the memory held at most. Stages: "rsici", scenes rendered and written as instructions by
rules; "rsicp", replacement negatives of these; "sft", updates of the tiny model on 8 pairs; "captions", the model in
the box in batches; "tiles", unchanged tiles of two rasters, which `rsiccllm map` reads, compares and skips; "scores",
all scores of so many captions but METEOR and SBS.

Computed, each with its formula beside it: training of Qwen2.5-VL-7B on N GPUs, whole and by LoRA, from the operations
that `rsiccllm train plan` counts; and a country of so many square kilometres mapped in a day. What goes into a formula
is printed with it. No line of these two was measured.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rsiccllm.model.processor import build_tiny_processor
from rsiccllm.model.sizes import published_config
from rsiccllm.rsici.build import build_rsici
from rsiccllm.rsicp.build import build_rsicp
from rsiccllm.training.plan import BUSY, GPUS, plan
from rsiccllm.training.recipe import SFTRecipe, load_recipe

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
NVLINK, NETWORK = 450e9, 50e9
"""Bytes a second that one H100 sends: to its node of 8, and (one 400 Gb/s port a GPU) to another. As makers state."""

COUNTRIES = {"Luxembourg": 2_586, "Germany": 357_600, "India": 3_287_000}
"""Square kilometres."""

TILE, OVERLAP = 256, 64
WORDS = ["a house is built in the top left corner", "what changed?"] * 4


def rsici(size: int, folder: Path) -> Callable[[], object]:
    return lambda: build_rsici([f"scenes:{size},seed=1,size=128"], folder / "rsici")


def rsicp(size: int, folder: Path) -> Callable[[], object]:
    rsici(size, folder)()
    return lambda: build_rsicp(folder / "rsici", folder / "rsicp", variant="paper", kinds="replacement")


def sft(size: int, folder: Path) -> Callable[[], object]:
    from rsiccllm.model.tiny import build_tiny_model
    from rsiccllm.training.sft import train_sft

    rsici(200, folder)()
    processor = build_tiny_processor(
        ["a house is built in the top left corner", "what changed?"] * 4, 400, patch_size=14
    )
    build_tiny_model(processor).save_pretrained(folder / "tiny")
    processor.save_pretrained(folder / "tiny")
    recipe = SFTRecipe(
        model=str(folder / "tiny"), data=folder / "rsici", out=folder / "sft", max_steps=math.ceil(size / 8),
        batch_size=8, learning_rate=1e-4, workers=0, save_steps=10_000,
    )  # fmt: skip
    return lambda: train_sft(recipe)


def captions(size: int, folder: Path) -> Callable[[], object]:
    from rsiccllm.caption.captioner import Captioner
    from rsiccllm.sources import open_source

    source = open_source(f"scenes:{size},seed=2,size=128")
    pairs = [source.open(pair) for pair in source.pairs]
    captioner = Captioner.load()
    captioner.caption_all(pairs[:2])
    return lambda: list(captioner.caption_all(pairs))


def scores(size: int, folder: Path) -> Callable[[], object]:
    from rsiccllm.benchmark.scores import score
    from rsiccllm.sources import open_source

    source = open_source(f"scenes:{min(size, 200)},seed=3,size=64")
    texts = [list(pair.captions) for pair in source.pairs]
    said = {str(at): texts[(at + 1) % len(texts)][0] for at in range(size)}
    references = {str(at): texts[at % len(texts)] for at in range(size)}
    changed = {str(at): bool(source.pairs[at % len(texts)].changed) for at in range(size)}
    return lambda: score(said, references, changed, meteor=False, sbs=False)


def tiles(size: int, folder: Path) -> Callable[[], object]:
    from rasters import write_pair
    from rsiccllm.geo.run import MapSettings, map_rasters

    side = round(math.sqrt(size)) * (TILE - OVERLAP) + OVERLAP
    before, after = write_pair(folder, side, every=0)
    return lambda: map_rasters(before, after, folder / "out", None, MapSettings(tile=TILE, overlap=OVERLAP))


STAGES: dict[str, Callable[[int, Path], Callable[[], object]]] = {
    "rsici": rsici, "rsicp": rsicp, "sft": sft, "captions": captions, "tiles": tiles, "scores": scores,
}  # fmt: skip


def worked() -> float:
    """Seconds that the processor has worked for this process and those it started and waited for."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def one(stage: str, size: int) -> None:
    """Run a stage once in this process, and print what it took."""
    with tempfile.TemporaryDirectory() as name:
        work = STAGES[stage](size, Path(name))
        begin = worked()
        work()
        seconds = worked() - begin
    print(json.dumps({"seconds": seconds, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def measured(sizes: list[int]) -> dict[str, float]:
    """Seconds of one pair more, at the largest sizes, by stage."""
    found: dict[str, float] = {}
    print("measured, one thread: seconds that the processor worked, milliseconds of a pair more, peak in MB")
    print(f"{'stage':10}" + "".join(f"{size:>9,} pairs" for size in sizes) + "    a pair more   peak")  # fmt: skip
    for stage in STAGES:
        rows = []
        for size in sizes:
            command = [sys.executable, __file__, "--one", stage, "--sizes", str(size)]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
        steps = list(itertools.pairwise(zip(sizes, rows, strict=True)))
        slopes = [(b["seconds"] - a["seconds"]) / (after - before) for (before, a), (after, b) in steps]
        found[stage] = slopes[-1]
        print(f"{stage:10}" + "".join(f"{row['seconds']:>13.1f} s" for row in rows)
              + f"  {', '.join(f'{1e3 * slope:.1f}' for slope in slopes)} ms   "
              + ", ".join(f"{row['peak']:.0f}" for row in rows), flush=True)  # fmt: skip
    return found


def seven_billion(folder: Path) -> Path:
    """A folder that `train plan` reads as the published 7B: its configuration, and a small tokenizer."""
    processor = build_tiny_processor(
        ["a house is built in the top left corner", "what changed?"] * 4, 400, patch_size=14
    )
    processor.save_pretrained(folder)
    published_config("qwen2_5_vl_7b").save_pretrained(folder)
    return folder


def training(devices: list[int], pairs: list[int]) -> None:
    """Hours of H100s: compute against what the GPUs send one another."""
    operations, memory = GPUS["h100"]
    print(f"""
computed: Qwen2.5-VL-7B on N H100, {', '.join(f'{count:,}' for count in pairs)} pairs, 2 epochs
  compute = operations of an update on one GPU (`train plan`) / ({BUSY} x {operations:.3g})
  sent, fsdp: 3 x 4 bytes x parameters x (N-1)/N (weights gathered twice, gradients scattered; float32)
  sent, LoRA: 2 x 4 bytes x trained parameters x (N-1)/N (gradients added up)
  by {NVLINK / 1e9:.0f} GB/s up to 8 GPUs, {NETWORK / 1e9:.0f} GB/s beyond; an update takes the longer of the two
  where they overlap, their sum where not; updates = pairs / (pairs an update on one GPU x N) x 2
  {'recipe':30} {'N':>5} {'GB a GPU':>9} {'compute':>9} {'sent':>9}  """
          + "  ".join(f"{count:>9,} pairs: updates, hours" for count in pairs))  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        model = seven_billion(Path(name) / "model")
        build_rsici(["scenes:60,seed=4,size=256"], Path(name) / "rsici")
        for file in ("qwen2_5_vl_7b_lora", "qwen2_5_vl_7b_full_fsdp"):
            changes = [f"model={model}", f"data={Path(name) / 'rsici'}"]
            recipe = load_recipe(RECIPES / f"{file}.yaml", SFTRecipe, changes)
            for count in devices:
                found = plan(recipe, count)
                every, trained = (sum(part[i] for part in found.parameters.values()) for i in (0, 1))
                sent = (12 * every if recipe.fsdp else 8 * trained) * (count - 1) / count
                compute = found.operations / (BUSY * operations)
                talk = sent / (NVLINK if count <= 8 else NETWORK)
                cells = []
                for rows in pairs:
                    updates = math.ceil(rows / (recipe.batch_size * recipe.accumulate * count)) * 2
                    least, most = (updates * value / 3600 for value in (max(compute, talk), compute + talk))
                    cells.append(f"{updates:>9,} {least:7.2f} to {most:7.2f}")
                fits = "" if found.total_memory < 0.9e9 * memory else " (does not fit)"
                print(f"  {file:30} {count:>5} {found.total_memory / 1e9:>9.1f} {compute:>8.3f}s {talk:>8.3f}s  "
                      + "  ".join(cells) + fits, flush=True)  # fmt: skip


def country(a_caption: float, a_skip: float, shares: tuple[float, ...] = (0.01, 0.1)) -> None:
    """Cores for a day."""
    step = TILE - OVERLAP
    print(f"""
computed: a country in a day, tiles of {TILE} px with {OVERLAP} px of overlap, on cores like this one
  tiles = area / (({TILE} - {OVERLAP}) x metres a pixel)^2; core hours = tiles x (share that changed x {a_caption:.3f} s
  + {a_skip:.4f} s) / 3600 (one caption more and one unchanged tile more, as above); cores = core hours / 24
  {'country':12} {'m a px':>7} {'tiles':>14} {'two dates':>10}  """
          + "  ".join(f"{100 * share:.0f} % changed: core hours, cores" for share in shares))  # fmt: skip
    for name, area in COUNTRIES.items():
        for metres in (10.0, 0.5):
            tiles = area * 1e6 / (step * metres) ** 2
            stored = 2 * 3 * area * 1e6 / metres**2
            cells = []
            for share in shares:
                hours = tiles * (share * a_caption + a_skip) / 3600
                cells.append(f"{hours:>21,.0f} {math.ceil(hours / 24):>9,}")
            print(f"  {name:12} {metres:>7} {tiles:>14,.0f} {stored / 1e9:>7,.0f} GB  " + "  ".join(cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--training", type=int, nargs="+", default=[1, 8, 64, 1000], help="how many GPUs")
    parser.add_argument("--pairs", type=int, nargs="+", default=[6_815, 1_000_000], help="pairs to train on")
    parser.add_argument("--caption", type=float, help="seconds of a caption, where it is not measured here")
    parser.add_argument("--skip", type=float, help="seconds of an unchanged tile, where it is not measured here")
    parser.add_argument("--only-computed", action="store_true", help="measure nothing; --caption and --skip are wanted")
    parser.add_argument("--one", choices=STAGES, help=argparse.SUPPRESS)
    given: Any = parser.parse_args()
    if given.one:
        one(given.one, given.sizes[0])
        return
    if given.only_computed and (given.caption is None or given.skip is None):
        parser.error("--only-computed wants --caption and --skip")
    costs = {} if given.only_computed else measured(given.sizes)
    training(given.training, given.pairs)
    country(costs.get("captions", given.caption), costs.get("tiles", given.skip))


if __name__ == "__main__":
    main()
