"""Time and memory of `rsiccllm map` by the side of a pair of rasters, and a run that is killed half-way and goes on.

    python bench/rasters.py [--model MODEL] [--sides 2000 8000]

The pairs are rendered scenes repeated over the whole raster, with another light on the second date; every 97th block of
the second holds what its scene changed to. Most tiles are therefore skipped as unchanged: what is measured is the path
around the model and its memory, not captions a second (bench/caption.py prints those).
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import from_origin
from rasterio.windows import Window

from rsiccllm.sources import open_source

BLOCK = 256


def write_pair(folder: Path, side: int) -> tuple[Path, Path]:
    """Two GeoTIFFs of side x side pixels of half a metre."""
    source = open_source("scenes:60,seed=5,size=256")
    pairs = [source.open(pair) for pair in source.pairs if pair.changed][:8]
    blocks = [[np.asarray(image).transpose(2, 0, 1) for image in (pair.before, pair.after)] for pair in pairs]
    profile = {"driver": "GTiff", "count": 3, "height": side, "width": side, "dtype": "uint8", "crs": "EPSG:32633",
               "transform": from_origin(400_000, 5_000_000, 0.5, 0.5), "tiled": True, "blockxsize": BLOCK,
               "blockysize": BLOCK, "compress": "deflate", "zlevel": 1}  # fmt: skip
    paths = folder / "before.tif", folder / "after.tif"
    with rasterio.open(paths[0], "w", **profile) as first, rasterio.open(paths[1], "w", **profile) as second:
        number = 0
        for top in range(0, side, BLOCK):
            for left in range(0, side, BLOCK):
                size = min(BLOCK, side - left), min(BLOCK, side - top)
                before, after = blocks[number % len(blocks)]
                here = after if number % 97 == 0 else np.clip(before * 0.95 + 6, 0, 255).astype(np.uint8)
                window = Window(left, top, *size)
                first.write(before[:, : size[1], : size[0]], window=window)
                second.write(here[:, : size[1], : size[0]], window=window)
                number += 1
    return paths


def run(command: list[str], stop_after: Path | None = None) -> tuple[float, float]:
    """(seconds, MiB at most) of a command; with `stop_after`, killed once that journal holds 20 lines."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak = 0.0
    while process.poll() is None:
        try:
            for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    peak = max(peak, int(line.split()[1]) / 1024)
        except OSError:
            break
        if stop_after is not None and stop_after.exists() and stop_after.read_bytes().count(b"\n") >= 20:
            process.send_signal(signal.SIGKILL)
        time.sleep(0.05)
    process.wait()
    return time.perf_counter() - begin, peak


def main() -> None:
    """Print a line for each side, and one for the killed run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="default: the model in the box")
    parser.add_argument("--sides", type=int, nargs="+", default=[2000, 8000])
    options = parser.parse_args()
    model = ["--model", options.model] if options.model else []
    for side in options.sides:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            paths = write_pair(folder, side)
            command = [sys.executable, "-m", "rsiccllm.cli", "map", *map(str, paths), *model, "--out"]
            seconds, peak = run([*command, str(folder / "whole")])
            summary = json.loads((folder / "whole" / "summary.json").read_text())
            print(f"{side} x {side}: {seconds:.0f} s, at most {peak:.0f} MiB; tiles {summary['tiles']}, "
                  f"{summary['polygons']} polygons", flush=True)  # fmt: skip
            if side == options.sides[0]:
                run([*command, str(folder / "parts")], folder / "parts" / "tiles.jsonl")
                held = (folder / "parts" / "tiles.jsonl").read_bytes().count(b"\n")
                run([*command, str(folder / "parts")])
                same = all((folder / "whole" / file).read_bytes() == (folder / "parts" / file).read_bytes()
                           for file in ("changes.geojson", "change.tif", "summary.json"))  # fmt: skip
                print(f"killed after {held} of {sum(summary['tiles'].values())} tiles and called again: "
                      f"{'the same files' if same else 'OTHER FILES'}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
