"""Step time and memory of DNPO beside TRL's DPOTrainer: the same model, images, answers, batch, precision and threads.

    python bench/dnpo.py [--pairs 8] [--size 224] [--rounds 5] [--steps 2] [--threads 1]

One chosen and two rejected answers a pair, which are two rows of TRL's. TRL computes its reference online: it refuses
to precompute it for images. Each form has a process of its own, and the rounds take turns, so that a busy moment of the
machine meets all. Times are of whole training steps (collation, forward, backward, update), by the clock and by what
the processor worked for them, which other processes do not change; the first step of a round is not timed. The ratio is
of work. Memory is the peak over what the process held before its first step. What packing and the stored reference each
bring is told apart: "unpacked" gives every answer a sequence of its own.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from peers import Peer, serve

FORMS = ("trl", "unpacked, online", "unpacked, stored", "packed, online", "packed, stored", "packed, kl")
SENTENCE = "a house is built in the top left corner of the scene and some trees are removed beside the road"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--form", choices=FORMS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.form:
        serve(contestant(given, given.form))
        return
    peers = {form: Peer([__file__, *sys.argv[1:], "--form", form], given.threads) for form in FORMS}
    found: dict[str, list[dict[str, float]]] = {form: [] for form in FORMS}
    for number in range(given.rounds):
        for form, peer in peers.items():
            found[form].append(peer.round())
            print(f"round {number + 1} of {given.rounds}: {form}, {found[form][-1]}", file=sys.stderr)
    base = statistics.median(row["work"] for row in found["trl"])
    same = [row["loss"] for form, rows in found.items() if form != "packed, kl" for row in rows]
    print(f"{given.pairs} pairs of {given.size} px, 1 chosen and 2 rejected, float32, {given.threads} threads, "
          f"{given.rounds} rounds of {given.steps} steps, seconds a step: median (least-most)")  # fmt: skip
    print(f"{'':18} {'processor':>24} {'clock':>24} {'x TRL':>6} {'MB':>6} {'first loss':>11}")
    for form, rows in found.items():
        cells = []
        for name in ("work", "clock"):
            times = [row[name] for row in rows]
            cells.append(f"{statistics.median(times):.3f} ({min(times):.3f}-{max(times):.3f})")
        ratio = base / statistics.median(row["work"] for row in rows)
        memory = rows[-1]["peak"] - peers[form].before
        print(f"{form:18} {cells[0]:>24} {cells[1]:>24} {ratio:6.2f} {memory:6.0f} {rows[0]['loss']:11.6f}")
    print(f"first losses of all rounds but those with the KL: equal to {max(same) - min(same):.1e}")
    for peer in peers.values():
        peer.close()


def contestant(given: argparse.Namespace, form: str) -> Callable[[], dict[str, Any]]:
    """A round: one training step and `steps` more from the same weights; the medians of these and the first loss."""
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
    start = {name: weight.clone() for name, weight in policy.state_dict().items()}
    marks: list[tuple[float, float]] = []
    losses: list[float] = []

    class Clock(TrainerCallback):
        """Notes the end of every step: from one to the next lies all that a step takes, collation too."""

        def on_step_end(self, *arguments: Any, **fields: Any) -> None:
            marks.append((time.process_time(), time.perf_counter()))

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

        def trainer() -> Any:
            return DPOTrainer(
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

        def trainer() -> Any:
            made = DNPOTrainer(recipe, policy, processor, samples, collator, reference=reference)
            made.add_callback(Clock())
            return made

    def round_() -> dict[str, Any]:
        marks.clear()
        losses.clear()
        policy.load_state_dict(start)
        trainer().train()
        work_, clock = (statistics.median(b[i] - a[i] for a, b in pairwise(marks)) for i in (0, 1))
        return {"work": work_, "clock": clock, "loss": losses[0]}

    return round_


if __name__ == "__main__":
    main()
