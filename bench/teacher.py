"""How near to the ideal rate a model teacher is asked, and the highest rate that the client holds.

    python bench/teacher.py [--pairs N] [--delay SECONDS] [--in-flight N] [--side PX]

The teacher is a server on loopback, in a process of its own, that answers every request after DELAY seconds. The
ideal rate is IN_FLIGHT / DELAY; asking starts cold, so the first and last DELAY count against it. Then the same with
no delay: what limits the rate is the client, and the images it opens and packs (two of SIDE pixels a request).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.queues import Queue
from pathlib import Path

import numpy as np
from PIL import Image

from rsiccllm.endpoint import Client, Endpoint, Request
from rsiccllm.records import ImagePair
from rsiccllm.rsici.prior import mask_prior
from rsiccllm.rsici.teachers.base import Ask
from rsiccllm.rsici.teachers.openai import OpenAITeacher
from rsiccllm.sources.base import ChangeMask

ANSWER = json.dumps(
    {
        "choices": [{"finish_reason": "stop", "message": {"content": "A house is built in the top left."}}],
        "usage": {"prompt_tokens": 300, "completion_tokens": 9},
    }
).encode()


def serve(delay: float, ready: Queue[int]) -> None:
    """A chat endpoint that reads each request whole and answers after `delay` seconds."""

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                await reader.readexactly(int(head.partition(b"content-length: ")[2].split(b"\r\n")[0]))
                await asyncio.sleep(delay)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(ANSWER), ANSWER))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def run() -> None:
        server = await asyncio.start_server(client, "127.0.0.1", 0, limit=1 << 24, backlog=1024)
        ready.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


def write_pairs(root: Path, number: int, side: int) -> list[Ask]:
    """Pairs of noise over smooth ground (as hard to pack as photographs) with one changed area."""
    random = np.random.default_rng(0)
    mask = np.zeros((side, side), np.uint8)
    mask[side // 8 : side // 3, side // 8 : side // 3] = 255
    Image.fromarray(mask).save(root / "mask.png")
    prior = mask_prior(ChangeMask((mask > 0).astype(np.uint8), {}))
    asks = []
    for index in range(number):
        ground = np.linspace(60, 160, side)[:, None, None] + random.normal(0, 12, (side, side, 3))
        for name in ("a", "b"):
            Image.fromarray(np.clip(ground, 0, 255).astype(np.uint8)).save(
                root / f"{name}{index}.png", compress_level=1
            )
        paths = {"before": f"a{index}.png", "after": f"b{index}.png", "mask": "mask.png"}
        asks.append(Ask(ImagePair(id=str(index), **paths), "caption", prior))
    return asks


def pairs_a_second(root: Path, asks: list[Ask], port: int, in_flight: int) -> tuple[float, float]:
    """(asks answered a second, seconds in all) by the teacher, images and all."""
    endpoint = Endpoint(f"http://127.0.0.1:{port}/v1", "bench", concurrency=in_flight)
    begin = time.perf_counter()
    with OpenAITeacher(root, endpoint) as teacher:
        answered = sum(isinstance(answer, list) for _, answer in teacher.answer_all(asks))
    spent = time.perf_counter() - begin
    assert answered == len(asks)
    return len(asks) / spent, spent


def texts_a_second(root: Path, number: int, port: int, in_flight: int) -> float:
    """Requests of a few words answered a second by the client alone."""

    def requests() -> Iterator[Request]:
        for index in range(number):
            yield Request([{"role": "user", "content": f"question {index}"}])

    begin = time.perf_counter()
    with Client(
        Endpoint(f"http://127.0.0.1:{port}/v1", "bench", concurrency=in_flight), root / "texts.jsonl"
    ) as client:
        assert sum(1 for _ in client.ask_all(requests())) == client.usage.answered == number
    return number / (time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1280)
    parser.add_argument("--delay", type=float, default=2.0)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--side", type=int, default=256)
    given = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        asks = write_pairs(root, given.pairs, given.side)
        for delay in (given.delay, 0.0):
            ready: Queue[int] = context.Queue()
            server = context.Process(target=serve, args=(delay, ready), daemon=True)
            server.start()
            port = ready.get(timeout=60)
            rate, spent = pairs_a_second(root, asks, port, given.in_flight)
            words = f"{given.pairs} pairs of {given.side} px, {given.in_flight} in flight, {spent:.1f} s"
            if delay:
                ideal = given.in_flight / delay
                print(
                    f"teacher of {delay:g} s: {rate:.1f} answers/s, {100 * rate / ideal:.1f} % of {ideal:g}/s ({words})"
                )
            else:
                print(f"teacher of no delay: {rate:.1f} answers/s with images ({words})")
                texts = texts_a_second(root, 4000, port, given.in_flight)
                print(f"client alone, short texts: {texts:.0f} answers/s")
            sys.stdout.flush()
            server.terminate()
            server.join()
            (root / "teacher.jsonl").unlink()


if __name__ == "__main__":
    main()
