"""Dual-negative preference optimisation: a preference loss over every rejected answer, and the reverse KL."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import set_seed

from rsiccllm.errors import InputError
from rsiccllm.model.checkpoint import resolve_checkpoint
from rsiccllm.model.generate import sample_tokens
from rsiccllm.model.processor import load_processor
from rsiccllm.model.vlm import load_model
from rsiccllm.records import PREFERENCES, Instruction, Preference
from rsiccllm.training.data import PairDataset, check_lengths, fill_dataset
from rsiccllm.training.learning import load_to_train
from rsiccllm.training.losses import (
    anchor_loss,
    answer_log_probs,
    dpo_loss,
    dpop_loss,
    entropy,
    reverse_kl,
    sampled_kl,
    softmax_dpo_loss,
)
from rsiccllm.training.packing import PackingCollator, Sample, collator_of
from rsiccllm.training.recipe import DNPORecipe
from rsiccllm.training.reference import adapters_off, stored_reference
from rsiccllm.training.run import claim_output, train_and_save
from rsiccllm.training.streamed import ShardDataset, streamed
from rsiccllm.training.trainer import StageTrainer, keep_texture
from rsiccllm.training.validation import Validation, evaluating, validation_records

BY_ROW = frozenset({"softmax", "ours"})
"""Variants that compare a row's chosen answer with all its rejected at once."""


def chosen_answers(row_of: Tensor) -> Tensor:
    """The first answer of each row, which is the chosen one. row_of: [answers], ascending. Returns [rows]."""
    return torch.searchsorted(row_of.contiguous(), row_of.unique())


def chosen_and_rejected(row_of: Tensor) -> tuple[Tensor, Tensor]:
    """Answer indices of each comparison, the first answer of a row against each later one.

    row_of: [answers], ascending. Returns ([comparisons], [comparisons]).
    """
    first = torch.searchsorted(row_of.contiguous(), row_of.contiguous())
    rejected = torch.arange(len(row_of), device=row_of.device)
    compared = rejected != first
    return first[compared], rejected[compared]


def preference_losses(
    recipe: DNPORecipe, ratio: Tensor, lengths: Tensor, row_of: Tensor
) -> tuple[Tensor, Tensor | None]:
    """The recipe's preference loss: a mean over comparisons, or over rows where all rejected of a row count at once;
    and the anchored term, a mean over rows, where the recipe has one.

    ratio: [answers], log pi_theta(y|x) - log pi_ref(y|x). lengths: [answers] tokens. row_of: [answers], ascending.
    """
    chosen, rejected = chosen_and_rejected(row_of)
    beta, variant = recipe.beta, recipe.variant
    if variant == "length-normalised":
        ratio = ratio / lengths
    if variant == "positive":
        return dpop_loss(ratio[chosen], ratio[rejected], beta, recipe.positive_weight).mean(), None
    if variant in BY_ROW:
        loss = softmax_dpo_loss(ratio[chosen], ratio[rejected], row_of[rejected], beta).mean()
    else:
        loss = dpo_loss(ratio[chosen], ratio[rejected], beta).mean()
    anchored = variant in {"anchored", "ours"}
    return loss, anchor_loss(ratio[chosen_answers(row_of)], beta, recipe.anchor_margin).mean() if anchored else None


