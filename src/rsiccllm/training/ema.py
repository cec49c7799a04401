"""A moving average of the weights that learn, which the finished model takes: steadier than the last update's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from rsiccllm.files import atomic_write

FILE = "ema.safetensors"


class Ema(TrainerCallback):
    """After each update, average = decay * average + (1 - decay) * weights, from the weights that training starts with.

    Saved in every checkpoint, so that a stopped run goes on with the same average.
    """

    def __init__(self, decay: float) -> None:
        self.update = get_ema_multi_avg_fn(decay)
        self.average: dict[str, Tensor] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Start from the model, or from the checkpoint that training goes on from."""
        self.average = {name: weight.detach().clone() for name, weight in _learning(model).items()}
        if state.global_step:
            self.load(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    @torch.no_grad()
    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Take in one update."""
        now = _learning(model)
        self.update(list(self.average.values()), [now[name] for name in self.average], state.global_step)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write the average beside the checkpoint's weights."""
        if state.is_world_process_zero:
            whole = {name: value.cpu().contiguous() for name, value in self.average.items()}
            with atomic_write(Path(args.output_dir) / f"checkpoint-{state.global_step}" / FILE, "wb") as handle:
                handle.write(save(whole))

    def load(self, checkpoint: Path) -> None:
        """Take the average that a checkpoint holds."""
        held = load_file(checkpoint / FILE)
        self.average = {
            name: value.to(self.average[name].device) if self.average else value for name, value in held.items()
        }

    @torch.no_grad()
    def give(self, model: Any) -> None:
        """Make the model's weights the average."""
        now = _learning(model)
        for name, value in self.average.items():
            now[name].copy_(value)


def _learning(model: Any) -> dict[str, Tensor]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
