"""A small model with a change map, and pairs of images in folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image


@pytest.fixture(scope="session")
def mapping_checkpoint(tiny_checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of ours: the tiny model with the difference path, and random weights so large that what it says
    (nonsense) depends on the images; with the usual small ones it says nothing at all."""
    from rsiccllm.model.checkpoint import save_model
    from rsiccllm.model.processor import load_processor
    from rsiccllm.model.vlm import load_model

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("ours") / "model"
    plain = tiny_checkpoints["qwen2_5_vl"]
    model = load_model(plain, "ours")
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim >= 2:
                weight.normal_(0, 0.2)
    save_model(model, load_processor(plain), folder)
    return folder


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders with five pairs, named a to e."""
    rng = np.random.default_rng(0)
    for side in ("before", "after"):
        (tmp_path / side).mkdir()
        for name in "abcde":
            Image.fromarray(rng.integers(0, 256, (56, 56, 3), dtype=np.uint8)).save(tmp_path / side / f"{name}.png")
    return tmp_path / "before", tmp_path / "after"


@pytest.fixture(autouse=True)
def short_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights never end an answer: eight tokens of it are enough."""
    from rsiccllm.caption import captioner

    for task in captioner.LONGEST:
        monkeypatch.setitem(captioner.LONGEST, task, 8)
