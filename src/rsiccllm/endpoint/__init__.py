"""A client for any OpenAI-compatible chat endpoint: a stream of requests in, a stream of replies or failures out.

    endpoint = Endpoint("http://127.0.0.1:8000/v1", "Qwen/Qwen2.5-VL-72B-Instruct")
    with Client(endpoint, Path("runs/judge/answers.jsonl")) as client:
        for outcome in client.ask_all(requests):
            ...

An answer received in full stands in the journal before it is handed out, under a digest of what was asked, and is never
asked for again: not by a second run, and not after kill -9. The wire format is the one of OpenAI's chat completions
(POST {base_url}/chat/completions), which vLLM, SGLang, DashScope, `transformers serve` and others speak.
"""

from __future__ import annotations

from rsiccllm.endpoint.client import Client
from rsiccllm.endpoint.ledger import Usage
from rsiccllm.endpoint.messages import (
    DEFAULT_ANSWER_TOKENS,
    NoReply,
    Reply,
    Request,
    estimate_tokens,
    image_part,
    text_part,
)
from rsiccllm.endpoint.run import GIVE_UP
from rsiccllm.endpoint.settings import Budget, Cluster, Endpoint, cluster_of

__all__ = [
    "DEFAULT_ANSWER_TOKENS",
    "GIVE_UP",
    "Budget",
    "Client",
    "Cluster",
    "Endpoint",
    "NoReply",
    "Reply",
    "Request",
    "Usage",
    "cluster_of",
    "estimate_tokens",
    "image_part",
    "text_part",
]
