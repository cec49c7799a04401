"""One prompt, many answers, one sequence: [prompt | answer 1 | ... | answer K], and several of these in a row.

Every answer sees its prompt and itself, never another answer, and its positions go on from the prompt's end. The losses
are exactly those of K separate sequences; the images and the prompt, most of the tokens, are encoded once.

Attention kernels that take no mask of one's own (FlashAttention) get the same from two passes: the prompts alone, then
the answers as a batch over the prompts' keys and values (`share="cache"`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rsiccllm.errors import InputError
from rsiccllm.model.difference import MAP_STRIDE, fact_cells, fact_target
from rsiccllm.model.generate import left_padded
from rsiccllm.model.processor import PairProcessor
from rsiccllm.training.recipe import AnswerRecipe

MODEL_FIELDS = ("input_ids", "position_ids", "attention_mask", "mm_token_type_ids", "pixel_values", "image_grid_thw",
                "predict_at", "answer_ids", "answer_mask", "answer_positions", "answer_rows")  # fmt: skip
"""Fields of a packed batch that the model takes."""


@dataclass
class Sample:
    """What one row is made of. answers: with preferences, the first is the chosen one. mask: [height, width] bool.

    objects: uint8 [2, height, width], what went and what came at each pixel of the mask (`masks`), or None.
    facts: the (object, direction) of every change, [] for none, or None where that is not known. history: the
    (question, answer) of earlier turns of a dialogue; they are part of the prompt, and nothing is learnt on them.
    kinds: with preferences, how each rejected answer was made. reference: with preferences, the log-probability of each
    answer under the reference, where it is stored. drawn: tokens of an answer drawn from the model, packed as the last.
    task: what is asked, as in Instruction.
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
    task: str = "caption"


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


def packed_mask(segments: Tensor, pairs: Tensor) -> Tensor:
    """Who may look at whom. segments, pairs: [batch, length]; segments are 0 for a prompt, k for its answer k, -1 for
    padding; pairs number the image pairs of a row.

    Returns [batch, 1, length, length] bool, True where the row's token may attend to the column's. Padding sees itself
    alone, because a softmax over nothing is not a number.
    """
    length = segments.shape[1]
    query, key = segments[:, :, None], segments[:, None, :]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    allowed = causal & ((key == 0) | (key == query)) & (query >= 0) & (key >= 0)
    allowed &= pairs[:, :, None] == pairs[:, None, :]
    return (allowed | torch.eye(length, dtype=torch.bool))[:, None]


def fill_rows(lengths: Sequence[int], budget: int | None) -> list[list[int]]:
    """Which samples share a row: the longest first, each into the first row with room for it. One a row without budget.

    lengths: tokens of each sample. A sample over the budget has a row of its own. Returns sample indices, a list a row.
    """
    if budget is None:
        return [[index] for index in range(len(lengths))]
    rows: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        at = next((at for at, left in enumerate(room) if left >= lengths[index]), len(rows))
        if at == len(rows):
            rows.append([])
            room.append(max(budget, lengths[index]))
        rows[at].append(index)
        room[at] -= lengths[index]
    return rows


