"""A build with a model teacher, killed with SIGKILL at random times, against one that nobody disturbs.

    python bench/kills.py [--pairs N] [--kills N] [--seed S] [--ray ADDRESS]

The teacher is a server on loopback that answers the same question the same way, wrong for one question in three. Prints
whether the two folders are equal byte for byte (the teacher's own log, in the order of arrival, left out), how many
requests were sent in all, and how many answers were sent twice. With --ray the build that is killed sends its requests
as Ray Data jobs of two workers ("local" starts a Ray for every run, which dies with it), the undisturbed one does not.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from rsiccllm.endpoint.on_ray import HTTP_BLOCK

IN_FLIGHT = 8
WORKERS = 2


class Teacher(BaseHTTPRequestHandler):
    """Answers after 50 ms; `asked` counts every question by its digest."""

    protocol_version = "HTTP/1.1"
    asked: ClassVar[Counter[str]] = Counter()

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        asked = self.rfile.read(length)
        if len(asked) < length:  # the asker was killed while it sent
            return
        # Of what is asked, not of its bytes: Ray writes the same JSON with other spaces.
        digest = hashlib.sha256(json.dumps(json.loads(asked), sort_keys=True).encode()).digest()
        self.asked[digest.hex()] += 1
        time.sleep(0.05)
        place = "bottom right" if digest[0] % 3 == 0 else "top left"
        message = {"content": f"A house is built in the {place}."}
        usage = {"prompt_tokens": 300, "completion_tokens": 9}
        body = json.dumps({"choices": [{"finish_reason": "stop", "message": message}], "usage": usage}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def handle(self) -> None:
        with suppress(ConnectionError):  # the asker was killed
            super().handle()

    def log_message(self, format: str, *args: object) -> None:
        pass


def write_pairs(root: Path, number: int) -> None:
    """Pairs in LEVIR-CD's layout with one building each, at the top left."""
    noise = np.random.default_rng(0)
    for index in range(number):
        mask = np.zeros((96, 96), np.uint8)
        mask[8:28, 8 : 24 + index % 5] = 255
        pixels = {side: noise.integers(0, 255, (96, 96, 3), np.uint8) for side in "AB"}
        for side, image in {**pixels, "label": mask}.items():
            path = root / "train" / side / f"train_{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)


def tree(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file() and path.name != "teacher.jsonl")
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=600)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ray", metavar="ADDRESS")
    given = parser.parse_args()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Teacher)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_pairs(root / "set", given.pairs)
        command = [sys.executable, "-m", "rsiccllm.cli", "rsici", "build", "--source", f"levir-cd:{root / 'set'}"]
        command += ["--teacher", "openai", "--base-url", f"http://127.0.0.1:{server.server_port}/v1", "--model", "m"]
        command += ["--concurrency", str(IN_FLIGHT), "--out"]
        most = IN_FLIGHT
        begin = time.perf_counter()
        subprocess.run([*command, str(root / "whole")], check=True, capture_output=True)
        spent = time.perf_counter() - begin
        once = Teacher.asked.copy()
        Teacher.asked.clear()
        if given.ray is not None:
            command = [*command[:-1], "--ray", given.ray, "--workers", str(WORKERS), "--out"]
            most = 2 * WORKERS * HTTP_BLOCK  # a block in hand, and one done that waits to be written down
        dice = random.Random(given.seed)
        kills = 0
        while kills < given.kills:
            process = subprocess.Popen(
                [*command, str(root / "cut")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            # Each run gets on by a random part of what is to be asked, so that the kills fall all over the build.
            goal = Teacher.asked.total() + dice.randint(1, 2 * once.total() // (given.kills + 5))
            while Teacher.asked.total() < goal and process.poll() is None:
                time.sleep(0.001)
            if process.poll() is not None:
                break
            time.sleep(dice.uniform(0, 0.1))
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
        done = subprocess.run([*command, str(root / "cut")], check=True, capture_output=True, text=True)
        equal = tree(root / "whole") == tree(root / "cut")
        twice = Teacher.asked.total() - len(Teacher.asked)
        print(f"{given.pairs} pairs, {kills} kills; undisturbed: {once.total()} requests in {spent:.1f} s")
        print(f"folders equal: {equal}; same questions: {set(once) == set(Teacher.asked)}")
        print(f"requests that arrived: {Teacher.asked.total()}, repeated {twice} (at most {kills * most} in flight)")
        print(done.stdout.splitlines()[0])
    server.shutdown()


if __name__ == "__main__":
    main()
