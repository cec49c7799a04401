"""A model behind an OpenAI-compatible endpoint (vLLM, SGLang, `transformers serve`, a vendor), or in engines on Ray."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rsiccllm.benchmark.models import folder_digest
from rsiccllm.benchmark.said import Said
from rsiccllm.endpoint import Client, Endpoint, NoReply, Request, image_part, text_part
from rsiccllm.errors import InputError
from rsiccllm.records import ImagePair
from rsiccllm.rsici.prompts import PROMPTS
from rsiccllm.sources.base import Source


class EndpointModel:
    """Asked with temperature 0. Every answer stands in the journal; none is asked, or paid, for twice.

    provenance: what training wrote of itself into a model that engines hold; of a served one nothing is known.
    """

    def __init__(self, endpoint: Endpoint, journal: Path, provenance: dict[str, Any] | None = None) -> None:
        self.endpoint, self.journal, self.provenance = endpoint, journal, provenance
        # The address is for the eye: a server that moves to another port is still the same model.
        self.identity: dict[str, Any] = {"kind": "endpoint", "served": endpoint.model, "url": endpoint.base_url}
        if endpoint.cluster is not None and not endpoint.base_url:
            folder, engine = Path(endpoint.model), dict(endpoint.cluster.engine)
            made_of = {"digest": folder_digest(folder)} if folder.is_dir() else {"hub": endpoint.model}
            self.identity = {"kind": "vllm", **made_of, "engine": engine}

    def caption_all(
        self, source: Source, pairs: Sequence[ImagePair], task: str, max_new_tokens: int, batch_size: int
    ) -> Iterator[tuple[ImagePair, Said]]:
        settings = {"temperature": 0, "seed": 0, "max_tokens": max_new_tokens}

        def ask(pair: ImagePair) -> Request:
            opened = source.open(pair)
            content = [image_part(opened.before), image_part(opened.after), text_part(PROMPTS[task])]
            return Request([{"role": "user", "content": content}], settings, tag=pair)

        failed: list[NoReply] = []
        with Client(self.endpoint, self.journal) as client:
            for outcome in client.ask_all(map(ask, pairs)):
                if not isinstance(outcome, NoReply):
                    yield outcome.request.tag, Said(outcome.text.strip())
                elif outcome.reason == "empty":  # a model that says nothing, also when asked again, has said that
                    yield outcome.request.tag, Said("")
                else:
                    failed.append(outcome)
        if failed:
            raise InputError(
                f"{self.endpoint.url}: no answer for {len(failed)} of {len(pairs)} pairs (first: '{failed[0].reason}', "
                f"{failed[0].detail}); the others are kept, and a second call asks for these again"
            )


def endpoint_of(name: str, base_url: str | None, option: str = "--model", **settings: Any) -> Endpoint:
    """The endpoint of "endpoint:URL#MODEL", or of MODEL at `base_url`; with a cluster and no URL the engines that hold
    MODEL. settings: of `Endpoint`.

    Raises InputError naming `option`, where the user gave it.
    """
    if name.startswith("endpoint:"):
        url, mark, model = name.removeprefix("endpoint:").partition("#")
        if base_url is not None:
            raise InputError(f"{option} {name}: names its endpoint itself; leave --base-url out")
        if not mark or not model:
            raise InputError(f"{option} {name}: expected endpoint:URL#MODEL")
        return Endpoint(url, model, **settings)
    if base_url is None and settings.get("cluster") is not None:
        return Endpoint("", name, **settings)
    if base_url is None:
        or_url = ", or --base-url" if option == "--model" else ""
        raise InputError(f"{option} {name}: expected endpoint:URL#MODEL{or_url}")
    return Endpoint(base_url, name, **settings)
