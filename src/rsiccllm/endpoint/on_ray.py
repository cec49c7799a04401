"""Requests as one Ray Data job: over HTTP to a server, or to vLLM engines on the GPUs of a cluster.

Who asks is Ray's own (`ray.data.llm`), with its workers, its retries and its engines. What an engine says is put into
the form of a server's answer, so that one reader takes both.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

from rsiccllm.cluster import joined
from rsiccllm.endpoint.key import Key
from rsiccllm.endpoint.settings import Cluster, Endpoint
from rsiccllm.errors import InputError
from rsiccllm.progress import track

HTTP_BLOCK = 8
"""Requests that a worker takes at once and sends one after another; their answers come back together. With one a block
Ray's own work is most of the time; with many, a kill loses more."""

ENGINE_BLOCK = 32
"""Requests that an engine takes at once, and answers together; Ray gives each engine several blocks."""

LOST = 32
"""Blocks without an answer after which the job stops, as `GIVE_UP` failures in a row end it without Ray."""

SLIVER = 0.01
"""Of a CPU, for what only waits for the network: with a whole one each, workers could take all CPUs from their job."""

BESIDE = 0.25
"""Of a CPU, for each of the two stages before an engine, which itself takes a whole one. By Ray's default they would
take one each, and a machine of two CPUs would wait for a third for ever."""


PYDANTIC = "For further information visit"
"""How the last line of an error of pydantic's begins; the one before says what is wrong."""


class Came(NamedTuple):
    """What came back for one request: the digest, an HTTP status and a body."""

    id: str
    status: int
    body: bytes


@dataclass(frozen=True)
class AsItIs:
    """In a row it keeps Arrow from taking the request apart: it would give every part the fields of every other."""


class RayJob:
    """A job to which requests are added, and which is then run. Ray is started or joined once there is a block of them.

    retries: how often a server is asked again for one answer, after the first time. until: Ray is left when it is
    closed, so that jobs one after another share it. Use as a context manager.
    Raises InputError where Ray, or what the job needs of it, is not here.
    """

    def __init__(self, endpoint: Endpoint, cluster: Cluster, key: Key, retries: int, until: ExitStack) -> None:
        for need in ("ray", "aiohttp") if endpoint.base_url else ("ray", "vllm"):
            if find_spec(need) is None:
                how = "ray[llm]', or --base-url where a server has the model" if need == "vllm" else "rsiccllm[ray]'"
                raise InputError(f"--ray: {need} is not installed; pip install '{how}")
        self._endpoint, self._cluster, self._key, self._retries = endpoint, cluster, key, retries
        self._size = HTTP_BLOCK if endpoint.base_url else ENGINE_BLOCK
        self._stack, self._until = ExitStack(), until
        self._rows: list[dict[str, str]] = []
        self._blocks: list[Any] = []
        self._stored = 0

    def __enter__(self) -> RayJob:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, id_: str, body: bytes) -> None:
        """Put a request into Ray's object store (which moves to disk what memory does not hold)."""
        self._rows.append({"id": id_, "body": body.decode("utf-8")})
        if len(self._rows) == self._size:
            self._store()

    def answers(self) -> Iterator[Came]:
        """Run it; what came back, in any order. Raises InputError where the job as a whole fails.

        Nothing comes of a block in which one answer could not be had, and of a block's part to a server that is all
        there is: starting workers would take longer. See `left`.
        """
        if self._rows and (self._blocks or not self._endpoint.base_url):
            self._store()
        return self._run() if self._blocks else iter(())

    def left(self, ids: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """(id, body) of these requests, once more."""
        import ray

        for rows in (*(ray.get(block).to_pylist() for block in self._blocks), self._rows):
            yield from ((row["id"], row["body"].encode("utf-8")) for row in rows if row["id"] in ids)

    def _store(self) -> None:
        if not self._blocks:
            self._begin()
        import pyarrow
        import ray

        self._blocks.append(ray.put(pyarrow.Table.from_pylist(self._rows)))
        self._stored += len(self._rows)
        self._rows = []

    def _begin(self) -> None:
        # Beside its engines Ray reads the model's configuration, and there vLLM's plugins are not called.
        setup = None if self._endpoint.base_url else "rsiccllm.serve.vllm_plugin.register"
        self._until.enter_context(joined(self._cluster.address, setup))
        self._check_gpus()
        import_module("ray.data")  # it sets up its logger, which tells of progress by the line and of faults at length
        logger = logging.getLogger("ray.data")
        self._stack.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.CRITICAL)

    def _check_gpus(self) -> None:
        """Raise InputError where engines would wait for ever; a cluster may still grow."""
        import ray

        engines, each = self._cluster.workers, self._cluster.gpus
        here = int(ray.cluster_resources().get("GPU", 0))
        if not self._endpoint.base_url and self._cluster.address == "local" and here < engines * each:
            raise InputError(f"--ray local: {here} GPUs here, but --workers {engines} with {each} each")

    def _run(self) -> Iterator[Came]:
        import ray

        build = http_processor if self._endpoint.base_url else engine_processor
        try:
            process = build(self._endpoint, self._cluster, self._key, self._retries)
            dataset = process(ray.data.from_arrow_refs(self._blocks))
            dataset.context.enable_progress_bars = False
            dataset.context.max_errored_blocks = LOST
            for row in track(dataset.iter_rows(), "asking through Ray", self._stored):
                if fault := row.get("__inference_error__"):
                    yield Came(row["id"], 400, json.dumps({"error": {"message": str(fault)}}).encode())
                else:
                    yield Came(row["id"], row["status"], row["body"])
        except Exception as error:  # of Ray's, of Ray Data's, of an engine's
            said = [line for line in str(error).splitlines() if line.strip() and PYDANTIC not in line]
            said = said or [type(error).__name__]
            why = self._key.line(said[-1])
            raise InputError(
                f"--ray: the job on {self._endpoint.url} failed ({why}); the answers so far are kept"
            ) from None


