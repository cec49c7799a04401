"""How long `rsici build` with the rules takes over pairs of 256 x 256 that lie on disk, and how much memory it needs.

    python bench/rsici.py [--pairs 10000] [--tasks all] [--data DIR] [--keep]

Writes the pairs first, in SYSU-CD's layout (rendered scenes, each turned and flipped eight ways with other noise, so
that no two files are equal); that time does not count. Then runs the command in a process of its own and prints its
wall time, its processor time and its peak memory.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from rsiccllm.sources.scenes import render_scene

WAYS = 8


def write(folder: Path, number: int) -> None:
    """Scene `number`, eight ways."""
    scene = render_scene(5, number, 256)
    for way in range(WAYS):
        noise = np.random.default_rng((number, way)).integers(0, 4, (256, 256, 3), dtype=np.uint8)
        for side, pixels in (("time1", scene.before), ("time2", scene.after), ("label", scene.mask)):
            turned = np.rot90(pixels, way % 4)
            turned = turned[:, ::-1] if way >= 4 else turned
            image = turned.astype(np.uint8) * 255 if side == "label" else turned // 4 * 4 + noise
            path = folder / "train" / side / f"{number * WAYS + way:05d}.png"
            Image.fromarray(np.ascontiguousarray(image)).save(path, compress_level=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10_000)
    parser.add_argument("--tasks", default="all")
    parser.add_argument("--data", type=Path, help="where the pairs lie or are written; else a temporary folder")
    parser.add_argument("--keep", action="store_true", help="leave what was written")
    given = parser.parse_args()
    folder = given.data or Path(tempfile.mkdtemp(prefix="rsici_bench_"))
    for side in ("time1", "time2", "label"):
        (folder / "train" / side).mkdir(parents=True, exist_ok=True)
    scenes = -(-given.pairs // WAYS)
    begin = time.perf_counter()
    if not (folder / "train" / "label" / f"{scenes * WAYS - 1:05d}.png").exists():
        with ProcessPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(write, [folder] * scenes, range(scenes), chunksize=16))
        print(f"{scenes * WAYS:,} pairs written in {time.perf_counter() - begin:.0f} s")
    size = sum(path.stat().st_size for path in folder.rglob("*.png")) / 1e9
    out = folder / "built"
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "rsiccllm.cli", "rsici", "build", "--source", f"sysu-cd:{folder}"]
    process = subprocess.Popen([*command, "--out", str(out), "--tasks", given.tasks])
    begin = time.perf_counter()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    print(
        f"{scenes * WAYS:,} pairs, {size:.1f} GB, tasks {given.tasks}: {wall:.1f} s wall, "
        f"{usage.ru_utime + usage.ru_stime:.1f} s of processor, peak {usage.ru_maxrss / 1e6:.2f} GB, "
        f"exit status {process.returncode}"
    )
    if not given.keep:
        shutil.rmtree(out if given.data else folder, ignore_errors=True)


if __name__ == "__main__":
    main()
