"""The stages at their smallest size: what each is run with, and what of its output must be the same every time."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rsiccllm.training.shards import INDEX, shard_name

SIDE = 64


@dataclass(frozen=True)
class Stage:
    """One stage as its command. arguments: of `rsiccllm`, given the folder of inputs and the one to write.

    results: files whose bytes must be those of an undisturbed run, as glob patterns. records: the file whose lines
    are counted. state: patterns of what a stopped run goes on from. vanishes: an input, below the folder of inputs;
    flips: those of which a byte is flipped.
    """

    name: str
    arguments: Callable[[Path, Path], list[str]]
    results: tuple[str, ...]
    records: str
    state: tuple[str, ...]
    vanishes: str
    flips: tuple[str, ...] = ()


def _train(kind: str, data: str, model: str, steps: int) -> Callable[[Path, Path], list[str]]:
    def arguments(work: Path, out: Path) -> list[str]:
        more = ["kl_weight=0"] if kind == "dnpo" else ["feature_cache=" + str(out / "features"), "train_vision=false"]
        return ["train", kind, str(work / f"{kind}.yaml"), f"model={work / model}", f"data={work / data}",
                f"out={out}", f"max_steps={steps}", *more]  # fmt: skip

    return arguments


STAGES = (
    Stage(
        "rsici",
        lambda work, out: ["rsici", "build", "--source", f"folder:{work / 'pairs'}", "--tasks", "caption,kind,where",
                           "--teacher", "openai", "--base-url", (work / "teacher").read_text(), "--model", "m",
                           "--out", str(out)],
        ("instructions*.jsonl", "pairs.jsonl", "rejected.jsonl"),
        "instructions.jsonl",
        ("answers.journal.jsonl", "teacher.jsonl"),
        "pairs/B",
    ),
    Stage("sft", _train("sft", "rsici", "base", 6), ("model/model.safetensors", "log.jsonl"), "log.jsonl",
          ("checkpoints/checkpoint-*/model.safetensors", "features/**/*.safetensors"), "rsici/images",
          ("rsici/instructions.jsonl", "base/model.safetensors")),
    Stage("stream", _train("sft", "shards", "base", 6), ("model/model.safetensors", "log.jsonl"), "log.jsonl",
          ("checkpoints/checkpoint-*/model.safetensors", "features/**/*.safetensors"), "shards",
          (f"shards/{shard_name(0)}", f"shards/{INDEX}")),
    Stage(
        "rsicp",
        lambda work, out: ["rsicp", "build", "--data", str(work / "rsici"), "--model", str(work / "sft"), "--samples",
                           "2", "--out", str(out)],
        ("preferences.jsonl",),
        "preferences.jsonl",
        ("samples.jsonl",),
        "rsici/images",
        ("rsici/instructions.jsonl",),
    ),
    Stage("dnpo", _train("dnpo", "rsicp", "sft", 4), ("model/model.safetensors", "log.jsonl"), "log.jsonl",
          ("checkpoints/checkpoint-*/model.safetensors", "reference.jsonl"), "rsicp/images",
          ("rsicp/preferences.jsonl", "sft/model.safetensors")),
    Stage(
        "bench",
        lambda work, out: ["bench", "run", "--model", str(work / "sft"), "--data", f"rsici:{work / 'rsici'}", "--split",
                           "train", "--batch-size", "4", "--max-new-tokens", "12", "--out", str(out)],
        ("predictions.jsonl", "scores.json"),
        "predictions.jsonl",
        ("predictions.jsonl",),
        "rsici/images",
        ("sft/model.safetensors",),
    ),
    Stage(
        "map",
        lambda work, out: ["map", str(work / "before.tif"), str(work / "after.tif"), "--model", str(work / "sft"),
                           "--tile", "64", "--overlap", "8", "--smallest", "1", "--out", str(out)],
        ("change.tif", "changes.geojson", "summary.json"),
        "tiles.jsonl",
        ("tiles.jsonl",),
        "before.tif",
        ("sft/model.safetensors", "sft/tokenizer.json"),
    ),
)  # fmt: skip
"""The server has no output that could be lost: see `server.py`."""

SETTINGS = """
batch_size: 2
learning_rate: 1e-3
log_steps: 1
save_steps: 2
warmup_steps: 1
"""


def results(stage: Stage, out: Path) -> dict[str, str]:
    """A digest of each file that must be equal, without what tells of time."""
    found = {}
    for pattern in stage.results:
        for path in sorted(out.glob(pattern)):
            found[str(path.relative_to(out))] = hashlib.sha256(_timeless(path)).hexdigest()[:16]
    return found


def _timeless(path: Path) -> bytes:
    data = path.read_bytes()
    if path.name == "log.jsonl":  # the losses; seconds and speeds differ from run to run
        lines = [json.loads(line) for line in data.splitlines()]
        kept = [{k: line[k] for k in ("step", "loss", "learning_rate") if k in line} for line in lines]
        return json.dumps([line for line in kept if "loss" in line]).encode()
    return data


def records(stage: Stage, out: Path) -> set[str]:
    """What identifies each record of a finished run."""
    path = out / stage.records
    if not path.exists():
        return set()
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {str(line.get("id", line.get("step"))) for line in lines if "loss" in line or "id" in line}


def prepare(work: Path) -> None:
    """Inputs of every stage, and the stages' own outputs that the next ones read: made once, undisturbed."""
    import rasterio
    from rasterio.transform import from_origin

    from rsiccllm.model.checkpoint import save_model
    from rsiccllm.model.processor import build_tiny_processor
    from rsiccllm.model.tiny import build_tiny_model
    from rsiccllm.pairs import save_png
    from rsiccllm.rsici.build import build_rsici
    from rsiccllm.rsicp.build import build_rsicp
    from rsiccllm.sources import open_source
    from rsiccllm.training.shard_writer import write_shards

    work.mkdir(parents=True, exist_ok=True)
    scenes = open_source(f"scenes:12,seed=7,size={SIDE},easy=1")
    for pair in scenes.pairs:
        opened = scenes.open(pair)
        for side, image in (("A", opened.before), ("B", opened.after)):
            save_png(image, work / "pairs" / side / f"{pair.id}.png")
        if opened.mask is not None:
            from PIL import Image

            save_png(Image.fromarray((opened.mask * 255).astype(np.uint8)), work / "pairs" / "label" / f"{pair.id}.png")
    build_rsici([f"scenes:12,seed=7,size={SIDE},easy=1"], work / "rsici")
    words = [caption for pair in scenes.pairs for caption in pair.captions]
    processor = build_tiny_processor(words, 400, patch_size=14)
    model = build_tiny_model(processor, width=64, layers=1, vision_width=32, vision_layers=1)
    save_model(model, processor, work / "base")
    for kind in ("sft", "dnpo"):
        (work / f"{kind}.yaml").write_text(SETTINGS, encoding="utf-8")
    _model_that_says_something(work)
    build_rsicp(work / "rsici", work / "rsicp")
    write_shards(work / "rsici", work / "shards", "train", 12, 64)
    noise = np.random.default_rng(0)
    profile = {"driver": "GTiff", "count": 3, "height": 300, "width": 300, "dtype": "uint8", "crs": "EPSG:32633",
               "transform": from_origin(400_000, 5_000_000, 0.5, 0.5), "compress": "deflate"}  # fmt: skip
    for name in ("before", "after"):
        with rasterio.open(work / f"{name}.tif", "w", **profile) as handle:
            handle.write(noise.integers(0, 255, (3, 300, 300), np.uint8))


def _model_that_says_something(work: Path) -> None:
    """Large random weights: what it says is nonsense that depends on the images. Small ones would say nothing."""
    import torch

    from rsiccllm.model.checkpoint import save_model
    from rsiccllm.model.processor import load_processor
    from rsiccllm.model.vlm import load_model

    torch.manual_seed(0)
    model = load_model(work / "base", "ours")
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim >= 2:
                weight.normal_(0, 0.2)
    save_model(model, load_processor(work / "base"), work / "sft")


def load_everything() -> None:
    """What the commands import, once in the parent: its children begin where they are told to, not seconds later."""
    import rsiccllm.benchmark.bench
    import rsiccllm.cli
    import rsiccllm.geo.run
    import rsiccllm.rsici.command
    import rsiccllm.rsicp.sample
    import rsiccllm.serve.run
    import rsiccllm.training.dnpo
    import rsiccllm.training.sft  # noqa: F401

    assert "torch" in sys.modules
