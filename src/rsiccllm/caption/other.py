"""A captioner of other people's models: any of transformers' that takes two images, by its own class and template.

They have no difference path, so no change map and no boxes, and no calibration of ours, so no confidence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image

from rsiccllm.caption.captioner import TEMPERATURE, TOP_P, Captioner
from rsiccllm.model.generate import Answer, Drawn, Encoded, Told, answers_of
from rsiccllm.model.stock import VisionLanguageModel, encode_questions
from rsiccllm.pairs import OpenedPair


class _Question(dict[str, torch.Tensor]):
    """What `Captioner.encode` gives, and the question itself: how processed questions make a batch is a thing of each
    family's own, so a batch is made from the questions."""

    asked: tuple[Sequence[Image.Image], str]


class OtherCaptioner(Captioner):
    """`Captioner` for a model that is not ours. `Captioner.load` takes it where the checkpoint is of another family."""

    def __init__(self, found: VisionLanguageModel) -> None:
        super().__init__(found.model, found.processor)

    def encode(self, pair: OpenedPair, prompt: str) -> Encoded:
        """As Captioner's. Raises InputError where the chat template has not one place for each image."""
        asked = ((pair.before, pair.after), prompt)
        question = _Question(input_ids=encode_questions(self.processor, [asked])["input_ids"][0])
        question.asked = asked
        return question

    def answer_encoded(
        self, prompts: Sequence[Encoded], max_new_tokens: int, tell: Callable[[list[int]], None] | None = None
    ) -> list[Answer]:
        """As Captioner's, without change maps."""
        streamer = None if tell is None else Told(tell)
        with self._turn, torch.inference_mode():
            return self._generate(prompts, max_new_tokens, do_sample=False, streamer=streamer)

    def draw(
        self,
        prompts: Sequence[Encoded],
        seeds: Sequence[int],
        count: int,
        max_new_tokens: int,
        temperature: float = TEMPERATURE,
        top_p: float = TOP_P,
    ) -> list[list[Drawn]]:
        """As Captioner's. A question at a time, so that its samples depend on its seed alone."""
        drawn = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            with self._turn, torch.inference_mode(), torch.random.fork_rng():
                torch.manual_seed(seed % 2**63)
                answers = self._generate([prompt], max_new_tokens, do_sample=True, temperature=temperature,
                                         top_p=top_p, top_k=0, num_return_sequences=count)  # fmt: skip
            drawn.append([Drawn(one.text, one.probability, one.ended, one.tokens) for one in answers])
        return drawn

    def _generate(self, prompts: Sequence[Encoded], max_new_tokens: int, **how: Any) -> list[Answer]:
        questions = [prompt.asked for prompt in prompts if isinstance(prompt, _Question)]
        batch = encode_questions(self.processor, questions).to(self.model.device)
        if batch["pixel_values"].is_floating_point():
            batch["pixel_values"] = batch["pixel_values"].to(self.model.dtype)
        output = self.model.generate(
            **batch, max_new_tokens=max_new_tokens, output_logits=True, return_dict_in_generate=True, **how
        )
        return answers_of(output, batch["input_ids"].shape[1], self.processor.tokenizer)
