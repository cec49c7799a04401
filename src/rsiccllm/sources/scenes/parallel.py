"""Rendering to files with one process for each core: the same bytes as with one, in the same order."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from rsiccllm.errors import InputError
from rsiccllm.pairs import save_png
from rsiccllm.processes import end_with_parent, interrupts_held
from rsiccllm.sources.scenes.plan import plan_scene
from rsiccllm.sources.scenes.raster import coded_mask
from rsiccllm.sources.scenes.render import paint_scene

MAX_PROCESSES = 8
"""Each takes about 100 MB; a container may show many more cores than it has been given."""

WORTH_IT = 40
"""Scenes under which the start of a process takes longer than it saves."""


class SceneFiles(NamedTuple):
    """Scene number `scene` of `seed` at `size` pixels, and the PNG files that its two dates and its mask become."""

    seed: int
    scene: int
    size: int
    easy: bool
    before: Path
    after: Path
    mask: Path


def write_scene(job: SceneFiles) -> None:
    """Render one scene into its three files, each whole or not at all. The mask is coded (`masks`)."""
    plan = plan_scene(job.seed, job.scene, job.easy)
    before, after, _ = paint_scene(plan, job.size)
    save_png(Image.fromarray(before), job.before)
    save_png(Image.fromarray(after), job.after)
    save_png(Image.fromarray(coded_mask(plan.items, plan.facts, job.size)), job.mask)


def write_scenes(jobs: Sequence[SceneFiles], processes: int | None = None) -> Iterator[None]:
    """Render scenes into their files and yield once a scene, in order, when its files are there.

    processes: None takes the cores, at most MAX_PROCESSES, and one for a few scenes. With more than one, a script that
    calls this needs the usual `if __name__ == "__main__":`, since processes are spawned. A stopped call leaves whole
    files alone. Raises InputError where a file cannot be written.
    """
    if processes is None:
        processes = min(_cores(), MAX_PROCESSES) if len(jobs) >= WORTH_IT else 1
    if processes == 1:
        for job in jobs:
            write_scene(job)
            yield
        return
    spawn = multiprocessing.get_context("spawn")  # a fork would copy the locks of threads that torch or OpenCV run
    pool = ProcessPoolExecutor(processes, mp_context=spawn, initializer=end_with_parent)
    under_way: deque[Future[None]] = deque()
    try:
        for job in jobs:
            with interrupts_held():
                under_way.append(pool.submit(write_scene, job))
            if len(under_way) >= 4 * processes:  # enough that no process waits, few enough to stop at once
                under_way.popleft().result()
                yield
        while under_way:
            under_way.popleft().result()
            yield
    except BrokenProcessPool:
        raise InputError(
            "rendering: one of its processes was ended from outside (out of memory?) or could not start (a script that "
            "renders needs `if __name__ == '__main__':` around what it does)"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
