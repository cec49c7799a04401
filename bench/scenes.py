"""Pairs a second that rendered scenes are planned and painted at, with one process and with two; then as PNG files,
start of the processes included, as `rsiccllm rsici build` writes them.

    python bench/scenes.py [--pairs 200]

Each process first renders some pairs untimed, which fills the banks of noise and tree crowns.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from pathlib import Path

from rsiccllm.sources.scenes import ScenesSource, render_scene
from rsiccllm.sources.scenes.parallel import SceneFiles, write_scenes


def render(job: tuple[int, int, int, bool]) -> tuple[float, float]:
    """Render `count` scenes from `first` on; returns the clock when it began and when it ended, in seconds."""
    first, count, size, easy = job
    for index in range(60):
        render_scene(1, index, size, easy)
    begin = time.time()
    for index in range(first, first + count):
        render_scene(0, index, size, easy)
    return begin, time.time()


def main() -> None:
    """Print one line for each size and number of processes, and one for planning alone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=200, help="pairs each process renders (default 200)")
    pairs = parser.parse_args().pairs
    print(f"{'scenes':<20}{'processes':>10}{'pairs/s':>10}")
    for size, easy in ((256, False), (128, True)):
        for processes in (1, 2):
            jobs = [(k * pairs, pairs, size, easy) for k in range(processes)]
            with multiprocessing.get_context("spawn").Pool(processes) as pool:
                spans = pool.map(render, jobs, chunksize=1)
            rate = processes * pairs / (max(end for _, end in spans) - min(begin for begin, _ in spans))
            print(f"{f'{size} px' + (' easy' if easy else ''):<20}{processes:>10}{rate:>10.1f}")
    for size, easy in ((256, False), (128, True)):
        for processes in (1, 2):
            with tempfile.TemporaryDirectory() as name:
                jobs = [
                    SceneFiles(0, k, size, easy, *(Path(name) / f"{k}.{role}.png" for role in ("a", "b", "mask")))
                    for k in range(2 * pairs)
                ]
                begin = time.perf_counter()
                for _ in write_scenes(jobs, processes):
                    pass
                rate = len(jobs) / (time.perf_counter() - begin)
            print(f"{f'{size} px' + (' easy' if easy else '') + ', files':<20}{processes:>10}{rate:>10.1f}")
    for easy in (False, True):
        begin = time.perf_counter()
        _ = ScenesSource(pairs, easy=easy).pairs
        print(
            f"{'plans and words' + (' easy' if easy else ''):<20}{1:>10}{pairs / (time.perf_counter() - begin):>10.1f}"
        )


if __name__ == "__main__":
    main()
