"""What the difference paths cost: Hough voting beside scikit-image's, and a training step with each variant.

    python bench/texture.py [--rounds 5]

Votes: 180 angles on binary 256 x 256 maps, scikit-image one map at a time as it works, ours a batch (voting alone, then
voting and projecting back). Texture: all of S for pairs of images, as training does it. Steps: forward and backward of
the tiny model on 8 pairs of 112 x 112 with 5 captions each. Medians of the rounds with their spread; each round runs
every contestant once.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage.transform import hough_line
from torch.nn.functional import cross_entropy

from rsiccllm.model.checkpoint import save_model
from rsiccllm.model.difference import MAP_STRIDE, fact_loss, map_loss
from rsiccllm.model.processor import build_tiny_processor
from rsiccllm.model.texture import hough, line_angles, line_texture
from rsiccllm.model.tiny import build_tiny_model
from rsiccllm.model.variants import VARIANTS
from rsiccllm.model.vlm import load_model
from rsiccllm.rsici.prompts import PROMPTS
from rsiccllm.sources import open_source
from rsiccllm.training.packing import PackingCollator, Sample

CPU = torch.device("cpu")
MAPS, SIDE, ANGLES = 16, 256, 180


def rounds(contestants: dict[str, Callable[[], object]], count: int) -> dict[str, list[float]]:
    """Seconds of each contestant in each round, after one round that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(count + 1):
        for name, work in contestants.items():
            begin = time.perf_counter()
            work()
            if number:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def show(title: str, seconds: dict[str, list[float]], of: float, unit: str) -> None:
    """A line a contestant: `of` things took this long; the ratio is to the first contestant's median."""
    print(title)
    first = statistics.median(next(iter(seconds.values())))
    for name, values in seconds.items():
        middle = statistics.median(values)
        print(
            f"  {name:34} {of / middle:10.1f} {unit}  {1e3 * middle:8.1f} ms"
            f" ({1e3 * min(values):.1f} to {1e3 * max(values):.1f})  x {middle / first:.3f}"
        )


def votes(count: int) -> None:
    images = np.random.default_rng(0).random((MAPS, SIDE, SIDE)) > 0.9
    maps = torch.from_numpy(images).float()
    angles = line_angles(ANGLES).numpy()
    begin = time.perf_counter()
    lines = hough(SIDE, SIDE, ANGLES, CPU)
    print(
        f"the matrix of votes for {SIDE} x {SIDE} and {ANGLES} angles, made once: {time.perf_counter() - begin:.2f} s"
    )
    contestants = {
        "scikit-image, votes": lambda: [hough_line(image, theta=angles) for image in images],
        "ours, votes": lambda: lines.vote(maps),
        "ours, votes and back": lambda: lines.project(lines.vote(maps)),
    }
    show(f"{MAPS} binary maps with a tenth of the pixels set", rounds(contestants, count), MAPS, "maps/s")
    grey = torch.rand(8, SIDE, SIDE)
    found = {
        f"{ANGLES} angles, cells of 1": lambda: line_texture(grey, ANGLES, 1),
        f"32 angles, cells of {MAP_STRIDE} (default)": lambda: line_texture(grey, 32, MAP_STRIDE),
    }
    show(f"S of 4 pairs of {SIDE} x {SIDE}, 8 kernels", rounds(found, count), 4, "pairs/s")


def steps(count: int) -> None:
    source = open_source("scenes:16,seed=1,size=112,easy=1")
    pairs = source.pairs[:8]
    texts = [caption for pair in source.pairs for caption in pair.captions]
    processor = build_tiny_processor([*texts, *PROMPTS.values()], 640, patch_size=14)
    samples = []
    for pair in pairs:
        opened = source.open(pair)
        facts = [(fact.object, fact.direction) for fact in pair.facts or []]
        images: list[Image.Image] = [opened.before, opened.after]
        samples.append(Sample(pair.id, images, PROMPTS["caption"], pair.captions, opened.mask, facts))
    batch = PackingCollator(processor)(samples)
    labels, masks, facts_ = (batch.pop(name) for name in ("labels", "map_targets", "fact_targets"))
    [batch.pop(name) for name in ("answer_of", "row_of")]
    with tempfile.TemporaryDirectory() as folder:
        save_model(build_tiny_model(processor), processor, Path(folder) / "m")
        models = {variant: load_model(Path(folder) / "m", variant) for variant in VARIANTS}

    def step(variant: str) -> None:
        model = models[variant]
        output = model(**batch)
        loss = cross_entropy(output.logits, labels)
        if output.maps is not None:
            loss = loss + map_loss(output.maps, masks) + fact_loss(output.maps, output.facts, masks, facts_)
        loss.backward()
        model.zero_grad()

    contestants = {variant: (lambda variant=variant: step(variant)) for variant in VARIANTS}
    show("a training step of the tiny model, 8 pairs of 112 x 112", rounds(contestants, count), 8, "pairs/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, float32, {given.rounds} rounds")
    votes(given.rounds)
    steps(given.rounds)


if __name__ == "__main__":
    main()
