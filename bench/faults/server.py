"""The server, ended at random moments while clients ask: every question is answered in the end, and rightly."""

from __future__ import annotations

import base64
import http.client
import io
import os
import random
import signal
import socket
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import child as children
import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from run import Tally

QUESTIONS = 4


def serve_under_fire(work: Path, kind: int, moments: int, dice: random.Random, tally: Tally) -> None:
    """Start the server, ask; end it at a random moment of its answers; start it again and ask what is left."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    log = work / "server.txt"
    arguments = ["serve", "--model", str(work / "sft"), "--port", str(port), "--name", "m"]
    bodies = [_body(seed) for seed in range(QUESTIONS)]

    def up() -> int:
        process = children.start(arguments, log)
        end = time.monotonic() + 120
        while time.monotonic() < end:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                    return process
            except OSError:
                time.sleep(0.02)
        raise TimeoutError(log.read_text())

    def ask(body: bytes) -> str | None:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/chat/completions", body, {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                import json

                return str(json.load(answer)["choices"][0]["message"]["content"])
        except (OSError, ValueError, http.client.HTTPException):  # not reached, or cut off by the kill
            return None

    process = up()
    begun = time.monotonic()
    truth = [ask(body) for body in bodies]
    spent = time.monotonic() - begun
    assert None not in truth
    for _ in range(moments):
        ender = os.fork()
        if ender == 0:  # ends the server while this process asks
            time.sleep(dice.uniform(0, spent))
            os.kill(process, kind)
            os._exit(0)
        dice.random()
        said = [ask(body) for body in bodies]
        os.waitpid(ender, 0)
        ended = children.wait(process, log, begun)
        tally.faults += 1
        tally.runs += 1
        tally.tracebacks += "Traceback" in ended.said
        begin = time.monotonic()
        process = up()
        tally.recovery.append(time.monotonic() - begin)
        said = [ask(body) if answer is None else answer for answer, body in zip(said, bodies, strict=True)]
        tally.lost += said.count(None)
        tally.wrong += sum(a is not None and a != b for a, b in zip(said, truth, strict=True))
    os.kill(process, signal.SIGKILL)
    children.wait(process, log, begun)


def _body(seed: int) -> bytes:
    import json

    content: list[dict[str, object]] = []
    noise = np.random.default_rng(seed)
    for _ in range(2):
        buffer = io.BytesIO()
        Image.fromarray(noise.integers(0, 255, (64, 64, 3), np.uint8)).save(buffer, "PNG")
        uri = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        content.append({"type": "image_url", "image_url": {"url": uri}})
    content.append({"type": "text", "text": "What changed?"})
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": content}], "max_tokens": 8}).encode()
