"""Answers a second when K answers a pair are drawn: with the prompt encoded once, and by plain `generate` calls.

    python bench/sampling.py --model runs/demo/sft --data runs/demo/rsici [--pairs 32] [--samples 8] [--runs 5]

plain loop: one `generate` call an answer and batch, as filtering is usually written. num_return_sequences: one call, in
which transformers repeats prompt and images for every answer. Ours: `rsiccllm.model.generate.sample_answers`. The same
temperature, top-p and limit; batches of 8 pairs; opening the images is in none of the times.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from rsiccllm.files import inside, read_jsonl
from rsiccllm.model.checkpoint import resolve_checkpoint
from rsiccllm.model.generate import left_padded, sample_answers
from rsiccllm.model.processor import load_processor
from rsiccllm.model.vlm import load_model
from rsiccllm.pairs import open_pair
from rsiccllm.records import INSTRUCTIONS, Instruction

BATCH, TEMPERATURE, TOP_P, LIMIT = 8, 1.0, 0.95, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="runs/demo/sft")
    parser.add_argument("--data", type=Path, default=Path("runs/demo/rsici"))
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    checkpoint = resolve_checkpoint(given.model)
    processor, model = load_processor(checkpoint), load_model(checkpoint).eval()
    records = read_jsonl(given.data / INSTRUCTIONS, Instruction)[: given.pairs]
    opened = [open_pair(inside(given.data, r.before), inside(given.data, r.after)) for r in records]
    questions = [((pair.before, pair.after), record.prompt) for pair, record in zip(opened, records, strict=True)]
    batches = [questions[start : start + BATCH] for start in range(0, len(questions), BATCH)]

    def plain(batch: list[Any], count: int) -> None:
        prompts = [processor.encode_prompt(prompt, images) for images, prompt in batch]
        with torch.inference_mode():
            model.generate(**left_padded(processor, prompts), do_sample=True, temperature=TEMPERATURE, top_p=TOP_P,
                           top_k=0, max_new_tokens=LIMIT, num_return_sequences=count)  # fmt: skip

    def loop(batch: list[Any]) -> None:
        for _ in range(given.samples):
            plain(batch, 1)

    def ours(batch: list[Any]) -> None:
        sample_answers(model, processor, batch, range(len(batch)), given.samples, TEMPERATURE, TOP_P, LIMIT)

    ways: dict[str, Callable[[list[Any]], None]] = {
        "plain loop": loop,
        "num_return_sequences": lambda batch: plain(batch, given.samples),
        "ours": ours,
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(given.runs):
        for name, way in ways.items():
            begin = time.perf_counter()
            for batch in batches:
                way(batch)
            rates[name].append(len(questions) * given.samples / (time.perf_counter() - begin))
    print(f"{len(questions)} pairs, {given.samples} answers each, {torch.get_num_threads()} threads, {given.runs} runs")
    base = statistics.median(rates["plain loop"])
    for name, found in rates.items():
        middle = statistics.median(found)
        print(f"{name:22} {middle:8.1f} answers/s ({min(found):.1f}-{max(found):.1f})  {middle / base:5.2f} x")


if __name__ == "__main__":
    main()
