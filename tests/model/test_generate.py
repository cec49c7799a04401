"""Sampling with a shared prompt, beside sampling by whole forwards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rsiccllm.model.generate import (
    PLACEHOLDERS,
    Question,
    difference_cut,
    draw_tokens,
    encode_all,
    generate_answers,
    image_features,
    left_padded,
    sample_answers,
    sample_encoded,
    sample_tokens,
)
from rsiccllm.model.processor import load_processor
from rsiccllm.model.vlm import load_model

FAMILIES = ["qwen2_5_vl", "qwen3_vl"]


def questions() -> list[Question]:
    rng = np.random.default_rng(0)

    def image(height: int, width: int) -> Image.Image:
        return Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))

    # Of different sizes, so that one prompt is padded.
    return [([image(56, 56), image(56, 56)], "what changed?"), ([image(56, 112), image(56, 112)], "what changed here?")]


def test_draw_tokens_by_hand() -> None:
    chances = torch.tensor([[0.0, 0.25, 0.0, 0.75]] * 5)
    draws = torch.tensor([0.0, 0.2499, 0.25, 0.5, 0.999999], dtype=torch.float64)
    assert draw_tokens(chances, draws).tolist() == [1, 1, 3, 3, 3]


@pytest.mark.parametrize("family", FAMILIES)
def test_samples_are_those_of_whole_forwards(tiny_checkpoints: dict[str, Path], family: str) -> None:
    """The plain way: each sample alone, every token a forward over the whole sequence, no cache, no padding."""
    processor = load_processor(tiny_checkpoints[family])
    torch.manual_seed(1)
    model = load_model(tiny_checkpoints[family], "ours").eval()
    # An untrained model repeats its last token; a head of its own, spread wide, makes answers that differ.
    model.lm_head.weight = torch.nn.Parameter(0.3 * torch.randn(model.lm_head.weight.shape))
    # An untrained model hardly ever ends an answer: a token that it says in the middle shall mean the end.
    trial = sample_tokens(model, processor, questions(), [3, 4], 2, 0.8, 0.9, 6)
    end = int(trial[0, 3])
    processor.tokenizer.eos_token = processor.tokenizer.convert_ids_to_tokens(end)
    found = sample_tokens(model, processor, questions(), [3, 4], 2, 0.8, 0.9, 6)
    assert (found == end).any(1).tolist().count(True) in range(1, 4), "some shall end and some be cut"

    pad = processor.tokenizer.pad_token_id
    for row, (images, prompt) in enumerate(questions()):
        draws = np.random.default_rng([3, 4][row]).random((2, 6))
        for k in range(2):
            encoded = processor.encode_prompt(prompt, images)
            ids: list[int] = []
            for step in range(6):
                batch = left_padded(processor, [encoded])
                batch["input_ids"] = torch.cat([batch["input_ids"], torch.tensor([ids], dtype=torch.long)], 1)
                for name, value in (("attention_mask", 1), ("mm_token_type_ids", 0)):
                    batch[name] = torch.cat([batch[name], torch.full((1, len(ids)), value)], 1)
                with torch.no_grad():
                    logits = model(**batch).logits[0, -1].double() / 0.8
                logits[[getattr(model.config, name) for name in PLACEHOLDERS]] = -torch.inf
                chances, order = logits.softmax(-1).sort(descending=True)
                kept = chances.cumsum(0) - chances < 0.9  # the fewest likeliest tokens that hold 0.9 together
                chances = torch.zeros_like(logits).scatter(0, order[kept], chances[kept])
                ids.append(int((chances.cumsum(0) / chances.sum() > draws[k, step]).double().argmax()))
                if ids[-1] == end:
                    break
            assert found[2 * row + k].tolist() == ids + [pad] * (found.shape[1] - len(ids))

    texts = sample_answers(model, processor, questions(), [3, 4], 2, 0.8, 0.9, 6)
    assert [bool(text) for row in texts for text in row] == (found == end).any(1).tolist()


def test_samples_follow_their_seed_and_not_the_batch(tiny_checkpoints: dict[str, Path]) -> None:
    processor = load_processor(tiny_checkpoints["qwen2_5_vl"])
    model = load_model(tiny_checkpoints["qwen2_5_vl"], "none").eval()
    model.lm_head.weight = torch.nn.Parameter(0.3 * torch.randn(model.lm_head.weight.shape))
    both = sample_tokens(model, processor, questions(), [3, 4], 2, 1.0, 1.0, 8)
    alone = sample_tokens(model, processor, questions()[1:], [4], 2, 1.0, 1.0, 8)
    assert both[2:].equal(alone[:, : both.shape[1]])
    assert not both[2].equal(both[3])


def test_the_probability_of_a_sample_is_that_of_its_tokens(tiny_checkpoints: dict[str, Path]) -> None:
    processor = load_processor(tiny_checkpoints["qwen2_5_vl"])
    model = load_model(tiny_checkpoints["qwen2_5_vl"], "none").eval()
    model.lm_head.weight = torch.nn.Parameter(0.3 * torch.randn(model.lm_head.weight.shape))
    images, prompt = questions()[0]
    encoded = processor.encode_prompt(prompt, images)
    found = sample_encoded(model, processor, [encoded], [3], 2, 0.7, 0.9, 6)
    end = processor.tokenizer.eos_token_id
    for tokens, probability in zip(found.tokens, found.probabilities, strict=True):
        ids = tokens.tolist()[: tokens.tolist().index(end) + 1] if end in tokens else tokens.tolist()
        batch = left_padded(processor, [encoded])
        begin = batch["input_ids"].shape[1]
        batch["input_ids"] = torch.cat([batch["input_ids"], torch.tensor([ids])], 1)
        for name, value in (("attention_mask", 1), ("mm_token_type_ids", 0)):
            batch[name] = torch.cat([batch[name], torch.full((1, len(ids)), value)], 1)
        with torch.no_grad():
            chances = model(**batch).logits[0, begin - 1 : -1].double().log_softmax(-1)
        mean = chances.gather(-1, torch.tensor(ids)[:, None]).mean()
        assert float(probability) == pytest.approx(float(mean.exp()), rel=1e-4)


def test_the_difference_path_can_be_cut(tiny_checkpoints: dict[str, Path]) -> None:
    processor = load_processor(tiny_checkpoints["qwen2_5_vl"])
    torch.manual_seed(0)
    model = load_model(tiny_checkpoints["qwen2_5_vl"], "ours").eval()
    with torch.no_grad():
        model.model.difference.out.weight.normal_()
    whole = generate_answers(model, processor, questions(), 4)
    with difference_cut(model):
        cut = generate_answers(model, processor, questions(), 4)
    plain = generate_answers(load_model(tiny_checkpoints["qwen2_5_vl"], "none").eval(), processor, questions(), 4)
    assert [answer.text for answer in cut] == [answer.text for answer in plain]
    assert [answer.text for answer in generate_answers(model, processor, questions(), 4)] == [a.text for a in whole]
    assert whole[0].change_map is not None
    assert cut[0].change_map is None


@pytest.mark.parametrize("family", FAMILIES)
def test_images_in_slices_are_the_images_at_once(
    tiny_checkpoints: dict[str, Path], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor = load_processor(tiny_checkpoints[family])
    torch.manual_seed(1)
    model = load_model(tiny_checkpoints[family], "ours").eval()
    batch = left_padded(processor, encode_all(processor, [*questions(), *questions(), *questions()]))
    pixels, grids = batch["pixel_values"], batch["image_grid_thw"]  # 12 images of two sizes
    with torch.inference_mode():
        monkeypatch.setattr("rsiccllm.model.generate.SLICE", 100)
        whole = image_features(model, pixels, grids)
        monkeypatch.setattr("rsiccllm.model.generate.SLICE", 4)
        sliced = image_features(model, pixels, grids)
    for name in ("pooler_output", "maps", "facts", "looks"):
        one, other = getattr(whole, name), getattr(sliced, name)
        assert len(one) == len(other) == (12 if name == "pooler_output" else 6)
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    if family == "qwen3_vl":
        assert len(whole.deepstack_features) == len(sliced.deepstack_features) > 0
        for layer, slices in zip(whole.deepstack_features, sliced.deepstack_features, strict=True):
            torch.testing.assert_close(torch.cat(layer), torch.cat(slices), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_sample_holds_a_token_that_stands_for_an_image(tiny_checkpoints: dict[str, Path], family: str) -> None:
    processor = load_processor(tiny_checkpoints[family])
    model = load_model(tiny_checkpoints[family], "none").eval()
    tokens = [getattr(model.config, name) for name in PLACEHOLDERS]

    def louder(module: object, given: object, logits: torch.Tensor) -> torch.Tensor:
        return logits.index_add(-1, torch.tensor(tokens), torch.full((*logits.shape[:-1], len(tokens)), 50.0))

    model.lm_head.register_forward_hook(louder)
    found = sample_tokens(model, processor, questions(), [3, 4], 3, 1.0, 1.0, 8)
    assert not torch.isin(found, torch.tensor(tokens)).any()
