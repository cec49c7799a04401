"""Captioner: load a checkpoint once, caption pairs of images, answer questions about them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from PIL import Image

from rsiccllm.caption.calibration import FILE_OF_SEVERAL, Calibration, load_calibration
from rsiccllm.caption.familiarity import Familiarity, load_familiarity
from rsiccllm.caption.images import pair_of
from rsiccllm.caption.question import check_question
from rsiccllm.caption.result import Caption
from rsiccllm.errors import InputError
from rsiccllm.model.checkpoint import load_config, resolve_checkpoint
from rsiccllm.model.generate import Answer, Drawn, Encoded, drawn_answers, generate_encoded, sample_encoded
from rsiccllm.model.processor import PairProcessor, load_processor
from rsiccllm.model.vlm import load_model
from rsiccllm.pairs import OpenedPair
from rsiccllm.rsici.prompts import PROMPTS

if TYPE_CHECKING:
    from rsiccllm.caption.images import ImageLike
    from rsiccllm.caption.others import Others

EMBEDDED = Path(__file__).resolve().parent.parent / "embedded"
"""The model that comes with the package."""

LONGEST = {"caption": 64, "describe": 320}
"""Tokens of the longest answer, by task: captions have 5 to 40 words, descriptions 77 on average."""

LONGEST_REPLY = 128
"""Tokens of the longest reply to a question of the user's own."""

TEMPERATURE, TOP_P = 1.0, 0.95
"""How candidates beside the likeliest answer are drawn."""


