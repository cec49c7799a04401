"""What a training run shows while it goes on: updates done, the newest loss, the time left."""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rsiccllm.progress import bar


class TrainingBar(TrainerCallback, AbstractContextManager["TrainingBar"]):
    """A progress bar of updates; without a terminal, a line for each logged step. Training runs inside its `with`,
    which gives the terminal back also where training is stopped."""

    def __init__(self, name: str, shown: bool) -> None:
        self.name = name
        self.shown = shown
        self.progress = bar()
        self.task = self.progress.add_task(name, total=None)

    def __enter__(self) -> TrainingBar:
        if self.shown:
            self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.shown:
            self.progress.stop()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.progress.update(self.task, total=state.max_steps, completed=state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.progress.update(self.task, completed=state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if not logs or "loss" not in logs:
            return
        text = f"{self.name}, loss {float(logs['loss']):.3f}"
        self.progress.update(self.task, description=text)
        if self.shown and not self.progress.console.is_terminal:
            seconds = self.progress.tasks[0].time_remaining
            left = "" if seconds is None else f", {timedelta(seconds=round(seconds))} left"
            self.progress.console.print(f"{text}, update {state.global_step} of {state.max_steps}{left}")
