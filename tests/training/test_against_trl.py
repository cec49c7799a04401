"""Our packed losses beside TRL's on the same images, prompts and answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import sample
from transformers import Trainer

from rsiccllm.model.processor import TINY_CHAT_TEMPLATE, load_processor
from rsiccllm.model.vlm import load_model
from rsiccllm.training.dnpo import DNPOTrainer
from rsiccllm.training.packing import PackingCollator
from rsiccllm.training.recipe import DNPORecipe, SFTRecipe
from rsiccllm.training.sft import SFTTrainer

# TRL trains on what the template puts after an answer; ours ends an answer with the end-of-turn token alone.
TEMPLATE = TINY_CHAT_TEMPLATE.replace(
    "<|im_end|>\n{% endfor %}", "<|im_end|>{% if message['role'] == 'user' %}\n{% endif %}{% endfor %}"
)


@pytest.fixture(params=["qwen2_5_vl", "qwen3_vl"])
def parts(request: pytest.FixtureRequest, tiny_checkpoints: dict[str, Path]) -> dict[str, Any]:
    """A policy moved away from its reference, so that no loss sits at its starting value."""
    folder = tiny_checkpoints[request.param]
    processor = load_processor(folder)
    processor.chat_template = TEMPLATE
    processor.tokenizer.padding_side = "left"
    policy, reference = (load_model(folder, "ours") for _ in range(2))
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in policy.parameters():
            weight += 0.05 * torch.randn_like(weight)
    return {"processor": processor, "policy": policy, "reference": reference}


def conversation(text: str, role: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


def completions(ids: torch.Tensor, mask: torch.Tensor) -> list[list[int]]:
    return [row[keep.bool()].tolist() for row, keep in zip(ids, mask, strict=True)]


# Their losses and weights, and the fields of our recipe that mean the same. With one rejected answer S-DPO is DPO.
SAME: dict[str, tuple[list[str], list[float] | None, dict[str, Any]]] = {
    "paper": (["sigmoid"], None, {}),
    "softmax": (["sigmoid"], None, {"variant": "softmax"}),
    "length-normalised": (["sigmoid_norm"], None, {"variant": "length-normalised"}),
    "anchored by cross-entropy": (["sigmoid", "sft"], [1.0, 0.7], {"sft_weight": 0.7}),
}


@pytest.mark.parametrize("name", SAME)
def test_losses_with_one_rejected_equal_trl(parts: dict[str, Any], tmp_path: Path, name: str) -> None:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    their_loss, their_weights, fields = SAME[name]
    samples = [sample(seed, 2) for seed in range(3)]
    rows = [
        {
            "images": item.images,
            "prompt": conversation(item.prompt, "user"),
            "chosen": conversation(item.answers[0], "assistant"),
            "rejected": conversation(item.answers[1], "assistant"),
        }
        for item in samples
    ]
    settings = DPOConfig(str(tmp_path), report_to="none", use_cpu=True, bf16=False, max_length=None, beta=0.25,
                         loss_type=their_loss, loss_weights=their_weights)  # fmt: skip
    theirs = DPOTrainer(
        model=parts["policy"],
        ref_model=parts["reference"],
        args=settings,
        train_dataset=Dataset.from_list(rows),
        processing_class=parts["processor"],
    )
    batch = theirs.data_collator([dict(row) for row in rows])
    expected = theirs.compute_loss(parts["policy"], batch)

    recipe = DNPORecipe(
        model="", data=tmp_path, out=tmp_path / "ours", learning_rate=1e-4, beta=0.25, kl_weight=0, batch_size=3,
        **fields,
    )  # fmt: skip
    collator = PackingCollator(parts["processor"])
    packed = collator(samples)
    tokens = completions(batch["input_ids"], batch["completion_mask"])
    assert torch.cat([torch.tensor(a) for pair in zip(tokens[:3], tokens[3:], strict=True) for a in pair]).equal(
        packed["labels"]
    )
    ours = DNPOTrainer(recipe, parts["policy"], parts["processor"], samples, collator, reference=parts["reference"])
    loss = ours.compute_loss(parts["policy"], packed)
    assert abs(float(loss) - 0.6931) > 1e-3
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=0)


def test_sft_loss_and_gradients_equal_trl(parts: dict[str, Any], tmp_path: Path) -> None:
    from datasets import Dataset
    from trl import SFTConfig
    from trl import SFTTrainer as TheirTrainer

    samples = [sample(seed, 3) for seed in range(2)]
    rows = [
        {
            "images": item.images,
            "prompt": conversation(item.prompt, "user"),
            "completion": conversation(answer, "assistant"),
        }
        for item in samples
        for answer in item.answers
    ]
    policy = parts["policy"]
    settings = SFTConfig(str(tmp_path), report_to="none", use_cpu=True, bf16=False, max_length=None)
    theirs = TheirTrainer(
        model=policy, args=settings, train_dataset=Dataset.from_list(rows), processing_class=parts["processor"]
    )
    batch = theirs.data_collator([dict(row) for row in rows])
    labels = batch["labels"]
    expected = Trainer.compute_loss(theirs, policy, dict(batch))
    expected.backward()
    gradients = {name: weight.grad.clone() for name, weight in policy.named_parameters() if weight.grad is not None}
    policy.zero_grad()

    recipe = SFTRecipe(model="", data=tmp_path, out=tmp_path / "ours", learning_rate=1e-4, map_weight=0, fact_weight=0)
    collator = PackingCollator(parts["processor"])
    packed = collator(samples)
    assert labels[labels != -100].equal(packed["labels"])
    loss = SFTTrainer(recipe, policy, parts["processor"], samples, collator).compute_loss(policy, packed)
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=0)
    loss.backward()
    for name, expected_gradient in gradients.items():
        found = dict(policy.named_parameters())[name].grad
        torch.testing.assert_close(found, expected_gradient, atol=1e-5, rtol=1e-3, msg=name)
