"""One prompt, many answers, one sequence: [prompt | answer 1 | ... | answer K].

Every answer sees the prompt and itself, never another answer, and its positions go on from the prompt's end. The losses
are exactly those of K separate sequences; the images and the prompt, most of the tokens, are encoded once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rsiccllm.errors import InputError
from rsiccllm.model.difference import MAP_STRIDE, fact_cells, fact_target
from rsiccllm.model.processor import PairProcessor

MODEL_FIELDS = ("input_ids", "position_ids", "attention_mask", "mm_token_type_ids", "pixel_values", "image_grid_thw",
                "predict_at")  # fmt: skip
"""Fields of a packed batch that the model takes."""


@dataclass
class Sample:
    """What one row is made of. answers: with preferences, the first is the chosen one. mask: [height, width] bool.

    objects: uint8 [2, height, width], what went and what came at each pixel of the mask (`masks`), or None.
    facts: the (object, direction) of every change, [] for none, or None where that is not known. history: the
    (question, answer) of earlier turns of a dialogue; they are part of the prompt, and nothing is learnt on them.
    kinds: with preferences, how each rejected answer was made. reference: with preferences, the log-probability of each
    answer under the reference, where it is stored. drawn: tokens of an answer drawn from the model, packed as the last.
    """

    id: str
    images: list[Image.Image]
    prompt: str
    answers: list[str]
    mask: np.ndarray | None = None
    facts: list[tuple[str, str]] | None = None
    history: list[tuple[str, str]] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    objects: np.ndarray | None = None
    reference: list[float] | None = None
    drawn: list[int] = field(default_factory=list)


def prompt_positions(mm_token_type_ids: Tensor, image_grid_thw: Tensor, merge: int) -> Tensor:
    """M-RoPE positions of a prompt of text and still images, as Qwen2.5-VL and Qwen3-VL compute them.

    mm_token_type_ids: [tokens], 1 at image tokens. image_grid_thw: [images, 3] in patches. merge: patches a token.
    Returns [3, tokens] (time, row, column). Text counts on all three; an image spans its rows and columns, and the text
    after it goes on from its longer side.
    """
    columns: list[Tensor] = []
    grids = iter(image_grid_thw.tolist())
    position, at = 0, 0
    types = mm_token_type_ids.tolist()
    while at < len(types):
        if types[at] == 0:
            columns.append(torch.full((3, 1), position))
            position, at = position + 1, at + 1
            continue
        _, rows, cols = next(grids)
        rows, cols = rows // merge, cols // merge
        row, col = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
        grid = torch.stack([torch.zeros_like(row), row, col]).reshape(3, -1) + position
        columns.append(grid)
        position, at = position + max(rows, cols), at + rows * cols
    return torch.cat(columns, dim=1)


def packed_mask(segments: Tensor) -> Tensor:
    """Who may look at whom. segments: [batch, length], 0 for the prompt, k for answer k, -1 for padding.

    Returns [batch, 1, length, length] bool, True where the row's token may attend to the column's. Padding sees itself
    alone, because a softmax over nothing is not a number.
    """
    length = segments.shape[1]
    query, key = segments[:, :, None], segments[:, None, :]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    allowed = causal & ((key == 0) | (key == query)) & (query >= 0) & (key >= 0)
    return (allowed | torch.eye(length, dtype=torch.bool))[:, None]


def map_target(mask: np.ndarray, rows: int, cols: int) -> Tensor:
    """The share of each cell's area that a mask marks. mask: [height, width] bool. Returns [rows, cols] in [0, 1]."""
    grid = torch.from_numpy(np.ascontiguousarray(mask)).float()[None, None]
    return torch.nn.functional.interpolate(grid, (rows, cols), mode="area")[0, 0]


