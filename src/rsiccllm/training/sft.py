"""Supervised fine-tuning: next-token cross-entropy on the answers, and the change map learnt from masks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.nn.functional import cross_entropy
from transformers import set_seed

from rsiccllm.model.checkpoint import resolve_checkpoint
from rsiccllm.model.difference import fact_loss, map_loss
from rsiccllm.model.processor import load_processor
from rsiccllm.records import INSTRUCTIONS, Instruction, Preference
from rsiccllm.training.crops import Crops
from rsiccllm.training.data import PairDataset, Rows, check_lengths, fill_dataset
from rsiccllm.training.learning import load_to_train
from rsiccllm.training.packing import collator_of
from rsiccllm.training.recipe import SFTRecipe
from rsiccllm.training.run import claim_output, train_and_save
from rsiccllm.training.streamed import streamed
from rsiccllm.training.trainer import StageTrainer, known
from rsiccllm.training.validation import Validation, validation_records
from rsiccllm.training.views import Views


class SFTTrainer(StageTrainer):
    """Mean cross-entropy over all answer tokens of the global batch, plus the weighted losses of map and facts."""

    recipe: SFTRecipe

    def counts(self, batch: Mapping[str, Any]) -> list[int]:
        """Answer tokens, pairs with a mask, pairs whose facts are known."""
        return [len(batch["labels"]), known(batch["map_targets"]), known(batch["fact_targets"])]

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss of one packed batch, so scaled that accumulated steps and processes add up to the global mean."""
        inputs = dict(inputs)
        own = self.counts(inputs)
        share = self.shares(own, num_items_in_batch)
        labels, masks, facts = (inputs.pop(name) for name in ("labels", "map_targets", "fact_targets"))
        for name in ("answer_of", "row_of"):
            inputs.pop(name)
        output = model(**inputs)
        answers = cross_entropy(output.logits.float(), labels)
        self.note(own[0], answer_loss=answers)
        loss = share[0] * answers
        if output.maps is not None:
            seen, told = map_loss(output.maps, masks), fact_loss(output.maps, output.facts, masks, facts)
            self.note(own[1], map_loss=seen)
            self.note(own[2], fact_loss=told)
            loss = loss + share[1] * self.recipe.map_weight * seen + share[2] * self.recipe.fact_weight * told
        return (loss, output) if return_outputs else loss


def sft_dataset(recipe: SFTRecipe) -> Rows:
    """The rows that a recipe trains on. Raises InputError where they are not there or broken."""

    def answers(record: Instruction | Preference) -> list[str]:
        assert isinstance(record, Instruction)
        return record.answers[: recipe.max_answers]

    return streamed(recipe, INSTRUCTIONS, Instruction, answers) or fill_dataset(
        PairDataset, recipe, INSTRUCTIONS, Instruction, answers
    )


def train_sft(recipe: SFTRecipe) -> Path:
    """Run a recipe, or what is left of it. Returns the folder of the finished model."""
    if claim_output(recipe):
        return recipe.out / "model"
    dataset = sft_dataset(recipe)
    held_out = validation_records(recipe)
    set_seed(recipe.seed)  # fresh difference weights and adapters are drawn from it
    checkpoint = resolve_checkpoint(recipe.model)
    processor = load_processor(checkpoint, recipe.min_pixels, recipe.max_pixels)
    model = load_to_train(checkpoint, recipe, recipe.variant)
    collator = collator_of(recipe, processor)
    check_lengths(dataset, collator)
    views = Views(dataset, swapped=False) if recipe.turns else dataset
    shown = Crops(views, None, recipe.nuisance, recipe.seed, processor) if recipe.nuisance else views
    validation = Validation(recipe, held_out, processor) if held_out else None
    trainer = SFTTrainer(recipe, model, processor, shown, collator, validation)
    return train_and_save(trainer, processor)
