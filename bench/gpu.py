"""Qwen2.5-VL-7B at its true dimensions with random weights, on one CUDA GPU: what a step of training takes.

    python bench/gpu.py [--rounds 5] [--pairs 8] [--rank 32]
    python bench/gpu.py --small

Without a CUDA GPU it says so and stops; --small runs the same code on a tiny model, on whatever there is, and its
figures mean nothing. Fine-tuning and DNPO, each with LoRA (frozen weights in bf16, as the recipes have it) and with all
weights learning (float32 weights and moments, computing in bf16; as many of the language model's layers as fit the
card, which is printed); with LoRA also TRL's trainers on the same weights and answers. Of each: milliseconds a step
(forward, backward, AdamW; the batch lies ready on the GPU), pairs and answer tokens a second, peak memory, and the
share of the card's bf16 peak by the operations that `train plan` counts, those of activations computed again left out.
Then where a step's time goes, and what share of the peak the language model's forward reaches. Pairs are noise of
256 x 256 px: 5 answers for fine-tuning, one chosen and two rejected for DNPO. --no-trl leaves TRL out.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image

from rsiccllm.model.precision import fast_bf16
from rsiccllm.model.processor import TINY_CHAT_TEMPLATE, PairProcessor, build_tiny_processor
from rsiccllm.model.sizes import published_config
from rsiccllm.model.tiny import build_tiny_model
from rsiccllm.model.vlm import PairQwen2_5_VL, PairQwen2_5_VLConfig
from rsiccllm.training.dnpo import DNPOTrainer
from rsiccllm.training.learning import freeze, with_adapters
from rsiccllm.training.packing import PackingCollator, Sample
from rsiccllm.training.plan import GPUS, operations_of
from rsiccllm.training.recipe import AnswerRecipe, DNPORecipe, SFTRecipe
from rsiccllm.training.sft import SFTTrainer

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
SENTENCE = "a house is built in the top left corner of the scene beside the road"
PROMPT = "what changed?"
A_WEIGHT = 16
"""Bytes of a weight that learns: float32, with its gradient and AdamW's two moments."""
ROOM = 0.7
"""The share of the card's memory that weights which learn may take; the rest is for activations."""

Step = Callable[[], Any]


def peak_of(name: str) -> float | None:
    """Operations a second at the peak, where GPUS lists the card."""
    return next((peak for key, (peak, _) in GPUS.items() if key.split("-")[-1] in name.lower()), None)


def layers_that_fit(memory: float, config: Any) -> int:
    """How many of the language model's layers can learn, with all else, in so many bytes; at least 1."""
    with torch.device("meta"):
        model = PairQwen2_5_VL(config)
    whole = sum(weight.numel() for weight in model.parameters())
    layers = model.model.language_model.layers
    one = sum(weight.numel() for weight in layers[0].parameters())
    fit = (ROOM * memory / A_WEIGHT - (whole - one * len(layers))) // one
    return max(1, min(len(layers), int(fit)))


def wait() -> None:
    if CUDA:
        torch.cuda.synchronize()


def milliseconds(work: Callable[[], object], rounds: int) -> list[float]:
    """Of each round, after one that is not counted."""
    found = []
    for number in range(rounds + 1):
        wait()
        begin = time.perf_counter()
        work()
        wait()
        if number:
            found.append(1e3 * (time.perf_counter() - begin))
    return found


def tiny_words() -> PairProcessor:
    processor = build_tiny_processor([SENTENCE, PROMPT] * 4, 300, patch_size=14)
    processor.tokenizer.padding_side = "left"
    # TRL trains on what the template puts after an answer; ours ends an answer with the end-of-turn token alone.
    processor.chat_template = TINY_CHAT_TEMPLATE.replace(
        "<|im_end|>\n{% endfor %}", "<|im_end|>{% if message['role'] == 'user' %}\n{% endif %}{% endfor %}"
    )
    return processor


def samples(pairs: int, answers: int, side: int) -> list[Sample]:
    random = np.random.default_rng(0)
    return [
        Sample(
            str(at),
            [Image.fromarray(random.integers(0, 255, (side, side, 3), dtype=np.uint8)) for _ in range(2)],
            PROMPT,
            [" ".join(random.permutation(SENTENCE.split())) for _ in range(answers)],
        )
        for at in range(pairs)
    ]


def configuration(processor: PairProcessor, small: bool, layers: int | None = None) -> Any:
    plain = build_tiny_model(processor).config if small else published_config("qwen2_5_vl_7b")
    fields = plain.to_dict()
    fields.pop("model_type")
    config = PairQwen2_5_VLConfig(**fields, difference={"variant": "ours"})
    config.image_token_id = processor.image_token_id
    config._attn_implementation = "sdpa"
    if layers is not None:
        config.text_config.num_hidden_layers = layers
        config.text_config.layer_types = config.text_config.layer_types[:layers]
    return config