def sample_map_target(sample: Sample, grid: Tensor, processor: PairProcessor) -> Tensor | None:
    """`map_target` of a sample's mask for the map of an image of `grid` [3] patches, or None where it has no mask."""
    if sample.mask is None:
        return None
    patch = processor.image_processor.patch_size
    return map_target(sample.mask, *(int(side) * patch // MAP_STRIDE for side in grid[1:]))


def _preference_fields(samples: Sequence[Sample]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if any(sample.kinds for sample in samples):
        fields["kinds"] = [kind for sample in samples for kind in sample.kinds]
    if all(sample.reference is not None for sample in samples):
        fields["reference_log_probs"] = torch.tensor([value for sample in samples for value in sample.reference or ()])
    return fields


def sample_fact_target(sample: Sample, grid: Tensor, processor: PairProcessor) -> Tensor | None:
    """What the map should say of a sample: `fact_cells` where they are known, else `fact_target`, else None."""
    if sample.objects is not None and sample.objects.any():
        patch = processor.image_processor.patch_size
        objects = torch.from_numpy(np.ascontiguousarray(sample.objects))
        return fact_cells(objects, *(int(side) * patch // MAP_STRIDE for side in grid[1:]))
    return None if sample.facts is None else fact_target(sample.facts)


@dataclass
class PackingCollator:
    """Turns samples into one packed batch.

    The batch holds, with B rows of length L, N answer tokens and A answers in all:
    input_ids [B, L], position_ids [3, B, L], attention_mask [B, 1, L, L] bool, mm_token_type_ids [B, L], pixel_values,
    image_grid_thw [images, 3]; predict_at [N] (flattened position whose logits predict each answer token), labels [N]
    (those tokens), answer_of [N] (answer index of each), row_of [A] (row of each answer), map_targets and fact_targets
    (one tensor or None a row). With preferences also kinds, one text for each rejected answer, and where they are
    stored reference_log_probs [A].

    max_tokens: the longest row allowed, prompt and answers. A longer one raises InputError; nothing is cut.
    """

    processor: PairProcessor
    max_tokens: int = 4096

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        rows = [self._row(sample) for sample in samples]
        length = max(len(row["ids"]) for row in rows)
        batch = len(rows)
        pad = self.processor.tokenizer.pad_token_id
        input_ids = torch.full((batch, length), pad)
        segments = torch.full((batch, length), -1)
        types = torch.zeros((batch, length), dtype=torch.long)
        positions = torch.zeros((3, batch, length), dtype=torch.long)
        predict_at: list[int] = []
        labels: list[int] = []
        answer_of: list[int] = []
        row_of: list[int] = []
        for index, row in enumerate(rows):
            size = len(row["ids"])
            input_ids[index, :size] = torch.tensor(row["ids"])
            segments[index, :size] = torch.tensor(row["segments"])
            types[index, : len(row["types"])] = row["types"]
            positions[:, index, :size] = row["positions"]
            at = len(row["types"])
            for answer in row["answers"]:
                # The prompt's last token predicts the first of every answer.
                predict_at += [
                    index * length + at_ for at_ in [len(row["types"]) - 1, *range(at, at + len(answer) - 1)]
                ]
                labels += answer
                answer_of += [len(row_of)] * len(answer)
                row_of.append(index)
                at += len(answer)
        pictures = [row["prompt"] for row in rows if "pixel_values" in row["prompt"]]
        images = {
            name: torch.cat([prompt[name] for prompt in pictures])
            for name in ("pixel_values", "image_grid_thw")
            if pictures
        }
        return {
            "input_ids": input_ids,
            "position_ids": positions,
            "attention_mask": packed_mask(segments),
            "mm_token_type_ids": types,
            **images,
            "predict_at": torch.tensor(predict_at),
            "labels": torch.tensor(labels),
            "answer_of": torch.tensor(answer_of),
            "row_of": torch.tensor(row_of),
            "map_targets": [row["target"] for row in rows],
            "fact_targets": [row["facts"] for row in rows],
            **_preference_fields(samples),
        }

    def _row(self, sample: Sample) -> dict[str, Any]:
        prompt = self.processor.encode_prompt(sample.prompt, sample.images, sample.history)
        types = prompt["mm_token_type_ids"]
        grids = prompt.get("image_grid_thw", torch.zeros((0, 3), dtype=torch.long))
        merge = self.processor.image_processor.merge_size
        start = prompt_positions(types, grids, merge)
        after = int(start.max()) + 1
        answers = [self.processor.encode_answer(answer) for answer in sample.answers]
        answers += [sample.drawn] if sample.drawn else []
        ids = [*prompt["input_ids"].tolist(), *(token for answer in answers for token in answer)]
        if len(ids) > self.max_tokens:
            raise InputError(
                f"sample {sample.id}: {len(ids)} tokens with all its answers, over max_tokens={self.max_tokens}; "
                "raise it, lower max_pixels, or shorten the answers (nothing is cut silently)"
            )
        positions = [torch.arange(after, after + len(answer)).expand(3, -1) for answer in answers]
        target = sample_map_target(sample, grids[0], self.processor) if len(grids) else None
        return {
            "prompt": prompt,
            "ids": ids,
            "types": types,
            "segments": [0] * len(types) + [k for k, answer in enumerate(answers, 1) for _ in answer],
            "positions": torch.cat([start, *positions], dim=1),
            "answers": answers,
            "target": target,
            "facts": sample_fact_target(sample, grids[0], self.processor) if len(grids) else None,
        }
