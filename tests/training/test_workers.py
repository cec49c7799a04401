"""Loader processes are forked from a process that may have used OpenCV's threads, which no fork brings along."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys
from pathlib import Path
import cv2, numpy as np
from rsiccllm.training.difference import train_difference
from rsiccllm.training.recipe import DifferenceRecipe
image = np.zeros((2048, 2048, 3), np.uint8)
for _ in range(3):
    cv2.GaussianBlur(image, (9, 9), 2.0)  # starts OpenCV's threads
    cv2.resize(image, (999, 999))
train_difference(DifferenceRecipe(
    model=sys.argv[1], data=Path(sys.argv[2]), out=Path(sys.argv[3]), max_steps=2, batch_size=2, learning_rate=1e-3,
    nuisance=1.0, crop=56, workers=1,
))
"""


def test_nuisance_in_a_worker_after_opencv_ran_in_its_parent(tiny_checkpoints: dict[str, Path], tmp_path: Path) -> None:
    from rsiccllm.rsici.build import build_rsici

    build_rsici(["scenes:20,seed=1,size=112,easy=1"], tmp_path / "data")
    given = [str(tiny_checkpoints["qwen2_5_vl"]), str(tmp_path / "data"), str(tmp_path / "out")]
    subprocess.run([sys.executable, "-c", SCRIPT, *given], check=True, timeout=60, capture_output=True)
    assert (tmp_path / "out" / "model" / "config.json").exists()
