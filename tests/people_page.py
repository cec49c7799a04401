"""A page for people, asked over HTTP as a browser or an attacker would."""

from __future__ import annotations

import http.client
import re
import threading
from urllib.parse import urlencode, urlsplit

from browser import Browser
from rsiccllm.people.server import Items, serve


class Served:
    """A page for people, served in a thread until `stop`."""

    def __init__(self, items: Items) -> None:
        self.items = items
        self._ready = threading.Event()
        self._thread = threading.Thread(target=serve, args=(items, 0, self._started), daemon=True)
        self._thread.start()
        assert self._ready.wait(10)

    def _started(self, server: object, address: str) -> None:
        self.server, self.address = server, address
        self._ready.set()

    def stop(self) -> None:
        self.server.shutdown()  # type: ignore[attr-defined]
        self._thread.join()
        self.items.close()  # type: ignore[attr-defined]

    def ask(
        self, method: str, path: str, fields: dict[str, str] | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, str, str]:
        """(status, body, Location)"""
        connection = http.client.HTTPConnection("127.0.0.1", urlsplit(self.address).port or 0, timeout=10)
        body = urlencode(fields) if fields is not None else None
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, text, answer.headers.get("Location", "")

    def token(self) -> str:
        return re.search(r'name="token" value="([^"]+)"', self.ask("GET", "/item/0?by=x")[1])[1]  # type: ignore[index]


def arrive(browser: Browser, path: str) -> None:
    """Wait until the page is there and its keys work: a key pressed before would be lost."""
    browser.wait(f"location.pathname === '{path}' && document.readyState === 'complete'")
