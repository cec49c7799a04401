from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from helpers import sample
from torch.nn.functional import cross_entropy

from rsiccllm.errors import InputError
from rsiccllm.model.difference import fact_cells, fact_target
from rsiccllm.model.processor import load_processor
from rsiccllm.model.variants import Variant
from rsiccllm.model.vlm import load_model
from rsiccllm.training.losses import answer_log_probs
from rsiccllm.training.packing import (
    MODEL_FIELDS,
    PackingCollator,
    Sample,
    fill_rows,
    map_target,
    packed_mask,
    prompt_positions,
)
from rsiccllm.training.views import TURNED_TASKS

FAMILIES = ["qwen2_5_vl", "qwen3_vl"]


def test_mask_rows_spelt_out() -> None:
    segments = torch.tensor([[0, 0, 1, 1, 2, -1], [0, 1, 0, 0, 1, -1]])
    pairs = torch.tensor([[0] * 6, [0, 0, 1, 1, 1, 0]])
    expected = torch.tensor(
        [
            [1, 0, 0, 0, 0, 0],  # prompt: causal
            [1, 1, 0, 0, 0, 0],
            [1, 1, 1, 0, 0, 0],  # answer 1 sees the prompt and itself
            [1, 1, 1, 1, 0, 0],
            [1, 1, 0, 0, 1, 0],  # answer 2 does not see answer 1
            [0, 0, 0, 0, 0, 1],  # padding sees itself alone
        ]
    ).bool()
    two_pairs = torch.tensor(
        [
            [1, 0, 0, 0, 0, 0],
            [1, 1, 0, 0, 0, 0],
            [0, 0, 1, 0, 0, 0],  # the second pair's prompt does not see the first pair
            [0, 0, 1, 1, 0, 0],
            [0, 0, 1, 1, 1, 0],
            [0, 0, 0, 0, 0, 1],
        ]
    ).bool()
    assert packed_mask(segments, pairs)[:, 0].equal(torch.stack([expected, two_pairs]))


def test_rows_are_filled_longest_first() -> None:
    assert fill_rows([5, 9, 4, 3, 12, 1], 10) == [[4], [1, 5], [0, 2], [3]]
    assert fill_rows([5, 9], None) == [[0], [1]]


def test_map_target_is_the_share_of_area() -> None:
    mask = torch.zeros(4, 6, dtype=torch.bool)
    mask[:2, :3] = True
    mask[3, 5] = True
    assert map_target(mask.numpy(), 2, 2).tolist() == [[1.0, 0.0], [0.0, pytest.approx(1 / 6)]]


def test_earlier_turns_stand_in_the_prompt_and_are_not_learnt(tiny_checkpoints: dict[str, Path]) -> None:
    processor = load_processor(tiny_checkpoints["qwen2_5_vl"])
    item = replace(sample(0, 1), history=[("a house", "the top"), ("the left", "a corner")])
    text = processor.prompt_text(item.prompt, 2, item.history)
    turns = [part.split("<|im_end|>")[0] for part in text.split("<|im_start|>")[-6:]]
    said = ["assistant\nthe top", "user\nthe left", "assistant\na corner", "user\nwhat changed?", "assistant\n"]
    assert turns[-5:] == said
    assert turns[-6].startswith("user\n<|vision_start|>")
    assert turns[-6].endswith("a house")
    assert text.count("<|image_pad|>") == 2
    batch = PackingCollator(processor)([item])
    assert batch["labels"].tolist() == processor.encode_answer(item.answers[0])
    with_history = processor.encode_prompt(item.prompt, item.images, item.history)["input_ids"].tolist()
    assert batch["input_ids"][0, : len(with_history)].tolist() == with_history


