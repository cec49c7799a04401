"""Answers of a model, in batches: the likeliest one, with how sure it was and where it saw change, or many samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers.generation.logits_process import TemperatureLogitsWarper, TopPLogitsWarper

from rsiccllm.model.processor import PairProcessor

Question = tuple[Sequence[Image.Image], str]
"""Images and the prompt about them."""


Encoded = dict[str, Tensor]
"""One prompt with its images, as `PairProcessor.encode_prompt` gives it."""


class Answer(NamedTuple):
    """text; probability: geometric mean of its tokens' probabilities; change_map: [rows, cols] in 0..1, or None.

    fact_maps: [FACTS, rows, cols] in 0..1 of float16, which fact it is where there is change, or None. look: what each
    date is like ([2, numbers], `rsiccllm.model.difference.look_of`), or None.
    tokens: how many it has, the end counted. ended: False where it was cut at the limit. entropy: mean of its tokens'
    distributions, in nats.
    """

    text: str
    probability: float
    change_map: Tensor | None
    tokens: int
    ended: bool
    entropy: float
    fact_maps: Tensor | None = None
    look: Tensor | None = None


class Sampled(NamedTuple):
    """Drawn answers. tokens: [answers, tokens], padded after the end. probabilities: [answers], the geometric mean
    of each one's tokens' under the model itself, whatever temperature and top-p they were drawn with.
    """

    tokens: Tensor
    probabilities: Tensor


class Drawn(NamedTuple):
    """A sampled answer. probability: the geometric mean of its tokens'. tokens: with the end-of-turn token, if it
    ended; otherwise it was cut short."""

    text: str
    probability: float
    ended: bool
    tokens: int


def left_padded(processor: PairProcessor, prompts: Sequence[Encoded]) -> Encoded:
    """Encoded prompts as one batch for generation, padded on the left so that every answer starts at one place."""
    length = max(len(prompt["input_ids"]) for prompt in prompts)
    shape = (len(prompts), length)
    input_ids = torch.full(shape, processor.tokenizer.pad_token_id)
    attention_mask, types = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        size = len(prompt["input_ids"])
        input_ids[row, -size:] = prompt["input_ids"]
        types[row, -size:] = prompt["mm_token_type_ids"]
        attention_mask[row, -size:] = 1
    images = {
        name: torch.cat([prompt[name] for prompt in prompts if name in prompt])
        for name in ("pixel_values", "image_grid_thw")
        if any(name in prompt for prompt in prompts)
    }
    return {"input_ids": input_ids, "attention_mask": attention_mask, "mm_token_type_ids": types, **images}


def generate_answers(
    model: Any,
    processor: PairProcessor,
    questions: Sequence[Question],
    max_new_tokens: int = 64,
) -> list[Answer]:
    """Greedy answers to (images, prompt) questions, as one batch.

    With two images a question, a model that has a change map also returns it.
    """
    return generate_encoded(model, processor, encode_all(processor, questions), max_new_tokens)


def encode_all(processor: PairProcessor, questions: Sequence[Question]) -> list[Encoded]:
    """Every question as the model is shown it."""
    return [processor.encode_prompt(prompt, images) for images, prompt in questions]


class Told:
    """What transformers' `generate` tells of a batch as it goes on: the prompts first, then a token a row each step."""

    def __init__(self, tell: Callable[[list[int]], None]) -> None:
        self._tell = tell
        self._begun = False

    def put(self, value: Tensor) -> None:
        if self._begun:
            self._tell(value.tolist())
        self._begun = True

    def end(self) -> None:
        pass


SLICE = 8
"""Images that go through the vision path at once on a CPU. What a convolution reads of more of them no longer fits the
cores' caches: 64 images at once took 1.8 times as long as 8 times 8."""


def image_features(model: Any, pixels: Tensor, grids: Tensor) -> Any:
    """What `get_image_features` gives for all images of a batch, on a CPU a few at a time.

    pixels: [patches, numbers] of all images. grids: [images, 3]. SLICE is even: a pair is never cut in two.
    """
    body = model.model
    if pixels.device.type != "cpu" or len(grids) <= SLICE:
        return body.get_image_features(pixels, grids, return_dict=True)
    patches = grids.prod(1).tolist()
    parts, begin = [], 0
    for first in range(0, len(grids), SLICE):
        end = begin + sum(patches[first : first + SLICE])
        parts.append(body.get_image_features(pixels[begin:end], grids[first : first + SLICE], return_dict=True))
        begin = end
    whole = parts[0]
    whole.pooler_output = tuple(image for part in parts for image in part.pooler_output)
    for name in ("maps", "facts", "looks"):
        if getattr(whole, name, None) is not None:
            setattr(whole, name, [pair for part in parts for pair in getattr(part, name)])
    if getattr(whole, "deepstack_features", None) is not None:  # of Qwen3-VL: a tuple of images for each layer
        layers = zip(*(part.deepstack_features for part in parts), strict=True)
        whole.deepstack_features = [tuple(image for part in layer for image in part) for layer in layers]
    return whole