class Captioner:
    """A model and its processor, ready to caption.

    One answer at a time: calls from several threads wait for one another.

        captioner = Captioner.load()
        print(captioner.caption("before.png", "after.png").caption)
    """

    def __init__(
        self, model: Any, processor: PairProcessor, calibration: Calibration | None = None,
        of_several: Calibration | None = None, familiarity: Familiarity | None = None,
    ) -> None:  # fmt: skip
        """of_several: the calibration of captions that are the best of several answers. familiarity: what images are
        like on which the model was trained; the calibrations are then fitted with it."""
        self.model = model.eval()
        self.processor = processor
        self.calibration = calibration
        self.of_several = of_several
        self.familiarity = familiarity
        self._turn = threading.Lock()  # generation keeps positions on the model itself

    @classmethod
    def load(
        cls, checkpoint: str | Path | None = None, device: str | None = None, dtype: torch.dtype = torch.float32
    ) -> Captioner:
        """Load a run's folder, a checkpoint folder or a hub name; None: the model that comes with the package.

        A model of another family, without our difference path, becomes an `OtherCaptioner`; device and dtype are then
        its own (float32 on a CPU). device: None takes CUDA where there is one, else the CPU. Raises InputError without
        a checkpoint.
        """
        name = model_name(checkpoint)
        if not _reads_pairs(load_config(name).model_type):
            from rsiccllm.caption.other import OtherCaptioner
            from rsiccllm.model.stock import VisionLanguageModel

            return OtherCaptioner(VisionLanguageModel.load(name))
        place = device or ("cuda" if torch.cuda.is_available() else "cpu")
        calibrations = load_calibration(Path(name)), load_calibration(Path(name), FILE_OF_SEVERAL)
        model = load_model(name, dtype=dtype).to(place)
        return cls(model, load_processor(name), *calibrations, load_familiarity(Path(name)))

    @overload
    def caption(self, before: ImageLike, after: ImageLike, *, long: bool = ..., candidates: int | None = ...,
                resize: bool = ..., batch_size: int = ..., seed: int = ...) -> Caption: ...  # fmt: skip
    @overload
    def caption(self, before: list[Any], after: list[Any], *, long: bool = ...,
                candidates: int | None = ..., resize: bool = ..., batch_size: int = ...,
                seed: int = ...) -> list[Caption]: ...  # fmt: skip
    def caption(self, before: Any, after: Any, *, long: bool = False, candidates: int | None = None,
                resize: bool = False, batch_size: int = 16, seed: int = 0) -> Caption | list[Caption]:  # fmt: skip
        """Say what changed in one pair, or in each of two lists of equal length.

        before, after: paths, PIL images, numpy or torch arrays (`rsiccllm.caption.images.image_of`), or lists of these.
        long: a paragraph instead of a sentence. candidates: how many answers at most; half of them are of the swapped
        dates and turned round, all but the likeliest of each order are sampled, those that differ are kept, and the one
        that the mean of both orders' maps bears out best is the caption. None: `usual`. resize: fit the second image to
        the first. batch_size: pairs that go through the model at once. seed: of the samples.
        Raises InputError for images that cannot be used.
        """
        task = "describe" if long else "caption"
        count = self.usual(task) if candidates is None else candidates
        return self._each(before, after, resize, batch_size, PROMPTS[task], LONGEST[task], count, seed)

    def usual(self, task: str) -> int:
        """How many answers a caption is the best of unless told otherwise: as its calibration was made; of a model
        without one, and of long texts, one."""
        return self.of_several.answers if self.of_several is not None and task == "caption" else 1

    @overload
    def ask(self, before: ImageLike, after: ImageLike, question: str, *, resize: bool = ...,
            max_new_tokens: int = ...) -> Caption: ...  # fmt: skip
    @overload
    def ask(self, before: list[Any], after: list[Any], question: str, *, resize: bool = ...,
            max_new_tokens: int = ...) -> list[Caption]: ...  # fmt: skip
    def ask(self, before: Any, after: Any, question: str, *, resize: bool = False,
            max_new_tokens: int = LONGEST_REPLY) -> Caption | list[Caption]:  # fmt: skip
        """Answer a question about one pair, or about each of two lists. The answer stands in `.caption`.

        It has no confidence: what is calibrated is the model's captions. Raises InputError for an empty question.
        """
        check_question(question)
        return self._each(before, after, resize, 16, question, max_new_tokens, 1, 0)

    def _each(self, before: Any, after: Any, resize: bool, batch_size: int, prompt: str, max_new_tokens: int,
              candidates: int, seed: int) -> Caption | list[Caption]:  # fmt: skip
        for name, value, least in (("batch_size", batch_size, 1), ("candidates", candidates, 1), ("seed", seed, 0),
                                   ("max_new_tokens", max_new_tokens, 1)):  # fmt: skip
            if value < least:
                raise InputError(f"{name}: {value}; expected at least {least}")
        if isinstance(before, list | tuple) != isinstance(after, list | tuple):
            raise InputError("before, after: one is a list and the other is not")
        if not isinstance(before, list | tuple):
            pairs = [pair_of(before, after, resize)]
            return next(self.answer_all(pairs, prompt, max_new_tokens, 1, candidates, seed))
        if len(before) != len(after):
            raise InputError(f"before, after: lists of {len(before)} and {len(after)}, expected equally many")
        opened = (pair_of(a, b, resize, f"[{i}]") for i, (a, b) in enumerate(zip(before, after, strict=True)))
        return list(self.answer_all(opened, prompt, max_new_tokens, batch_size, candidates, seed))

    def caption_all(self, pairs: Iterable[OpenedPair], batch_size: int = 16, task: str = "caption",
                    max_new_tokens: int | None = None, candidates: int = 1) -> Iterator[Caption]:  # fmt: skip
        """Caption opened pairs in batches, in order; `pairs` may be opened as they are needed. task: of PROMPTS."""
        limit = LONGEST[task] if max_new_tokens is None else max_new_tokens
        return self.answer_all(pairs, PROMPTS[task], limit, batch_size, candidates)

    def answer_all(self, pairs: Iterable[OpenedPair], prompt: str, max_new_tokens: int, batch_size: int = 16,
                   candidates: int = 1, seed: int = 0) -> Iterator[Caption]:  # fmt: skip
        """Answer one prompt about opened pairs in batches, in order."""
        source = iter(pairs)
        while chunk := list(islice(source, batch_size)):
            prompts = [self.encode(pair, prompt) for pair in chunk]
            answers = self.answer_encoded(prompts, max_new_tokens)
            others: Sequence[Others | None] = [None] * len(chunk)
            if candidates > 1:
                from rsiccllm.caption.others import others_of  # OpenCV and more, which one answer need not wait for

                others = others_of(self, chunk, prompt, prompts, answers, max_new_tokens, candidates, seed)
            for pair, answer, more in zip(chunk, answers, others, strict=True):
                yield self.finish(answer, pair.before.size, prompt, more)

    def encode(self, pair: OpenedPair, prompt: str) -> Encoded:
        """A question about a pair as the model is shown it: all that the model needs, and small."""
        return self.processor.encode_prompt(prompt, (pair.before, pair.after))

    def answer_encoded(
        self, prompts: Sequence[Encoded], max_new_tokens: int, tell: Callable[[list[int]], None] | None = None
    ) -> list[Answer]:
        """Raw answers to encoded questions, as one batch. tell: as for `generate_encoded`."""
        with self._turn:
            return generate_encoded(self.model, self.processor, prompts, max_new_tokens, tell)

    def draw(
        self,
        prompts: Sequence[Encoded],
        seeds: Sequence[int],
        count: int,
        max_new_tokens: int,
        temperature: float = TEMPERATURE,
        top_p: float = TOP_P,
    ) -> list[list[Drawn]]:
        """`count` sampled answers to each encoded question, as one batch.

        seeds, temperature, top_p: as for `rsiccllm.model.generate.sample_encoded`.
        """
        with self._turn:
            new = sample_encoded(self.model, self.processor, prompts, seeds, count, temperature, top_p, max_new_tokens)
        return drawn_answers(self.processor, new, count)

    def finish(
        self, answer: Answer, size: tuple[int, int], prompt: str = PROMPTS["caption"], others: Others | None = None
    ) -> Caption:
        """A raw answer with its map at the image's `size` (width, height), its confidence, and other candidates.

        others: with them the caption is the best of all (`Others.ranked`).
        """
        ranked = [(answer.text, answer.probability)] if others is None else others.ranked(answer)
        said, chance = ranked[0]
        candidates = () if others is None else tuple(text for text, _ in ranked)
        seen = named = None
        if answer.change_map is not None:
            wide = Image.fromarray(answer.change_map.numpy()).resize(size, Image.Resampling.BILINEAR)
            seen = np.asarray(wide).clip(0, 1)
        if answer.fact_maps is not None:
            named = answer.fact_maps.numpy()
        known = None
        if self.familiarity is not None and answer.look is not None:
            known = self.familiarity.of(answer.look.numpy())
        found = Caption(said, chance, None, seen, candidates, named, familiarity=known)
        if prompt != PROMPTS["caption"]:
            return found
        confidence = None if self.calibration is None else self.calibration.confidence(found.clues)
        if others is not None:
            found = replace(found, agreement=others.agreement(answer, said))
            if self.of_several is not None:
                confidence = self.of_several.confidence(found.clues)
        return replace(found, confidence=confidence)


def _reads_pairs(architecture: str) -> bool:
    """Whether `load_model` takes it: ours, and the families that ours extend."""
    return architecture.startswith("rsiccllm_") or architecture in {"qwen2_5_vl", "qwen3_vl"}


def model_name(checkpoint: str | Path | None) -> str:
    """The folder or hub name of a model; None: the one in the package. Raises InputError where there is none."""
    if checkpoint is not None:
        return resolve_checkpoint(str(checkpoint))
    if not (EMBEDDED / "config.json").exists():
        raise InputError(
            "no model comes with this copy of rsiccllm; `make embedded` trains it, or name one with --model "
            "(`make demo` leaves one in runs/demo/dnpo)"
        )
    return str(EMBEDDED)
