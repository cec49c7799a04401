"""The server's application: OpenAI's /v1/chat/completions and /v1/models, /health, and /metrics for Prometheus."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from rsiccllm.caption.captioner import LONGEST, Captioner
from rsiccllm.errors import InputError
from rsiccllm.model.generate import Answer, Drawn, Encoded
from rsiccllm.serve.batcher import Batcher, Kind
from rsiccllm.serve.settings import Limits
from rsiccllm.serve.wish import Refusal, Wish, error_body, fetched, open_images, read_wish

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Prepared:
    """A request that the model can be asked. size: (width, height) of the images, pixels."""

    wish: Wish
    prompt: Encoded
    size: tuple[int, int]

    @property
    def kind(self) -> Kind:
        wish = self.wish
        drawn = (wish.choices, wish.temperature, wish.top_p) if wish.temperature > 0 else None
        return Kind(wish.max_tokens, drawn)


class Metrics:
    """What Prometheus is told."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("rsiccllm_requests", "Requests answered, by status", ["status"], registry=registry)
        self.seconds = Histogram(
            "rsiccllm_request_seconds",
            "From the head of a request for captions to the end of its answer",
            registry=registry,
        )
        self.batch = Histogram(
            "rsiccllm_batch_size",
            "Requests that went through the model together",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=registry,
        )
        self.tokens = Counter("rsiccllm_tokens", "Tokens of prompts and answers", ["kind"], registry=registry)
        self.in_hand = Gauge("rsiccllm_requests_in_hand", "Requests for captions not yet answered", registry=registry)
        queue = Gauge("rsiccllm_queue_length", "Requests that wait for the model", registry=registry)
        queue.set_function(waiting)


