"""Where to ask and how hard to try, on how many machines, and what may be used up."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from rsiccllm.errors import InputError
from rsiccllm.files import parse_yaml


@dataclass(frozen=True)
class Cluster:
    """Ray, on which requests are asked as a Ray Data job.

    Args:
        address: "local" starts Ray on this machine, "auto" or an address joins a cluster.
        workers: processes that ask a server over HTTP, each one request at a time; or, where the endpoint has no
            `base_url`, vLLM engines, each with GPUs of its own.
        engine: arguments of each vLLM engine, such as {"tensor_parallel_size": 4} for four GPUs each.
    """

    address: str = "local"
    workers: int = 1
    engine: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise InputError(f"--workers {self.workers}: expected at least 1")
        for name in ("tensor_parallel_size", "pipeline_parallel_size"):
            if type(value := self.engine.get(name, 1)) is not int or value < 1:
                raise InputError(f"--vllm {name}: {value!r}; expected a whole number of GPUs")

    @property
    def gpus(self) -> int:
        """GPUs that each engine takes."""
        tensor, pipeline = (self.engine.get(f"{part}_parallel_size", 1) for part in ("tensor", "pipeline"))
        return int(tensor * pipeline)


def cluster_of(address: str | None, workers: int | None, engine: Sequence[str]) -> Cluster | None:
    """The cluster that options name; None without an address. engine: "NAME=VALUE", values as YAML has them.

    Raises InputError for options that need an address, and for an argument that is none.
    """
    if address is None:
        if workers is not None or engine:
            raise InputError(f"{'--vllm' if engine else '--workers'}: expected with --ray")
        return None
    arguments = {}
    for item in engine:
        name, mark, value = item.partition("=")
        if not mark or not name.isidentifier():
            raise InputError(f"--vllm {item}: expected NAME=VALUE, such as tensor_parallel_size=4")
        arguments[name] = parse_yaml(value, f"--vllm {name}")
    return Cluster(address, 1 if workers is None else workers, arguments)


@dataclass(frozen=True)
class Endpoint:
    """Where to ask and how hard to try.

    Args:
        base_url: up to and without `/chat/completions`, such as "http://127.0.0.1:8000/v1"; "" where the vLLM engines
            of a cluster hold the model.
        model: the name the endpoint knows it by. It is part of what identifies a request; `base_url` is not, so the
            answers stay valid when a server moves to another port.
        key_variable: the environment variable that holds the key. The key goes into the request's header and nowhere
            else; where the variable is not set, none is sent (local servers need none).
        concurrency: requests in flight at most.
        timeout: seconds for one whole answer, first byte to last.
        attempts: how often one request is sent before it is given up. Being told to wait (429) is no attempt.
        patience: seconds of nothing but 429 after which a request is given up.
        requests_per_minute: sent at most, evenly spaced; None: as fast as `concurrency` allows.
        max_answer_bytes: of the whole body; a longer one is cut off and refused.
        backoff: seconds of the first wait after a fault; doubled each time up to `max_backoff`, with full jitter.
        price_in, price_out: money for a million prompt and completion tokens, 0 where unknown.
        cluster: where the asking is done; None: in this process. On a cluster `concurrency`, `patience` and
            `max_backoff` do not count, and a rate cannot be kept.
    """

    base_url: str
    model: str
    key_variable: str = "OPENAI_API_KEY"
    concurrency: int = 8
    timeout: float = 120.0
    attempts: int = 6
    patience: float = 600.0
    requests_per_minute: float | None = None
    max_answer_bytes: int = 1_000_000
    backoff: float = 1.0
    max_backoff: float = 60.0
    price_in: float = 0.0
    price_out: float = 0.0
    cluster: Cluster | None = None

    def __post_init__(self) -> None:
        if self.base_url or self.cluster is None:
            self._check_address()
        if self.cluster is not None and self.cluster.engine and self.base_url:
            raise InputError("--vllm: arguments of engines on the cluster; with --base-url a server has the model")
        if self.cluster is not None and self.requests_per_minute is not None:
            raise InputError("--requests-per-minute: workers of Ray keep no rate together; leave it or --ray out")
        if not self.model.strip():
            raise InputError("--model: empty; expected the name the endpoint knows the model by")
        for name, low in (("concurrency", 1), ("attempts", 1), ("max_answer_bytes", 1)):
            if getattr(self, name) < low:
                raise InputError(f"{name}: {getattr(self, name)}; expected at least {low}")
        for name in ("timeout", "patience", "backoff", "max_backoff", "price_in", "price_out"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0) or (name == "timeout" and value == 0):
                raise InputError(f"{name}: {value}; expected a number above 0 (or 0, except for the timeout)")
        if self.requests_per_minute is not None and not self.requests_per_minute > 0:
            raise InputError(f"requests_per_minute: {self.requests_per_minute}; expected a number above 0")

    def _check_address(self) -> None:
        try:
            parts = urlsplit(self.base_url)
            host, secret = parts.hostname, parts.username or parts.password
        except ValueError:
            raise InputError("--base-url: not a URL; expected http(s)://HOST[:PORT]/v1") from None
        if secret is not None:
            raise InputError(f"--base-url: holds a user or password; put the key into ${self.key_variable} instead")
        if parts.scheme not in {"http", "https"} or not host or parts.query or parts.fragment:
            raise InputError(f"--base-url: '{self.base_url}'; expected http(s)://HOST[:PORT]/v1")

    @property
    def url(self) -> str:
        """Where requests are posted; of engines, what messages call them."""
        return self.base_url.rstrip("/") + "/chat/completions" if self.base_url else f"vllm:{self.model}"

    def cost(self, prompt_tokens: float, completion_tokens: float) -> float:
        """Money for so many tokens."""
        return (prompt_tokens * self.price_in + completion_tokens * self.price_out) / 1e6


@dataclass(frozen=True)
class Budget:
    """Upper bounds on the whole job, all runs on one journal together. None: no bound.

    requests: sent, every attempt counted. tokens: prompt and completion. money: by the endpoint's prices. Before a
    request is sent its likely cost is set aside; where that would pass a bound, those in flight finish, and every
    request that is left comes back as a failure of reason "budget".
    """

    requests: int | None = None
    tokens: int | None = None
    money: float | None = None
