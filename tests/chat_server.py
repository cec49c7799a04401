"""A real HTTP server on loopback that speaks OpenAI's chat completions, as well or as badly as a test wants."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Act:
    """What is done to one request.

    body: JSON is made of a dict, bytes go out as they are. delay: seconds before the first byte. together: how many
    requests must have come before it. hang: no byte ever. cut: the connection is closed after so many bytes of the body
    (Content-Length promises all of it). drip: seconds between single bytes of the body.
    """

    body: dict[str, Any] | bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    together: int = 0
    hang: bool = False
    cut: int | None = None
    drip: float = 0.0


def completion(
    text: str | None, tokens: tuple[int, int] | None = (100, 20), finish: str = "stop", **message: Any
) -> Act:
    """A whole, good answer."""
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text, **message}}
    body: dict[str, Any] = {"id": "x", "object": "chat.completion", "choices": [choice]}
    if tokens is not None:
        body["usage"] = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)}
    return Act(body)


def text_of(request: dict[str, Any]) -> str:
    """All text of a request's messages."""
    parts: list[str] = []
    for message in request["messages"]:
        content = message["content"]
        items = [{"type": "text", "text": content}] if isinstance(content, str) else content
        parts += [item["text"] for item in items if item["type"] == "text"]
    return "\n".join(parts)


class ChatServer:
    """Runs in a thread from `with` to the end of it.

    act: called with the number of the request (from 0) and its JSON, in the server's thread.
    Attributes: requests, their JSON in order of arrival; headers, likewise; most, how many were in hand at once.
    """

    def __init__(self, act: Callable[[int, dict[str, Any]], Act]) -> None:
        self.act = act
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.most = self._now = 0
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def __enter__(self) -> ChatServer:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        tasks: set[asyncio.Task[None]] = set()

        async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            try:
                while await self._answer(reader, writer):
                    pass
            except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                pass
            finally:
                tasks.discard(task)
                writer.close()

        server = await asyncio.start_server(client, "127.0.0.1", 0, limit=1 << 26, backlog=1024)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        self._ready.set()
        await self._stop.wait()
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Serve one request; whether the connection stays open."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        request = json.loads(await reader.readexactly(int(headers["content-length"])))
        number = len(self.requests)
        self.requests.append(request)
        self.headers.append(headers)
        self._now += 1
        self.most = max(self.most, self._now)
        try:
            act = self.act(number, request) if head[0].startswith("POST /v1/chat/completions ") else Act(b"", 404)
            await asyncio.sleep(act.delay)
            while len(self.requests) < act.together:
                await asyncio.sleep(0.005)
            if act.hang:
                await asyncio.sleep(3600)
            body = act.body if isinstance(act.body, bytes) else json.dumps(act.body).encode()
            fixed = {"Content-Type": "application/json", "Content-Length": str(len(body)), **act.headers}
            lines = "".join(f"{name}: {value}\r\n" for name, value in fixed.items())
            writer.write(f"HTTP/1.1 {act.status} X\r\n{lines}\r\n".encode("latin-1"))
            if act.drip:
                for index in range(len(body)):
                    writer.write(body[index : index + 1])
                    await writer.drain()
                    await asyncio.sleep(act.drip)
            else:
                writer.write(body[: act.cut])
            await writer.drain()
            return act.cut is None
        finally:
            self._now -= 1