class Server:
    """The application in `.app`. name: what the model is called. key: what clients must send, None for anyone.

    urls: fetch images from public http(s) addresses too.
    """

    def __init__(
        self, captioner: Captioner, name: str, limits: Limits, key: str | None = None, urls: bool = False
    ) -> None:
        self.captioner, self.name, self.limits, self.key, self.urls = captioner, name, limits, key, urls
        self.forbidden = tuple(captioner.processor.tokenizer.all_special_tokens)
        self.begun = int(time.time())
        self.batcher = Batcher(captioner, limits.batch, limits.gather_seconds)
        self.metrics = Metrics(lambda: self.batcher.waiting)
        self.batcher.seen = self.metrics.batch.observe
        self.batcher.coming = lambda: self.preparing
        self.in_hand = self.preparing = 0
        self._opening = ThreadPoolExecutor(1, "images")
        self.app = Starlette(
            routes=[
                Route("/v1/chat/completions", self._guarded(self.chat), methods=["POST"]),
                Route("/v1/models", self._guarded(self.models), methods=["GET"]),
                Route("/v1/models/{name:path}", self._guarded(self.model), methods=["GET"]),
                Route("/metrics", self._guarded(self.measured), methods=["GET"]),
                Route("/health", self._guarded(self.health, open_to_all=True), methods=["GET"]),
            ],
            exception_handlers={HTTPException: self._elsewhere},  # type: ignore[dict-item]
            lifespan=self._lifespan,
        )

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(self.batcher.run())
        try:
            yield
        finally:
            task.cancel()
            self.batcher.close()
            self._opening.shutdown(wait=False, cancel_futures=True)

    def _guarded(self, handler: Handler, open_to_all: bool = False) -> Handler:
        """The handler behind the key; a Refusal becomes its answer, and any other fault a 500 in the same form."""

        async def guarded(request: Request) -> Response:
            try:
                if not open_to_all:
                    self._check_key(request)
                response = await handler(request)
            except Refusal as refusal:
                response = self._refused(refusal)
            except Exception:
                logging.getLogger("uvicorn.error").exception("a request could not be answered")
                response = self._refused(Refusal(500, "the model could not answer"))
            self.metrics.requests.labels(str(response.status_code)).inc()
            return response

        return guarded

    def _check_key(self, request: Request) -> None:
        if self.key is None:
            return
        sent = request.headers.get("authorization", "")
        if not hmac.compare_digest(sent.encode("utf-8", "replace"), f"Bearer {self.key}".encode()):
            raise Refusal(
                401, "expected the header 'Authorization: Bearer KEY' with this server's key", "invalid_api_key"
            )

    def _refused(self, refusal: Refusal) -> Response:
        headers = {"Retry-After": "1"} if refusal.status in {429, 503} else {}
        if refusal.status in {408, 413}:
            headers["Connection"] = "close"  # the rest of the body may still be on its way
        return JSONResponse(error_body(refusal), refusal.status, headers)

    async def _elsewhere(self, request: Request, error: HTTPException) -> Response:
        self.metrics.requests.labels(str(error.status_code)).inc()
        refusal = Refusal(error.status_code, f"{request.method} {request.url.path[:200]}: {error.detail}")
        return JSONResponse(error_body(refusal), error.status_code, error.headers)

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok", "model": self.name})

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._card()]})

    async def model(self, request: Request) -> Response:
        if request.path_params["name"] != self.name:
            raise Refusal(404, f"no such model here; expected {self.name!r}", "model_not_found", "model")
        return JSONResponse(self._card())

    def _card(self) -> dict[str, Any]:
        return {"id": self.name, "object": "model", "created": self.begun, "owned_by": "rsiccllm"}

    async def measured(self, request: Request) -> Response:
        return Response(generate_latest(self.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def chat(self, request: Request) -> Response:
        if self.in_hand >= self.limits.queue:
            raise Refusal(429, f"{self.in_hand} requests are in hand, as many as are allowed; try again", "queue_full")
        begun = time.monotonic()
        self._count(1)

        def release() -> None:
            self._count(-1)
            self.metrics.seconds.observe(time.monotonic() - begun)

        streaming = False
        try:
            data = await self._body(request)
            async with asyncio.timeout(self.limits.answer_seconds):
                prepared = await self._prepare(data)
                streaming = prepared.wish.stream
                if streaming:
                    return _Streaming(self._stream(prepared), release)
                return JSONResponse(await self._whole(prepared))
        except TimeoutError:
            raise Refusal(504, f"no answer within {self.limits.answer_seconds:g} s", "timeout") from None
        finally:
            if not streaming:
                release()

    def _count(self, step: int) -> None:
        self.in_hand += step
        self.metrics.in_hand.set(self.in_hand)

    async def _body(self, request: Request) -> bytes:
        """The request's body, whole. Raises Refusal where it is of another type, too large, or too slow."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            # Also what keeps a page of another origin from sending requests without being asked about them first.
            raise Refusal(415, f"Content-Type {kind[:80]!r}; expected application/json")
        most = self.limits.body_bytes
        data = bytearray()
        size = 0
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                async for chunk in request.stream():
                    size += len(chunk)
                    if size <= most:
                        data += chunk
                    elif size > 4 * most:
                        break
                    else:
                        data.clear()  # read on for a while, so that the client comes to read the answer
        except TimeoutError:
            raise Refusal(408, f"the body did not arrive within {self.limits.body_seconds:g} s") from None
        except ClientDisconnect:
            raise Refusal(400, "the connection ended within the body") from None
        if size > most:
            raise Refusal(413, f"a body of more than {most:,} bytes")
        return bytes(data)

    async def _prepare(self, data: bytes) -> Prepared:
        self.preparing += 1
        try:
            return await self._prepared(data)
        finally:
            self.preparing -= 1

    async def _prepared(self, data: bytes) -> Prepared:
        loop = asyncio.get_running_loop()
        wish = await loop.run_in_executor(
            self._opening, read_wish, data, self.name, self.limits, self.forbidden, LONGEST["caption"]
        )
        try:
            sources: tuple[str | bytes, str | bytes] = wish.images
            if self.urls:
                sources = await asyncio.to_thread(fetched, wish, self.limits)
            return await loop.run_in_executor(self._opening, self._encode, wish, sources)
        except InputError as error:
            raise Refusal(400, str(error), "invalid_image", "messages") from None

    def _encode(self, wish: Wish, sources: tuple[str | bytes, str | bytes]) -> Prepared:
        pair = open_images(sources, self.limits)
        return Prepared(wish, self.captioner.encode(pair, wish.prompt), pair.before.size)

    async def _ask(self, prepared: Prepared, tell: Callable[[int], None] | None = None) -> Answer | list[Drawn]:
        seed = prepared.wish.seed if prepared.wish.seed is not None else secrets.randbits(63)
        return await self.batcher.ask(prepared.prompt, prepared.kind, seed, tell)

    async def _whole(self, prepared: Prepared) -> dict[str, Any]:
        texts, usage, extra = self._outcome(prepared, await self._ask(prepared))
        choices = [
            {"index": index, "message": {"role": "assistant", "content": text}, "finish_reason": reason}
            for index, (text, reason) in enumerate(texts)
        ]
        return {**self._head("chat.completion"), "choices": choices, "usage": usage, "rsiccllm": extra}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": f"chatcmpl-{secrets.token_hex(12)}", "object": kind, "created": int(time.time()),
                "model": self.name}  # fmt: skip

    def _outcome(
        self, prepared: Prepared, answer: Answer | list[Drawn]
    ) -> tuple[list[tuple[str, str]], dict[str, int], dict[str, Any] | None]:
        """(texts with why they ended, tokens used, what the captioner says of the likeliest answer)."""
        asked = len(prepared.prompt["input_ids"])
        extra = None
        if isinstance(answer, Answer):
            texts = [(answer.text, "stop" if answer.ended else "length")] * prepared.wish.choices
            written = answer.tokens * prepared.wish.choices
            extra = self.captioner.finish(answer, prepared.size, prepared.wish.prompt).to_dict()
        else:
            texts = [(one.text, "stop" if one.ended else "length") for one in answer]
            written = sum(one.tokens for one in answer)
        self.metrics.tokens.labels("prompt").inc(asked)
        self.metrics.tokens.labels("answer").inc(written)
        return texts, {"prompt_tokens": asked, "completion_tokens": written, "total_tokens": asked + written}, extra

    async def _stream(self, prepared: Prepared) -> AsyncIterator[bytes]:
        """Server-sent events: each choice's text as it grows, why it ended, and tokens used where that was asked."""
        head = self._head("chat.completion.chunk")

        def event(choices: list[dict[str, Any]], **more: Any) -> bytes:
            return f"data: {json.dumps({**head, 'choices': choices, **more})}\n\n".encode()

        def part(index: int, delta: dict[str, str], reason: str | None = None) -> list[dict[str, Any]]:
            return [{"index": index, "delta": delta, "finish_reason": reason}]

        tokens: asyncio.Queue[int | None] = asyncio.Queue()
        ask = asyncio.create_task(self._ask(prepared, tokens.put_nowait if prepared.kind.sampled is None else None))
        ask.add_done_callback(lambda _: tokens.put_nowait(None))
        try:
            async with asyncio.timeout(self.limits.answer_seconds):
                for index in range(prepared.wish.choices):
                    yield event(part(index, {"role": "assistant", "content": ""}))
                heard: list[int] = []
                sent = ""
                while (token := await tokens.get()) is not None:
                    heard.append(token)
                    grown = self._settled(heard)
                    if prepared.wish.choices == 1 and grown.startswith(sent) and len(grown) > len(sent):
                        yield event(part(0, {"content": grown[len(sent) :]}))
                        sent = grown
                texts, usage, extra = self._outcome(prepared, await ask)
            for index, (text, reason) in enumerate(texts):
                if rest := text[len(sent) :]:
                    yield event(part(index, {"content": rest}))
                yield event(part(index, {}, reason), **({"rsiccllm": extra} if index == 0 else {}))
            if prepared.wish.usage:
                yield event([], usage=usage)
        except Exception as error:
            message = "no answer in time" if isinstance(error, TimeoutError) else "the model could not answer"
            yield f"data: {json.dumps(error_body(Refusal(504, message)))}\n\n".encode()
        finally:
            ask.cancel()
        yield b"data: [DONE]\n\n"

    def _settled(self, tokens: list[int]) -> str:
        """The text of the tokens so far as it will stand: without an unfinished character or spaces at its end."""
        text: str = self.captioner.processor.tokenizer.decode(tokens, skip_special_tokens=True)
        return text.strip().rstrip("\N{REPLACEMENT CHARACTER}").rstrip()


class _Streaming(StreamingResponse):
    """A stream that lets go of its place in the queue at its end, whoever ends it."""

    def __init__(self, content: AsyncIterator[bytes], release: Callable[[], None]) -> None:
        super().__init__(content, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._release = release

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._release()
