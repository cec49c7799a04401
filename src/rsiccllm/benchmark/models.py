"""What can be benchmarked: a checkpoint of ours, any vision-language model of transformers, an endpoint, a file.

`open_model` tells which of them a name means and says at once what identifies it; weights are loaded, and requests
sent, when the first caption is asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from rsiccllm.benchmark.grounding import read_map
from rsiccllm.benchmark.predictions import load_lines
from rsiccllm.benchmark.said import Said
from rsiccllm.endpoint import Cluster
from rsiccllm.errors import InputError
from rsiccllm.files import sha256
from rsiccllm.pairs import OpenedPair
from rsiccllm.records import ImagePair
from rsiccllm.rsici.prompts import PROMPTS
from rsiccllm.sources.base import Source


class Model(Protocol):
    """What `open_model` returns."""

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the captions beside data, prompt and generation. Results that differ in it are never mixed."""
        ...

    @property
    def provenance(self) -> dict[str, Any] | None:
        """What training wrote of itself into the model, where that can be told from here."""
        ...

    def caption_all(
        self, source: Source, pairs: Sequence[ImagePair], task: str, max_new_tokens: int, batch_size: int
    ) -> Iterator[tuple[ImagePair, Said]]:
        """Caption pairs of `source`, not always in order; images are opened as they are needed. task: of PROMPTS."""
        ...


def open_model(
    name: str, journal: Path, base_url: str | None = None, concurrency: int = 8, cluster: Cluster | None = None
) -> Model:
    """The model that a name means: "endpoint:URL#MODEL", or MODEL with `base_url`: an OpenAI-compatible endpoint;
    a path that ends in .jsonl: a file of captions; else a checkpoint or run folder or a hub name.

    journal: where an endpoint's answers are kept. concurrency: requests it has in flight at most. cluster: where an
    endpoint is asked; a checkpoint or hub name is then held by vLLM engines there.
    Raises InputError where it is not there.
    """
    served = base_url is not None or name.startswith("endpoint:")
    if name.endswith(".jsonl") and not served:
        if cluster is not None:
            raise InputError(f"--ray: {name} is a file of captions; nobody is asked")
        return FileOfCaptions(Path(name))
    from rsiccllm.model.checkpoint import resolve_checkpoint

    if served or cluster is not None:
        from rsiccllm.benchmark.endpoint_model import EndpointModel, endpoint_of

        here = None if served else Checkpoint(resolve_checkpoint(name))
        name = name if here is None else here.name
        endpoint = endpoint_of(name, base_url, concurrency=concurrency, cluster=cluster)
        return EndpointModel(endpoint, journal, None if here is None else here.provenance)
    return Checkpoint(resolve_checkpoint(name))


class FileOfCaptions:
    """Captions made elsewhere, lines of {"id", "caption"}; they are only put in place, whatever made them."""

    provenance: dict[str, Any] | None = None

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self.lines = load_lines(path)
        self.folder = path.parent
        self.identity: dict[str, Any] = {"kind": "file", "sha256": sha256(path)}

    def caption_all(
        self, source: Source, pairs: Sequence[ImagePair], task: str, max_new_tokens: int, batch_size: int
    ) -> Iterator[tuple[ImagePair, Said]]:
        missing = [pair.id for pair in pairs if pair.id not in self.lines]
        if missing:
            raise InputError(f"{self.name}: no caption for {len(missing)} of {len(pairs)} pairs (first: {missing[0]})")
        for pair in pairs:
            line = self.lines[pair.id]
            seen = None if line.change_map is None else read_map(self.folder, line.change_map)
            yield pair, Said(line.caption, line.probability, seen)


class Checkpoint:
    """Weights on disk or the hub: a model of ours, through the captioner, or any other of transformers."""

    def __init__(self, name: str) -> None:
        import rsiccllm.model.vlm  # noqa: F401  (makes our architectures known to transformers)
        from rsiccllm.model.checkpoint import load_config

        self.name = name
        self.config = load_config(name)

    @cached_property
    def provenance(self) -> dict[str, Any] | None:
        """What training wrote of itself into a model of ours."""
        found = getattr(self.config, "provenance", None)
        return found if isinstance(found, dict) else None

    @cached_property
    def ours(self) -> bool:
        return str(self.config.model_type).startswith("rsiccllm_")

    @cached_property
    def identity(self) -> dict[str, Any]:
        import torch

        gpu = torch.cuda.is_available()
        folder = Path(self.name)
        made_of = {"digest": folder_digest(folder)} if folder.is_dir() else {
            "hub": self.name, "revision": getattr(self.config, "_commit_hash", None)
        }  # fmt: skip
        return {
            "kind": "rsiccllm" if self.ours else "transformers",
            "architecture": self.config.model_type,
            **made_of,
            "provenance": self.provenance,
            "precision": str(self.config.dtype or "float32") if gpu and not self.ours else "float32",
            "device": torch.cuda.get_device_name() if gpu else "cpu",
        }

    def caption_all(
        self, source: Source, pairs: Sequence[ImagePair], task: str, max_new_tokens: int, batch_size: int
    ) -> Iterator[tuple[ImagePair, Said]]:
        answer = self._ours(task, max_new_tokens) if self.ours else self._other(task, max_new_tokens)
        for start in range(0, len(pairs), batch_size):
            chunk = pairs[start : start + batch_size]
            yield from zip(chunk, answer([source.open(pair) for pair in chunk]), strict=True)

    @cached_property
    def _captioner(self) -> Any:
        from rsiccllm.caption.captioner import Captioner

        return Captioner.load(self.name)

    @cached_property
    def _vlm(self) -> Any:
        from rsiccllm.model.stock import VisionLanguageModel

        return VisionLanguageModel.load(self.name)

    def _ours(self, task: str, max_new_tokens: int) -> Callable[[list[OpenedPair]], Iterable[Said]]:
        captioner = self._captioner

        def answer(pairs: list[OpenedPair]) -> Iterable[Said]:
            for found in captioner.caption_all(pairs, len(pairs), task, max_new_tokens):
                yield Said(found.caption, found.probability, found.change_map)

        return answer

    def _other(self, task: str, max_new_tokens: int) -> Callable[[list[OpenedPair]], Iterable[Said]]:
        model = self._vlm

        def answer(pairs: list[OpenedPair]) -> Iterable[Said]:
            questions = [((pair.before, pair.after), PROMPTS[task]) for pair in pairs]
            return map(Said, model.answers(questions, max_new_tokens))

        return answer


def folder_digest(folder: Path) -> str:
    """SHA-256 over names and bytes of all that shapes a checkpoint's answers: weights, settings, tokenizer, template.

    Notes beside them (README, logs) do not count. Raises InputError for a folder that is damaged.
    """
    from rsiccllm.model.checkpoint import check_whole

    check_whole(str(folder))
    kinds = {".safetensors", ".bin", ".json", ".jinja", ".txt", ".model"}
    found = sorted(path for path in folder.iterdir() if path.suffix in kinds and path.is_file())
    return hashlib.sha256("\n".join(f"{path.name} {sha256(path)}" for path in found).encode()).hexdigest()
