"""HTTP sessions for Ray's workers: with our time-out and key, and with answers that come back whatever they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import aiohttp


class AnyResponse(aiohttp.ClientResponse):
    """A response whose JSON is its status and its bytes, at most `most` and one more: Ray keeps nothing but the JSON,
    and ends the whole job at a body that is none."""

    def __init__(self, *args: Any, most: int, **given: Any) -> None:
        super().__init__(*args, **given)
        self._most = most

    async def json(self, **_: Any) -> dict[str, Any]:
        data = bytearray()
        async for chunk in self.content.iter_chunked(65536):
            data += chunk
            if len(data) > self._most:
                self.close()
                break
        return {"status": self.status, "body": bytes(data[: self._most + 1])}


@dataclass(frozen=True)
class Sessions:
    """Makes sessions. It goes to the workers whole; shown or logged, it does not show the headers and so the key.

    timeout: seconds for one whole answer. most: bytes of an answer.
    """

    timeout: float
    most: int
    headers: Mapping[str, str] = field(repr=False)

    def __call__(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            headers=self.headers,
            timeout=aiohttp.ClientTimeout(total=self.timeout, sock_connect=min(10.0, self.timeout)),
            response_class=partial(AnyResponse, most=self.most),
            auto_decompress=False,  # compressed was not asked for
        )
