"""The endpoint client against a real HTTP server on loopback that misbehaves in every way we could think of."""

from __future__ import annotations

import email.utils
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from chat_server import Act, ChatServer, completion, text_of
from rsiccllm.endpoint import (
    GIVE_UP,
    Budget,
    Client,
    Endpoint,
    NoReply,
    Reply,
    Request,
    estimate_tokens,
    image_part,
    text_part,
)
from rsiccllm.endpoint.key import Key
from rsiccllm.errors import InputError


def ask(number: int, **settings: Any) -> Request:
    return Request([{"role": "user", "content": f"question {number}"}], settings, tag=number)


def quick(server: ChatServer, **settings: Any) -> Endpoint:
    fast = {"timeout": 1.0, "backoff": 0.01, "max_backoff": 0.05, "concurrency": 8, "attempts": 4}
    return Endpoint(server.url, "m", **{**fast, **settings})


def echo(number: int, request: dict[str, Any]) -> Act:
    return completion("to " + text_of(request))


def test_every_request_has_one_outcome_and_a_second_run_asks_nothing(tmp_path: Path) -> None:
    journal = tmp_path / "answers.jsonl"
    with ChatServer(echo) as server:
        for reused in (False, True):
            with Client(quick(server), journal) as client:
                replies = list(client.ask_all(ask(n) for n in range(100)))
            assert all(isinstance(r, Reply) and r.text == f"to question {r.request.tag}" for r in replies)
            assert sorted(r.request.tag for r in replies) == list(range(100))
            assert all(r.reused is reused for r in replies if isinstance(r, Reply))
            assert (client.usage.answered, client.usage.sent, client.usage.reused) == (100, 100, 100 * reused)
            assert (client.usage.prompt_tokens, client.usage.completion_tokens) == (10_000, 2_000)
        assert len(server.requests) == 100
        assert 2 <= server.most <= 8
        # Not the first to arrive: eight are sent at once.
        assert {"model": "m", "messages": [{"role": "user", "content": "question 0"}]} in server.requests


def test_what_makes_two_requests_the_same(tmp_path: Path) -> None:
    with ChatServer(echo) as server, Client(quick(server), tmp_path / "j") as client:
        same = [ask(1), ask(1), Request(ask(1).messages, tag="other tag")]
        other = [ask(1, temperature=0.5), ask(2), Request(ask(1).messages, sample=1)]
        replies = list(client.ask_all([*same, *other]))
        assert len(replies) == 6
        assert len(server.requests) == 4
        assert len({reply.id for reply in replies}) == 4
    with ChatServer(echo) as server, Client(quick(server), tmp_path / "j") as client:
        assert len(list(client.ask_all(same))) == 3
        assert len(server.requests) == 0, "another port is the same endpoint"
    with ChatServer(echo) as server, Client(Endpoint(server.url, "another"), tmp_path / "j") as client:
        assert len(list(client.ask_all(same))) == 3
        assert len(server.requests) == 1, "another model is not"


