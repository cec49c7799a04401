"""Answers to held-out pairs while a model is trained by preferences: their scores, and when to stop.

Preference losses can go on falling while the model gets worse. What it says of pairs that it does not learn from tells.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from safetensors.torch import load_file, save
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rsiccllm.facts import parse
from rsiccllm.files import atomic_write, inside
from rsiccllm.keywords import similarity
from rsiccllm.model.generate import Answer, generate_answers
from rsiccllm.model.processor import PairProcessor
from rsiccllm.pairs import open_pair
from rsiccllm.records import INSTRUCTIONS, Instruction
from rsiccllm.training.data import load_records
from rsiccllm.training.losses import answer_log_probs
from rsiccllm.training.packing import MODEL_FIELDS, Sample, collator_of
from rsiccllm.training.recipe import DNPORecipe

EVALUATIONS = "validation.jsonl"
BEST = "best.safetensors"


def validation_records(recipe: DNPORecipe) -> list[Instruction]:
    """`validation_pairs` captioning tasks, spread evenly over the split. Raises InputError where there are none."""
    assert recipe.validation is not None
    every = load_records(recipe.validation, INSTRUCTIONS, Instruction, recipe.validation_split)
    count = min(recipe.validation_pairs, len(every))
    return [every[at * len(every) // count] for at in range(count)]


def score_answers(answers: Sequence[Answer], records: Sequence[Instruction]) -> dict[str, float]:
    """Scores of generated answers, x 100 but for length and entropy.

    score: key-word similarity to the nearest reference, mean. fact_f1: of the (object, direction) they state, against
    the union of the references', over changed pairs. hallucination: share of unchanged pairs said to have changed.
    misses: share of changed pairs not said to have. cut: share not ended at the limit. length: tokens. entropy: nats a
    token. What there is no pair to count on is left out.
    """
    said = [parse(answer.text) for answer in answers]
    truth = [[parse(text) for text in record.answers] for record in records]
    facts = [{(fact.object, fact.direction) for item in own for fact in item.facts} for own in truth]
    changed = [
        bool(own) if record.changed is None else record.changed for own, record in zip(facts, records, strict=True)
    ]
    right = stated = true = 0
    for item, own, is_changed in zip(said, facts, changed, strict=True):
        if is_changed:
            mine = {(fact.object, fact.direction) for fact in item.facts}
            right, stated, true = right + len(mine & own), stated + len(mine), true + len(own)
    on_changed = [item.changed for item, is_changed in zip(said, changed, strict=True) if is_changed]
    on_unchanged = [item.changed for item, is_changed in zip(said, changed, strict=True) if not is_changed]
    found = {
        "score": 100 * mean(similarity(a.text, record.answers) for a, record in zip(answers, records, strict=True)),
        "cut": 100 * mean(not answer.ended for answer in answers),
        "length": mean(answer.tokens for answer in answers),
        "entropy": mean(answer.entropy for answer in answers),
    }
    if true:
        found["fact_f1"] = 200 * right / (stated + true)
    if on_changed:
        found["misses"] = 100 * (1 - on_changed.count(True) / len(on_changed))
    if on_unchanged:
        found["hallucination"] = 100 * on_unchanged.count(True) / len(on_unchanged)
    return found


def falling(values: Sequence[float], times: int) -> bool:
    """Whether each of the last `times` values is under the one before it."""
    return len(values) > times and all(a > b for a, b in zip(values[-times - 1 : -1], values[-times:], strict=True))


class Validation(TrainerCallback):
    """Generates and scores before the first update and every `eval_steps`, keeps the best weights, stops on collapse.

    `out/validation.jsonl` holds one line an evaluation, `out/best.safetensors` the trained weights of the best.
    """

    def __init__(self, recipe: DNPORecipe, records: Sequence[Instruction], processor: PairProcessor) -> None:
        assert recipe.validation is not None
        self.recipe = recipe
        self.records = records
        self.processor = processor
        self.collator = collator_of(recipe, processor)
        self.history: list[dict[str, float]] = []
        self.stopped: str | None = None

    @property
    def best(self) -> dict[str, float]:
        """The evaluation with the highest score, the earliest of equal ones."""
        return max(self.history, key=lambda entry: entry["score"])

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Take up what evaluations there are up to the update that training goes on from."""
        self.history = [entry for entry in read_evaluations(self.recipe.out) if entry["step"] <= state.global_step]
        if not self.history and state.global_step == 0:
            self._evaluate(model, state)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Evaluate where it is time, and stop where it falls."""
        step = state.global_step
        if step % self.recipe.eval_steps and step != state.max_steps:
            return
        if not self.history or self.history[-1]["step"] < step:
            self._evaluate(model, state)
        patience = self.recipe.patience
        for name, told in (("score", "the score"), ("log_prob", "the references' log-probability")):
            if patience and falling([entry[name] for entry in self.history], patience):
                self.stopped = f"{told} has fallen at {patience} evaluations one after another"
                control.should_training_stop = True

    def _evaluate(self, model: Any, state: TrainerState) -> None:
        """Every process does it, so that all stop together; the first one writes."""
        with _evaluating(model) as plain:
            found = {"step": float(state.global_step), **self._generate(plain), "log_prob": self._log_prob(plain)}
        self.history.append(found)
        if not state.is_world_process_zero:
            return
        with atomic_write(self.recipe.out / EVALUATIONS) as handle:
            handle.writelines(json.dumps(entry) + "\n" for entry in self.history)
        if self.best is found:
            weights = {name: w.detach().cpu().contiguous() for name, w in model.named_parameters() if w.requires_grad}
            with atomic_write(self.recipe.out / BEST, "wb") as handle:
                handle.write(save(weights, metadata={"step": str(state.global_step)}))

    def restore_best(self, model: Any) -> None:
        """Give the model the weights of the best evaluation."""
        if self.history and (self.recipe.out / BEST).exists():
            missing = model.load_state_dict(load_file(self.recipe.out / BEST), strict=False).unexpected_keys
            assert not missing, missing

    def _samples(self) -> Iterator[list[tuple[Instruction, Sample]]]:
        root = self.recipe.validation
        assert root is not None
        for start in range(0, len(self.records), self.recipe.batch_size):
            batch = []
            for record in self.records[start : start + self.recipe.batch_size]:
                pair = open_pair(inside(root, record.before), inside(root, record.after))
                batch.append((record, Sample(record.id, [pair.before, pair.after], record.prompt, record.answers[:1])))
            yield batch

    def _generate(self, model: Any) -> dict[str, float]:
        answers: list[Answer] = []
        for batch in self._samples():
            questions = [(sample.images, sample.prompt) for _, sample in batch]
            answers += generate_answers(model, self.processor, questions, self.recipe.max_new_tokens)
        return score_answers(answers, self.records)

    @torch.no_grad()
    def _log_prob(self, model: Any) -> float:
        """Mean log-probability a token of each pair's first reference, in nats."""
        total, tokens = 0.0, 0
        for samples in self._samples():
            batch = self.collator([sample for _, sample in samples])
            inputs = {name: batch[name].to(model.device) for name in MODEL_FIELDS if name in batch}
            labels = batch["labels"].to(model.device)
            log_probs = answer_log_probs(model(**inputs).logits, labels, torch.zeros_like(labels), 1)
            total, tokens = total + float(log_probs), tokens + len(labels)
        return total / tokens


@contextmanager
def _evaluating(model: Any) -> Iterator[Any]:
    """The model beneath its adapters' wrapper, in evaluation mode, and no stale positions left behind."""
    training = model.training
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    model.eval()
    try:
        yield plain
    finally:
        plain.model.rope_deltas = None
        model.train(training)


def read_evaluations(out: Path) -> list[dict[str, float]]:
    """The evaluations of a run, in order; [] where it had none."""
    path = out / EVALUATIONS
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
