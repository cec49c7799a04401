"""The difference path alone, before any answer: where and what changed, from masks and facts.

Neither answers nor the language model take part, so a pair costs a small part of what it costs in fine-tuning. What is
learnt here does not depend on words, so a pair can be turned, mirrored and its dates swapped: sixteen for one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from torch.utils.data import Dataset
from transformers import set_seed

from rsiccllm.model.checkpoint import resolve_checkpoint
from rsiccllm.model.difference import fact_loss, fact_target, map_loss
from rsiccllm.model.processor import PairProcessor, load_processor
from rsiccllm.model.vlm import load_model
from rsiccllm.records import INSTRUCTIONS, Instruction
from rsiccllm.training.data import PairDataset, load_records
from rsiccllm.training.packing import Sample, sample_map_target
from rsiccllm.training.recipe import DifferenceRecipe
from rsiccllm.training.trainer import StageTrainer, claim_output, train_and_save

VIEWS = 16
"""Four turns, each mirrored or not, each with the dates in order or swapped."""

OPPOSITE = {"appear": "disappear", "disappear": "appear"}


class View(NamedTuple):
    """One of the sixteen ways to look at a pair. turns: quarter turns, 0 to 3."""

    turns: int
    mirrored: bool
    swapped: bool

    def of(self, sample: Sample) -> Sample:
        """The sample turned, mirrored, with its dates swapped and the directions of its facts with them."""
        before, after = (self._look(np.asarray(image)) for image in sample.images)
        images = [Image.fromarray(image) for image in ((after, before) if self.swapped else (before, after))]
        facts = sample.facts
        if facts is not None and self.swapped:
            facts = [(thing, OPPOSITE[direction]) for thing, direction in facts]
        mask = None if sample.mask is None else self._look(sample.mask)
        return Sample(sample.id, images, sample.prompt, [], mask, facts)

    def _look(self, grid: np.ndarray) -> np.ndarray:
        turned = np.rot90(grid, self.turns)
        return np.ascontiguousarray(turned[:, ::-1] if self.mirrored else turned)


class Views(Dataset):
    """Every view of every pair of a dataset, VIEWS times as long."""

    def __init__(self, pairs: PairDataset) -> None:
        self.pairs = pairs
        self.seen = pairs.seen

    def __len__(self) -> int:
        return VIEWS * len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        pair, view = divmod(index, VIEWS)
        return View(view // 4, view % 4 >= 2, view % 2 == 1).of(self.pairs[pair])


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
            "fact_targets": [None if item.facts is None else fact_target(item.facts) for item in samples],
        }


class DifferenceTrainer(StageTrainer):
    """The weighted losses of the map and of the facts."""

    recipe: DifferenceRecipe

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The mean loss over the pairs of one batch."""
        inputs = dict(inputs)
        masks, facts = inputs.pop("map_targets"), inputs.pop("fact_targets")
        output = model(**inputs)
        seen, told = map_loss(output.maps, masks), fact_loss(output.maps, output.facts, masks, facts)
        self.note(map_loss=seen, fact_loss=told)
        loss = self.recipe.map_weight * seen + self.recipe.fact_weight * told
        return (loss, output) if return_outputs else loss


def train_difference(recipe: DifferenceRecipe) -> Path:
    """Run a recipe, or what is left of it. Returns the folder of the finished model, from which SFT starts."""
    if claim_output(recipe):
        return recipe.out / "model"
    records = load_records(recipe.data, INSTRUCTIONS, Instruction, recipe.split)
    # A pair has one record a task; the difference path asks for no task.
    dataset = PairDataset(recipe.data, list({record.pair: record for record in records}.values()), lambda record: [])
    set_seed(recipe.seed)  # fresh difference weights are drawn from it
    checkpoint = resolve_checkpoint(recipe.model)
    processor = load_processor(checkpoint, recipe.min_pixels, recipe.max_pixels)
    model = load_model(checkpoint, "ours")
    model.requires_grad_(False)
    model.model.difference.requires_grad_(True)
    model.model.visual.requires_grad_(recipe.train_vision)
    trainer = DifferenceTrainer(recipe, model, processor, Views(dataset), ImageCollator(processor))
    return train_and_save(trainer, processor)
