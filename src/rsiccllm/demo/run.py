"""`rsiccllm demo`: the whole path on rendered scenes, each stage reading what the one before it wrote."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from rsiccllm.benchmark.predict import predict
from rsiccllm.benchmark.run import run_score
from rsiccllm.demo.base import new_model, train_base
from rsiccllm.demo.report import write_report
from rsiccllm.files import write_json
from rsiccllm.model.precision import fast_bf16
from rsiccllm.rsici.build import BuildSettings, build_rsici
from rsiccllm.rsici.tasks import TaskSettings
from rsiccllm.rsicp.build import build_rsicp
from rsiccllm.training.difference import train_difference
from rsiccllm.training.dnpo import train_dnpo
from rsiccllm.training.recipe import DifferenceRecipe, DNPORecipe, SFTRecipe
from rsiccllm.training.sft import train_sft


class Size(NamedTuple):
    """How much of everything. scenes: rendered pairs, of which four fifths are trained on. asked: pairs of these that
    the SFT model answers eight times, whose wrong answers DNPO learns from; 0: negatives by rule. The rest: updates.
    """

    scenes: int
    base: int
    difference: int
    sft: int
    dnpo: int
    asked: int


FULL = Size(scenes=3000, base=60, difference=700, sft=600, dnpo=60, asked=600)
QUICK = Size(scenes=60, base=2, difference=2, sft=4, dnpo=2, asked=0)
STAGES = ("base", "sft", "dnpo")
SIDE = 112
"""Pixels of a scene, a side: four visual tokens of 28, so that no image is resized on the way to the model."""


def run_demo(out: Path, quick: bool = False) -> Path:
    """Render, build, train four stages, score each, and write `out/report.html`. Returns its path.

    Stopped, it goes on where it was: every step finds what it has already written. quick: a size that learns nothing
    and shows that the path is whole.
    """
    size = QUICK if quick else FULL
    data, pairs, random = out / "rsici", out / "rsicp", out / "random"
    timing = out / "seconds.json"
    seconds: dict[str, float] = json.loads(timing.read_text(encoding="utf-8")) if timing.exists() else {}

    def step(number: int, name: str, work: Callable[[], object]) -> None:
        Console(stderr=True).rule(f"{number} of 9: {name}", align="left")
        start = time.monotonic()
        work()
        # A call that goes on adds to what an earlier one took; one that finds a step done adds nothing of note.
        seconds[name] = round(seconds.get(name, 0.0) + time.monotonic() - start, 1)
        write_json(timing, seconds)

    def begin() -> None:
        # One phrasing: a model of this size spends its few minutes on the images, not on the question.
        settings = BuildSettings(TaskSettings(("caption",), phrasings=1))
        build_rsici([f"scenes:{size.scenes},seed=1,size={SIDE},easy=1"], data, settings=settings)
        if not (random / "config.json").exists():
            new_model(data, random)

    difference = DifferenceRecipe(
        model=str(out / "base"),
        data=data,
        out=out / "difference",
        max_steps=size.difference,
        batch_size=16,
        learning_rate=2e-3,
        bf16=fast_bf16(),
        workers=1,
        log_steps=50,
        save_steps=100,
    )
    sft = SFTRecipe(
        model=str(out / "difference"),
        data=data,
        out=out / "sft",
        max_steps=size.sft,
        batch_size=8,
        learning_rate=1e-3,
        difference_learning_rate=2e-3,
        fact_weight=1.0,
        train_vision=False,
        bf16=fast_bf16(),
        workers=1,
        save_steps=100,
    )
    dnpo = DNPORecipe(
        model=str(out / "sft"),
        data=pairs,
        out=out / "dnpo",
        max_steps=size.dnpo,
        batch_size=8,
        learning_rate=5e-5,
        validation=data,  # the best of its evaluations is kept: no worse there than what it began with
        validation_pairs=60,
        eval_steps=15,
        best_by="fact_f1",
        train_vision=False,
        bf16=fast_bf16(),
        workers=1,
        save_steps=50,
    )
    spec = f"rsici:{data}"
    step(1, "render the scenes and build RSICI", begin)
    step(2, "base model: caption single scenes", lambda: train_base(random, data, out / "base", size.base))
    step(3, "difference path: where and what changed", lambda: train_difference(difference))
    step(4, "supervised fine-tuning", lambda: train_sft(sft))
    # The wrong answers that the model itself gives teach most (docs/preferences.md); an untrained one gives none.
    drawn: dict[str, Any] = {"model": str(out / "sft"), "pairs": size.asked, "kinds": "filtering"}
    step(5, "build RSICP", lambda: build_rsicp(data, pairs, **(drawn if size.asked else {})))
    step(6, "DNPO", lambda: train_dnpo(dnpo))
    step(7, "caption the test split with each model", lambda: [
        predict(str(out / stage), spec, "test", out / "bench" / stage) for stage in STAGES
    ])  # fmt: skip
    files = [out / "bench" / stage / "predictions.jsonl" for stage in STAGES]
    results = []
    step(8, "score", lambda: results.append(run_score(files, spec, "test", names=STAGES)))
    result = results[0]
    write_json(out / "bench" / "scores.json", result.to_dict())
    step(9, "report", lambda: write_report(out, STAGES, result, seconds))
    Console().print(result)
    return out / "report.html"
