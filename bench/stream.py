"""Training data read from a folder, from Parquet shards on disk, and from the same shards over loopback HTTP.

    python bench/stream.py [--pairs 1500] [--side 256] [--rounds 3] [--rows 100]

A pair is what a training step takes: a record, two PNGs and a mask decoded. The order is each way's own, at random; the
batch is 8. Every way runs in a process of its own that takes turns with the others round by round; a round is an epoch.
HTTP begins with an empty cache in each round. Printed: pairs a second of the processor (median and spread of the
rounds) and by the clock, the ratio to the folder, and the memory: resident when the rows are known, the most while they
were read, and what Arrow held of it. Images are rendered scenes scaled up, in a set of their own that is removed.
"""

from __future__ import annotations

import argparse
import functools
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
from PIL import Image
from torch.utils.data import BatchSampler, RandomSampler

from peers import Peer, serve
from rsiccllm.files import write_jsonl
from rsiccllm.records import INSTRUCTIONS, Instruction
from rsiccllm.sources import open_source
from rsiccllm.training.data import Rows
from rsiccllm.training.recipe import SFTRecipe
from rsiccllm.training.sft import sft_dataset
from rsiccllm.training.shard_order import ShardSampler
from rsiccllm.training.shard_writer import write_shards

BATCH = 8
WAYS = ("folder", "shards on disk", "shards over HTTP")


def build(folder: Path, pairs: int, side: int) -> None:
    """Each of 40 scenes again and again, with noise that makes each pair another."""
    source, random = open_source("scenes:50,seed=1,size=128,easy=1"), np.random.default_rng(0)
    every = [source.open(pair) for pair in source.pairs[:40]]
    records = []
    (folder / "images").mkdir(parents=True)
    for number in range(pairs):
        scene = every[number % len(every)]
        names = [f"images/{number}_{date}.png" for date in ("before", "after", "mask")]
        for name, image in zip(names, (scene.before, scene.after), strict=False):
            pixels = np.asarray(image.resize((side, side)), int) + random.integers(-4, 5, (side, side, 1))
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / name)
        mask = scene.mask if scene.mask is not None else np.zeros((side, side), bool)
        Image.fromarray(mask.astype(np.uint8) * 255).resize((side, side)).save(folder / names[2])
        answers = ["a house has been built in the top left corner"] * 5
        records.append(
            Instruction(id=f"r{number}", pair=f"p{number}", source="bench", task="caption", prompt="What has changed?",
                        before=names[0], after=names[1], mask=names[2], answers=answers)
        )  # fmt: skip
    write_jsonl(folder / INSTRUCTIONS, records)


@contextmanager
def served(folder: Path) -> Iterator[str]:
    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *told: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


def contestant(way: str, data: str, cache: Path) -> Callable[[], dict[str, Any]]:
    """A round: an epoch of rows read."""
    recipe = SFTRecipe(model="none", data=data, out=cache, learning_rate=1e-4, shard_cache=cache)
    held = psutil.Process()
    epoch = iter(range(1000))

    def round_() -> dict[str, Any]:
        shutil.rmtree(cache, ignore_errors=True)
        before = held.memory_info().rss
        begin = time.process_time(), time.perf_counter()
        rows: Rows = sft_dataset(recipe)  # a process that starts: it finds the records, or the index
        known = time.perf_counter() - begin[1]
        resident, arrow, read = [held.memory_info().rss - before], [0], 0
        for indices in BatchSampler(order(rows, next(epoch)), BATCH, drop_last=False):
            read += len([rows[index] for index in indices])
            resident.append(held.memory_info().rss - before)
            arrow.append(pa.total_allocated_bytes())
        work, clock = time.process_time() - begin[0], time.perf_counter() - begin[1]
        assert read == len(rows)
        return {"work": read / work, "clock": read / clock, "known": known, "first": resident[0],
                "most": max(resident), "arrow": max(arrow)}  # fmt: skip

    return round_


def order(rows: Rows, epoch: int) -> Any:
    if rows.index is None:
        return RandomSampler(range(len(rows)))
    sampler = ShardSampler(rows.index, 0, BATCH)
    sampler.set_epoch(epoch)
    return sampler


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1500)
    parser.add_argument("--side", type=int, default=256, help="pixels")
    parser.add_argument("--rows", type=int, default=100, help="of a shard")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    parser.add_argument("--data", help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.peer:
        serve(contestant(given.peer, given.data, given.cache))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build(folder / "folder", given.pairs, given.side)
        begin = time.perf_counter()
        counts = write_shards(folder / "folder", folder / "shards", rows=given.rows)
        took = time.perf_counter() - begin
        print(f"{counts['rows']:,} pairs of {given.side} px in {counts['shards']} shards of {given.rows} rows, "
              f"{counts['bytes'] / 1e6:.0f} MB, written at {counts['rows'] / took:.0f} pairs/s")  # fmt: skip
        with served(folder) as url:
            places = dict(zip(WAYS, (folder / "folder", folder / "shards", f"{url}/shards"), strict=True))
            if find_spec("aiohttp") is None:
                print(f"  {WAYS[2]}: aiohttp is not installed; pip install 'rsiccllm[stream]'")
                del places[WAYS[2]]
            peers = {
                way: Peer([__file__, "--peer", way, "--data", str(place), "--cache", str(folder / f"cache {way}")], 1)
                for way, place in places.items()
            }
            found: dict[str, list[dict[str, Any]]] = {way: [] for way in places}
            for _ in range(given.rounds + 1):  # the first warms up
                for way, peer in peers.items():
                    found[way].append(peer.round())
        base = statistics.median(row["work"] for row in found["folder"][1:])
        for way, rows in found.items():
            work, clock = ([row[name] for row in rows[1:]] for name in ("work", "clock"))
            middle = statistics.median(work)
            most, first, arrow = (max(row[name] for row in rows) / 1e6 for name in ("most", "first", "arrow"))
            print(f"  {way:17} {middle:6.1f} pairs/s ({min(work):.1f} to {max(work):.1f}; by the clock "
                  f"{statistics.median(clock):.1f})  x {middle / base:.2f}  rows known in {rows[-1]['known']:.2f} s; "
                  f"memory +{first:.0f} MB, at most +{most:.0f} MB, Arrow {arrow:.0f} MB")  # fmt: skip
            peers[way].close()


if __name__ == "__main__":
    main()