@torch.inference_mode()
def generate_encoded(
    model: Any,
    processor: PairProcessor,
    prompts: Sequence[Encoded],
    max_new_tokens: int = 64,
    tell: Callable[[list[int]], None] | None = None,
) -> list[Answer]:
    """`generate_answers` of questions that are encoded already.

    tell: called with the new token of every row after each step (padding where a row has ended).
    """
    batch: dict[str, Any] = {name: value.to(model.device) for name, value in left_padded(processor, prompts).items()}
    pixels = batch.pop("pixel_values", None)
    maps: list[Tensor] | None = None
    facts: list[Tensor] | None = None
    looks: list[Tensor] | None = None
    if pixels is not None:
        encoded = image_features(model, pixels, batch["image_grid_thw"])
        batch["mm_encoder_outputs"] = {"image": encoded}
        maps, facts, looks = (getattr(encoded, name, None) for name in ("maps", "facts", "looks"))
    output = model.generate(
        **batch,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
        streamer=None if tell is None else Told(tell),
    )
    return answers_of(output, batch["input_ids"].shape[1], processor.tokenizer, maps, facts, looks)


def answers_of(
    output: Any,
    begin: int,
    tokenizer: Any,
    maps: Sequence[Tensor] | None = None,
    facts: Sequence[Tensor] | None = None,
    looks: Sequence[Tensor] | None = None,
) -> list[Answer]:
    """What `generate` returned, with its logits, as answers.

    begin: tokens of the padded prompts, which stand before the answers. maps: log odds of change, [rows, cols] each.
    facts: log probabilities, [FACTS, rows, cols] each. looks: [2, numbers] each.
    """
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    new = output.sequences[:, begin:]  # [batch, answer tokens]
    steps = [step.float().log_softmax(-1) for step in output.logits]  # of each token: [batch, vocab]
    chances = torch.stack([step.gather(-1, new[:, [at]]).squeeze(-1) for at, step in enumerate(steps)], 1)
    spread = torch.stack([-(step.exp() * step).sum(-1) for step in steps], 1)  # [batch, answer tokens]
    written = new != pad
    count = written.sum(1).clamp(min=1)
    mean, entropy = ((value * written).sum(1) / count for value in (chances, spread))
    texts = tokenizer.batch_decode(new, skip_special_tokens=True)
    counts = written.sum(1).tolist()
    ended = (new == tokenizer.eos_token_id).any(1).tolist()
    seen = [None] * len(texts) if maps is None else [one.float().sigmoid().cpu() for one in maps]
    named = [None] * len(texts) if facts is None else [one.exp().half().cpu() for one in facts]
    return [
        Answer(
            text.strip(),
            float(mean[row].exp()),
            seen[row],
            counts[row],
            ended[row],
            float(entropy[row]),
            named[row],
            None if looks is None else looks[row].cpu(),
        )
        for row, text in enumerate(texts)
    ]


def sample_answers(
    model: Any,
    processor: PairProcessor,
    questions: Sequence[Question],
    seeds: Sequence[int],
    count: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    max_new_tokens: int = 64,
) -> list[list[str]]:
    """`count` sampled answers to each question, as one batch. Returns one list of `count` texts a question.

    Arguments as for `sample_tokens`. An answer not ended after `max_new_tokens` comes back as "": cut short, it may be
    a right one that looks wrong.
    """
    prompts = encode_all(processor, questions)
    new = sample_encoded(model, processor, prompts, seeds, count, temperature, top_p, max_new_tokens)
    return [[one.text if one.ended else "" for one in row] for row in drawn_answers(processor, new, count)]


def drawn_answers(processor: PairProcessor, new: Sampled, count: int) -> list[list[Drawn]]:
    """What was sampled, `count` answers a question."""
    texts = processor.tokenizer.batch_decode(new.tokens, skip_special_tokens=True)
    at_end = new.tokens == processor.tokenizer.eos_token_id  # [answers, tokens]
    ended = at_end.any(1).tolist()
    first = at_end.int().argmax(1).tolist()
    length = new.tokens.shape[1]
    found = [
        Drawn(text.strip(), chance, whole, end + 1 if whole else length)
        for text, chance, whole, end in zip(texts, new.probabilities.tolist(), ended, first, strict=True)
    ]
    return [found[start : start + count] for start in range(0, len(found), count)]