def http_processor(endpoint: Endpoint, cluster: Cluster, key: Key, retries: int) -> Callable[[Any], Any]:
    """A processor of Ray's that sends requests to a server, `cluster.workers` at a time."""
    from ray.data.llm import HttpRequestProcessorConfig, build_processor

    from rsiccllm.endpoint.ray_http import Sessions

    config = HttpRequestProcessorConfig(
        url=endpoint.url,
        batch_size=HTTP_BLOCK,
        concurrency=(cluster.workers, cluster.workers),
        max_retries=retries,
        base_retry_wait_time_in_s=endpoint.backoff,
        # The key goes with the session: settings of a processor may be written down by Ray.
        session_factory=Sessions(endpoint.timeout, endpoint.max_answer_bytes, key.headers),
        http_request_stage={"num_cpus": SLIVER},
    )

    def before(row: dict[str, Any]) -> dict[str, Any]:
        return {"payload": json.loads(row["body"]), "body": "", "as_it_is": AsItIs()}

    def after(row: dict[str, Any]) -> dict[str, Any]:
        return {"id": row["id"], **row["http_response"]}

    return _built(build_processor, config, before, after)


def engine_processor(endpoint: Endpoint, cluster: Cluster, key: Key, retries: int) -> Callable[[Any], Any]:
    """A processor of Ray's that holds the model in `cluster.workers` vLLM engines.

    Chat template and images as vLLM's own server has them (content in OpenAI's form); tokens are left to the engine.
    """
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    beside = {"concurrency": cluster.workers, "num_cpus": BESIDE}
    config = vLLMEngineProcessorConfig(
        model_source=endpoint.model,
        engine_kwargs=dict(cluster.engine),
        batch_size=ENGINE_BLOCK,
        concurrency=(cluster.workers, cluster.workers),
        should_continue_on_error=True,
        prepare_multimodal_stage={"chat_template_content_format": "openai", **beside},
        chat_template_stage=beside,
        tokenize_stage={"enabled": False},
        detokenize_stage={"enabled": False},
    )
    return _built(build_processor, config, engine_row, engine_answer)


def engine_row(row: dict[str, Any]) -> dict[str, Any]:
    """What vLLM's stages take, of a request as it would be sent."""
    body = json.loads(row["body"])
    messages = body.pop("messages")
    del body["model"]  # another name than the engine's own would mean an adapter
    return {"messages": messages, "sampling_params": body, "limit": body.get("max_tokens") or 0, "body": "",
            "as_it_is": AsItIs()}  # fmt: skip


def engine_answer(row: dict[str, Any]) -> dict[str, Any]:
    """A chat completion of what an engine said. Ray does not hand on why it ended: at the limit, then, it was cut."""
    said = int(row["num_generated_tokens"])
    choice = {
        "message": {"role": "assistant", "content": str(row["generated_text"])},
        "finish_reason": "length" if 0 < row["limit"] <= said else "stop",
    }
    usage = {"prompt_tokens": int(row["num_input_tokens"]), "completion_tokens": said}
    return {"id": row["id"], "status": 200, "body": json.dumps({"choices": [choice], "usage": usage}).encode()}


def _built(build: Callable[..., Any], config: Any, before: Any, after: Any) -> Callable[[Any], Any]:
    sliver = {"num_cpus": SLIVER}
    processor: Callable[[Any], Any] = build(
        config, preprocess=before, postprocess=after, preprocess_map_kwargs=sliver, postprocess_map_kwargs=sliver
    )
    return processor