BAD: dict[str, Act] = {
    "timeout": Act(hang=True),
    "timeout ": Act(b"x" * 100, drip=0.1),
    "connection": Act(json.dumps(completion("x").body).encode(), cut=30),
    "connection ": Act(b"", headers={"Content-Length": "nonsense"}),
    "server error": Act({"error": {"message": "boom"}}, status=500),
    "server error ": Act(b"<html>bad gateway</html>", status=502),
    "refused": Act({"error": {"message": "image too large", "code": "bad_image"}}, status=400),
    "broken body": Act(b"{"),
    "broken body ": Act(b"\xff\xfe\x00"),
    "broken body  ": Act(b"[" * 100_000),
    "broken body   ": Act({"choices": [{"message": {"content": "a\ud800b"}}]}),
    "broken body    ": Act({"choices": [{"message": {"content": {"x": 1}}}]}),
    "broken body     ": Act({"choices": "none"}),
    "broken body      ": Act(b"\x1f\x8b", headers={"Content-Encoding": "gzip"}),
    "empty": Act({"choices": []}),
    "empty ": Act({"choices": [{"message": {"content": None}}]}),
    "empty  ": Act({"choices": [{"message": {"content": " \n "}}]}),
    "too large": completion("x" * 10_000_000),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_fault_is_counted_and_the_next_attempt_is_taken(kind: str, tmp_path: Path) -> None:
    final = kind.strip() in {"refused", "too large"}
    server = ChatServer(lambda n, r: completion("good") if n else BAD[kind])
    with server, Client(quick(server), tmp_path / "j") as client:
        (outcome,) = client.ask_all([ask(0)])
        assert client.usage.faults == {kind.strip(): 1}
        if final:
            assert isinstance(outcome, NoReply)
            assert (outcome.reason, outcome.attempts) == (kind.strip(), 1)
            assert "\n" not in outcome.detail
            assert len(outcome.detail) <= 200
            (outcome,) = client.ask_all([ask(0)])  # no answer was received, so it may be asked for again
        assert isinstance(outcome, Reply)
        assert outcome.text == "good"
        assert (client.usage.sent, client.usage.answered) == (2, 1)


def test_a_request_is_given_up_after_its_attempts(tmp_path: Path) -> None:
    with ChatServer(lambda n, r: Act(b"", status=503)) as server, Client(quick(server), tmp_path / "j") as client:
        outcomes = list(client.ask_all(ask(n) for n in range(5)))
        assert [type(o) for o in outcomes] == [NoReply] * 5
        assert {(o.reason, o.attempts) for o in outcomes if isinstance(o, NoReply)} == {("server error", 4)}
        assert client.usage.faults == {"server error": 20}
        assert client.usage.given_up == {"server error": 5}
        assert len(server.requests) == 20


def test_a_dead_endpoint_stops_the_run(tmp_path: Path) -> None:
    endpoint = Endpoint("http://127.0.0.1:9/v1", "m", attempts=1, backoff=0)
    with Client(endpoint, tmp_path / "j") as client:
        with pytest.raises(InputError, match=f"{GIVE_UP} requests in a row failed, the last with 'connection'"):
            list(client.ask_all(ask(n) for n in range(1000)))
        assert client.usage.sent < 3 * GIVE_UP


def test_a_storm_of_429_loses_nothing_and_is_obeyed(tmp_path: Path) -> None:
    arrivals: list[float] = []

    def act(number: int, request: dict[str, Any]) -> Act:
        arrivals.append(time.monotonic())
        if number < 8 or arrivals[-1] - arrivals[7] < 0.8:
            slow_down = {"error": {"message": "slow down"}}
            return Act(slow_down, status=429, headers={"Retry-After": "0.4"}, together=8)
        return echo(number, request)

    with ChatServer(act) as server, Client(quick(server, attempts=1, timeout=30), tmp_path / "j") as client:
        outcomes = list(client.ask_all(ask(n) for n in range(60)))
    assert [type(o) for o in outcomes] == [Reply] * 60
    # Eight at once are refused, wait as told, and are refused again: three rounds at most, not hundreds of requests.
    assert 8 <= client.usage.faults["rate limit"] <= 24
    assert client.usage.sent == 60 + client.usage.faults["rate limit"]
    assert arrivals[8] - arrivals[7] > 0.35, "requests were sent though told to wait"


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_endless_429_and_a_far_retry_after_end(form: str, tmp_path: Path) -> None:
    value = "3600" if form == "seconds" else email.utils.formatdate(time.time() + 3600, usegmt=True)
    refuse = Act(b"", status=429, headers={"Retry-After": value})
    with ChatServer(lambda n, r: refuse) as server, Client(quick(server), tmp_path / "j") as client:
        (outcome,) = client.ask_all([ask(0)])
        assert isinstance(outcome, NoReply)
        assert (outcome.reason, outcome.attempts) == ("rate limit", 1)
    server = ChatServer(lambda n, r: Act(b"", status=429))
    with server, Client(quick(server, patience=0.5, backoff=0.2), tmp_path / "k") as client:
        (outcome,) = client.ask_all([ask(0)])
        assert isinstance(outcome, NoReply)
        assert outcome.reason == "rate limit"
        assert outcome.attempts > 2


def test_what_no_further_request_can_mend_stops_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-secret-123")
    cases = {
        401: ({"error": {"message": "bad key sk-secret-123"}}, r"status 401, bad key \[key\].*\$MY_KEY"),
        404: ({"error": {"message": "no such model"}}, "refuses model 'm'"),
        307: ({}, "status 307"),
        429: ({"error": {"message": "pay", "code": "insufficient_quota"}}, "quota is used up"),
    }
    for status, (body, message) in cases.items():
        server = ChatServer(lambda n, r, a=Act(body, status): a)
        with server, Client(quick(server, key_variable="MY_KEY"), tmp_path / str(status)) as client:
            with pytest.raises(InputError, match=message) as caught:
                list(client.ask_all(ask(n) for n in range(100)))
            assert "sk-secret" not in str(caught.value)
            assert len(server.requests) <= 8


def test_no_part_of_a_key_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that an endpoint sends back across the place where a message is cut."""
    monkeypatch.setenv("MY_KEY", "sk-secret-123")
    server = ChatServer(lambda n, r: Act(b"<html>" + b"x" * 185 + b" sk-secret-123 </html>", 401))
    with server, Client(quick(server, key_variable="MY_KEY"), tmp_path / "j") as client:
        with pytest.raises(InputError) as caught:
            list(client.ask_all([ask(0)]))
        assert "sk-" not in str(caught.value)


def test_the_key_goes_into_the_header_and_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-secret-123")

    def act(number: int, request: dict[str, Any]) -> Act:
        leak = "your key is sk-secret-123"
        return completion(leak) if number else Act({"error": {"message": leak}}, status=500)

    with ChatServer(act) as server:
        with Client(quick(server, key_variable="MY_KEY"), tmp_path / "j") as client:
            (reply,) = client.ask_all([ask(0)])
            assert isinstance(reply, Reply)
            assert reply.text == "your key is [key]"
            assert "secret" not in repr(vars(client)["endpoint"]) + str(client.usage) + repr(reply)
        assert server.headers[0]["authorization"] == "Bearer sk-secret-123"
    assert b"secret" not in (tmp_path / "j").read_bytes()
    monkeypatch.setenv("MY_KEY", "sk secret\n123")
    with pytest.raises(InputError, match="MY_KEY") as caught:
        Client(Endpoint("http://x/v1", "m", key_variable="MY_KEY"), tmp_path / "k")
    assert "secret" not in str(caught.value)
    monkeypatch.delenv("MY_KEY")
    with ChatServer(echo) as server, Client(quick(server, key_variable="MY_KEY"), tmp_path / "l") as client:
        list(client.ask_all([ask(0)]))
        assert "authorization" not in server.headers[0]


def test_a_budget_is_kept_and_stops_cleanly(tmp_path: Path) -> None:
    def run(budget: Budget, name: str) -> tuple[Counter[str], Client, int]:
        with ChatServer(lambda n, r: completion("yes", (100, 20))) as server:
            with Client(quick(server, price_in=1000, price_out=5000), tmp_path / name, budget) as client:
                outcomes = list(client.ask_all(ask(n, max_tokens=20) for n in range(50)))
            return Counter(type(o).__name__ for o in outcomes), client, len(server.requests)

    kinds, client, sent = run(Budget(requests=10), "a")
    assert (kinds, sent) == ({"Reply": 10, "NoReply": 40}, 10)
    assert client.usage.given_up == {"budget": 40}
    # The job goes on under a larger budget: what was paid for is not asked again, and still counts.
    kinds, client, sent = run(Budget(requests=25), "a")
    assert (kinds, sent, client.usage.reused) == ({"Reply": 25, "NoReply": 25}, 15, 10)
    kinds, client, sent = run(Budget(tokens=1250), "b")  # 120 a request
    assert sent == 10
    assert client.usage.prompt_tokens + client.usage.completion_tokens == 1200
    kinds, client, sent = run(Budget(money=2.5), "c")  # 0.1 + 0.1 a request
    assert sent == 12
    assert client.usage.money == pytest.approx(2.4)
    with pytest.raises(InputError, match="--price-in"):
        Client(Endpoint("http://x/v1", "m"), tmp_path / "d", Budget(money=1))


def test_a_budget_holds_while_requests_wait_for_their_turn(tmp_path: Path) -> None:
    def act(number: int, request: dict[str, Any]) -> Act:
        return Act(b"", status=429, headers={"Retry-After": "0.1"}) if number < 3 else echo(number, request)

    with ChatServer(act) as server:
        with Client(quick(server, requests_per_minute=3000), tmp_path / "j", Budget(requests=12)) as client:
            outcomes = Counter(type(o).__name__ for o in client.ask_all(ask(n) for n in range(30)))
        assert len(server.requests) == client.usage.sent == 12
    assert outcomes == {"Reply": 9, "NoReply": 21}


def test_the_rate_is_limited(tmp_path: Path) -> None:
    arrivals: list[float] = []

    def act(number: int, request: dict[str, Any]) -> Act:
        arrivals.append(time.monotonic())
        return echo(number, request)

    with ChatServer(act) as server, Client(quick(server, requests_per_minute=1200), tmp_path / "j") as client:
        list(client.ask_all(ask(n) for n in range(20)))
    gaps = np.diff(arrivals)
    assert 0.9 < arrivals[-1] - arrivals[0] < 5  # 19 gaps of 50 ms; longer on a busy machine
    assert np.median(gaps) > 0.03


def test_finish_usage_and_forms_of_content(tmp_path: Path) -> None:
    acts = [
        completion("cut", finish="length"),
        completion(None, refusal="I will not"),
        completion([{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]),  # type: ignore[arg-type]
        completion("no usage, forty characters of answer. ..", None),
        completion("odd usage", (-5, 10**30)),
    ]
    server = ChatServer(lambda n, r: acts[int(text_of(r).split()[1])])
    with server, Client(quick(server), tmp_path / "j") as client:
        replies = {r.request.tag: r for r in client.ask_all(ask(n) for n in range(5)) if isinstance(r, Reply)}
    assert [(replies[n].text, replies[n].finish) for n in range(3)] == [
        ("cut", "length"),
        ("I will not", "refusal"),
        ("a b", "stop"),
    ]
    assert replies[3].prompt_tokens is None
    assert replies[4].completion_tokens is None
    assert client.usage.unreported == 2
    assert client.usage.completion_tokens == 3 * 20 + 10 + 3  # estimated at four characters a token


def test_the_caller_can_stop_and_its_own_error_passes(tmp_path: Path) -> None:
    def broken() -> Any:
        yield ask(100)
        raise ZeroDivisionError

    server = ChatServer(lambda n, r: Act(hang=True) if n % 2 else echo(n, r))
    with server, Client(quick(server, timeout=60), tmp_path / "j") as client:
        stream = client.ask_all(ask(n) for n in range(10))
        begin = time.monotonic()
        next(stream)
        stream.close()
        assert time.monotonic() - begin < 20, "closing waited for what hangs"
        with pytest.raises(ZeroDivisionError):
            list(client.ask_all(broken()))


def test_requests_are_read_lazily(tmp_path: Path) -> None:
    taken = []

    def source() -> Any:
        for number in range(1000):
            taken.append(number)
            yield ask(number)

    with ChatServer(echo) as server, Client(quick(server, concurrency=2), tmp_path / "j") as client:
        stream = client.ask_all(source())
        for seen, _ in enumerate(stream, start=1):
            assert len(taken) <= seen + 4
            if seen == 50:
                break
        stream.close()


KILLED = """
import sys
from pathlib import Path
from rsiccllm.endpoint import Client, Endpoint, Request
url, journal = sys.argv[1:]
with Client(Endpoint(url, "m", concurrency=8, backoff=0.01), Path(journal)) as client:
    for reply in client.ask_all(Request([{"role": "user", "content": f"question {n}"}]) for n in range(120)):
        pass
    print(client.usage.sent, client.usage.answered, client.usage.repeated)
"""


def test_after_kill_9_only_what_was_in_flight_is_asked_again(tmp_path: Path) -> None:
    def act(number: int, request: dict[str, Any]) -> Act:
        answer = echo(number, request)
        answer.delay = 0.1
        return answer

    with ChatServer(act) as server:
        command = [sys.executable, "-c", KILLED, server.url, str(tmp_path / "j")]
        for goal in (20, 60, 90):
            process = subprocess.Popen(command)
            while len(server.requests) < goal:
                time.sleep(0.005)
                assert process.poll() is None
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        asked = Counter(text_of(request) for request in server.requests)
    sent, answered, repeated = map(int, done.stdout.split())
    assert len(asked) == 120
    assert answered == 120
    # A request is counted before it goes out: a kill in between counts one that the server never saw.
    assert sent >= len(server.requests)
    assert repeated == sent - 120
    assert len(server.requests) - 120 <= repeated <= 3 * 8
    assert repeated > 0


def test_parts_and_estimates() -> None:
    image = Image.fromarray(np.zeros((280, 560, 3), dtype=np.uint8))
    request = Request([{"role": "user", "content": [text_part("x" * 40), image_part(image)]}], {"max_tokens": 7})
    assert estimate_tokens(request) == (10 + 10 * 20, 7)
    assert estimate_tokens(ask(1))[1] == 1024
    assert image_part("data:image/png;base64,AA")["image_url"]["url"] == "data:image/png;base64,AA"
    assert json.loads(request.body("m"))["max_tokens"] == 7


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"base_url": "x"}, "--base-url"),
        ({"base_url": "ftp://x/v1"}, "--base-url"),
        ({"base_url": "http://[x/v1"}, "--base-url"),
        ({"base_url": "http://me:secret@x/v1"}, "--base-url: holds a user or password"),
        ({"model": " "}, "--model"),
        ({"concurrency": 0}, "concurrency: 0"),
        ({"timeout": 0.0}, "timeout"),
        ({"price_in": float("nan")}, "price_in"),
        ({"requests_per_minute": 0.0}, "requests_per_minute"),
    ],
)
def test_impossible_settings(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Endpoint(**{"base_url": "http://x/v1", "model": "m", **fields})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "line", ['{"text": "no digest"}', '{"fault": "a"}', '{"id": "a", "text": "b", "estimated": 0}']
)
def test_a_journal_that_was_edited_is_told_by_its_line(tmp_path: Path, line: str) -> None:
    journal = tmp_path / "answers.jsonl"
    journal.write_text('{"sent": "a"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"answers\.jsonl:2: not a line of this journal"):
        Client(Endpoint("http://127.0.0.1:9/v1", "m"), journal)


def test_a_word_in_place_of_a_key_is_not_cut_out_of_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, told in (("none", "none of the trees remain"), ("sk-0123456789abcdef", "[key] remain")):
        monkeypatch.setenv("A_KEY", key)
        said = "none of the trees remain" if key == "none" else f"{key} remain"
        assert Key("A_KEY").clean(said) == told
