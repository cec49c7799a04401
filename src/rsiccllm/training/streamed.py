"""Rows that are streamed from Parquet shards, on disk or behind a URL."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from pydantic import ValidationError

from rsiccllm.errors import InputError
from rsiccllm.files import describe_validation
from rsiccllm.pairs import Held, ImageFile
from rsiccllm.records import Instruction, Preference
from rsiccllm.training.data import Answers, Rows
from rsiccllm.training.recipe import Recipe
from rsiccllm.training.shard_cache import ShardCache, default_folder, is_url
from rsiccllm.training.shard_order import lane_count
from rsiccllm.training.shards import Index, Shards, holds_shards


class ShardDataset(Rows):
    """Instructions or preferences in Parquet shards: memory does not grow with their number.

    kind: which of the two; a row that is none raises InputError when it is read.
    """

    def __init__(self, shards: Shards, kind: type[Instruction] | type[Preference], answers: Answers) -> None:
        super().__init__(answers, len(shards))
        self.shards, self.kind = shards, kind
        self.index: Index | None = shards.index

    @property
    def seen(self) -> frozenset[str]:
        """As in Rows."""
        return frozenset(self.shards.index.seen)

    @property
    def longest(self) -> Sequence[int]:
        """Those that the index names."""
        return self.shards.index.longest

    def drawn(self, count: int) -> Sequence[int]:
        """As in Rows, from four shards at most: over a network each is fetched whole."""
        starts = self.shards.starts
        chosen = sorted(set(np.linspace(0, len(starts) - 2, 4).astype(int).tolist()))
        rows = [row for shard in chosen for row in range(int(starts[shard]), int(starts[shard + 1]))]
        return rows[:: max(1, len(rows) // count)]

    def files(self, index: int) -> tuple[Instruction | Preference, list[ImageFile]]:
        """As in Rows."""
        where, row = self.shards.row(index)
        try:
            record = self.kind.model_validate_json(row.record)
        except ValidationError as error:
            raise InputError(f"{where}: row {index}: {describe_validation(error)}") from None
        named = [(record.before, row.before), (record.after, row.after), (record.mask, row.mask)]
        return record, [Held(f"{where}: {name}", data) for name, data in named if name is not None and data is not None]


def streamed(
    recipe: Recipe, filename: str, kind: type[Instruction] | type[Preference], answers: Answers
) -> ShardDataset | None:
    """The rows of the folder or URL of shards that a recipe trains on; None where it trains on other folders.

    Raises InputError where shards are mixed with anything, hold other records or another split, and where the cache is
    too small for those that are read at once.
    """
    places = list(recipe.weights)
    if not any(holds_shards(place) for place in places):
        return None
    if len(places) > 1:
        raise InputError("data: shards are trained on alone, not mixed; expected one folder or URL of them")
    place = places[0]
    shards = Shards(place, ShardCache(recipe.shard_cache or default_folder(), 1e9 * recipe.shard_cache_gb))
    index = shards.index
    if (wanted := filename.partition(".")[0]) != index.records:
        raise InputError(f"{place}: holds {index.records}; expected {wanted}")
    if index.split != recipe.split:
        raise InputError(f"{place}: holds split '{index.split}'; the recipe trains on split '{recipe.split}'")
    if is_url(place):
        _check_cache(recipe, index)
    return ShardDataset(shards, kind, answers)


def _check_cache(recipe: Recipe, index: Index) -> None:
    """Each lane is in one shard, or between two; were they not all kept, every few rows would fetch one anew."""
    machines = max(1, int(os.environ.get("WORLD_SIZE", "1")) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    lanes = -(-lane_count(index) // machines)
    needed = sum(sorted(shard.bytes for shard in index.shards)[-2 * lanes :]) / 1e9
    if recipe.shard_cache_gb < needed:
        raise InputError(
            f"shard_cache_gb={recipe.shard_cache_gb:g}: up to {2 * lanes} shards are read at once; "
            f"expected at least {needed:.3g}"
        )
