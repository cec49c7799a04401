"""The order of streamed rows: exact, random, a few shards at a time, and each process its own part."""

from __future__ import annotations

from collections import Counter
from itertools import chain, pairwise, zip_longest
from typing import Any

import pytest
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer

from rsiccllm.training.mix import MixSampler
from rsiccllm.training.shard_order import WINDOW, ShardSampler, lane_count
from rsiccllm.training.shards import Index, Shard, shard_name
from rsiccllm.training.trainer import StageTrainer

BATCH = 4


def index_of(rows: list[int]) -> Index:
    shards = [Shard(name=shard_name(at), rows=size, bytes=1, sha256="0" * 64) for at, size in enumerate(rows)]
    return Index(
        made_of="", records="instructions", split="train", group=16, seen=["a/train"], longest=[0], shards=shards
    )


class Counting(Dataset):
    """Rows that are their own numbers, and remember that they were read."""

    def __init__(self, rows: int) -> None:
        self.rows, self.read = rows, list[int]()

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: int) -> int:
        self.read.append(index)
        return index


def loader(sampler: Any, processes: int, process: int, epoch: int = 0) -> Any:
    """What accelerate makes of it for one process of several, as `StageTrainer` hands it on."""
    plain = DataLoader(Counting(len(sampler)), BATCH, sampler=sampler, collate_fn=list)
    prepared = prepare_data_loader(plain, num_processes=processes, process_index=process, put_on_device=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "get_train_dataloader", lambda self: prepared)
        prepared = StageTrainer.get_train_dataloader(StageTrainer.__new__(StageTrainer))
    prepared.set_epoch(epoch)
    return prepared


def of_process(index: Index, processes: int, process: int, **more: Any) -> list[list[int]]:
    return list(loader(ShardSampler(index, 0, BATCH, **more), processes, process))


def shards_of(index: Index, rows: list[int]) -> set[int]:
    places = list(chain.from_iterable([number] * shard.rows for number, shard in enumerate(index.shards)))
    return {places[row] for row in rows}


@pytest.mark.parametrize("processes", [1, 2, 4, 8])
def test_each_process_reads_its_own_shards_and_together_all_rows_once(processes: int) -> None:
    index = index_of([32] * 16)
    assert lane_count(index) == 16
    parts = [of_process(index, processes, process) for process in range(processes)]
    assert Counter(chain.from_iterable(chain.from_iterable(parts))) == Counter(range(32 * 16))
    own = [shards_of(index, list(chain.from_iterable(part))) for part in parts]
    assert sum(map(len, own)) == len(set().union(*own)) == 16
    # In step with the order of one process, whatever their number.
    together = [batch for step in zip_longest(*parts) for batch in step]
    assert together == of_process(index, 1, 0)


@pytest.mark.parametrize("rows", [[100, 37, 64, 5, 99, 16, 80, 41, 70], [3], [1, 1, 1, 1], [1000, 1]])
@pytest.mark.parametrize("processes", [1, 2, 3, 4])
def test_shards_of_any_size(rows: list[int], processes: int) -> None:
    index = index_of(rows)
    order = list(ShardSampler(index, 0, BATCH))
    assert Counter(order) == Counter(range(sum(rows)))
    parts = [of_process(index, processes, process) for process in range(processes)]
    batches = [batch for step in zip_longest(*parts) for batch in step]
    # accelerate fills the last round up from the beginning.
    assert list(chain.from_iterable(batches))[: len(order)] == order
    if len(rows) == 9 and processes in (2, 4):
        counted = sum(rows) // (8 * BATCH) * 8 // processes  # batches of the lanes
        own = [shards_of(index, list(chain.from_iterable(part[:counted]))) for part in parts]
        # Lanes of a process lie side by side: only where two processes meet is a shard read by both.
        assert sum(map(len, own)) <= len(rows) + processes - 1


def test_loader_processes_of_a_process_read_their_own_shards_too() -> None:
    index = index_of([32] * 16)
    batches = of_process(index, 2, 1)
    own = [shards_of(index, list(chain.from_iterable(batches[worker::4]))) for worker in range(4)]
    assert [len(shards) for shards in own] == [2] * 4
    assert len(set().union(*own)) == 8


def test_the_order_is_random_and_depends_on_seed_and_epoch_alone() -> None:
    index = index_of([64] * 8)
    first, again, other = (ShardSampler(index, seed, BATCH) for seed in (0, 0, 1))
    assert list(first) == list(again) == list(first)
    assert list(first) != list(other)
    again.set_epoch(1)
    assert list(first) != list(again)
    assert Counter(first) == Counter(again)
    order = list(first)
    near = sum(abs(one - two) == 1 for one, two in pairwise(order))
    assert near < 0.05 * len(order), "rows that were written side by side are to be apart"


def test_few_rows_are_open_at_a_time() -> None:
    """A group is read when its first row is asked for, and could be forgotten after its last."""
    index = index_of([256] * 16)
    order = list(ShardSampler(index, 0, BATCH))
    groups = [row // 16 for row in order]
    begin = {group: at for at, group in reversed(list(enumerate(groups)))}
    end = {group: at for at, group in enumerate(groups)}
    most = max(sum(begin[group] <= at <= end[group] for group in begin) for at in range(0, len(order), 64))
    assert most <= lane_count(index) * (WINDOW // 16 + 1) < len(begin)


def test_a_run_that_goes_on_within_a_later_epoch_reads_what_is_left_and_nothing_before() -> None:
    index = index_of([32] * 8)
    for sampler in (ShardSampler(index, 3, BATCH), MixSampler([128, 128], [1, 2], 3)):
        for processes in (1, 2):
            whole = list(loader(sampler, processes, 0, epoch=2))
            rest = skip_first_batches(loader(sampler, processes, 0), 5)
            sampler.set_epoch(0)  # as it is in a process that has just begun
            rest.set_epoch(2)
            assert list(rest) == whole[5:], (type(sampler), processes)
            assert sorted(rest.dataset.read) == sorted(chain.from_iterable(whole[5:]))


def test_an_epoch_of_views_shows_every_pair_once_in_each() -> None:
    index = index_of([40] * 8)
    order = list(ShardSampler(index, 0, BATCH, times=8))
    assert len(order) == len(ShardSampler(index, 0, BATCH, times=8)) == 8 * 320
    assert Counter(order) == Counter(range(8 * 320))
    # A pass takes each pair at most once, in all views alike; what it leaves out comes last.
    each = 320 // (8 * BATCH) * 8 * BATCH
    for number in range(8):
        taken = order[number * each : (number + 1) * each]
        assert len({at // 8 for at in taken}) == each
        assert min(Counter(at % 8 for at in taken).values()) > 0.5 * each / 8
    for processes in (2, 4):
        parts = [of_process(index, processes, process, times=8) for process in range(processes)]
        assert [batch for step in zip_longest(*parts) for batch in step] == of_process(index, 1, 0, times=8)