def sample_tokens(
    model: Any,
    processor: PairProcessor,
    questions: Sequence[Question],
    seeds: Sequence[int],
    count: int,
    temperature: float,
    top_p: float,
    max_new_tokens: int,
) -> Tensor:
    """Tokens of `count` sampled answers to each question: `sample_encoded` of what the questions are as tokens."""
    prompts = encode_all(processor, questions)
    return sample_encoded(model, processor, prompts, seeds, count, temperature, top_p, max_new_tokens).tokens


@torch.inference_mode()
def sample_encoded(
    model: Any,
    processor: PairProcessor,
    prompts: Sequence[Encoded],
    seeds: Sequence[int],
    count: int,
    temperature: float,
    top_p: float,
    max_new_tokens: int,
) -> Sampled:
    """`count` sampled answers to each question, [questions * count] of them.

    Images and prompts go through the model once; what it remembers of them (the key-value cache) is then repeated for
    the samples. seeds: one a question; its samples depend on it and not on the rest of the batch, so a run that goes on
    after a stop draws what it would have drawn. temperature: over 0. top_p: in (0, 1], the share of probability kept.
    """
    batch: dict[str, Any] = {name: value.to(model.device) for name, value in left_padded(processor, prompts).items()}
    output = model(**batch, use_cache=True, logits_to_keep=1)
    cache, logits = output.past_key_values, output.logits[:, -1].float()
    mask = batch["attention_mask"]
    # The first position after each prompt: M-RoPE counts an image by its sides, and `rope_deltas` is the difference.
    position = mask.sum(1, keepdim=True) + model.model.rope_deltas.to(mask.device)
    cache.batch_repeat_interleave(count)
    logits, mask, position = (value.repeat_interleave(count, 0) for value in (logits, mask, position))
    draws = torch.from_numpy(
        np.concatenate([np.random.default_rng(seed).random((count, max_new_tokens)) for seed in seeds])
    ).to(model.device)  # [questions * count, max_new_tokens], uniform in [0, 1)
    warpers = [TemperatureLogitsWarper(temperature), *([TopPLogitsWarper(top_p)] if top_p < 1 else [])]
    end, pad = processor.tokenizer.eos_token_id, processor.tokenizer.pad_token_id
    done = torch.zeros(len(mask), dtype=torch.bool, device=model.device)
    images = [token for name in PLACEHOLDERS if (token := getattr(model.config, name, None)) is not None]
    new: list[Tensor] = []
    total = torch.zeros(len(mask), device=model.device)  # log probability of each answer so far
    count_of = torch.zeros_like(total)
    for step in range(max_new_tokens):
        plain = logits.log_softmax(-1)
        logits = logits.index_fill(-1, torch.tensor(images, device=logits.device, dtype=torch.long), -torch.inf)
        for warper in warpers:
            logits = warper(None, logits)
        token = draw_tokens(logits.softmax(-1), draws[:, step]).masked_fill(done, pad)
        new.append(token)
        total += plain.gather(-1, token[:, None]).squeeze(-1).masked_fill(done, 0)
        count_of += ~done
        done |= token == end
        if done.all() or step == max_new_tokens - 1:
            break
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        output = model(
            input_ids=token[:, None],
            attention_mask=mask,
            position_ids=(position + step).expand(3, -1, 1),
            past_key_values=cache,
            use_cache=True,
        )
        logits = output.logits[:, -1].float()
    return Sampled(torch.stack(new, 1), (total / count_of).exp())


PLACEHOLDERS = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
"""Tokens that stand for images, by their fields of a configuration. No answer holds one: it would be taken for an image
that is missing wherever the answer is read again."""


def draw_tokens(chances: Tensor, draws: Tensor) -> Tensor:
    """The token of each row at which the summed chances pass its draw. chances: [rows, vocab]; draws: [rows] in [0, 1).

    Sums are in float64 and scaled to end at 1; a token of no chance is never drawn.
    """
    summed = chances.double().cumsum(-1)
    return torch.searchsorted(summed / summed[:, -1:], draws.double()[:, None].contiguous(), right=True).squeeze(1)


@contextmanager
def difference_cut(model: Any) -> Iterator[None]:
    """The model without its difference path, while the block runs: what it says of the two images alone."""
    body, path = model.model, model.model.difference
    body.difference = None
    try:
        yield
    finally:
        body.difference = path
