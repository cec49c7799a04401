"""The real server on uvicorn, in a thread of the test's process."""

from __future__ import annotations

import asyncio
import base64
import io
import socket
import threading
import time
from typing import Any

import numpy as np
from PIL import Image

from rsiccllm.caption.captioner import Captioner
from rsiccllm.serve.app import Server
from rsiccllm.serve.run import uvicorn_server
from rsiccllm.serve.settings import Limits

NAME = "tiny"


class Served:
    """Serves from `with` to the end of it. url: of its /v1; port: on loopback."""

    def __init__(self, captioner: Captioner, limits: Limits, key: str | None = None, urls: bool = False) -> None:
        self.server = Server(captioner, NAME, limits, key, urls)
        self._uvicorn = uvicorn_server(self.server, "127.0.0.1", 0)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._uvicorn.serve(sockets=[self._socket])), daemon=True
        )

    def __enter__(self) -> Served:
        self._thread.start()
        end = time.monotonic() + 20
        while not self._uvicorn.started:
            assert time.monotonic() < end
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self._uvicorn.should_exit = True
        self._thread.join(20)
        self._socket.close()


def pixels(seed: int, side: int = 56) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def uri(image: Image.Image | bytes, kind: str = "png") -> str:
    if isinstance(image, Image.Image):
        buffer = io.BytesIO()
        image.save(buffer, kind)
        image = buffer.getvalue()
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def asked(*urls: str, text: str = "What changed between the two images? Answer in one short sentence.", **more: Any) -> dict[str, Any]:  # fmt: skip  # noqa: E501
    """A request's JSON."""
    content = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    if text:
        content.append({"type": "text", "text": text})
    return {"model": NAME, "messages": [{"role": "user", "content": content}], "max_tokens": 8, **more}
