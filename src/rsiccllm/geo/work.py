"""The work on tiles: in this process, in several, or on a Ray cluster, with the same lines whichever way.

What makes them the same: tiles go through the model in fixed groups, a group at a time and with one thread of torch's
(with more, sums run in another order and end in other digits), and lines come back in the order of the groups.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from rasterio.windows import Window

from rsiccllm.caption.captioner import LONGEST, Captioner
from rsiccllm.cluster import joined
from rsiccllm.errors import InputError
from rsiccllm.geo.grid import Fit, Grid, Patch
from rsiccllm.geo.tiles import Tile, cloud_share, is_empty, is_still, pack_cells, pack_map, starts
from rsiccllm.pairs import OpenedPair
from rsiccllm.processes import end_with_parent, interrupts_held
from rsiccllm.rsici.prompts import PROMPTS

Line = dict[str, Any]
"""What is known of a tile: id; state: empty, still or captioned; nodata: share without data in one of the dates;
clouds: share of each date that looks like cloud; and of a captioned one caption, probability, confidence, map, and
what: the likeliest fact in each cell of the map, by its number in FACTS, where the model has it."""

AHEAD = 4
"""Groups that wait for each worker: enough that none stands idle, few enough to stop at once."""


class Job(NamedTuple):
    """All that a worker needs, wherever it runs: on a cluster the paths must mean the same files everywhere."""

    before: Path
    after: Path
    model: str
    bands: tuple[int, int, int] | None
    fit: Fit


def groups_of(width: int, height: int, size: int, overlap: int, batch: int) -> Iterator[list[Tile]]:
    """The tiles of a grid in order, in groups of neighbours in one row, at most `batch` each."""
    for top in starts(height, size, overlap):
        row = [Tile(left, top, min(size, width), min(size, height)) for left in starts(width, size, overlap)]
        yield from (row[begin : begin + batch] for begin in range(0, len(row), batch))


class Worker:
    """Its own eyes on the rasters and, once a tile asks for one, its own model."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._grid = Grid(job.before, job.after, job.bands, fit=job.fit, trusted=True)
        self._captioner: Captioner | None = None

    def close(self) -> None:
        self._grid.close()

    def lines(self, group: list[Tile]) -> list[Line]:
        """A line for each tile of a group of neighbours. They are read as one: warping costs by the call."""
        left, top = group[0].left, group[0].top
        whole = self._grid.read(Window(left, top, group[-1].left + group[-1].width - left, group[0].height))
        lines: list[Line] = []
        pairs: dict[int, OpenedPair] = {}
        for tile in group:
            columns = np.s_[:, tile.left - left : tile.left - left + tile.width]
            patch = Patch(*(part[columns] for part in whole))
            state = "empty" if is_empty(patch) else "still" if is_still(patch) else "captioned"
            clouds = [cloud_share(date, patch.valid, self._grid.pixel) for date in (patch.before, patch.after)]
            if state == "captioned":
                pairs[len(lines)] = OpenedPair(Image.fromarray(patch.before), Image.fromarray(patch.after), None)
            lines.append({"id": tile.id, "state": state, "nodata": round(1 - float(patch.valid.mean()), 4),
                          "clouds": [round(share, 4) for share in clouds]})  # fmt: skip
        for place, said in zip(pairs, self._ask(list(pairs.values())), strict=True):
            lines[place] |= said
        return lines

    def _ask(self, pairs: Sequence[OpenedPair]) -> list[Line]:
        if not pairs:
            return []
        if self._captioner is None:
            self._captioner = Captioner.load(self._job.model)
        captioner = self._captioner
        prompts = [captioner.encode(pair, PROMPTS["caption"]) for pair in pairs]
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            answers = captioner.answer_encoded(prompts, LONGEST["caption"])
        finally:
            torch.set_num_threads(threads)
        said = []
        for pair, answer in zip(pairs, answers, strict=True):
            if answer.change_map is None:
                raise InputError(f"{self._job.model}: has no change map, without which nothing can be drawn")
            found = captioner.finish(answer, pair.before.size)
            said.append({"caption": found.caption, "probability": found.probability, "confidence": found.confidence,
                         "map": pack_map(answer.change_map.numpy())})  # fmt: skip
            if answer.fact_maps is not None:
                said[-1]["what"] = pack_cells(answer.fact_maps.numpy().argmax(0).astype(np.uint8))
        return said


def work(job: Job, groups: Sequence[list[Tile]], workers: int, ray: str | None) -> Iterator[list[Line]]:
    """The lines of each group, in order.

    workers: processes, each with a model of its own; 1: this process. ray: "local" starts Ray on this machine, "auto"
    or an address joins a cluster; `workers` are then its actors. Raises InputError as Grid and Captioner do, and where
    a worker was ended from outside.
    """
    if ray is not None:
        return _on_ray(job, groups, workers, ray)
    return _in_processes(job, groups, workers) if workers > 1 else _here(job, groups)


def _here(job: Job, groups: Sequence[list[Tile]]) -> Iterator[list[Line]]:
    worker = Worker(job)
    try:
        for group in groups:
            yield worker.lines(group)
    finally:
        worker.close()


_worker: Worker | None = None


def _begin(job: Job) -> None:
    global _worker
    end_with_parent()
    _quiet()
    _worker = Worker(job)


def _lines(group: list[Tile]) -> list[Line]:
    assert _worker is not None
    return _worker.lines(group)


def _in_processes(job: Job, groups: Sequence[list[Tile]], workers: int) -> Iterator[list[Line]]:
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_begin, initargs=(job,))

    def submit(number: int, group: list[Tile]) -> Callable[[], list[Line]]:
        with interrupts_held():
            return pool.submit(_lines, group).result

    try:
        yield from _in_order(submit, groups, workers)
    except BrokenProcessPool:
        raise InputError(
            "--workers: one of them was ended from outside (out of memory?); call again to go on"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _on_ray(job: Job, groups: Sequence[list[Tile]], workers: int, address: str) -> Iterator[list[Line]]:
    with joined(address, num_cpus=workers, object_store_memory=2**27):
        import ray

        actors = [ray.remote(num_cpus=1)(Worker).remote(job) for _ in range(workers)]

        def submit(number: int, group: list[Tile]) -> Callable[[], list[Line]]:
            waited = actors[number % workers].lines.remote(group)
            return lambda: ray.get(waited)

        try:
            yield from _in_order(submit, groups, workers)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, InputError):
                raise error.cause from None
            raise
        except ray.exceptions.RayActorError as error:
            raise InputError(f"--ray: a worker was lost ({str(error).splitlines()[0]}); call again to go on") from None


def _in_order(
    submit: Callable[[int, list[Tile]], Callable[[], list[Line]]], groups: Sequence[list[Tile]], workers: int
) -> Iterator[list[Line]]:
    """Results in the order of the groups, with at most AHEAD groups for each worker under way."""
    under_way: deque[Callable[[], list[Line]]] = deque()
    for number, group in enumerate(groups):
        under_way.append(submit(number, group))
        if len(under_way) >= AHEAD * workers:
            yield under_way.popleft()()
    while under_way:
        yield under_way.popleft()()


def _quiet() -> None:
    """transformers' bar of loading weights, once for each process, would break ours."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
