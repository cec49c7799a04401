"""Answers to held-out pairs while a model is trained: their scores, the best weights kept, and when to stop.

A loss can go on falling while the model gets worse; what it says of pairs that it does not learn from tells.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rsiccllm.errors import InputError
from rsiccllm.facts import parse
from rsiccllm.files import atomic_write, inside
from rsiccllm.keywords import similarity
from rsiccllm.model.checkpoint import pack_tensors, read_tensors
from rsiccllm.model.generate import Answer, generate_answers
from rsiccllm.model.processor import PairProcessor
from rsiccllm.pairs import open_pair
from rsiccllm.records import INSTRUCTIONS, Instruction
from rsiccllm.training.data import load_records
from rsiccllm.training.losses import answer_log_probs
from rsiccllm.training.packing import MODEL_FIELDS, Sample, collator_of
from rsiccllm.training.recipe import AnswerRecipe, Recipe

EVALUATIONS = "validation.jsonl"


def validation_records(recipe: AnswerRecipe) -> list[Instruction]:
    """`validation_pairs` records of the recipe's task, spread evenly over its split; [] where it has no validation.

    Raises InputError where there is none, and where none says of a change while `fact_f1` is to choose.
    """
    if recipe.validation is None:
        return []
    split, task = recipe.validation_split, recipe.validation_task
    loaded = load_records(recipe.validation, INSTRUCTIONS, Instruction, split)
    every = [record for record in loaded if record.task == task and not record.history]
    if not every:
        tasks = ", ".join(sorted({record.task for record in loaded}))
        raise InputError(f"{recipe.validation / INSTRUCTIONS}: no task '{task}' in split '{split}' (there: {tasks})")
    count = min(recipe.validation_pairs, len(every))
    records = [every[at * len(every) // count] for at in range(count)]
    if recipe.best_by == "fact_f1" and not any(parse(text).facts for record in records for text in record.answers):
        raise InputError(f"best_by=fact_f1: none of the {count} pairs of split '{split}' states a fact to score by")
    return records


def score_answers(answers: Sequence[Answer], records: Sequence[Instruction]) -> dict[str, float]:
    """Scores of generated answers, x 100 but for length and entropy.

    similarity: of key words to the nearest reference, mean. fact_f1: of the (object, direction) they state, against
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
        "similarity": 100
        * mean(similarity(a.text, record.answers) for a, record in zip(answers, records, strict=True)),
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


def stalled(values: Sequence[float], times: int) -> bool:
    """Whether none of the last `times` values is over the best of those before them."""
    return len(values) > times and max(values[-times:]) <= max(values[:-times])


def out_of_patience(recipe: AnswerRecipe, history: Sequence[dict[str, float]]) -> bool:
    """Whether nothing got better for `patience` evaluations."""
    if recipe.patience is None:
        return False
    best, sure = ([entry[name] for entry in history] for name in (recipe.best_by, "log_prob"))
    return stalled(best, recipe.patience) or falling(sure, recipe.patience)


def gave_up(recipe: Recipe, step: int) -> bool:
    """Whether a run had stopped by its patience at an update: there is nothing to train on, only to write."""
    if not isinstance(recipe, AnswerRecipe) or recipe.validation is None:
        return False
    return out_of_patience(recipe, [entry for entry in read_evaluations(recipe.out) if entry["step"] <= step])


class Validation(TrainerCallback):
    """Generates and scores before the first update and every `eval_steps`, keeps the best weights, stops in time.

    `out/validation.jsonl` holds one line an evaluation, `out/best-STEP.safetensors` the trained weights of the best.
    """

    def __init__(self, recipe: AnswerRecipe, records: Sequence[Instruction], processor: PairProcessor) -> None:
        self.recipe = recipe
        self.records = records
        self.processor = processor
        self.collator = collator_of(recipe, processor)
        self.history: list[dict[str, float]] = []

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Take up what evaluations there are up to the update that training goes on from."""
        self.history = [entry for entry in read_evaluations(self.recipe.out) if entry["step"] <= state.global_step]
        if not self.history:
            self._evaluate(model, state)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Evaluate where it is time, and stop where it gets no better."""
        step = state.global_step
        if step % self.recipe.eval_steps and step != state.max_steps:
            return
        if self.history[-1]["step"] < step:
            self._evaluate(model, state)
        if out_of_patience(self.recipe, self.history):
            control.should_training_stop = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Drop all weights but the best: with a checkpoint written, training never goes back to before it."""
        if state.is_world_process_zero:
            best = self._best(self.history)
            for entry in self.history:
                if entry is not best:
                    self._weights_of(entry).unlink(missing_ok=True)

    def _best(self, history: Sequence[dict[str, float]]) -> dict[str, float]:
        """The earliest of equal ones."""
        return max(history, key=lambda entry: entry[self.recipe.best_by])

    def _weights_of(self, entry: dict[str, float]) -> Path:
        return self.recipe.out / f"best-{int(entry['step'])}.safetensors"

    def _evaluate(self, model: Any, state: TrainerState) -> None:
        """Every process does it, so that all stop together; the first one writes."""
        # Beneath the adapters' wrapper accelerate's autocast is gone with it.
        kind = model.device.type
        with evaluating(model) as plain, torch.autocast(kind, torch.bfloat16, enabled=self.recipe.bf16):
            found = {"step": float(state.global_step), **self._generate(plain), "log_prob": self._log_prob(plain)}
        self.history.append(found)
        if not state.is_world_process_zero:
            return
        if self._best(self.history) is found:
            weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
            with atomic_write(self._weights_of(found), "wb") as handle:
                handle.write(pack_tensors(weights))
        with atomic_write(self.recipe.out / EVALUATIONS) as handle:
            handle.writelines(json.dumps(entry) + "\n" for entry in self.history)

    def restore_best(self, model: Any) -> None:
        """Give the model the weights of the best evaluation. They are on disk also where nothing was left to train."""
        best = self._best(read_evaluations(self.recipe.out))
        weights = read_tensors(self._weights_of(best))
        unknown = model.load_state_dict(weights, strict=False).unexpected_keys
        assert not unknown, unknown

    def _samples(self) -> Iterator[list[tuple[Instruction, Sample]]]:
        root = self.recipe.validation
        assert root is not None  # there are no records without it
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
def evaluating(model: Any) -> Iterator[Any]:
    """The model beneath its adapters' wrapper, to generate with: in evaluation mode, no stale positions left behind."""
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
