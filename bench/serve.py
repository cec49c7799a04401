"""The server under load and under attack: requests in flight together, every answer checked, its memory watched; then
a set of hostile requests, each of which must get a clear 4xx.

    python bench/serve.py [--model MODEL] [--requests 2000] [--flight 64] [--hostile 300]
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import random
import socket
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
from PIL import Image

from rsiccllm import Captioner
from rsiccllm.rsici.prompts import PROMPTS
from rsiccllm.sources import open_source

JSON = {"Content-Type": "application/json"}


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "png")
    return buffer.getvalue()


def uri(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def asked(first: str, second: str, **more: object) -> dict[str, object]:
    content = [{"type": "image_url", "image_url": {"url": url}} for url in (first, second)]
    return {"model": "m", "messages": [{"role": "user", "content": [*content, {"type": "text",
            "text": PROMPTS["caption"]}]}], **more}  # fmt: skip


def bomb(width: int, height: int, megabytes: int = 5) -> bytes:
    """A PNG that says it is huge, with a body that grows a thousandfold when it is unpacked."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\x00\x00\x00"
    body = zlib.compress(bytes(megabytes * 10**6))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def hostile(count: int, first: bytes, second: bytes) -> Iterator[tuple[str, dict[str, str], bytes]]:
    """`count` (kind, headers, body), none of which is a request that can be answered."""
    dice = random.Random(0)
    good = asked(uri(first), uri(second))
    raw = json.dumps(good).encode()
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    paths = ["file:///etc/passwd", "../../../../etc/passwd", "/etc/passwd", "\\\\host\\share\\x.png", "C:\\x.png",
             "http://127.0.0.1:22/", "http://169.254.169.254/latest/meta-data", "http://[::1]/x", "ftp://host/x.png",
             "data:image/png;base64,../../etc/passwd", "gopher://x", "javascript:alert(1)"]  # fmt: skip
    wrong: list[object] = [None, True, 5, -1, 1e400, [], {}, "", "x" * 10_000, [[]], {"a": {}}]
    fields = ["model", "messages", "n", "max_tokens", "temperature", "top_p", "seed"]

    def body(image: str) -> bytes:
        pair = [image, uri(second)]
        dice.shuffle(pair)
        return json.dumps(asked(*pair)).encode()

    def mistyped() -> bytes:
        field = dice.choice(fields)
        value = dice.choice(wrong)
        if value is None and field not in {"model", "messages"}:
            value = "x"  # null stands for the default there
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            value = str(value)  # a number is right in some of these fields, a text in none
        return json.dumps({**good, field: value}).encode()

    kinds: list[tuple[str, Callable[[], bytes], dict[str, str]]] = [
        ("truncated JSON", lambda: raw[: dice.randrange(len(raw))], {}),
        ("truncated image", lambda: body(uri(first[: dice.randrange(1, len(first) - 30)])), {}),
        ("bomb", lambda: body(uri(bomb(dice.choice([50_000, 60_000]), 50_000))), {}),
        ("wrong type", mistyped, {}),
        ("svg", lambda: body(uri(svg, dice.choice(["svg+xml", "png"]))), {}),
        ("nested base64", lambda: body(uri(uri(first).encode())), {}),
        ("path", lambda: body(dice.choice(paths)), {}),
        ("deep nesting", lambda: b'{"model":"m","messages":' + b"[" * dice.randrange(2000, 200_000), {}),
        ("random bytes", lambda: dice.randbytes(dice.randrange(1, 5000)), {}),
        ("huge headers", lambda: raw, {"X-Large": "a" * 200_000}),
        ("another content type", lambda: raw, {"Content-Type": "text/plain"}),
        ("too large", lambda: raw + b" " * (17 * 2**20), {}),
        ("special tokens", lambda: raw.replace(PROMPTS["caption"].encode(), b"<|image_pad|>" * 40), {}),
    ]
    for number in range(count):
        kind, make, headers = kinds[number % len(kinds)]
        yield kind, {**JSON, **headers}, make()


