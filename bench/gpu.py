"""Qwen2.5-VL-7B at its true dimensions with random weights, on one CUDA GPU: what a step of fine-tuning takes.

    python bench/gpu.py [--rounds 5] [--pairs 8] [--rank 32]

Without a CUDA GPU it says so and stops. With LoRA, the frozen weights in bf16 (as the recipes have it): milliseconds a
step, pairs and answer tokens a second, peak memory, the vision tower's share of the time, and the share of the GPU's
bf16 peak reached, by the operations that `train plan` counts. Pairs are noise of 256 x 256 px with 5 answers each.
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

from rsiccllm.model.processor import build_tiny_processor
from rsiccllm.model.sizes import published_config
from rsiccllm.model.vlm import PairQwen2_5_VL, PairQwen2_5_VLConfig
from rsiccllm.training.packing import MODEL_FIELDS, PackingCollator, Sample
from rsiccllm.training.plan import GPUS, operations_of
from rsiccllm.training.recipe import SFTRecipe
from rsiccllm.training.trainer import freeze, with_adapters

ANSWERS = ["a house is built in the top left corner of the scene beside the road"] * 5


def peak_of(name: str) -> float | None:
    """Operations a second at the peak, where GPUS lists the card."""
    return next((peak for key, (peak, _) in GPUS.items() if key.split("-")[-1] in name.lower()), None)


def milliseconds(work: Callable[[], object], rounds: int) -> list[float]:
    found = []
    for number in range(rounds + 1):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        work()
        torch.cuda.synchronize()
        if number:
            found.append(1e3 * (time.perf_counter() - begin))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--rank", type=int, default=32)
    given = parser.parse_args()
    if not torch.cuda.is_available():
        print("no CUDA GPU here: nothing measured")
        return
    card = torch.cuda.get_device_name()
    with tempfile.TemporaryDirectory() as folder:
        recipe = SFTRecipe(model="7b", data=Path(folder), out=Path(folder), learning_rate=1e-4, lora_rank=given.rank,
                           bf16=True, train_vision=False, gradient_checkpointing=True, max_pixels=65536,
                           min_pixels=50176, batch_size=given.pairs)  # fmt: skip
    processor = build_tiny_processor(ANSWERS * 4 + ["what changed?"] * 4, 300, patch_size=14)
    fields = published_config("qwen2_5_vl_7b").to_dict()
    fields.pop("model_type")
    config = PairQwen2_5_VLConfig(**fields, difference={"variant": "ours"})
    config.image_token_id = processor.image_token_id
    config._attn_implementation = "sdpa"
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = PairQwen2_5_VL(config)
    torch.set_default_dtype(torch.float32)
    model.model.difference.float()
    freeze(model, recipe)
    model = with_adapters(model, recipe).train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    random = np.random.default_rng(0)
    samples = [
        Sample(str(at), [Image.fromarray(random.integers(0, 255, (256, 256, 3), dtype=np.uint8)) for _ in range(2)],
               "what changed?", ANSWERS)
        for at in range(given.pairs)
    ]  # fmt: skip
    batch = PackingCollator(processor)(samples)
    inputs = {name: batch[name].cuda() for name in MODEL_FIELDS if name in batch}
    labels = batch["labels"].cuda()
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-4)

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            loss = torch.nn.functional.cross_entropy(model(**inputs).logits.float(), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def tower() -> None:
        with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
            model.get_base_model().model.tower_features(inputs["pixel_values"], inputs["image_grid_thw"])

    whole, vision = milliseconds(step, given.rounds), milliseconds(tower, given.rounds)
    middle = statistics.median(whole)
    print(f"{card}, torch {torch.__version__}, {given.pairs} pairs of {len(ANSWERS)} answers, LoRA rank {given.rank}")
    seen = statistics.median(vision)
    print(f"  step {middle:.0f} ms ({min(whole):.0f} to {max(whole):.0f}), vision tower {seen:.0f} ms")
    print(f"  {1e3 * given.pairs / middle:.2f} pairs/s, {1e3 * labels.numel() / middle:.0f} answer tokens/s, "
          f"peak {torch.cuda.max_memory_allocated() / 1e9:.1f} GB")  # fmt: skip
    images = int(inputs["image_grid_thw"].prod(1).sum()) / 4 / given.pairs
    answers = labels.numel() / given.pairs
    asked = float((inputs["mm_token_type_ids"] == 0).sum()) / given.pairs - answers
    counted = given.pairs * operations_of(model, config, recipe, images, asked, answers)
    if peak := peak_of(card):
        share = 100 * counted / (middle / 1e3) / peak
        print(f"  {share:.0f} % of the card's bf16 peak, by {counted / 1e12:.1f} T operations")


if __name__ == "__main__":
    main()
