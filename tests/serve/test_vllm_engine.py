"""The plugin inside vLLM itself: a checkpoint of ours in an engine answers as it does here.

Skips where vLLM is not installed, as in this project's own environment. docs/captioner.md says how it was run.
"""

from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from rsiccllm.caption.captioner import EMBEDDED, Captioner
from rsiccllm.model.checkpoint import save_model
from rsiccllm.model.processor import load_processor
from rsiccllm.model.vlm import load_model
from rsiccllm.rsici.prompts import PROMPTS
from rsiccllm.sources.scenes import render_scene

vllm = pytest.importorskip("vllm")

TOGETHER = {"enable_prefix_caching": False, "mm_processor_cache_gb": 0, "enable_chunked_prefill": False,
            "skip_mm_profiling": True}  # fmt: skip


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The engine in this process, with little memory."""
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    yield
    gc.collect()


@pytest.fixture(params=["ours", "paper", "none", "Qwen3-VL"])
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path, tiny_checkpoints: dict[str, Path]) -> Path:
    """The model in the package, its weights with another difference path, and a small Qwen3-VL, whose weights are drawn
    so large that what it says (nonsense) depends on the images."""
    if request.param == "ours":
        return EMBEDDED
    torch.manual_seed(0)
    if request.param == "Qwen3-VL":
        plain, drawn, spread = tiny_checkpoints["qwen3_vl"], "", 0.2
        model = load_model(plain, "ours")
    else:
        plain, drawn, spread = plain_copy(tmp_path / "plain"), ".difference.", 0.05
        model = load_model(plain, request.param)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if drawn in name and weight.ndim >= 2:
                weight.normal_(0, spread)
    save_model(model, load_processor(plain), tmp_path / "model")
    return tmp_path / "model"


def plain_copy(folder: Path) -> Path:
    """The model in the package without its difference path."""
    shutil.copytree(EMBEDDED, folder, ignore=shutil.ignore_patterns("model.safetensors", "whole.json"))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["difference"] = None
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    weights = load_file(EMBEDDED / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if ".difference." not in name}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    return folder


def pairs() -> list[tuple[Any, Any]]:
    """Pairs of several sizes, swapped, of one image twice, and with images that other pairs have too."""
    found = []
    for index in range(8):
        scene = render_scene(77, index, 224 if index % 3 else 168, False)
        before, after = Image.fromarray(scene.before), Image.fromarray(scene.after)
        found += [(before, after), (after, before), (before, before)]
    return found + [(found[i][0], found[i + 3][1].resize(found[i][0].size)) for i in range(0, 18, 3)]


def test_an_engine_answers_as_the_captioner(checkpoint: Path) -> None:
    given = pairs()
    captioner = Captioner.load(checkpoint)
    wanted = [c.caption for c in captioner.caption([a for a, _ in given], [b for _, b in given], candidates=1)]
    assert len(set(wanted)) > 2
    # Room for some three prompts at once: pairs wait for one another and are never torn apart.
    engine = vllm.LLM(model=str(checkpoint), dtype="float32", enforce_eager=True, max_model_len=400,
                      max_num_batched_tokens=512, max_num_seqs=8, **TOGETHER)  # fmt: skip
    words = {"type": "text", "text": PROMPTS["caption"]}
    asked = [
        [{"role": "user", "content": [*({"type": "image_pil", "image_pil": image} for image in pair), words]}]
        for pair in given
    ]
    answers = engine.chat(asked, vllm.SamplingParams(temperature=0, max_tokens=64), use_tqdm=False)
    # By the tokens: of a text that ends within a character vLLM leaves the rest away.
    said = [list(answer.outputs[0].token_ids) for answer in answers]
    texts = captioner.processor.tokenizer.batch_decode(said, skip_special_tokens=True)
    assert [text.strip() for text in texts] == wanted


def test_an_engine_that_would_tear_pairs_apart_does_not_start() -> None:
    with pytest.raises(ValueError, match="--no-enable-prefix-caching --mm-processor-cache-gb 0"):
        vllm.LLM(model=str(EMBEDDED), dtype="float32", enforce_eager=True, max_model_len=400)
