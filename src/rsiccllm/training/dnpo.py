"""Dual-negative preference optimisation: DPO over every rejected answer, plus the reverse KL to the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import set_seed

from rsiccllm.model.checkpoint import resolve_checkpoint
from rsiccllm.model.processor import load_processor
from rsiccllm.model.vlm import load_model
from rsiccllm.records import PREFERENCES, Instruction, Preference
from rsiccllm.training.data import PairDataset, check_lengths, load_records
from rsiccllm.training.losses import answer_log_probs, dpo_loss, reverse_kl
from rsiccllm.training.packing import PackingCollator
from rsiccllm.training.recipe import DNPORecipe
from rsiccllm.training.trainer import (
    StageTrainer,
    claim_output,
    load_to_train,
    train_and_save,
)


def chosen_and_rejected(row_of: Tensor) -> tuple[Tensor, Tensor]:
    """Answer indices of each comparison, the first answer of a row against each later one.

    row_of: [answers], ascending. Returns ([comparisons], [comparisons]).
    """
    first = torch.searchsorted(row_of.contiguous(), row_of.contiguous())
    rejected = torch.arange(len(row_of), device=row_of.device)
    compared = rejected != first
    return first[compared], rejected[compared]


class DNPOTrainer(StageTrainer):
    """One forward of the policy and one of the reference a batch; chosen and rejected share the images and the prompt.

    reference: a frozen copy of the starting model, or None where the policy carries LoRA adapters (then the reference
    is the policy with its adapters off).
    """

    recipe: DNPORecipe

    def __init__(self, *args: Any, reference: Any = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.reference = reference
        if reference is not None:
            self.reference = reference.to(self.args.device).eval().requires_grad_(False)

    @torch.no_grad()
    def _reference_logits(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        # In the policy's own precision, or the two would differ before the first update.
        with self.accelerator.autocast():
            if self.reference is not None:
                return self.reference(**inputs).logits
            unwrapped = self.accelerator.unwrap_model(model)
            with unwrapped.disable_adapter():
                return unwrapped(**inputs).logits

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Mean DPO loss over comparisons, plus `kl_weight` times the mean reverse KL over answer tokens."""
        inputs = dict(inputs)
        for name in ("map_targets", "fact_targets"):
            inputs.pop(name)
        labels, answer_of, row_of = (inputs.pop(name) for name in ("labels", "answer_of", "row_of"))
        output = model(**inputs)
        reference = self._reference_logits(model, inputs)
        policy_log_probs = answer_log_probs(output.logits, labels, answer_of, len(row_of))
        reward = self.recipe.beta * (policy_log_probs - answer_log_probs(reference, labels, answer_of, len(row_of)))
        chosen, rejected = chosen_and_rejected(row_of)
        loss = dpo_loss(reward[chosen] / self.recipe.beta, reward[rejected] / self.recipe.beta, self.recipe.beta).mean()
        divergence = reverse_kl(output.logits, reference)
        self.note(
            dpo_loss=loss,
            reverse_kl=divergence.mean(),
            reward_chosen=reward[chosen].mean(),
            reward_rejected=reward[rejected].mean(),
            reward_accuracy=(reward[chosen] > reward[rejected]).float().mean(),
        )
        if self.recipe.kl_weight:
            loss = loss + self.recipe.kl_weight * divergence.mean()
        if self.recipe.sft_weight:
            is_chosen = torch.isin(answer_of, chosen)
            likelihood = policy_log_probs[chosen.unique()].sum() / is_chosen.sum()
            loss = loss - self.recipe.sft_weight * likelihood
        return (loss, output) if return_outputs else loss


def dnpo_dataset(recipe: DNPORecipe) -> PairDataset:
    """The rows that a recipe trains on, the chosen answer first. Raises InputError where they are missing or broken."""

    def answers(record: Instruction | Preference) -> list[str]:
        assert isinstance(record, Preference)
        return [record.chosen, *(answer.text for answer in record.rejected[: recipe.max_rejected])]

    return PairDataset(recipe.data, load_records(recipe.data, PREFERENCES, Preference, recipe.split), answers)


def train_dnpo(recipe: DNPORecipe) -> Path:
    """Run a recipe, or what is left of it. Returns the folder of the finished model."""
    if claim_output(recipe):
        return recipe.out / "model"
    dataset = dnpo_dataset(recipe)
    set_seed(recipe.seed)  # fresh difference weights and adapters are drawn from it
    checkpoint = resolve_checkpoint(recipe.model)
    processor = load_processor(checkpoint, recipe.min_pixels, recipe.max_pixels)
    reference = None if recipe.lora_rank else load_model(checkpoint)
    model = load_to_train(checkpoint, recipe)
    collator = PackingCollator(processor, recipe.max_tokens)
    check_lengths(dataset, collator)
    trainer = DNPOTrainer(recipe, model, processor, dataset, collator, reference=reference)
    return train_and_save(trainer, processor)