def map_target(mask: np.ndarray, rows: int, cols: int) -> Tensor:
    """The share of each cell's area that a mask marks. mask: [height, width] bool. Returns [rows, cols] in [0, 1]."""
    grid = torch.from_numpy(np.array(mask, np.float32))[None, None]
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
        objects = torch.from_numpy(np.array(sample.objects))
        return fact_cells(objects, *(int(side) * patch // MAP_STRIDE for side in grid[1:]))
    return None if sample.facts is None else fact_target(sample.facts)


@dataclass
class PackingCollator:
    """Turns samples into one packed batch.

    The batch holds, with B rows of length L, N answer tokens and A answers in all:
    input_ids [B, L], position_ids [3, B, L], attention_mask [B, 1, L, L] bool, mm_token_type_ids [B, L], pixel_values,
    image_grid_thw [images, 3]; predict_at [N] (flattened position whose logits predict each answer token), labels [N]
    (those tokens), answer_of [N] (answer index of each), row_of [A] (sample of each answer), map_targets and
    fact_targets (one tensor or None a pair, in the order of the images). With preferences also kinds, one text for each
    rejected answer, and where they are stored reference_log_probs [A].

    max_tokens: the longest sample allowed, prompt and answers. A longer one raises InputError; nothing is cut.
    pack_tokens: samples share a row up to so many tokens; None gives each a row of its own.
    share: how answers share a prompt. "mask": in one sequence, as above. "cache": the rows are the prompts alone,
    padded on the left, attention_mask [B, L] is plain, and answer_ids [A, M], answer_mask [A, M], answer_positions
    [3, A, M] and answer_rows [A] (row of each answer's prompt) are what the model reads over them; predict_at counts in
    the flattened [A, 1 + M] of the prompt's last token and the answer's.
    """

    processor: PairProcessor
    max_tokens: int = 4096
    pack_tokens: int | None = None
    share: Literal["mask", "cache"] = "mask"

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        encoded = [self._encode(sample) for sample in samples]
        rows = fill_rows([item["size"] for item in encoded], self.pack_tokens)
        in_order = [index for row in rows for index in row]
        pictures = [encoded[index]["prompt"] for index in in_order if "pixel_values" in encoded[index]["prompt"]]
        answers = [answer for item in encoded for answer in item["answers"]]
        return {
            **(self._cached(encoded) if self.share == "cache" else self._masked(encoded, rows)),
            **{
                name: torch.cat([prompt[name] for prompt in pictures])
                for name in ("pixel_values", "image_grid_thw")
                if pictures
            },
            "labels": torch.tensor([token for answer in answers for token in answer]),
            "answer_of": torch.tensor([at for at, answer in enumerate(answers) for _ in answer]),
            "row_of": torch.tensor([at for at, item in enumerate(encoded) for _ in item["answers"]]),
            "map_targets": [encoded[index]["target"] for index in in_order],
            "fact_targets": [encoded[index]["facts"] for index in in_order],
            **_preference_fields(samples),
        }

    def _masked(self, encoded: list[dict[str, Any]], rows: list[list[int]]) -> dict[str, Tensor]:
        """Everything in one sequence a row, and a mask that says who sees whom."""
        length = max(sum(encoded[index]["size"] for index in row) for row in rows)
        shape = (len(rows), length)
        input_ids = torch.full(shape, self.processor.tokenizer.pad_token_id)
        segments, pairs = torch.full(shape, -1), torch.zeros(shape, dtype=torch.long)
        types = torch.zeros(shape, dtype=torch.long)
        positions = torch.zeros((3, *shape), dtype=torch.long)
        predict_at: list[list[int]] = [[] for _ in encoded]
        for at, row in enumerate(rows):
            start = 0
            for number, index in enumerate(row):
                item = encoded[index]
                asked, size = len(item["types"]), item["size"]
                here = slice(start, start + size)
                input_ids[at, here] = torch.tensor(item["ids"])
                segments[at, here] = torch.tensor(item["segments"])
                pairs[at, here] = number
                types[at, start : start + asked] = item["types"]
                positions[:, at, here] = item["positions"]
                place = at * length + start + asked
                for answer in item["answers"]:
                    # The prompt's last token predicts the first of every answer.
                    predict_at[index] += [at * length + start + asked - 1, *range(place, place + len(answer) - 1)]
                    place += len(answer)
                start += size
        return {
            "input_ids": input_ids,
            "position_ids": positions,
            "attention_mask": packed_mask(segments, pairs),
            "mm_token_type_ids": types,
            "predict_at": torch.tensor([place for places in predict_at for place in places]),
        }

    def _cached(self, encoded: list[dict[str, Any]]) -> dict[str, Tensor]:
        """The prompts as a batch, and the answers as another that goes on from them."""
        batch = left_padded(self.processor, [_words(item["prompt"]) for item in encoded])
        length = batch["input_ids"].shape[1]
        positions = torch.zeros((3, len(encoded), length), dtype=torch.long)
        for at, item in enumerate(encoded):
            positions[:, at, length - len(item["types"]) :] = item["positions"][:, : len(item["types"])]
        answers = [(at, answer) for at, item in enumerate(encoded) for answer in item["answers"]]
        longest = max(len(answer) for _, answer in answers)
        shape = (len(answers), longest)
        ids, mask = torch.full(shape, self.processor.tokenizer.pad_token_id), torch.zeros(shape, dtype=torch.long)
        predict_at: list[int] = []
        after = torch.zeros((3, *shape), dtype=torch.long)
        for number, (at, answer) in enumerate(answers):
            ids[number, : len(answer)] = torch.tensor(answer)
            mask[number, : len(answer)] = 1
            begin = int(positions[:, at].max()) + 1
            after[:, number] = torch.arange(begin, begin + longest)
            predict_at += range(number * (1 + longest), number * (1 + longest) + len(answer))
        return {
            **batch,
            "position_ids": positions,
            "answer_ids": ids,
            "answer_mask": mask,
            "answer_positions": after,
            "answer_rows": torch.tensor([at for at, _ in answers]),
            "predict_at": torch.tensor(predict_at),
        }

    def _encode(self, sample: Sample) -> dict[str, Any]:
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
            "size": len(ids),
            "types": types,
            "segments": [0] * len(types) + [k for k, answer in enumerate(answers, 1) for _ in answer],
            "positions": torch.cat([start, *positions], dim=1),
            "answers": answers,
            "target": target,
            "facts": sample_fact_target(sample, grids[0], self.processor) if len(grids) else None,
        }


def _words(prompt: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: prompt[name] for name in ("input_ids", "mm_token_type_ids")}


def collator_of(recipe: AnswerRecipe, processor: PairProcessor) -> PackingCollator:
    """The collator that a recipe asks for."""
    return PackingCollator(processor, recipe.max_tokens, recipe.pack_tokens, recipe.share)
