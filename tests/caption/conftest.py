"""Pairs of images in folders, and answers kept short."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


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
