"""The server of a review, for this machine alone: pages out, decisions into a file that only grows."""

from __future__ import annotations

import datetime
import json
import random
import secrets
import threading
from collections import defaultdict
from collections.abc import Callable
from functools import lru_cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from rsiccllm.errors import InputError
from rsiccllm.files import read_jsonl, read_text
from rsiccllm.journal import Journal
from rsiccllm.page import element
from rsiccllm.records import INSTRUCTIONS, Instruction
from rsiccllm.rsici.gates import check
from rsiccllm.rsici.prior import Prior, prior_of
from rsiccllm.rsici.prompts import facts_in_words
from rsiccllm.rsici.review.decisions import CHOICES, REVIEWS, Decision, read_reviews
from rsiccllm.rsici.review.pages import Shown, document, done_page, item_page, name_page, report_page
from rsiccllm.sources import open_source

REJECTED = "rejected.jsonl"
GATED = ("describe", "caption", "kind")
"""The tasks whose answers a teacher writes and the gates judge; the others follow from the mask by rule."""

MAX_BODY = 100_000
"""Bytes of a decision."""


class Review:
    """What is reviewed: the instructions of a built folder, in an order that is the same for all reviewers.

    Args:
        root: a folder that `rsici build` wrote. tasks: which are shown. split: only this one. n: how many, drawn with
            `seed`; None: all.

    Raises InputError for a folder that is none, and where nothing is left to review.
    """

    def __init__(
        self, root: Path, tasks: tuple[str, ...] = GATED, split: str | None = None, n: int | None = None, seed: int = 0
    ) -> None:
        self.root = root
        self.source = open_source(f"rsici:{root}")
        self._pairs = {pair.id: pair for pair in self.source.pairs}
        every = read_jsonl(root / INSTRUCTIONS, Instruction)
        records = [r for r in every if r.task in tasks and split in {None, r.split} and r.pair in self._pairs]
        if not records:
            raise InputError(f"{root / INSTRUCTIONS}: no record of the tasks {', '.join(tasks)} to review")
        random.Random(seed).shuffle(records)
        self.records = records[:n]
        self.place = {record.id: place for place, record in enumerate(self.records)}
        self.reviews = read_reviews(root, self.records)
        self._before: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        if (root / REJECTED).exists():
            for number, line in enumerate(read_text(root / REJECTED).splitlines(), start=1):
                try:
                    note = json.loads(line)
                    self._before[note["pair"], note["task"]].append(note)
                except (ValueError, KeyError, TypeError):
                    raise InputError(f"{root / REJECTED}:{number}: not a line that `rsici build` writes") from None
        self._journal = Journal(root / REVIEWS)
        self._lock = threading.Lock()
        self.shown = lru_cache(maxsize=32)(self._shown)

    def close(self) -> None:
        """Let go of the file of decisions."""
        self._journal.close()

    def decide(self, decision: Decision) -> None:
        """Keep a decision: on disk first, then in what is shown."""
        with self._lock:
            self._journal.append(decision.model_dump(mode="json", exclude_none=True))
            self.reviews.add(decision)

    def done(self, reviewer: str) -> int:
        """How many of the items a reviewer has decided on."""
        return sum(self.reviews.of(reviewer, record.id) is not None for record in self.records)

    def next(self, reviewer: str, after: int = -1) -> int | None:
        """The next item that the reviewer has not decided on, behind `after` first; None where none is left."""
        left = [i for i, record in enumerate(self.records) if self.reviews.of(reviewer, record.id) is None]
        return next((i for i in left if i > after), left[0] if left else None)

    def _shown(self, place: int) -> Shown:
        record = self.records[place]
        pair = self._pairs[record.pair]
        # The texts are what is judged: what they say must not pass for what is known.
        prior: Prior = prior_of(self.source, pair.model_copy(update={"captions": [], "description": None}))
        found = [item for answer in record.answers for item in check(answer, record.task, prior)]
        gates = list(dict.fromkeys(f"{item.gate}: {item.reason} ({item.detail})" for item in found))
        facts = facts_in_words(prior) if prior.regions or prior.known else ""
        return Shown(self.source.open(pair), facts, gates, self._before[record.pair, record.task])


