"""Step time and memory of DNPO beside TRL's DPOTrainer: the same model, images, answers, batch, precision and threads.

    python bench/dnpo.py [--pairs 8] [--size 224] [--runs 5] [--steps 4] [--threads 2]

One chosen and two rejected answers a pair, which are two rows of TRL's. TRL computes its reference online: it refuses
to precompute it for images. The forms take turns, so that a busy moment of the machine meets all; the first step of a
run is not timed. Times are of whole training steps (collation, forward, backward, update). Memory is the peak over what
was held before training, of a process of its own for each form. What packing and the stored reference each bring is
told apart: "unpacked" gives every answer a sequence of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

FORMS = ("trl", "unpacked, online", "unpacked, stored", "packed, online", "packed, stored", "packed, kl")
SENTENCE = "a house is built in the top left corner of the scene and some trees are removed beside the road"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--form", choices=FORMS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.form:
        print(json.dumps(measure(given, given.form)))
        return
    environment = {**os.environ, "OMP_NUM_THREADS": str(given.threads), "OMP_WAIT_POLICY": "passive"}
    memory: dict[str, float] = {}
    for form in FORMS:
        command = [sys.executable, __file__, *sys.argv[1:], "--form", form]
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        memory[form] = json.loads(done.stdout.splitlines()[-1])["memory"]
    found: dict[str, list[dict[str, float]]] = {form: [] for form in FORMS}
    for run in range(given.runs):
        for form in FORMS:
            found[form].append(measure(given, form))
            print(f"run {run + 1} of {given.runs}: {form}, {found[form][-1]}", file=sys.stderr)
    base = statistics.median(row["seconds"] for row in found["trl"])
    same = [row["loss"] for form, rows in found.items() if form != "packed, kl" for row in rows]
    print(f"{given.pairs} pairs of {given.size} px, 1 chosen and 2 rejected, float32, {given.threads} threads, "
          f"{given.runs} runs of {given.steps} steps")  # fmt: skip
    print(f"{'':18} {'s a step, median (least-most)':>32} {'x TRL':>6} {'MB':>6} {'first loss':>11}")
    for form, rows in found.items():
        times = sorted(row["seconds"] for row in rows)
        middle = statistics.median(times)
        spread = f"{middle:.3f} ({times[0]:.3f}-{times[-1]:.3f})"
        print(f"{form:18} {spread:>32} {base / middle:6.2f} {memory[form]:6.0f} {rows[0]['loss']:11.6f}")
    print(f"first losses of all runs but those with the KL: equal to {max(same) - min(same):.1e}")


def measure(given: argparse.Namespace, form: str) -> dict[str, float]:
    """Train for one step and `steps` more: the median of these in seconds, the first loss, the peak in MB."""
    import numpy as np
    import torch
    from PIL import Image
    from transformers import TrainerCallback

    from rsiccllm.model.processor import TINY_CHAT_TEMPLATE, build_tiny_processor
    from rsiccllm.model.tiny import build_tiny_model
    from rsiccllm.model.vlm import load_model
    from rsiccllm.training.dnpo import DNPOTrainer
    from rsiccllm.training.packing import PackingCollator, Sample
    from rsiccllm.training.recipe import DNPORecipe
    from rsiccllm.training.reference import batch_log_probs

    torch.set_num_threads(given.threads)
    rng = np.random.default_rng(0)
    processor = build_tiny_processor([SENTENCE, "what changed?"] * 4, 400, patch_size=14)
    processor.tokenizer.padding_side = "left"
    # TRL trains on what the template puts after an answer; ours ends an answer with the end-of-turn token alone.
    processor.chat_template = TINY_CHAT_TEMPLATE.replace(
        "<|im_end|>\n{% endfor %}", "<|im_end|>{% if message['role'] == 'user' %}\n{% endif %}{% endfor %}"
    )
    work = Path(tempfile.mkdtemp())
    torch.manual_seed(0)
    build_tiny_model(processor, "qwen2_5_vl").save_pretrained(work / "model")
    processor.save_pretrained(work / "model")
    policy, reference = load_model(work / "model", "none"), load_model(work / "model", "none")
    with torch.no_grad():  # no loss shall sit at its starting value
        for weight in policy.parameters():
            weight += 0.02 * torch.randn_like(weight)

    def image() -> Image.Image:
        return Image.fromarray(rng.integers(0, 255, (given.size, given.size, 3), np.uint8))

    samples = [
        Sample(
            str(n),
            [image(), image()],
            "what changed?",
            [" ".join(rng.permutation(SENTENCE.split())[:11]) for _ in range(3)],
        )
        for n in range(given.pairs)
    ]
    times: list[float] = []
    losses: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *arguments: Any, **fields: Any) -> None:
            # Collation of the next batch lies before this; the end of one step to the end of the next holds it all.
            if not times:
                times.append(time.perf_counter())

        def on_step_end(self, *arguments: Any, **fields: Any) -> None:
            times.append(time.perf_counter())

        def on_log(self, *arguments: Any, logs: dict[str, float] | None = None, **fields: Any) -> None:
            losses.extend([logs["loss"]] if logs and "loss" in logs else [])

    steps = given.steps + 1
    if form == "trl":
        from datasets import Dataset
        from trl import DPOConfig, DPOTrainer

        rows = [
            {
                "images": sample.images,
                "prompt": [{"role": "user", "content": sample.prompt}],
                "chosen": [{"role": "assistant", "content": sample.answers[0]}],
                "rejected": [{"role": "assistant", "content": answer}],
            }
            for sample in samples
            for answer in sample.answers[1:]
        ]
        settings = DPOConfig(
            str(work / "out"), report_to="none", use_cpu=True, bf16=False, max_length=None, beta=0.1, max_steps=steps,
            per_device_train_batch_size=len(rows), learning_rate=1e-5, logging_steps=1, save_strategy="no",
            gradient_checkpointing=False, disable_tqdm=True, warmup_steps=0,
        )  # fmt: skip
        trainer: Any = DPOTrainer(
            model=policy, ref_model=reference, args=settings, train_dataset=Dataset.from_list(rows),
            processing_class=processor, callbacks=[Clock()],
        )  # fmt: skip
    else:
        recipe = DNPORecipe(
            model="", data=work, out=work / "out", max_steps=steps, batch_size=given.pairs, learning_rate=1e-5,
            warmup_steps=0, log_steps=1, save_steps=1000, beta=0.1,
            kl_weight=0.1 if form == "packed, kl" else 0.0,
        )  # fmt: skip
        packing = PackingCollator(processor)

        def unpacked(batch: list[Sample]) -> dict[str, Any]:
            singles = [replace(s, answers=[answer], reference=None if s.reference is None else [s.reference[k]])
                       for s in batch for k, answer in enumerate(s.answers)]  # fmt: skip
            row_of = [row for row, s in enumerate(batch) for _ in s.answers]
            return {**packing(singles), "row_of": torch.tensor(row_of)}

        collator = unpacked if form.startswith("unpacked") else packing
        if form.endswith("stored"):
            for sample in samples:
                sample.reference = batch_log_probs(reference, packing([sample]), torch.device("cpu"), False).tolist()
            reference = None
        trainer = DNPOTrainer(recipe, policy, processor, samples, collator, reference=reference)
        trainer.add_callback(Clock())
    before = _peak()
    trainer.train()
    seconds = [end - begin for begin, end in pairwise(times[1:])]
    return {"seconds": statistics.median(seconds), "loss": losses[0], "memory": _peak() - before}


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
