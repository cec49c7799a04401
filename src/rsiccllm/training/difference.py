"""The difference path alone, before any answer: where and what changed, from masks and facts.

Neither answers nor the language model take part, so a pair costs a small part of what it costs in fine-tuning. What is
learnt here does not depend on words, so a pair can be turned, mirrored and its dates swapped: sixteen for one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import set_seed

from rsiccllm.model.checkpoint import resolve_checkpoint
from rsiccllm.model.difference import fact_loss, map_loss
from rsiccllm.model.processor import PairProcessor, load_processor
from rsiccllm.model.vlm import load_model
from rsiccllm.records import INSTRUCTIONS, Instruction
from rsiccllm.training.crops import Crops
from rsiccllm.training.data import PairDataset, fill_dataset, stated_facts
from rsiccllm.training.learning import difference_settings
from rsiccllm.training.packing import Sample, sample_fact_target, sample_map_target
from rsiccllm.training.recipe import DifferenceRecipe
from rsiccllm.training.run import claim_output, train_and_save
from rsiccllm.training.trainer import StageTrainer, known
from rsiccllm.training.views import Views


class ImageCollator:
    """Samples as a batch of images: pixel_values, image_grid_thw, map_targets and fact_targets as in packed batches."""

    def __init__(self, processor: PairProcessor) -> None:
        self.processor = processor

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        images = [image for sample in samples for image in sample.images]
        encoded = self.processor.image_processor(images=images, return_tensors="pt")
        grids = encoded["image_grid_thw"]
        return {
            "pixel_values": encoded["pixel_values"],
            "image_grid_thw": grids,
            "map_targets": [sample_map_target(item, grids[2 * i], self.processor) for i, item in enumerate(samples)],
            "fact_targets": [sample_fact_target(item, grids[2 * i], self.processor) for i, item in enumerate(samples)],
        }


class DifferenceTrainer(StageTrainer):
    """The weighted losses of the map and of the facts."""

    recipe: DifferenceRecipe

    def counts(self, batch: Mapping[str, Any]) -> list[int]:
        """Pairs with a mask, pairs whose facts are known."""
        return [known(batch["map_targets"]), known(batch["fact_targets"])]

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The mean loss over the pairs of one batch, so scaled that processes and accumulated batches add up."""
        inputs = dict(inputs)
        own = self.counts(inputs)
        share = self.shares(own, num_items_in_batch)
        masks, facts = inputs.pop("map_targets"), inputs.pop("fact_targets")
        output = model(**inputs)
        seen, told = map_loss(output.maps, masks), fact_loss(output.maps, output.facts, masks, facts)
        self.note(own[0], map_loss=seen)
        self.note(own[1], fact_loss=told)
        loss = share[0] * self.recipe.map_weight * seen + share[1] * self.recipe.fact_weight * told
        return (loss, output) if return_outputs else loss


def _one_a_pair(records: list[Instruction]) -> list[Instruction]:
    """A pair has one record a task; the difference path asks for no task. One that tells what changed comes first."""
    chosen: dict[str, Instruction] = {}
    for record in records:
        if record.pair not in chosen or (
            stated_facts(chosen[record.pair]) is None and stated_facts(record) is not None
        ):
            chosen[record.pair] = record
    return list(chosen.values())


def train_difference(recipe: DifferenceRecipe) -> Path:
    """Run a recipe, or what is left of it. Returns the folder of the finished model, from which SFT starts."""
    if claim_output(recipe):
        return recipe.out / "model"
    dataset = fill_dataset(PairDataset, recipe, INSTRUCTIONS, Instruction, lambda record: [], _one_a_pair)
    set_seed(recipe.seed)  # fresh difference weights are drawn from it
    checkpoint = resolve_checkpoint(recipe.model)
    processor = load_processor(checkpoint, recipe.min_pixels, recipe.max_pixels)
    model = load_model(checkpoint, "ours", settings=difference_settings(recipe))
    model.requires_grad_(False)
    model.model.difference.requires_grad_(True)
    model.model.visual.requires_grad_(recipe.train_vision)
    views = Crops(Views(dataset, swapped=True), recipe.crop, recipe.nuisance, recipe.seed, processor)
    trainer = DifferenceTrainer(recipe, model, processor, views, ImageCollator(processor))
    return train_and_save(trainer, processor)
