"""The server as its clients meet it: the official ones, many at once, and those that mean it ill."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")
from served import NAME, Served, asked, pixels, uri

from rsiccllm.caption.captioner import Captioner
from rsiccllm.errors import InputError
from rsiccllm.model.processor import load_processor
from rsiccllm.model.vlm import load_model
from rsiccllm.pairs import OpenedPair
from rsiccllm.rsici.prompts import PROMPTS
from rsiccllm.serve.batcher import Batcher, Kind
from rsiccllm.serve.remote import fetch, public_address
from rsiccllm.serve.run import _bind, serve
from rsiccllm.serve.settings import Limits

LIMITS = Limits(body_bytes=300_000, pixels=300_000, queue=16, body_seconds=2.0, header_seconds=1.0, answer_seconds=20.0)


@pytest.fixture(scope="module")
def captioner(mapping_checkpoint: Path) -> Captioner:
    return Captioner(load_model(mapping_checkpoint), load_processor(mapping_checkpoint))


@pytest.fixture(scope="module")
def served(captioner: Captioner) -> Iterator[Served]:
    with Served(captioner, LIMITS) as running:
        yield running


@pytest.fixture(scope="module")
def pair() -> tuple[str, str]:
    return uri(pixels(0)), uri(pixels(1))


def expected(captioner: Captioner, first: int, second: int, prompt: str = PROMPTS["caption"]) -> str:
    opened = OpenedPair(pixels(first), pixels(second), None)
    return next(captioner.answer_all([opened], prompt, 8)).caption


def post(served: Served, body: object, **more: object) -> httpx2.Response:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **more.pop("headers", {})}  # type: ignore[dict-item]
    return httpx2.post(f"{served.url}/chat/completions", content=data, headers=headers, timeout=60, **more)  # type: ignore[arg-type]


def test_the_official_client(served: Served, captioner: Captioner, pair: tuple[str, str]) -> None:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=served.url, api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).owned_by == "rsiccllm"
    body = asked(*pair)
    done = client.chat.completions.create(**body)
    text = expected(captioner, 0, 1)
    assert text
    assert done.choices[0].message.content == text
    assert done.usage.completion_tokens == 8
    assert done.usage.prompt_tokens > 20
    assert done.choices[0].finish_reason == "length"
    assert done.model_extra["rsiccllm"]["caption"] == text
    assert done.model_extra["rsiccllm"]["boxes"] is not None
    stream = client.chat.completions.create(**body, stream=True, stream_options={"include_usage": True})
    parts = list(stream)
    assert "".join(p.choices[0].delta.content or "" for p in parts if p.choices) == text
    assert sum(bool(p.choices and p.choices[0].delta.content) for p in parts) > 1  # it did come in parts
    assert parts[-1].usage.completion_tokens == 8
    asked_for = {**asked(*pair, text="what changed here?"), "n": 3, "temperature": 1.0, "seed": 5, "max_tokens": 64}
    drawn = [[c.message.content for c in client.chat.completions.create(**asked_for).choices] for _ in range(2)]
    assert len(drawn[0]) == 3
    assert drawn[0] == drawn[1]  # by the seed
    cut = client.chat.completions.create(**{**asked_for, "max_tokens": 3})
    begun = [choice.message.content for choice in cut.choices if choice.finish_reason == "length"]
    assert any(begun)  # what there is of it, as at OpenAI
    assert 3 * len(begun) <= cut.usage.completion_tokens <= 9
    with pytest.raises(openai.NotFoundError, match="is not served here"):
        client.chat.completions.create(**{**body, "model": "other"})
    with pytest.raises(openai.BadRequestError, match="1 images; expected two"):
        client.chat.completions.create(**asked(pair[0]))


def test_langchain(served: Served, captioner: Captioner, pair: tuple[str, str]) -> None:
    langchain = pytest.importorskip("langchain_openai")
    from langchain_core.messages import HumanMessage

    model = langchain.ChatOpenAI(base_url=served.url, api_key="none", model=NAME, max_retries=0, max_tokens=8)
    message = HumanMessage(content=asked(*pair)["messages"][0]["content"])
    assert model.invoke([message]).text == expected(captioner, 0, 1)
    assert "".join(chunk.text for chunk in model.stream([message])) == expected(captioner, 0, 1)


def test_many_at_once_none_lost_none_wrong_and_batched(served: Served, captioner: Captioner) -> None:
    truth = {seed: expected(captioner, seed, seed + 100) for seed in range(6)}
    assert len(set(truth.values())) == 6
    bodies = {seed: json.dumps(asked(uri(pixels(seed)), uri(pixels(seed + 100)))).encode() for seed in range(6)}

    def one(number: int) -> tuple[int, str]:
        answer = post(served, bodies[number % 6])
        assert answer.status_code == 200, answer.text
        return number % 6, answer.json()["choices"][0]["message"]["content"]

    with ThreadPoolExecutor(12) as pool:
        for seed, text in pool.map(one, range(60)):
            assert text == truth[seed]
    metrics = httpx2.get(served.url.replace("/v1", "/metrics")).text
    sizes = dict(line.split() for line in metrics.splitlines() if line.startswith("rsiccllm_batch_size_"))
    assert float(sizes["rsiccllm_batch_size_sum"]) > 1.5 * float(sizes["rsiccllm_batch_size_count"])
    assert 'rsiccllm_requests_total{status="200"}' in metrics
    assert "rsiccllm_requests_in_hand 0.0" in metrics


def hostile(good: tuple[str, str]) -> dict[str, tuple[bytes, int]]:
    """Bodies by name, each with the status it must get."""
    import io
    import zlib

    from PIL import Image

    first, second = good
    png = io.BytesIO()
    pixels(0).save(png, "png")
    whole = png.getvalue()

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = (50_000).to_bytes(4, "big") * 2 + b"\x08\x02\x00\x00\x00"
    packed = zlib.compress(bytes(10**7))
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    wide = io.BytesIO()
    Image.new("1", (700, 700)).save(wide, "png")
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    nested = uri(uri(pixels(0)).encode())
    images: dict[str, str] = {
        "truncated": uri(whole[:-40]),
        "bomb": uri(bomb),
        "over the pixel limit": uri(wide.getvalue()),
        "svg": uri(svg, "svg+xml"),
        "svg as png": uri(svg),
        "nested base64": nested,
        "not base64": "data:image/png;base64,@@@@",
        "empty": "data:image/png;base64,",
        "no base64": "data:image/png,abc",
        "bare": "x",
        "file": "file:///etc/passwd",
        "path": "../../../../etc/passwd",
        "absolute": "/etc/passwd",
        "http": "http://127.0.0.1:1/x.png",
        "metadata": "http://169.254.169.254/latest",
        "gif": uri(b"GIF89a" + bytes(50), "gif"),
        "eps": uri(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 90 90\n"),
        "small": uri(pixels(0, 8)),
        "other size": uri(pixels(0, 84)),
        "null byte": "data:image/png;base64,\x00",
    }
    bodies: dict[str, tuple[bytes, int]] = {
        name: (json.dumps(asked(image, second)).encode(), 400) for name, image in images.items()
    }
    well = asked(first, second)
    other = {
        "no images": asked(),
        "three images": asked(first, second, first),
        "text as number": {**well, "messages": [{"role": "user", "content": 5}]},
        "no messages": {**well, "messages": []},
        "messages as text": {**well, "messages": "hello"},
        "an unknown part": {**well, "messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
        "a tool's turn": {**well, "messages": [{"role": "tool", "content": "x"}]},
        "assistant last": {**well, "messages": [*well["messages"], {"role": "assistant", "content": "x"}]},
        "n of 1000": {**well, "n": 1000},
        "n of -1": {**well, "n": -1},
        "n true": {**well, "n": True},
        "hot": {**well, "temperature": 1e9},
        "not a number": {**well, "temperature": float("nan")},
        "tokens as text": {**well, "max_tokens": "8"},
        "seed too long": {**well, "seed": 2**64},
        "special tokens": asked(first, second, text="<|image_pad|>" * 50),
        "long text": asked(first, second, text="a" * 5000),
        "url as list": {
            **well,
            "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": [first]}]}],
        },
    }
    bodies |= {name: (json.dumps(body).encode(), 400) for name, body in other.items()}
    raw = json.dumps(well).encode()
    bodies |= {
        "cut": (raw[:-30], 400),
        "nothing": (b"", 400),
        "a list": (b"[]", 400),
        "null": (b"null", 400),
        "deep": (b"[" * 100_000, 400),
        "deep inside": (b'{"model": "tiny", "messages": ' + b'{"a":' * 50_000, 400),
        "digits": (b'{"model": ' + b"9" * 10_000 + b"}", 400),
        "not UTF-8": (b"\xff\xfe" + raw, 400),
        "no model": (b'{"messages": []}', 400),
        "another model": (json.dumps({**well, "model": "x" * 9999}).encode(), 404),
        "too large": (raw + b" " * 400_000, 413),
    }
    return bodies


def test_hostile_bodies_get_a_clear_4xx_and_the_server_lives(served: Served, pair: tuple[str, str]) -> None:
    for name, (body, status) in hostile(pair).items():
        answer = post(served, body)
        assert answer.status_code == status, (name, answer.status_code, answer.text)
        message = answer.json()["error"]["message"]
        assert message, name
        assert len(message) < 400, name
        assert "/src/" not in message, name
    assert post(served, asked(*pair)).status_code == 200


def test_other_ways_to_do_harm(served: Served, pair: tuple[str, str]) -> None:
    good = json.dumps(asked(*pair)).encode()
    assert post(served, good, headers={"Content-Type": "text/plain"}).status_code == 415
    assert httpx2.get(f"{served.url}/chat/completions").status_code == 405
    for path in ("/../../etc/passwd", "/v1/%2e%2e/%2e%2e/etc/passwd", "/docs", "/v1/models/x/../y"):
        assert httpx2.get(f"http://127.0.0.1:{served.port}{path}").status_code == 404, path
    for _ in range(8):  # closed with bytes unread, about every other of these was reset before the answer was read
        assert post(served, good, headers={"X-Large": "a" * 200_000}).status_code in {400, 431}

    def raw(data: bytes, wait: float) -> bytes:
        with socket.create_connection(("127.0.0.1", served.port), timeout=wait) as connection:
            connection.sendall(data)
            received = b""
            while part := connection.recv(65536):
                received += part
            return received

    begun = time.monotonic()
    assert b" 408 " in raw(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-", 10)  # a head that never ends
    assert 0.5 < time.monotonic() - begun < 5
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    assert b" 408 " in raw(head + b"Content-Length: 900\r\n\r\n{", 10)  # a body that never ends
    assert b" 400 " in raw(b"\x16\x03\x01garbage\r\n\r\n", 10)
    assert httpx2.get(served.url.replace("/v1", "/health")).json()["status"] == "ok"


def test_a_full_queue_is_429_and_a_late_answer_504(captioner: Captioner, pair: tuple[str, str]) -> None:
    hold = threading.Event()
    real = captioner.answer_encoded

    class Slow(Captioner):
        def answer_encoded(self, *arguments, **more):  # type: ignore[no-untyped-def]
            hold.wait(20)
            return real(*arguments, **more)

    slow = Slow(captioner.model, captioner.processor)
    with Served(slow, Limits(queue=3, answer_seconds=1.5)) as running, ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(post, running, asked(*pair)) for _ in range(3)]
        time.sleep(0.7)
        refused = post(running, asked(*pair))
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        assert [answer.result().status_code for answer in answers] == [504] * 3
        hold.set()
        time.sleep(0.3)
        assert post(running, asked(*pair)).status_code == 200
        assert running.server.in_hand == 0


def test_an_abandoned_stream_gives_its_place_back(served: Served, pair: tuple[str, str]) -> None:
    for _ in range(3):
        body = {**asked(*pair), "stream": True, "max_tokens": 300}
        with httpx2.stream("POST", f"{served.url}/chat/completions", json=body) as answer:
            assert answer.status_code == 200
            next(answer.iter_lines())
    end = time.monotonic() + 20
    while served.server.in_hand:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_key(captioner: Captioner, pair: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    with Served(captioner, LIMITS, key="secret") as running:
        assert post(running, asked(*pair)).status_code == 401
        assert post(running, asked(*pair), headers={"Authorization": "Bearer Secret"}).status_code == 401
        assert httpx2.get(f"{running.url}/models").status_code == 401
        assert httpx2.get(running.url.replace("/v1", "/metrics")).status_code == 401
        assert httpx2.get(running.url.replace("/v1", "/health")).status_code == 200
        assert post(running, asked(*pair), headers={"Authorization": "Bearer secret"}).status_code == 200
    monkeypatch.delenv("RSICCLLM_API_KEY", raising=False)
    with pytest.raises(InputError, match="set RSICCLLM_API_KEY"):
        serve("nothing", "0.0.0.0", 0, None, False, LIMITS)


def test_private_addresses_are_never_fetched() -> None:
    for host in ("127.0.0.1", "localhost", "10.0.0.8", "192.168.1.1", "169.254.169.254", "::1", "fd00::1", "0.0.0.0",
                 "::ffff:127.0.0.1", "100.64.0.1", "2002:7f00:1::", "64:ff9b::a00:1", "::7f00:1"):  # fmt: skip
        with pytest.raises(InputError, match="not public"):
            public_address(host, 80, "image 1")
    for url in ("http://user@8.8.8.8/x", "ftp://8.8.8.8/x", "http://"):
        with pytest.raises(InputError):
            fetch(url, "image 1", 100, 1.0)


def test_fetching_keeps_to_its_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server on loopback stands for a public one: the check of addresses, tested above, is set aside."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/away":
                self.send_response(302)
                self.send_header("Location", "http://127.0.0.1/")
            else:
                self.send_response(200)
            self.end_headers()
            if self.path == "/endless":
                for _ in range(100):
                    self.wfile.write(bytes(1000))
            elif self.path == "/good":
                self.wfile.write(self.headers["Host"].encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as there:
        threading.Thread(target=there.serve_forever, daemon=True).start()
        monkeypatch.setattr("rsiccllm.serve.remote.public_address", lambda *_: "127.0.0.1")
        base = f"http://images.example:{there.server_port}"
        assert fetch(f"{base}/good", "image 1", 100, 5.0) == f"images.example:{there.server_port}".encode()
        with pytest.raises(InputError, match="status 302"):
            fetch(f"{base}/away", "image 1", 100, 5.0)
        with pytest.raises(InputError, match="more than 5,000 bytes"):
            fetch(f"{base}/endless", "image 1", 5000, 5.0)
        there.shutdown()


def test_a_port_that_is_taken_is_told_before_the_model_is_loaded() -> None:
    first = _bind("127.0.0.1", 0)
    with first, pytest.raises(InputError, match="cannot be listened on"):
        _bind("127.0.0.1", first.getsockname()[1])


def test_a_model_that_fails_is_a_500_in_the_form_of_all_faults(
    served: Served, captioner: Captioner, pair: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("weights at /srv/secret")

    monkeypatch.setattr(captioner, "answer_encoded", fail)
    answer = post(served, asked(*pair))
    assert answer.status_code == 500
    assert answer.json()["error"]["message"] == "the model could not answer"
    assert "secret" not in answer.text
    metrics = httpx2.get(f"{served.url.removesuffix('/v1')}/metrics").text
    assert '"500"' in metrics


def test_text_that_is_none_is_a_400_and_hardly_any_temperature_is_none(served: Served, pair: tuple[str, str]) -> None:
    answer = post(served, asked(*pair, text="\ud800 what"))
    assert (answer.status_code, "not UTF-8" in answer.text) == (400, True)
    cold, none = (post(served, asked(*pair, temperature=t, max_tokens=8)).json() for t in (1e-320, 0))
    assert cold["choices"][0]["message"] == none["choices"][0]["message"]


def test_those_being_made_ready_are_waited_for(captioner: Captioner) -> None:
    """Sixteen clients ask anew all together: the first is not answered alone while the others wait."""
    sizes: list[int] = []

    async def ask_all() -> None:
        batcher = Batcher(captioner, 16, gather=0.01, patience=2.0, seen=sizes.append)
        coming = 6
        batcher.coming = lambda: coming
        task = asyncio.create_task(batcher.run())
        prompt = captioner.encode(OpenedPair(pixels(0), pixels(1), None), PROMPTS["caption"])
        asked = []
        for _ in range(6):
            asked.append(asyncio.create_task(batcher.ask(prompt, Kind(4, None), 0)))
            await asyncio.sleep(0.05)  # longer than they are gathered for
            coming -= 1
        assert len({answer.text for answer in await asyncio.gather(*asked)}) == 1
        task.cancel()
        batcher.close()

    asyncio.run(ask_all())
    assert sizes == [6]