class DNPOTrainer(StageTrainer):
    """Chosen and rejected share the images and the prompt in one forward of the policy.

    reference: a frozen copy of the starting model, for a forward of its own with every batch; None where the policy
    carries LoRA adapters (then it is the policy with its adapters off), or the batches hold stored log-probabilities.
    packing: with it, batches are unpacked samples (`unpacked`) to which the policy first adds an answer of its own.
    """

    recipe: DNPORecipe

    def __init__(
        self, *args: Any, reference: Any = None, packing: PackingCollator | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.packing = packing
        self.reference = reference
        if reference is not None:
            self.reference = reference.to(self.args.device).eval().requires_grad_(False)
            keep_texture(self.reference, self.recipe)

    @torch.no_grad()
    def _reference_logits(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        # In the policy's own precision, or the two would differ before the first update.
        with self.accelerator.autocast():
            if self.reference is not None:
                return self.reference(**inputs).logits
            unwrapped = self.accelerator.unwrap_model(model)
            with adapters_off(unwrapped):
                return unwrapped(**inputs).logits

    def counts(self, batch: Mapping[str, Any]) -> list[int]:
        """Comparisons (rows, where a row's rejected count at once), rows, items of the divergence, chosen tokens.

        The divergence's items are answer tokens, or the answers that are drawn, one a row.
        """
        if "samples" in batch:
            assert self.packing is not None
            encode = self.packing.processor.encode_answer
            rows = drawn = len(batch["samples"])
            answers = sum(len(sample.answers) for sample in batch["samples"])
            chosen = sum(len(encode(sample.answers[0])) for sample in batch["samples"])
        else:
            first = chosen_answers(batch["row_of"])
            rows, answers, drawn = len(first), len(batch["row_of"]), len(batch["labels"])
            chosen = int(torch.isin(batch["answer_of"], first).sum())
        return [rows if self.recipe.variant in BY_ROW else answers - rows, rows, drawn, chosen]

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The recipe's preference loss, plus `kl_weight` times the mean reverse KL, plus `sft_weight` times the chosen
        answers' cross-entropy a token; so scaled that accumulated steps and processes add up to the global means."""
        own = self.counts(inputs)
        share = self.shares(own, num_items_in_batch)
        inputs = self._drawn(model, inputs["samples"]) if "samples" in inputs else dict(inputs)
        for name in ("map_targets", "fact_targets"):
            inputs.pop(name)
        kinds: list[str] = inputs.pop("kinds", [])
        stored: Tensor | None = inputs.pop("reference_log_probs", None)
        labels, answer_of, row_of = (inputs.pop(name) for name in ("labels", "answer_of", "row_of"))
        count = len(row_of)
        output = model(**inputs)
        policy = answer_log_probs(output.logits, labels, answer_of, count)
        lengths = torch.bincount(answer_of, minlength=count)
        logits: Tensor | None = None
        if stored is None:
            logits = self._reference_logits(model, inputs)
            stored = answer_log_probs(logits, labels, answer_of, count)
        divergence = None
        if logits is not None and self.recipe.kl_on == "samples":
            drawn = row_of != torch.cat([row_of[1:], row_of.new_tensor([-1])])  # the last answer of each row
            at = drawn[answer_of]
            of_drawn = (drawn.cumsum(0) - 1)[answer_of[at]]
            divergence = sampled_kl(output.logits[at], logits[at], labels[at], of_drawn, int(drawn.sum()))
            self.note(int(at.sum()), reverse_kl=divergence.sum() / at.sum())
            policy, stored, lengths, row_of = (value[~drawn] for value in (policy, stored, lengths, row_of))
        elif logits is not None:
            divergence = reverse_kl(output.logits, logits)
            self.note(own[2], reverse_kl=divergence.mean())
        ratio = policy - stored
        preference, anchored = preference_losses(self.recipe, ratio, lengths, row_of)
        self.note(own[0], preference_loss=preference)
        loss = share[0] * preference
        if anchored is not None:
            self.note(own[1], anchor_loss=anchored)
            loss = loss + share[1] * anchored
        if divergence is not None:
            loss = loss + share[2] * self.recipe.kl_weight * divergence.mean()
        if self.recipe.sft_weight:
            first = chosen_answers(row_of)
            loss = loss - share[3] * self.recipe.sft_weight * policy[first].sum() / lengths[first].sum()
        with torch.no_grad():
            self._note_health(policy, ratio, lengths, row_of, kinds)
            if (self.state.global_step + 1) % self.recipe.log_steps == 0:  # a pass over the vocabulary: not every time
                self.note(len(labels), entropy=entropy(output.logits).mean())
        return (loss, output) if return_outputs else loss

    def _drawn(self, model: Any, samples: Sequence[Sample]) -> dict[str, Any]:
        """The packed batch, with one answer of the policy's own as the last of each row.

        The seed of each goes by the run's seed, the update and the sample: a run that goes on draws the same, and so
        does one of more processes.
        """
        assert self.packing is not None
        processor = self.packing.processor
        questions = [(sample.images, sample.prompt) for sample in samples]
        at = f"{self.recipe.seed} {self.state.global_step}"
        seeds = [zlib.crc32(f"{at} {sample.id}".encode()) for sample in samples]
        with evaluating(self.accelerator.unwrap_model(model)) as plain, self.accelerator.autocast():
            tokens = sample_tokens(plain, processor, questions, seeds, 1, 1.0, 1.0, self.recipe.max_new_tokens)
        end = processor.tokenizer.eos_token_id
        rows = [row[: row.index(end) + 1] if end in row else row for row in tokens.tolist()]
        packed = self.packing([replace(sample, drawn=row) for sample, row in zip(samples, rows, strict=True)])
        return dict(self._prepare_inputs(packed))

    def _note_health(self, policy: Tensor, ratio: Tensor, lengths: Tensor, row_of: Tensor, kinds: list[str]) -> None:
        reward, mean = self.recipe.beta * ratio, policy / lengths
        chosen, rejected = chosen_and_rejected(row_of)
        right = (reward[chosen] > reward[rejected]).float()
        first = chosen_answers(row_of)
        self.note(
            len(rejected),
            reward_chosen=reward[chosen].mean(),
            reward_rejected=reward[rejected].mean(),
            margin=(reward[chosen] - reward[rejected]).mean(),
            reward_accuracy=right.mean(),
            log_prob_rejected=mean[rejected].mean(),
        )
        self.note(len(first), log_prob_chosen=mean[first].mean())
        for kind in dict.fromkeys(kinds):
            own = torch.tensor([other == kind for other in kinds], device=right.device)
            self.note(int(own.sum()), **{f"accuracy_{kind}": right[own].mean()})


def unpacked(samples: Sequence[Sample]) -> dict[str, Sequence[Sample]]:
    """A batch that is packed by the trainer, once the policy has answered."""
    return {"samples": samples}


class PreferenceDataset(PairDataset):
    """Preferences, the chosen answer first, each with its reference log-probabilities where they are stored."""

    reference: dict[str, list[float]] | None = None

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        if self.reference is not None:
            sample.reference = self.reference[sample.id]
        return sample


def dnpo_dataset(recipe: DNPORecipe) -> PreferenceDataset | ShardDataset:
    """The rows that a recipe trains on, the chosen answer first. Raises InputError where they are missing or broken."""

    def answers(record: Instruction | Preference) -> list[str]:
        assert isinstance(record, Preference)
        return [record.chosen, *(answer.text for answer in record.rejected[: recipe.max_rejected])]

    if (rows := streamed(recipe, PREFERENCES, Preference, answers)) is not None:
        if stores_reference(recipe):
            raise InputError("stored_reference: nothing is stored for data in shards; set stored_reference=false")
        return rows
    dataset = fill_dataset(PreferenceDataset, recipe, PREFERENCES, Preference, answers)
    twice = [name for name, times in Counter(record.id for record in dataset.records).items() if times > 1]
    if twice:  # what is stored of the reference goes by id
        raise InputError(f"data: record '{twice[0]}' is in two of the folders; expected each in one")
    return dataset


def needs_copy(recipe: DNPORecipe) -> bool:
    """Whether training holds a frozen copy of the model: no adapters to turn off, and a forward with every batch."""
    return not recipe.lora_rank and not stores_reference(recipe)


def stores_reference(recipe: DNPORecipe) -> bool:
    """Whether one number an answer is all that is needed of the reference."""
    return recipe.stored_reference and recipe.kl_weight == 0


def train_dnpo(recipe: DNPORecipe) -> Path:
    """Run a recipe, or what is left of it. Returns the folder of the finished model."""
    if claim_output(recipe):
        return recipe.out / "model"
    dataset = dnpo_dataset(recipe)
    held_out = validation_records(recipe)
    set_seed(recipe.seed)  # fresh difference weights and adapters are drawn from it
    checkpoint = resolve_checkpoint(recipe.model)
    processor = load_processor(checkpoint, recipe.min_pixels, recipe.max_pixels)
    reference = load_model(checkpoint) if needs_copy(recipe) else None
    model = load_to_train(checkpoint, recipe)
    collator = collator_of(recipe, processor)
    drawing = recipe.kl_on == "samples"
    check_lengths(dataset, collator, recipe.max_new_tokens if drawing else 0)
    validation = Validation(recipe, held_out, processor) if held_out else None
    trainer = DNPOTrainer(
        recipe, model, processor, dataset, unpacked if drawing else collator, validation,
        reference=reference, packing=collator if drawing else None,
    )  # fmt: skip
    if isinstance(dataset, PreferenceDataset) and stores_reference(recipe):
        dataset.reference = stored_reference(recipe, checkpoint, model, dataset, collator, trainer.args.device)
    return train_and_save(trainer, processor)