@pytest.mark.parametrize("family", FAMILIES)
def test_prompt_positions_equal_the_models_own(tiny_checkpoints: dict[str, Path], family: str) -> None:
    processor = load_processor(tiny_checkpoints[family])
    model = load_model(tiny_checkpoints[family])
    prompt = processor.encode_prompt("what changed?", sample(0, 1, 84, 140).images)
    grids = prompt["image_grid_thw"]
    expected, _ = model.model.get_rope_index(
        prompt["input_ids"][None], mm_token_type_ids=prompt["mm_token_type_ids"][None], image_grid_thw=grids
    )
    assert prompt_positions(prompt["mm_token_type_ids"], grids, 2).equal(expected[:, 0])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("variant", "pack", "share"),
    [("none", None, "mask"), ("ours", None, "mask"), ("ours", 150, "mask"), ("ours", None, "cache")],
)
def test_packed_equals_separate_sequences(
    tiny_checkpoints: dict[str, Path], family: str, variant: Variant, pack: int | None, share: Literal["mask", "cache"]
) -> None:
    """Ragged prompts (other image sizes) and ragged answer counts: log-probabilities and gradients are the same."""
    processor = load_processor(tiny_checkpoints[family])
    model = load_model(tiny_checkpoints[family], variant)
    if model.model.difference is not None:
        torch.nn.init.normal_(model.model.difference.out.weight, std=0.05)
    samples = [sample(0, 3), sample(1, 1, 84, 56), sample(2, 5)]
    batch = PackingCollator(processor, pack_tokens=pack, share=share)(samples)
    [batch.pop(name) for name in ("map_targets", "fact_targets")]
    assert batch["input_ids"].shape[0] == (3 if pack is None else 2)
    labels, answer_of, row_of = (batch.pop(name) for name in ("labels", "answer_of", "row_of"))
    assert row_of.tolist() == [0, 0, 0, 1, 2, 2, 2, 2, 2]
    packed = answer_log_probs(model(**batch).logits, labels, answer_of, len(row_of))
    packed.sum().backward()
    gradients = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()

    separate = []
    for item in samples:
        prompt = processor.encode_prompt(item.prompt, item.images)
        for text in item.answers:
            answer = torch.tensor(processor.encode_answer(text))
            ids = torch.cat([prompt["input_ids"], answer])[None]
            types = torch.cat([prompt["mm_token_type_ids"], torch.zeros_like(answer)])[None]
            logits = model(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                mm_token_type_ids=types,
                pixel_values=prompt["pixel_values"],
                image_grid_thw=prompt["image_grid_thw"],
            ).logits[0]
            separate.append(-cross_entropy(logits[-len(answer) - 1 : -1], answer, reduction="sum"))
    torch.testing.assert_close(packed, torch.stack(separate), atol=2e-5, rtol=0)
    torch.stack(separate).sum().backward()
    for name, weight in model.named_parameters():
        if name in gradients:
            torch.testing.assert_close(gradients[name], weight.grad, atol=1e-4, rtol=1e-3, msg=name)


def test_the_padding_of_a_shorter_row_sees_itself_alone(tiny_checkpoints: dict[str, Path]) -> None:
    processor = load_processor(tiny_checkpoints["qwen2_5_vl"])
    size = PackingCollator(processor)([sample(0, 1)])["input_ids"].shape[1]
    batch = PackingCollator(processor)([sample(0, 1), sample(0, 2)])
    assert batch["input_ids"].shape[1] > size
    allowed = batch["attention_mask"][0, 0]
    assert allowed[size:].equal(torch.eye(len(allowed), dtype=torch.bool)[size:])
    assert not allowed[:size, size:].any()


def test_a_sample_of_which_nothing_else_is_said_asks_for_a_caption_and_may_be_turned() -> None:
    item = sample(0, 1)
    assert Sample("a", item.images, item.prompt, item.answers).task in TURNED_TASKS


def test_what_the_model_takes_and_what_is_kept_for_the_losses(tiny_checkpoints: dict[str, Path]) -> None:
    processor = load_processor(tiny_checkpoints["qwen2_5_vl"])
    kept = {"labels", "answer_of", "row_of", "map_targets", "fact_targets"}
    masked, cached = (PackingCollator(processor, share=share)([sample(0, 2)]) for share in ("mask", "cache"))
    assert masked.keys() | cached.keys() == set(MODEL_FIELDS) | kept
    assert kept <= masked.keys() & cached.keys()


