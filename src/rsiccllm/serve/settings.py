"""What a server allows: sizes, times and how many at once."""

from __future__ import annotations

from dataclasses import dataclass

from rsiccllm.errors import InputError


@dataclass(frozen=True)
class Limits:
    """Bounds of one server. Whatever goes over one is refused with a status that says which.

    body_bytes: of a request. pixels: width x height of an image. text_characters: of a question. max_tokens: of an
    answer. choices: answers to one request. queue: requests in hand at once, the rest get 429. batch: that go through
    the model together. gather_seconds: how long the first of a batch waits for others. body_seconds: for a request to
    arrive whole, else 408. answer_seconds: from then to its answer, else 504. header_seconds: for the head of a request
    to arrive, else the connection is closed with 408.
    """

    body_bytes: int = 16 * 2**20
    pixels: int = 16_000_000
    text_characters: int = 2000
    max_tokens: int = 512
    choices: int = 8
    queue: int = 128
    batch: int = 16
    gather_seconds: float = 0.01
    body_seconds: float = 20.0
    answer_seconds: float = 60.0
    header_seconds: float = 10.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value <= 0:
                raise InputError(f"--{name.replace('_', '-')}: {value}; expected more than 0")
