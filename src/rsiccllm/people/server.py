"""The server of a page for people, for this machine alone: items out, what people say of them in."""

from __future__ import annotations

import datetime
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from rsiccllm.errors import InputError
from rsiccllm.page import Html, element
from rsiccllm.people.pages import document, done_page, name_page

MAX_BODY = 100_000
"""Bytes of what one person says of one item."""


class Refused(Exception):
    """What a person sent cannot be taken; the message says what was expected."""


class Items(ABC):
    """What people are asked about: items in an order that is the same for everyone. title: of its pages."""

    title: str

    @abstractmethod
    def __len__(self) -> int:
        """How many items there are."""

    @property
    @abstractmethod
    def people(self) -> Sequence[str]:
        """Everyone who said anything so far."""

    @abstractmethod
    def said(self, person: str, place: int) -> bool:
        """Whether a person has said something of the item at `place`, from 0."""

    @abstractmethod
    def show(self, place: int, person: str, token: str) -> Html:
        """The page of an item; its form must hold `token` and `by`, the person. Raises InputError where it is gone."""

    @abstractmethod
    def take(self, place: int, person: str, fields: dict[str, str]) -> None:
        """Keep what a person says of an item, on disk before it returns. Raises Refused. Called in several threads."""

    @abstractmethod
    def report(self) -> Html:
        """The page that says what was said."""

    @abstractmethod
    def lines(self) -> list[str]:
        """What was said, for the terminal: how much, and how far people agree."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the file of what was said."""

    def done(self, person: str) -> int:
        """Of how many items a person has said something."""
        return sum(self.said(person, place) for place in range(len(self)))

    def next(self, person: str, after: int = -1) -> int | None:
        """The next item of which a person has said nothing, behind `after` first; None where none is left."""
        left = [place for place in range(len(self)) if not self.said(person, place)]
        return next((place for place in left if place > after), left[0] if left else None)


def serve(items: Items, port: int, started: Callable[[ThreadingHTTPServer, str], None] | None = None) -> None:
    """Serve until stopped (Ctrl-C). Listens on 127.0.0.1 alone; port 0 takes a free one.

    started: called with the server and its address once it listens. Raises InputError where the port is taken.

    A page of another site cannot decide: requests must name this host (which undoes DNS rebinding), and what is said
    must carry a token that only our own pages hold.
    """
    token = secrets.token_urlsafe(16)
    handler = type("Handler", (_Handler,), {"items": items, "token": token})
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    except OSError as error:
        raise InputError(f"--port: {port} cannot be used ({error.strerror})") from None
    server.daemon_threads = True
    try:
        if started is not None:
            started(server, f"http://127.0.0.1:{server.server_port}/")
        server.serve_forever(poll_interval=0.1)
    finally:
        server.server_close()


def ask_people(items: Items, port: int, say: Callable[[str], None] | None) -> list[str]:
    """Serve until Ctrl-C, then close; returns `items.lines()`. say: told the address; None: ask nobody, only report."""
    try:
        if say is not None:
            serve(items, port, lambda _, address: say(f"{address} (Ctrl-C ends)"))
    except KeyboardInterrupt:
        pass
    finally:
        items.close()
    return items.lines()


def now() -> str:
    """In UTC, as 2026-01-31T12:00:00Z."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class _Handler(BaseHTTPRequestHandler):
    items: Items
    token: str
    server: ThreadingHTTPServer
    timeout = 30  # seconds that a silent connection is kept
    server_version = "rsiccllm"
    sys_version = ""

    def do_GET(self) -> None:
        if not self._ours():
            return
        url = urlsplit(self.path)
        person = _name(parse_qs(url.query).get("by", [""])[0])
        if url.path == "/":
            self._begin(person, given="by=" in url.query)
        elif url.path == "/report":
            self._send(self.items.report())
        elif url.path == "/done" and person:
            self._send(done_page(self.items.title, person))
        elif (place := self._place(url.path)) is not None and person:
            try:
                page = self.items.show(place, person, self.token)
            except InputError as error:  # an image that went away since the start
                self._say(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
                return
            self._send(page)
        else:
            self._say(HTTPStatus.NOT_FOUND, "No such page.")

    def do_POST(self) -> None:
        if not self._ours():
            return
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit() and len(length) < 10 and int(length) <= MAX_BODY):
            self._say(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"Expected at most {MAX_BODY:,} bytes.")
            return
        fields = {k: v[0] for k, v in parse_qs(self.rfile.read(int(length)).decode("utf-8", "replace")).items()}
        place, person = self._place(urlsplit(self.path).path), _name(fields.get("by", ""))
        if not secrets.compare_digest(fields.get("token", "").encode(), self.token.encode()):
            self._say(HTTPStatus.FORBIDDEN, "This form is not of this run of the command; reload the page.")
        elif place is None or not person:
            self._say(HTTPStatus.BAD_REQUEST, "Expected an item that is there, and a name.")
        else:
            try:
                self.items.take(place, person, fields)
            except Refused as refusal:
                self._say(HTTPStatus.BAD_REQUEST, str(refusal))
            except InputError as error:  # a full disk
                self._say(HTTPStatus.INTERNAL_SERVER_ERROR, f"Not kept: {error}")
            else:
                self._go_on(person, place)

    def _begin(self, person: str, given: bool) -> None:
        if person:
            self._go_on(person, -1)
        else:
            wrong = "Expected a name of 1 to 60 letters." if given else ""
            self._send(name_page(self.items.title, self.items.people, wrong))

    def _go_on(self, person: str, after: int) -> None:
        place = self.items.next(person, after)
        where = "/done" if place is None else f"/item/{place}"
        self.send_response(HTTPStatus.SEE_OTHER)
        self.send_header("Location", f"{where}?by={quote(person, safe='')}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _ours(self) -> bool:
        """Whether the request is meant for this server; answers it if not."""
        port = self.server.server_port
        if self.headers.get("Host") in {f"127.0.0.1:{port}", f"localhost:{port}"}:
            return True
        self._say(HTTPStatus.FORBIDDEN, f"Expected the address 127.0.0.1:{port}.")
        return False

    def _place(self, path: str) -> int | None:
        text = path.removeprefix("/item/")
        if path != f"/item/{text}" or not (text.isascii() and text.isdigit() and len(text) < 9):
            return None
        return int(text) if int(text) < len(self.items) else None

    def _say(self, status: HTTPStatus, text: str) -> None:
        self._send(document(self.items.title, element("p", text)), status)

    def _send(self, html: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        data = html.encode("utf-8", "replace")
        self.send_response(status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Frame-Options", "DENY")
        self.send_header("Referrer-Policy", "no-referrer")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass  # the terminal shows the address and the agreement, not every request


def _name(text: str) -> str:
    """A person's name, or "" for what is none."""
    text = " ".join(text.split())
    return text if 0 < len(text) <= 60 and text.isprintable() else ""
