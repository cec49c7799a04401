"""How sure the embedded model may be: its captions of scenes it has not seen, as they are and under drawn nuisance."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from rsiccllm.caption.calibration import Clued, write_calibration
from rsiccllm.caption.captioner import Captioner
from rsiccllm.facts import Fact, parse
from rsiccllm.pairs import OpenedPair
from rsiccllm.progress import track
from rsiccllm.sources.scenes import ScenesSource
from rsiccllm.training.nuisance import disturb

RIGHT = "it says rightly whether anything changed, and every object that it says came or went did so"
SEEDS = (98, 97)
"""Of the scenes that the calibration is fitted to, and of those that it is measured on; training has another."""

ANSWERS = 18
"""Of which a caption is the best; chosen on 240 scenes of seed 96, where more places are right than with 10."""


def is_right(caption: str, facts: Sequence[Fact], changed: bool) -> bool:
    """Whether a caption of a pair with these facts is right, in the sense of RIGHT."""
    said = parse(caption)
    if not changed or said.changed is not True:
        return not changed and said.changed is False
    true = {(fact.object, fact.direction) for fact in facts}
    return bool(said.facts) and all((fact.object, fact.direction) in true for fact in said.facts)


def rows(
    captioner: Captioner, pairs: Iterable[tuple[OpenedPair, Sequence[Fact], bool]], answers: int = 1
) -> list[Clued]:
    """(clues, right or not) of a captioner's captions of pairs with known facts, each the best of so many answers."""
    known = list(pairs)
    said = captioner.caption_all([pair for pair, _, _ in known], candidates=answers)
    return [
        (caption.clues, is_right(caption.caption, facts, changed))
        for caption, (_, facts, changed) in zip(track(said, "captioning", len(known)), known, strict=True)
    ]


def scenes(count: int, seed: int, size: int, nuisance: float) -> Iterable[tuple[OpenedPair, Sequence[Fact], bool]]:
    """Rendered pairs with their facts; every other two of them under nuisance, each date on its own."""
    source = ScenesSource(count, seed=seed, size=size)
    for index, pair in enumerate(source.pairs):
        opened = source.open(pair)
        if nuisance and index // 2 % 2:
            random = np.random.default_rng([seed, index])
            before, after = (disturb(image, random, nuisance) for image in opened[:2])
            opened = OpenedPair(before, after, opened.mask)
        yield opened, pair.facts or [], bool(pair.changed)


def calibrate(folder: Path, count: int = 400, size: int = 224, nuisance: float = 1.5) -> list[str]:
    """Fit the confidence of the model in `folder`, of one answer and of the best of ANSWERS, and write both there.
    Returns lines to print.
    """
    captioner = Captioner.load(folder)
    note = f"{count} rendered scenes of seed {SEEDS[0]}, half of them under nuisance {nuisance:g}"
    lines = []
    for answers in (1, ANSWERS):
        fitted, held_out = (rows(captioner, scenes(count, seed, size, nuisance), answers) for seed in SEEDS)
        lines += [f"{answers} answers" if answers > 1 else "one answer"]
        lines += write_calibration(folder, fitted, held_out, RIGHT, note, answers)[1]
    return lines