def new_model(config: Any, recipe: AnswerRecipe) -> Any:
    """Random weights on the device, frozen and with adapters as the recipe has it."""
    torch.set_default_dtype(torch.bfloat16 if recipe.lora_rank and recipe.bf16 else torch.float32)
    try:
        with DEVICE:
            model = PairQwen2_5_VL(config)
    finally:
        torch.set_default_dtype(torch.float32)
    assert model.model.difference is not None
    model.model.difference.float()
    freeze(model, recipe)
    return with_adapters(model, recipe).train()


def on_device(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: value.to(DEVICE) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}


def stepping(trainer: Any, batch: dict[str, Any], optimizer: torch.optim.Optimizer) -> Step:
    """A step of any Trainer, ours or TRL's, on one batch."""

    def step() -> None:
        with trainer.accelerator.autocast():
            loss = trainer.compute_loss(trainer.model, dict(batch))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def our_trainer(recipe: AnswerRecipe, model: Any, processor: PairProcessor, data: list[Sample]) -> tuple[Any, Any]:
    """The trainer and its batch."""
    collator = PackingCollator(processor)
    if isinstance(recipe, DNPORecipe):
        for sample in data:  # what the reference says of each answer, stored; any number takes the same time
            sample.reference = [-20.0] * len(sample.answers) if recipe.kl_weight == 0 else None
        trainer: Any = DNPOTrainer(recipe, model, processor, data, collator)
    else:
        trainer = SFTTrainer(recipe, model, processor, data, collator)
    return trainer, on_device(collator(data))


def trl_trainer(recipe: AnswerRecipe, model: Any, processor: PairProcessor, data: list[Sample]) -> tuple[Any, Any]:
    """TRL's trainer of the same stage and its batch: a row an answer, or a row a rejected answer."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer, SFTConfig
    from trl import SFTTrainer as TheirTrainer

    common: dict[str, Any] = {
        "output_dir": str(recipe.out), "report_to": "none", "use_cpu": not CUDA, "bf16": fast_bf16(),
        "max_length": None, "gradient_checkpointing": recipe.gradient_checkpointing, "disable_tqdm": True,
    }  # fmt: skip

    def said(text: str, role: str = "assistant") -> list[dict[str, str]]:
        return [{"role": role, "content": text}]

    def row(sample: Sample) -> dict[str, Any]:
        return {"images": sample.images, "prompt": said(sample.prompt, "user")}

    if isinstance(recipe, DNPORecipe):
        rows = [
            {**row(sample), "chosen": said(sample.answers[0]), "rejected": said(answer)}
            for sample in data
            for answer in sample.answers[1:]
        ]
        trainer: Any = DPOTrainer(
            model=model, args=DPOConfig(**common, beta=recipe.beta), train_dataset=Dataset.from_list(rows),
            processing_class=processor,
        )  # fmt: skip
    else:
        rows = [{**row(sample), "completion": said(answer)} for sample in data for answer in sample.answers]
        trainer = TheirTrainer(
            model=model, args=SFTConfig(**common), train_dataset=Dataset.from_list(rows), processing_class=processor
        )
    return trainer, on_device(trainer.data_collator([dict(row) for row in rows]))


class Parts:
    """Milliseconds of a step's parts: forward of the modules named, backward, update."""

    def __init__(self, model: Any) -> None:
        plain = model.get_base_model() if hasattr(model, "get_base_model") else model
        body = plain.model
        self.modules = {"vision tower": body.visual, "difference path": body.difference,
                        "language model": body.language_model, "head": plain.lm_head}  # fmt: skip
        self.found: dict[str, float] = {}
        self.begun = 0.0

    def _begin(self, *_: Any) -> None:
        wait()
        self.begun = time.perf_counter()

    def _end(self, name: str, *_: Any) -> None:
        wait()
        self.found[name] = self.found.get(name, 0.0) + 1e3 * (time.perf_counter() - self.begun)

    def measure(self, trainer: Any, batch: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, float]:
        """One step, waited for after each part."""
        hooks = []
        for name, module in self.modules.items():
            hooks += [module.register_forward_pre_hook(self._begin),
                      module.register_forward_hook(partial(self._end, name))]  # fmt: skip
        with trainer.accelerator.autocast():
            loss = trainer.compute_loss(trainer.model, dict(batch))
        for hook in hooks:  # activations computed again belong to the way back
            hook.remove()
        for name, work in (("backward", loss.backward), ("update", optimizer.step)):
            self._begin()
            work()
            self._end(name)
        optimizer.zero_grad()
        return self.found


