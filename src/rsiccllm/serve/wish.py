"""A request of OpenAI's chat completions as what it asks: two images, a question, how to answer."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rsiccllm.caption.question import check_question
from rsiccllm.errors import InputError
from rsiccllm.files import describe_validation
from rsiccllm.pairs import OpenedPair, decode_image
from rsiccllm.rsici.prompts import PROMPTS
from rsiccllm.serve.remote import fetch
from rsiccllm.serve.settings import Limits

COLD = 1e-5
"""A lower temperature is the likeliest answer, as 0 is: nothing can be divided by the least of them."""


class Refusal(Exception):
    """A request that gets no answer: its HTTP status, what is wrong in one line, and OpenAI's code for it."""

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param


@dataclass(frozen=True)
class Wish:
    """What one request asks. images: sources of the two, as they were sent. prompt: the question.

    temperature 0 is the likeliest answer; seed None draws anew each time.
    """

    images: tuple[str, str]
    prompt: str
    stream: bool
    usage: bool
    choices: int
    max_tokens: int
    temperature: float
    top_p: float
    seed: int | None


class _Form(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class _Url(_Form):
    url: str


class _ImagePart(_Form):
    type: Literal["image_url"]
    image_url: _Url


class _TextPart(_Form):
    type: Literal["text"]
    text: str


_Part = Annotated[_ImagePart | _TextPart, Field(discriminator="type")]


class _Message(_Form):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[_Part] | None = None


class _StreamOptions(_Form):
    include_usage: bool = False


class _Body(_Form):
    model: str
    messages: list[_Message] = Field(min_length=1, max_length=64)
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    n: int | None = Field(default=None, ge=1)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, ge=0, lt=2**63)


def read_wish(data: bytes, name: str, limits: Limits, forbidden: tuple[str, ...], longest: int) -> Wish:
    """Read a request's body. name: of the model served. forbidden: the tokenizer's special tokens, which no question
    may hold. longest: tokens of an answer where the request sets none. Raises Refusal.

    The images are the two of the whole conversation; the question is the text of its last user message, or where that
    has none the one the model was trained on. Each question is answered on its own.
    """
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):  # not UTF-8 is a ValueError too
        raise Refusal(400, "the body is not valid JSON") from None
    try:
        body = _Body.model_validate(found)
    except ValidationError as error:
        raise Refusal(400, describe_validation(error)) from None
    except RecursionError:
        raise Refusal(400, "the body is nested too deeply") from None
    if body.model != name:
        raise Refusal(
            404, f"model {body.model[:80]!r} is not served here; expected {name!r}", "model_not_found", "model"
        )
    users = [message for message in body.messages if message.role == "user"]
    if not users or body.messages[-1].role != "user":
        raise Refusal(400, "field 'messages': expected the last one to be of role 'user'", param="messages")
    parts: list[_ImagePart | _TextPart] = [
        part for message in users if isinstance(message.content, list) for part in message.content
    ]
    images = [part.image_url.url for part in parts if isinstance(part, _ImagePart)]
    if len(images) != 2:
        raise Refusal(
            400,
            f"{len(images)} images; expected two, the earlier date first (parts of type 'image_url')",
            param="messages",
        )
    last = users[-1].content
    texts = [last] if isinstance(last, str) else [part.text for part in last or () if isinstance(part, _TextPart)]
    prompt = "\n".join(texts).strip()
    if prompt:
        try:
            check_question(prompt, "field 'messages'")
        except InputError as error:
            raise Refusal(400, str(error), param="messages") from None
    if len(prompt) > limits.text_characters:
        raise Refusal(400, f"a question of {len(prompt)} characters; expected at most {limits.text_characters}")
    if special := next((token for token in forbidden if token in prompt), None):
        raise Refusal(400, f"the question holds {special!r}, which only the chat template may write")
    choices = body.n or 1
    if choices > limits.choices:
        raise Refusal(400, f"field 'n': {choices}; expected at most {limits.choices}", param="n")
    return Wish(
        images=(images[0], images[1]),
        prompt=prompt or PROMPTS["caption"],
        stream=bool(body.stream),
        usage=body.stream_options is not None and body.stream_options.include_usage,
        choices=choices,
        # OpenAI's default is what fits; a request for more than is allowed gets what is allowed.
        max_tokens=min(body.max_completion_tokens or body.max_tokens or longest, limits.max_tokens),
        # Several likeliest answers would all be the same one.
        temperature=float(choices > 1) if body.temperature is None else body.temperature * (body.temperature >= COLD),
        top_p=1.0 if body.top_p is None else body.top_p,
        seed=body.seed,
    )


def fetched(wish: Wish, limits: Limits) -> tuple[str | bytes, str | bytes]:
    """The two images, those at http(s) addresses fetched. Raises InputError."""
    first, second = (
        fetch(source, f"image {number}", limits.body_bytes, limits.body_seconds) if _remote(source) else source
        for number, source in enumerate(wish.images, start=1)
    )
    return first, second


def _remote(source: str) -> bool:
    return source.lower().startswith(("http://", "https://"))


def open_images(sources: tuple[str | bytes, str | bytes], limits: Limits) -> OpenedPair:
    """Decode two images: data URIs, or the bytes of files. Raises InputError."""
    first, second = (_open(source, f"image {number}", limits) for number, source in enumerate(sources, start=1))
    if first.size != second.size:
        sizes = " and ".join(f"{image.width}x{image.height}" for image in (first, second))
        raise InputError(f"images of {sizes} pixels; expected equal sizes")
    return OpenedPair(first, second, None)


def _open(source: str | bytes, name: str, limits: Limits) -> Image.Image:
    if isinstance(source, bytes):
        return decode_image(source, name, limits.pixels)
    if _remote(source):
        raise InputError(f"{name}: addresses are not fetched by this server; expected a data: URI")
    head, comma, payload = source.partition(",")
    if not comma or not head.startswith("data:") or not head.endswith(";base64"):
        raise InputError(f"{name}: expected data:image/...;base64,DATA")
    try:
        data = base64.b64decode(payload, validate=True)
    except ValueError:
        raise InputError(f"{name}: not valid base64") from None
    return decode_image(data, name, limits.pixels)


def error_body(refusal: Refusal) -> dict[str, Any]:
    """A refusal in OpenAI's form."""
    kind = "invalid_request_error" if refusal.status < 500 else "server_error"
    if refusal.status == 429:
        kind = "rate_limit_error"
    return {"error": {"message": refusal.message, "type": kind, "param": refusal.param, "code": refusal.code}}
