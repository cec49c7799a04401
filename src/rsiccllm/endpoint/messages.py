"""A question as it is sent, its parts, and what comes back of it."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import PIL.Image

DEFAULT_ANSWER_TOKENS = 1024
"""What an answer is taken to cost, for a budget, where the request sets no `max_tokens`."""


@dataclass(frozen=True, eq=False)
class Request:
    """One question.

    Args:
        messages: as the chat API takes them; `text_part` and `image_part` make the parts of a content list.
        settings: temperature, max_tokens, seed and the like, sent as they are.
        sample: counts up where one question is to be answered several times. Part of the identity, not sent.
        tag: the caller's own, to know the reply by. Neither sent nor part of the identity.
    """

    messages: Sequence[Mapping[str, Any]]
    settings: Mapping[str, Any] = field(default_factory=dict)
    sample: int = 0
    tag: Any = None

    def body(self, model: str) -> bytes:
        """What is sent. Raises TypeError where messages or settings are not JSON."""
        content = {"model": model, "messages": self.messages, **self.settings}
        return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8")


@dataclass(frozen=True, eq=False)
class Reply:
    """An answer received in full. id: the digest of what was asked. finish: "stop", "length" (cut off by max_tokens),
    "refusal" (the text is the endpoint's refusal) or what else the endpoint says. Token counts are None where it does
    not say them. reused: taken from the journal, not asked for in this run."""

    request: Request
    id: str
    text: str
    finish: str
    prompt_tokens: int | None
    completion_tokens: int | None
    reused: bool


@dataclass(frozen=True, eq=False)
class NoReply:
    """A request given up. reason: one of "timeout", "connection", "rate limit", "server error", "refused" (a 4xx),
    "broken body", "empty", "too large", "budget". detail: one line. attempts: how often it was sent in this run."""

    request: Request
    id: str
    reason: str
    detail: str
    attempts: int


def text_part(text: str) -> dict[str, Any]:
    """Text as one part of a message's content."""
    return {"type": "text", "text": text}


def image_part(image: PIL.Image.Image | str, max_side: int | None = None) -> dict[str, Any]:
    """An image as one part of a message: a lossless data URI (or the data URI given), no side over `max_side`."""
    return {"type": "image_url", "image_url": {"url": image if isinstance(image, str) else _png_uri(image, max_side)}}


def _png_uri(image: PIL.Image.Image, max_side: int | None) -> str:
    if max_side is not None and max(image.size) > max_side:
        image = image.copy()
        image.thumbnail((max_side, max_side), PIL.Image.Resampling.LANCZOS)
    # Packed lightly and by OpenCV, much faster than `page.image_uri`: it is what keeps 64 requests in flight fed.
    pixels = np.asarray(image.convert("RGB"))[:, :, ::-1]
    quick = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
    data = cv2.imencode(".png", pixels, quick)[1].tobytes()
    return f"data:image/png;base64,{base64.b64encode(data).decode('ascii')}"


def estimate_tokens(request: Request) -> tuple[int, int]:
    """(prompt, completion) tokens, roughly: four characters a token, an image as Qwen2.5-VL counts it (28 x 28 pixels a
    token, at least 4), and as much answer as the request allows."""
    prompt = 0
    for message in request.messages:
        content = message.get("content") or ""
        for part in [text_part(content)] if isinstance(content, str) else content:
            if part.get("type") == "image_url":
                prompt += _image_tokens(part["image_url"]["url"])
            else:
                prompt += math.ceil(len(part.get("text", "")) / 4)
    limit = request.settings.get("max_completion_tokens") or request.settings.get("max_tokens")
    return prompt, int(limit or DEFAULT_ANSWER_TOKENS)


def _image_tokens(uri: str) -> int:
    data = uri.partition("base64,")[2]
    try:
        width, height = PIL.Image.open(io.BytesIO(base64.b64decode(data)), formats=("PNG", "JPEG", "WEBP")).size
    except (OSError, ValueError, PIL.Image.DecompressionBombError):
        return 0  # not embedded: the endpoint fetches it, and nothing is known of it
    return max(4, math.ceil(width / 28) * math.ceil(height / 28))
