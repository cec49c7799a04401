"""Finished runs on rendered scenes, from files of captions: right ones, and ones with planted faults."""

from __future__ import annotations

import json
from pathlib import Path

from rsiccllm.benchmark.bench import run_bench
from rsiccllm.records import ImagePair
from rsiccllm.sources import open_source

SPEC = "scenes:80,seed=11,size=64,easy=1"


def pairs() -> list[ImagePair]:
    return open_source(SPEC).select("test")


def finish(folder: Path, captions: dict[str, str]) -> Path:
    """A run's folder, with scores, of these captions by pair id."""
    file = folder.with_suffix(".jsonl")
    file.write_text("".join(json.dumps({"id": key, "caption": text}) + "\n" for key, text in captions.items()))
    run_bench(str(file), folder, SPEC)
    return folder


def good() -> dict[str, str]:
    """Every pair's first caption: nothing is wrong."""
    return {pair.id: pair.captions[0] for pair in pairs()}


def bad() -> dict[str, str]:
    """An invented change on the unchanged, none on every second changed pair, a wrong object on the others."""
    said = {}
    for number, pair in enumerate(pairs()):
        if not pair.changed:
            said[pair.id] = "a house is built at the top"
        elif number % 4 < 2:
            said[pair.id] = "nothing has changed"
        else:
            said[pair.id] = "a playground is removed <script>document.title = 'run'</script> & $x_1$"
    return said
