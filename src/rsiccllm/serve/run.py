"""Running the server on uvicorn, with a guard against clients that never finish the head of a request."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from rsiccllm.caption.captioner import EMBEDDED, Captioner, model_name
from rsiccllm.errors import InputError
from rsiccllm.serve.app import Server
from rsiccllm.serve.settings import Limits

KEY_VARIABLE = "RSICCLLM_API_KEY"
CONNECTIONS = 1024
"""Open at once; more get 503."""

_TOO_SLOW = (
    b"HTTP/1.1 408 Request Timeout\r\ncontent-type: text/plain\r\ncontent-length: 33\r\nconnection: close\r\n\r\n"
    b"the head of the request is late.\n"
)


LINGER = 1.0
"""Seconds that a connection whose request was refused is still read from: closed at once with bytes unread, it is
reset, and the client may never see why."""


def protocol(header_seconds: float) -> type[H11Protocol]:
    """uvicorn's protocol, which by itself waits for the head of a request for ever, and resets what it refuses."""

    class Guarded(H11Protocol):
        _since: float | None = None
        _refused = False

        def data_received(self, data: bytes) -> None:
            if not self._refused:
                super().data_received(data)

        def send_400_response(self, msg: str) -> None:
            self._refused = True
            self.transport.write(
                b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\n"
                + f"content-length: {len(msg.encode())}\r\nconnection: close\r\n\r\n{msg}".encode()
            )
            self.loop.call_later(LINGER, self.transport.close)

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._watch()

        def _watch(self) -> None:
            if self.transport.is_closing():
                return
            now = self.loop.time()
            # Between two requests uvicorn's own keep-alive timer runs; it stops at the next request's first byte.
            waiting = self.conn.their_state is h11.IDLE and self.timeout_keep_alive_task is None
            self._since = (self._since or now) if waiting else None
            if self._since is not None and now - self._since >= header_seconds:
                self.transport.write(_TOO_SLOW)
                self.transport.close()
                return
            self.loop.call_later(min(1.0, header_seconds / 4), self._watch)

    return Guarded


def uvicorn_server(server: Server, host: str, port: int) -> uvicorn.Server:
    """uvicorn around the application, not started yet."""
    config = uvicorn.Config(
        server.app,
        host=host,
        port=port,
        http=protocol(server.limits.header_seconds),
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        # Longer than clients keep a connection in their pool: else one that they reuse may just have been closed.
        timeout_keep_alive=75,
        timeout_graceful_shutdown=10,
    )
    return uvicorn.Server(config)


def serve(model: str | None, host: str, port: int, name: str | None, urls: bool, limits: Limits) -> None:
    """Load the model and serve it until stopped. Prints the address.

    The key is read from the environment (KEY_VARIABLE). Raises InputError where the address cannot be taken, and for an
    address that others reach without a key.
    """
    key = os.environ.get(KEY_VARIABLE) or None
    if key is None and not _loopback(host):
        raise InputError(f"--host {host}: others reach this address; set {KEY_VARIABLE} to a key that they must send")
    if key is not None and not (key.isascii() and key.isprintable() and " " not in key):
        raise InputError(f"{KEY_VARIABLE}: expected printable ASCII without spaces")
    path = model_name(model)
    listening = _bind(host, port)
    served = name or ("rsiccllm" if path == str(EMBEDDED) else str(model))
    server = Server(Captioner.load(path), served, limits, key, urls)
    address = f"[{host}]" if ":" in host else host
    print(f"http://{address}:{listening.getsockname()[1]}/v1 serves {served!r} (Ctrl-C ends it)", flush=True)
    asyncio.run(uvicorn_server(server, host, port).serve(sockets=[listening]))


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _bind(host: str, port: int) -> socket.socket:
    """A listening socket, taken before the model is loaded. Raises InputError."""
    try:
        family, kind, number, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, number)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(where)
        listening.listen(CONNECTIONS)  # from here on a second server is refused the port
    except (OSError, OverflowError) as error:
        raise InputError(f"{host}:{port}: cannot be listened on ({error})") from None
    listening.setblocking(False)
    return listening