def measure(
    title: str, recipe: AnswerRecipe, config: Any, processor: PairProcessor, data: list[Sample], given: Any
) -> None:
    """One way to train, in lines; and TRL's on the same weights."""
    if CUDA:
        torch.cuda.reset_peak_memory_stats()
    torch.manual_seed(0)
    model = new_model(config, recipe)
    counted = len(data) * operations_of(
        model, config, recipe.model_copy(update={"gradient_checkpointing": False}), *tokens_of(processor, data)
    )
    ways = {"ours": our_trainer, **({} if given.no_trl or not recipe.lora_rank else {"TRL": trl_trainer})}
    middle = {}
    for name, make in ways.items():
        trainer, batch = make(recipe, model, processor, data)
        if recipe.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-5)
        if CUDA:
            torch.cuda.reset_peak_memory_stats()
        found = milliseconds(stepping(trainer, batch, optimizer), given.rounds)
        middle[name] = statistics.median(found)
        line = f"{title}, {name}: {middle[name]:.0f} ms a step ({min(found):.0f} to {max(found):.0f})"
        line += f", {1e3 * len(data) / middle[name]:.2f} pairs/s"
        if CUDA:
            line += f", peak {torch.cuda.max_memory_allocated() / 1e9:.1f} GB"
        if name == "TRL":
            print(f"{line}; ours is {middle['TRL'] / middle['ours']:.2f} x")
            continue
        answers = int(batch["labels"].numel())
        line += f", {1e3 * answers / middle[name]:.0f} answer tokens/s"
        peak = peak_of(torch.cuda.get_device_name()) if CUDA else None
        if peak:
            line += f", {100 * counted / (middle[name] / 1e3) / peak:.0f} % of the bf16 peak ({counted / 1e12:.1f} T)"
        print(line)
        parts = Parts(model).measure(trainer, batch, optimizer)
        shares = ", ".join(f"{part} {value:.0f} ms" for part, value in parts.items())
        if peak:
            forward = language_forward(config, model, sum(tokens_of(processor, data))) * len(data)
            shares += (
                f"; language model forward {100 * forward / (parts['language model'] / 1e3) / peak:.0f} % of the peak"
            )
        print(f"    {shares}")
        del trainer, batch, optimizer
    del model
    gc.collect()
    if CUDA:
        torch.cuda.empty_cache()


def language_forward(config: Any, model: Any, tokens: float) -> float:
    """Operations of the language model's layers forward on one row: 2 a weight and token, and attention."""
    weights = sum(
        weight.numel() for name, weight in model.named_parameters() if ".layers." in name and ".visual." not in name
    )
    text = config.text_config
    return 2 * weights * tokens + 4 * tokens**2 * text.hidden_size * text.num_hidden_layers


def tokens_of(processor: PairProcessor, data: list[Sample]) -> tuple[float, float, float]:
    """Of a row: image tokens, other tokens of the prompt, answer tokens."""
    batch = PackingCollator(processor)(data[:1])
    images = float((batch["mm_token_type_ids"] == 1).sum())
    answers = float(batch["labels"].numel())
    return images, batch["input_ids"].shape[1] - images - answers, answers


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--no-trl", action="store_true")
    parser.add_argument("--small", action="store_true", help="a tiny model, to see that all of it runs")
    given = parser.parse_args(arguments)
    if not CUDA and not given.small:
        print("no CUDA GPU here: nothing measured")
        return
    transformers.logging.set_verbosity_error()
    processor = tiny_words()
    side = 56 if given.small else 256
    memory = torch.cuda.get_device_properties(0).total_memory if CUDA else 0
    layers = None if given.small else layers_that_fit(memory, configuration(processor, small=False))
    print(f"{torch.cuda.get_device_name() if CUDA else 'CPU'}, torch {torch.__version__}, {given.pairs} pairs of "
          f"2 x {side} px; full: {'all' if layers is None else layers} layers of the language model")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        common: dict[str, Any] = {
            "model": "7b", "data": Path(folder), "out": Path(folder), "learning_rate": 1e-5, "bf16": fast_bf16(),
            "gradient_checkpointing": True, "batch_size": given.pairs,
        }  # fmt: skip
        for way, fields in (("LoRA", {"lora_rank": given.rank, "train_vision": False}), ("full", {})):
            config = configuration(processor, given.small, layers if way == "full" else None)
            recipes: dict[str, tuple[AnswerRecipe, int]] = {
                "fine-tuning": (SFTRecipe(**common, **fields), 5),
                "DNPO, lambda 0": (DNPORecipe(**common, **fields, kl_weight=0.0), 3),
            }
            if way == "LoRA":  # the reference is the policy with its adapters off; a copy of the whole would not fit
                recipes["DNPO, lambda 0.1"] = (DNPORecipe(**common, **fields, kl_weight=0.1), 3)
            for name, (recipe, answers) in recipes.items():
                only = argparse.Namespace(**{**vars(given), "no_trl": given.no_trl or name == "DNPO, lambda 0.1"})
                measure(f"{name}, {way}", recipe, config, processor, samples(given.pairs, answers, side), only)


if __name__ == "__main__":
    main()
