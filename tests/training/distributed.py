"""Runs by the Trainer, and a few updates by hand under fully_shard. For `torchrun`; not a test by itself.

    torchrun --nproc_per_node 2 distributed.py OUT CHECKPOINT... RECIPE.yaml...

Trains by each recipe (DNPO where its name begins so), and writes OUT/NAME.pt for each checkpoint folder NAME. One
launch for all: most of its time goes into imports.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from helpers import sharded_updates
from torch import nn
from torch.distributed.fsdp import fully_shard

from rsiccllm.training.dnpo import train_dnpo
from rsiccllm.training.recipe import DNPORecipe, SFTRecipe, load_recipe
from rsiccllm.training.sft import train_sft


def shard(model: nn.Module) -> None:
    """Layer by layer, as large models are sharded."""
    for layer in [*model.model.language_model.layers, *model.model.visual.blocks]:  # type: ignore[union-attr, misc]
        fully_shard(layer)
    fully_shard(model)


if __name__ == "__main__":
    torch.set_num_threads(1)
    out, *rest = map(Path, sys.argv[1:])
    checkpoints = [path for path in rest if path.is_dir()]
    for path in rest:
        if path.is_file():
            if path.name.startswith("dnpo"):
                train_dnpo(load_recipe(path, DNPORecipe))
            else:
                train_sft(load_recipe(path, SFTRecipe))  # the first sets up the processes' group
    rank, world = dist.get_rank(), dist.get_world_size()
    assert world == 2
    for checkpoint in checkpoints:
        losses, model = sharded_updates(checkpoint, rank, world, shard)
        dist.all_reduce(losses)
        weights = {name: weight.full_tensor() for name, weight in model.state_dict().items()}
        if rank == 0:
            torch.save({"losses": losses, "weights": weights}, out / f"{checkpoint.name}.pt")
    dist.destroy_process_group()
