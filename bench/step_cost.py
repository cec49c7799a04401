"""What the difference path adds to a training step, and what the line texture costs once a pair.

    python bench/step_cost.py [--rounds 5] [--side 112] [--threads 1]

Measured on the tiny model: whole steps (images and words to tensors, forward, losses of answers, map and facts,
backward, AdamW) of 8 pairs with 5 captions, with no difference path and with each variant; the paper's with its texture
computed at every step and read from a `texture_cache`, at several strides of the Hough grid. Seconds are what the
processor worked, which other processes do not change; medians of the rounds, in which the variants take turns, and
their spread. Then the line texture of a pair alone, computed and read back.

At 7B dimensions nothing is timed: operations are counted from shapes, on one pair of 224 x 224 with 5 answers. The
difference path's by torch's counter over a real forward and backward of it at full width, and two an entry of the
matrix of votes and map, there and back; the rest of the step as `train plan` counts it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from rsiccllm.model.checkpoint import save_model
from rsiccllm.model.difference import ChangeMap, DifferencePath, fact_loss, map_loss
from rsiccllm.model.fusion import Fusion
from rsiccllm.model.processor import build_tiny_processor
from rsiccllm.model.sizes import published_config
from rsiccllm.model.texture import KERNELS, hough, line_texture
from rsiccllm.model.tiny import build_tiny_model
from rsiccllm.model.vlm import PairQwen2_5_VL, PairQwen2_5_VLConfig, load_model
from rsiccllm.rsici.prompts import PROMPTS
from rsiccllm.sources import open_source
from rsiccllm.training.features import TextureCache
from rsiccllm.training.learning import freeze, with_adapters
from rsiccllm.training.packing import PackingCollator, Sample
from rsiccllm.training.plan import operations_of
from rsiccllm.training.recipe import SFTRecipe

PAIRS, ANGLES = 8, 32
STRIDES = (4, 7, 14)
ONE = torch.device("cpu")


def work_of(work: Callable[[], object]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


def samples(side: int) -> list[Sample]:
    source = open_source(f"scenes:16,seed=1,size={side},easy=1")
    found = []
    for pair in source.pairs[:PAIRS]:
        opened = source.open(pair)
        facts = [(fact.object, fact.direction) for fact in pair.facts or []]
        images: list[Image.Image] = [opened.before, opened.after]
        found.append(Sample(pair.id, images, PROMPTS["caption"], pair.captions, opened.mask, facts))
    return found


def steps(side: int, rounds: int, folder: Path) -> None:
    """Whole steps of the tiny model, and what each variant adds to that without."""
    data = samples(side)
    processor = build_tiny_processor(
        [*(text for sample in data for text in sample.answers), *PROMPTS.values()], 640, patch_size=14
    )
    save_model(build_tiny_model(processor), processor, folder / "m")
    collator = PackingCollator(processor)

    def contestant(variant: Any, stride: int | None = None, kept: bool = False) -> Callable[[], object]:
        model = load_model(folder / "m", variant, settings={} if stride is None else {"stride": stride})
        if kept:
            model.model.difference.line_texture = TextureCache(folder / "cache", 1e9)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

        def step() -> None:
            batch = collator(data)
            labels, masks, facts = (batch.pop(name) for name in ("labels", "map_targets", "fact_targets"))
            [batch.pop(name) for name in ("answer_of", "row_of")]
            output = model(**batch)
            loss = cross_entropy(output.logits, labels)
            if output.maps is not None:
                loss = loss + map_loss(output.maps, masks) + fact_loss(output.maps, output.facts, masks, facts)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    contestants = {"none": contestant("none"), "ours": contestant("ours")}
    for stride in STRIDES:
        contestants[f"paper, stride {stride}"] = contestant("paper", stride)
        contestants[f"paper, stride {stride}, cached"] = contestant("paper", stride, True)
    for name in ("paper-no-pixel", "paper-no-texture", "paper-mean-texture"):
        contestants[name] = contestant(name)
    found: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds + 1):  # the first warms up, and fills the caches
        for name, step in contestants.items():
            seconds = work_of(step)
            if number:
                found[name].append(seconds)
    base = statistics.median(found["none"])
    print(f"a training step of the tiny model, {PAIRS} pairs of {side} x {side}, {rounds} rounds")
    for name, values in found.items():
        middle = statistics.median(values)
        print(f"  {name:26} {1e3 * middle:7.1f} ms ({1e3 * min(values):.1f} to {1e3 * max(values):.1f})  "
              f"{100 * (middle / base - 1):+6.1f} %")  # fmt: skip


def once(side: int, rounds: int, folder: Path) -> None:
    """The line texture of a pair: computed, and read from disk."""
    print(f"the line texture of a pair of {side} x {side}, {ANGLES} angles: once, and each time it is read")
    pairs = torch.rand(rounds, 2, side, side)
    for stride in STRIDES:
        compute, cache = partial(line_texture, angles=ANGLES, stride=stride), TextureCache(folder / f"s{stride}", 1e9)
        compute(pairs[0])  # the matrix of votes is made once
        first = statistics.median(work_of(partial(compute, pair)) for pair in pairs)
        for pair in pairs:
            cache(pair, ANGLES, stride)
        again = statistics.median(work_of(partial(cache, pair, ANGLES, stride)) for pair in pairs)
        size = cache.store.held / rounds / 1e3
        print(f"  stride {stride:2}  {1e3 * first:7.2f} ms, read {1e3 * again:.2f} ms, {size:.0f} kB a pair")


def path_operations(path: DifferencePath, width: int, rows: int, cols: int, patch: int) -> float:
    """Floating-point operations of a difference path on one pair, forward and backward, without a line texture."""
    tokens = torch.randn(2, 1, rows * cols, width)
    pixels = torch.randn(2, 1, rows * cols, 4 * 3 * 2 * patch**2)
    if isinstance(path, Fusion):  # counted apart: torch's counter does not know sparse products
        path.line_texture = lambda grey, angles, stride: torch.rand(
            len(grey), KERNELS, grey.shape[1] // stride, grey.shape[2] // stride
        )
    with FlopCounterMode(display=False) as counter:
        added, seen, told, _ = path(*tokens, *pixels, rows, cols)
        loss = added.sum()
        if seen is not None and told is not None:
            loss = loss + seen.sum() + told.sum()
        loss.backward()
    return float(counter.get_total_flops())


def texture_operations(side: int, stride: int) -> float:
    """Of the line texture of one pair: two an entry of the matrix of votes and map, there and back; 9 taps a kernel."""
    cells = side // stride
    lines = hough(cells, cells, ANGLES, ONE)
    return 2 * (2 * 2 * KERNELS * lines.votes.values().numel() + 2 * 9 * KERNELS * side**2)


def large(side: int = 224) -> None:
    """What is added at 7B dimensions, by operations."""
    config = published_config("qwen2_5_vl_7b")
    fields = config.to_dict()
    fields.pop("model_type")
    patch, merge, width = config.vision_config.patch_size, 2, config.text_config.hidden_size
    tokens = side // (patch * merge)
    answers = 5 * 16.0
    print(f"at 7B dimensions, a pair of {side} x {side}, 5 answers of 16 tokens: operations of a step, by shapes")
    for way, rank, vision in (("LoRA", 32, False), ("full", None, True)):
        recipe = SFTRecipe(model="7b", data=Path(), out=Path(), learning_rate=1e-4, lora_rank=rank, train_vision=vision)
        with torch.device("meta"):
            model = PairQwen2_5_VL(PairQwen2_5_VLConfig(**fields))
            freeze(model, recipe)
            model = with_adapters(model, recipe)
        whole = operations_of(model, config, recipe, 2 * tokens**2, 40, answers)
        print(f"  {way}: {whole / 1e12:.2f} T without a difference path")
        added = path_operations(ChangeMap(width, merge, patch), width, tokens, tokens, patch)
        print(f"    {'ours':18} {added / 1e9:8.2f} G, {100 * added / whole:5.2f} %")
        for stride in STRIDES:
            path = Fusion(width, merge, patch, "paper", angles=ANGLES, stride=stride)
            added = path_operations(path, width, tokens, tokens, patch)
            anew = added + texture_operations(side, stride)
            name = f"paper, stride {stride}"
            print(f"    {name:18} {added / 1e9:8.2f} G, {100 * added / whole:5.2f} % with its texture cached, "
                  f"{100 * anew / whole:.2f} % with it computed each time")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", type=int, default=112)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    print(f"torch {torch.__version__}, {given.threads} threads, float32")
    with tempfile.TemporaryDirectory() as folder:
        steps(given.side, given.rounds, Path(folder))
        once(given.side, given.rounds, Path(folder))
    large()


if __name__ == "__main__":
    main()
