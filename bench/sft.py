"""Supervised fine-tuning beside TRL's SFTTrainer: pairs a second and peak memory, 5 captions a pair.

    python bench/sft.py [--rounds 5] [--steps 3] [--sides 224 128] [--threads 1]

The same weights (the tiny Qwen2.5-VL, no difference path), pairs, captions, batch, precision (float32), threads and
optimiser. A step is what a training step is: images and words to tensors, forward, backward, AdamW. TRL sees a row a
caption, as it has no other way; ours a row a pair. Each peer runs in a process of its own, and the rounds take turns.
Printed: medians of the rounds with their spread, by the clock and by what the processor worked for them (which other
processes do not change; the ratio is of this), the losses of the first steps (they must agree), and the peak memory of
each process with what it held before the first step.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image

from peers import Peer, serve
from rsiccllm.model.checkpoint import save_model
from rsiccllm.model.processor import TINY_CHAT_TEMPLATE, build_tiny_processor, load_processor
from rsiccllm.model.tiny import build_tiny_model
from rsiccllm.model.vlm import load_model
from rsiccllm.rsici.prompts import PROMPTS
from rsiccllm.sources import open_source
from rsiccllm.training.packing import PackingCollator, Sample
from rsiccllm.training.recipe import SFTRecipe
from rsiccllm.training.sft import SFTTrainer

PAIRS, CAPTIONS = 8, 5
Step = Callable[[], torch.Tensor]


def samples(side: int) -> list[Sample]:
    """Rendered scenes scaled to `side`, each with five captions."""
    source = open_source("scenes:60,seed=1,size=112,easy=1")
    found = []
    for pair in [pair for pair in source.pairs if len(pair.captions) >= CAPTIONS][:PAIRS]:
        opened = source.open(pair)
        images: list[Image.Image] = [image.resize((side, side)) for image in (opened.before, opened.after)]
        found.append(Sample(pair.id, images, PROMPTS["caption"], pair.captions[:CAPTIONS]))
    assert len(found) == PAIRS
    return found


def build(folder: Path) -> None:
    texts = [text for sample in samples(112) for text in sample.answers]
    processor = build_tiny_processor([*texts, *PROMPTS.values()], 640, patch_size=14)
    # TRL trains on what the template puts after an answer; ours ends an answer with the end-of-turn token alone.
    processor.chat_template = TINY_CHAT_TEMPLATE.replace(
        "<|im_end|>\n{% endfor %}", "<|im_end|>{% if message['role'] == 'user' %}\n{% endif %}{% endfor %}"
    )
    save_model(build_tiny_model(processor), processor, folder)


def our_step(folder: Path, side: int, out: Path) -> tuple[Any, Step]:
    model, processor = load_model(folder, "none"), load_processor(folder)
    recipe = SFTRecipe(model=str(folder), data=out, out=out, learning_rate=1e-4, variant="none")
    collator, data = PackingCollator(processor), samples(side)
    trainer = SFTTrainer(recipe, model, processor, data, collator)
    return model, lambda: trainer.compute_loss(model, collator(data))


def trl_step(folder: Path, side: int, out: Path) -> tuple[Any, Step]:
    from datasets import Dataset
    from trl import SFTConfig
    from trl import SFTTrainer as TheirTrainer

    model, processor = load_model(folder, "none"), load_processor(folder)
    rows = [
        {
            "images": sample.images,
            "prompt": [{"role": "user", "content": sample.prompt}],
            "completion": [{"role": "assistant", "content": answer}],
        }
        for sample in samples(side)
        for answer in sample.answers
    ]
    settings = SFTConfig(str(out), report_to="none", use_cpu=True, bf16=False, max_length=None,
                         gradient_checkpointing=False, disable_tqdm=True)  # fmt: skip
    trainer = TheirTrainer(
        model=model, args=settings, train_dataset=Dataset.from_list(rows), processing_class=processor
    )
    model.gradient_checkpointing_disable()
    return model, lambda: trainer.compute_loss(model, trainer.data_collator([dict(row) for row in rows]))


def contestant(name: str, folder: Path, side: int, steps: int, threads: int) -> Callable[[], dict[str, Any]]:
    """A round: so many steps, their seconds and losses."""
    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    model, loss_of = (our_step if name == "ours" else trl_step)(folder, side, folder.parent / f"out_{name}_{side}")
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def round_() -> dict[str, Any]:
        losses = []
        begin = time.process_time(), time.perf_counter()
        for _ in range(steps):
            loss = loss_of()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
        work, clock = time.process_time() - begin[0], time.perf_counter() - begin[1]
        return {"work": work / steps, "clock": clock / steps, "losses": losses}

    return round_


def compare(folder: Path, side: int, given: argparse.Namespace) -> None:
    common = ["--folder", str(folder), "--sides", str(side), "--steps", str(given.steps)]
    common += ["--threads", str(given.threads)]
    peers = {name: Peer([__file__, "--peer", name, *common], given.threads) for name in ("TRL", "ours")}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in peers}
    for _ in range(given.rounds + 1):  # the first warms up
        for name, one in peers.items():
            found[name].append(one.round())
    batch = PackingCollator(load_processor(folder))(samples(side))
    prompt = int((batch["predict_at"][0] + 1).item())
    answers = batch["labels"].numel()
    print(f"2 x {side} px, {PAIRS} pairs of {CAPTIONS} captions, prompt {prompt} tokens, {answers} answer tokens")
    work = {name: [row["work"] for row in rows[1:]] for name, rows in found.items()}
    first = statistics.median(work["TRL"])
    for name, values in work.items():
        middle = statistics.median(values)
        clock = statistics.median(row["clock"] for row in found[name][1:])
        print(
            f"  {name:5} {PAIRS / middle:7.2f} pairs/s  {1e3 * middle:7.0f} ms a step ({1e3 * min(values):.0f} to "
            f"{1e3 * max(values):.0f}; by the clock {1e3 * clock:.0f})  x {first / middle:.2f}  "
            f"peak {found[name][-1]['peak']:.0f} MB, {peers[name].before:.0f} before"
        )
    ratios = [theirs / ours for theirs, ours in zip(work["TRL"], work["ours"], strict=True)]
    losses = {name: np.array([row["losses"] for row in rows]) for name, rows in found.items()}
    apart = float(np.abs(losses["TRL"] - losses["ours"]).max())
    print(f"  ratio by round: {min(ratios):.2f} to {max(ratios):.2f}; losses {losses['ours'][0, 0]:.4f} to "
          f"{losses['ours'][-1, -1]:.4f}, apart by at most {apart:.1e}")  # fmt: skip
    for one in peers.values():
        one.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="of a round")
    parser.add_argument("--sides", type=int, nargs="+", default=[224, 128])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.peer:
        serve(contestant(given.peer, given.folder, given.sides[0], given.steps, given.threads))
        return
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    print(f"torch {torch.__version__}, {given.threads} threads, float32, {given.rounds} rounds of {given.steps} steps")
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder) / "m")
        for side in given.sides:
            compare(Path(folder) / "m", side, given)


if __name__ == "__main__":
    main()