def test_preferences_go_with_the_answers(tiny_checkpoints: dict[str, Path]) -> None:
    processor = load_processor(tiny_checkpoints["qwen2_5_vl"])
    first = replace(sample(0, 3), kinds=["object", "place"], reference=[-1.0, -2.0, -3.0])
    second = replace(sample(1, 2), kinds=["verb"], reference=[-4.0, -5.0])
    batch = PackingCollator(processor)([first, second])
    assert batch["kinds"] == ["object", "place", "verb"]
    assert batch["reference_log_probs"].tolist() == [-1, -2, -3, -4, -5]
    without = PackingCollator(processor)([first, replace(second, kinds=[], reference=None)])
    assert without["kinds"] == ["object", "place"]
    assert "reference_log_probs" not in without


def test_a_drawn_answer_is_packed_as_the_last(tiny_checkpoints: dict[str, Path]) -> None:
    processor = load_processor(tiny_checkpoints["qwen2_5_vl"])
    drawn = processor.encode_answer("a house is built in the corner")[:-1]
    batch = PackingCollator(processor)([replace(sample(0, 2), drawn=drawn), sample(1, 1)])
    assert batch["row_of"].tolist() == [0, 0, 0, 1]
    assert batch["labels"][batch["answer_of"] == 2].tolist() == drawn


def test_what_the_map_should_say(tiny_checkpoints: dict[str, Path]) -> None:
    """Classes of a mask cell by cell where they are known, else the facts, else nothing."""
    processor = load_processor(tiny_checkpoints["qwen2_5_vl"])
    plain = sample(0, 1, 84, 56)
    objects = np.zeros((2, 84, 56), np.uint8)
    objects[1, :28, :28] = 1
    facts = [("road", "appear")]
    samples = [replace(plain, facts=facts, objects=objects), replace(plain, facts=facts, objects=objects * 0)]
    targets = PackingCollator(processor)([*samples, replace(plain, mask=None)])
    cells, told, nothing = targets["fact_targets"]
    assert targets["image_grid_thw"][0].tolist() == [1, 10, 8]  # patches of 14 pixels; a cell of the map is 4 pixels
    assert cells.equal(fact_cells(torch.from_numpy(objects), 35, 28))
    assert told.equal(fact_target(facts))
    assert nothing is None
    assert [None if one is None else tuple(one.shape) for one in targets["map_targets"]] == [(35, 28), (35, 28), None]


def test_too_long_is_an_error_and_nothing_is_cut(tiny_checkpoints: dict[str, Path]) -> None:
    processor = load_processor(tiny_checkpoints["qwen2_5_vl"])
    item = sample(7, 1)
    item.answers = ["house " * 300]
    with pytest.raises(InputError, match=r"sample_7: \d+ tokens .* over max_tokens=100"):
        PackingCollator(processor, max_tokens=100)([item])
    size = len(PackingCollator(processor)([sample(7, 1)])["input_ids"][0])
    PackingCollator(processor, max_tokens=size)([sample(7, 1)])
    with pytest.raises(InputError, match=f"{size} tokens"):
        PackingCollator(processor, max_tokens=size - 1)([sample(7, 1)])


def test_targets_follow_their_images(tiny_checkpoints: dict[str, Path]) -> None:
    """The longest pair is laid out first; its map and facts go with it, and its answers keep their place."""
    processor = load_processor(tiny_checkpoints["qwen2_5_vl"])
    samples = [sample(0, 1), sample(1, 2, 56, 112), sample(2, 1)]
    for item, facts in zip(samples, ([], [("road", "appear")], None), strict=True):
        item.facts = facts
    plain, packed = PackingCollator(processor)(samples), PackingCollator(processor, pack_tokens=1000)(samples)
    assert packed["input_ids"].shape[0] == 1
    for name in ("labels", "answer_of", "row_of"):
        assert packed[name].equal(plain[name])
    order = [1, 0, 2]
    assert packed["image_grid_thw"].equal(plain["image_grid_thw"].unflatten(0, (3, 2))[order].flatten(0, 1))
    for name in ("map_targets", "fact_targets"):
        for place, index in enumerate(order):
            one, other = packed[name][place], plain[name][index]
            assert one is other is None or one.equal(other)
