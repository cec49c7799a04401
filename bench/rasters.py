"""Time and memory of `rsiccllm map` by the side of a pair of rasters, and a run that is killed half-way and goes on.

    python bench/rasters.py [--model MODEL] [--sides 2000 20000] [--workers 2]

The pairs are rendered scenes repeated over the whole raster, as COGs, with another light on the second date; every
997th block of the second holds what its scene changed to. Most tiles are therefore skipped as unchanged: what is
measured is the path around the model and its memory, not captions a second (bench/caption.py prints those). Memory is
that of the command and its workers together, at most. The smallest pair is also mapped by other numbers of workers, and
in a run that is ended by kill -9 after 40 tiles and called again: the files must be the same bytes.
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
import rasterio.shutil
from rasterio.transform import from_origin
from rasterio.windows import Window

from rsiccllm.sources import open_source

BLOCK = 256
EVERY = 997
FILES = ("changes.geojson", "changes.gpkg", "change.tif", "summary.json", "tiles.jsonl")


def write_pair(folder: Path, side: int, every: int = EVERY) -> tuple[Path, Path]:
    """Two COGs of side x side pixels of half a metre. every: how many blocks there are to one that changes; 0: none."""
    source = open_source("scenes:60,seed=5,size=256")
    pairs = [source.open(pair) for pair in source.pairs if pair.changed][:8]
    blocks = [[np.asarray(image).transpose(2, 0, 1) for image in (pair.before, pair.after)] for pair in pairs]
    profile = {"driver": "GTiff", "count": 3, "height": side, "width": side, "dtype": "uint8", "crs": "EPSG:32633",
               "transform": from_origin(400_000, 5_000_000, 0.5, 0.5), "tiled": True, "blockxsize": BLOCK,
               "blockysize": BLOCK, "compress": "deflate", "zlevel": 1}  # fmt: skip
    paths = folder / "plain_before.tif", folder / "plain_after.tif"
    with rasterio.open(paths[0], "w", **profile) as first, rasterio.open(paths[1], "w", **profile) as second:
        number = 0
        for top in range(0, side, BLOCK):
            for left in range(0, side, BLOCK):
                size = min(BLOCK, side - left), min(BLOCK, side - top)
                before, after = blocks[number % len(blocks)]
                here = after if every and number % every == 5 else np.clip(before * 0.95 + 6, 0, 255).astype(np.uint8)
                window = Window(left, top, *size)
                first.write(before[:, : size[1], : size[0]], window=window)
                second.write(here[:, : size[1], : size[0]], window=window)
                number += 1
    cogs = folder / "before.tif", folder / "after.tif"
    for path, cog in zip(paths, cogs, strict=True):
        rasterio.shutil.copy(path, cog, driver="COG", compress="deflate", level=1)
        path.unlink()
    return cogs


def resident(process: int) -> float:
    """Resident memory of a process and all that it started, MiB."""
    total = 0.0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        except OSError:  # it has just ended
            continue
        if int(fields["Pid"]) == process:
            total += int(fields.get("VmRSS", "0").split()[0]) / 1024
        elif int(fields["PPid"]) == process:
            total += resident(int(fields["Pid"]))
    return total


def run(command: list[str], stop_after: Path | None = None) -> tuple[float, float]:
    """(seconds, MiB at most) of a command; with `stop_after`, killed (kill -9) once that journal holds 40 lines."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, resident(process.pid))
        if stop_after is not None and stop_after.exists() and stop_after.read_bytes().count(b"\n") >= 40:
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.05 if stop_after else 0.5)
    process.wait()
    return time.perf_counter() - begin, peak


def main() -> None:
    """Print a line for each side, and for the smallest one a line for each other way to make the same files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="default: the model in the box")
    parser.add_argument("--sides", type=int, nargs="+", default=[2000, 20000])
    parser.add_argument("--workers", type=int, default=2)
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
            if side != options.sides[0]:
                continue
            parts = folder / "parts"
            run([*command, str(parts)], parts / "tiles.jsonl")
            held = (parts / "tiles.jsonl").read_bytes().count(b"\n")
            run([*command, str(parts)])
            print(f"killed after {held} of {sum(summary['tiles'].values())} tiles and called again: "
                  f"{same(folder / 'whole', parts)}", flush=True)  # fmt: skip
            for way in (["--workers", str(options.workers)], ["--workers", str(options.workers), "--ray", "local"]):
                out = folder / "-".join(["out", *way])
                seconds, peak = run([*command, str(out), *way])
                found = same(folder / "whole", out) if (out / "summary.json").exists() else "NOTHING"
                print(f"{' '.join(way)}: {found}, {seconds:.0f} s, at most {peak:.0f} MiB", flush=True)


def same(one: Path, other: Path) -> str:
    """Whether two folders hold the same files, in words."""
    equal = all((one / file).read_bytes() == (other / file).read_bytes() for file in FILES)
    return "the same bytes" if equal else "OTHER FILES"


if __name__ == "__main__":
    main()