def slow(port: int, sent: bytes) -> int:
    """The status that a client gets who sends a beginning and then nothing."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(sent)
        received = connection.recv(65536)
    return int(received.split()[1]) if received else 0


def memory(process: subprocess.Popen[str]) -> float:
    """Resident memory of a process, MiB."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def main() -> None:
    """Print what became of the load and of the attack. The exit status is 1 where anything was lost or wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="default: the model in the box")
    parser.add_argument("--data", default="scenes:300,seed=78,size=224", help="pairs to ask about (its test split)")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--flight", type=int, default=64)
    parser.add_argument("--hostile", type=int, default=300)
    options = parser.parse_args()
    source = open_source(options.data)
    pairs = [source.open(pair) for pair in source.select("test")]
    captioner = Captioner.load(options.model)
    truth = [result.caption for result in captioner.caption_all(pairs)]
    del captioner
    bodies = [json.dumps(asked(uri(png(pair.before)), uri(png(pair.after)))).encode() for pair in pairs]
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "rsiccllm.cli", "serve", "--name", "m", "--port", str(port)]
    command += ["--model", options.model] if options.model else []
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    bad = 0
    try:
        assert server.stdout is not None
        print(server.stdout.readline().strip(), f"(load of the machine {os.getloadavg()[0]:.1f})")
        with httpx2.Client(
            timeout=300, limits=httpx2.Limits(max_connections=options.flight), trust_env=False
        ) as client:
            sizes: list[float] = []

            def one(number: int) -> tuple[int, bool, float]:
                begin = time.perf_counter()
                answer = client.post(f"{url}/v1/chat/completions", content=bodies[number % len(bodies)], headers=JSON)
                if number % 100 == 99:
                    sizes.append(memory(server))
                right = answer.status_code == 200 and (
                    answer.json()["choices"][0]["message"]["content"] == truth[number % len(bodies)]
                )
                return answer.status_code, right, time.perf_counter() - begin

            with ThreadPoolExecutor(options.flight) as pool:
                begin = time.perf_counter()
                done = list(pool.map(one, range(options.requests)))
                seconds = time.perf_counter() - begin
            times = sorted(took for _, _, took in done)
            wrong = sum(not right for _, right, _ in done)
            bad += wrong
            print(f"{len(done)} requests, {options.flight} in flight: statuses {dict(Counter(s for s, _, _ in done))}, "
                  f"{wrong} wrong, {len(done) / seconds:.2f}/s, p50 {times[len(times) // 2]:.2f} s, "
                  f"p95 {times[int(0.95 * len(times))]:.2f} s")  # fmt: skip
            print(f"memory of the server: {sizes[0]:.0f} MiB after 100 requests, {sizes[-1]:.0f} MiB after "
                  f"{100 * len(sizes)}, at most {max(sizes):.0f} MiB")  # fmt: skip
        kinds: dict[str, Counter[int]] = {}
        count = max(0, options.hostile - 10)
        for kind, headers, body in hostile(count, png(pairs[0].before), png(pairs[0].after)):
            try:
                status = httpx2.post(
                    f"{url}/v1/chat/completions", content=body, headers=headers, timeout=60
                ).status_code
            except httpx2.HTTPError:
                status = 0
            kinds.setdefault(kind, Counter())[status] += 1
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        with ThreadPoolExecutor(10) as pool:
            statuses = pool.map(lambda sent: slow(port, sent), [head, head + b"Content-Length: 900\r\n\r\n{"] * 5)
            kinds["slow client"] = Counter(statuses)
        for kind, found in kinds.items():
            print(f"{kind:<24}{dict(found)}")
        unclear = sum(n for found in kinds.values() for status, n in found.items() if not 400 <= status < 500)
        bad += unclear
        answer = httpx2.post(f"{url}/v1/chat/completions", content=bodies[0], headers=JSON, timeout=60)
        alive = answer.status_code == 200 and answer.json()["choices"][0]["message"]["content"] == truth[0]
        total = sum(sum(found.values()) for found in kinds.values())
        print(f"{total} hostile requests, {unclear} without a 4xx; after them the server "
              f"{'answers' if alive else 'DOES NOT ANSWER'}, {memory(server):.0f} MiB")  # fmt: skip
        bad += not alive
    finally:
        server.terminate()
        server.wait(30)
    raise SystemExit(bool(bad))


if __name__ == "__main__":
    main()