def serve_review(
    review: Review, port: int = 8765, started: Callable[[ThreadingHTTPServer, str], None] | None = None
) -> None:
    """Serve until stopped (Ctrl-C). Listens on 127.0.0.1 alone; port 0 takes a free one.

    started: called with the server and its address once it listens. Raises InputError where the port is taken.

    A page of another site cannot decide: requests must name this host (which undoes DNS rebinding), and a decision must
    carry a token that only our own pages hold.
    """
    token = secrets.token_urlsafe(16)
    handler = type("Handler", (_Handler,), {"review": review, "token": token})
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


class _Handler(BaseHTTPRequestHandler):
    review: Review
    token: str
    server: ThreadingHTTPServer
    timeout = 30  # seconds that a silent connection is kept
    server_version = "rsiccllm"
    sys_version = ""

    def do_GET(self) -> None:
        if not self._ours():
            return
        url = urlsplit(self.path)
        reviewer = _name(parse_qs(url.query).get("by", [""])[0])
        if url.path == "/":
            self._begin(reviewer, given="by=" in url.query)
        elif url.path == "/report":
            self._send(report_page(self.review.reviews, len(self.review.records), self.review.root))
        elif url.path == "/done" and reviewer:
            self._send(done_page(reviewer))
        elif (place := self._place(url.path)) is not None and reviewer:
            record = self.review.records[place]
            try:
                shown = self.review.shown(place)
            except InputError as error:  # an image that went away since the start
                self._say(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
                return
            own = self.review.reviews.of(reviewer, record.id)
            done, total = self.review.done(reviewer), len(self.review.records)
            self._send(item_page(record, shown, place, total, done, reviewer, own, self.token))
        else:
            self._say(HTTPStatus.NOT_FOUND, "No such page.")

    def do_POST(self) -> None:
        if not self._ours():
            return
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit() and int(length) <= MAX_BODY):
            self._say(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"Expected at most {MAX_BODY:,} bytes.")
            return
        fields = {k: v[0] for k, v in parse_qs(self.rfile.read(int(length)).decode("utf-8", "replace")).items()}
        place, reviewer = self._place(urlsplit(self.path).path), _name(fields.get("by", ""))
        if not secrets.compare_digest(fields.get("token", "").encode(), self.token.encode()):
            self._say(HTTPStatus.FORBIDDEN, "This form is not of this run of the review; reload the page.")
        elif place is None or not reviewer or fields.get("choice") not in CHOICES:
            self._say(HTTPStatus.BAD_REQUEST, "Expected a name and accept, edit or reject.")
        else:
            self._decide(place, reviewer, fields)

    def _decide(self, place: int, reviewer: str, fields: dict[str, str]) -> None:
        record = self.review.records[place]
        edited = None
        if fields["choice"] == "edit":
            text = fields.get("text", "").replace("\r\n", "\n").strip()
            parts = text.split("\n") if len(record.answers) > 1 else [text]
            edited = [part.strip() for part in parts if part.strip()]
            if not edited:
                self._say(HTTPStatus.BAD_REQUEST, "The edit is empty; reject the item instead.")
                return
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.review.decide(
            Decision(
                item=record.id,
                reviewer=reviewer,
                choice=fields["choice"],
                answers=record.answers,
                edited=edited,
                note=fields.get("note", "")[:500],
                at=now,
            )
        )
        self._go_on(reviewer, place)

    def _begin(self, reviewer: str, given: bool) -> None:
        if reviewer:
            self._go_on(reviewer, -1)
        else:
            wrong = "Expected a name of 1 to 60 letters." if given else ""
            self._send(name_page(self.review.reviews.reviewers, wrong))

    def _go_on(self, reviewer: str, after: int) -> None:
        place = self.review.next(reviewer, after)
        where = "/done" if place is None else f"/item/{place}"
        self.send_response(HTTPStatus.SEE_OTHER)
        self.send_header("Location", f"{where}?by={quote(reviewer, safe='')}")
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
        return int(text) if int(text) < len(self.review.records) else None

    def _say(self, status: HTTPStatus, text: str) -> None:
        self._send(document("Review", element("p", text)), status)

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
    """A reviewer's name, or "" for what is none."""
    text = " ".join(text.split())
    return text if 0 < len(text) <= 60 and text.isprintable() else ""
