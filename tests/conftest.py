"""Shared fixtures. Real data is never part of the project: tests that use it skip where it is absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


# Files whose tests take longest go first, or the last of them would run alone beside an idle process.
LONG = [
    "training/test_runs.py", "training/test_distributed.py", "training/test_lost_process.py", "test_real_data.py",
    "rsici/test_ray_data.py", "test_demo.py", "rsicp/test_build_rsicp.py", "training/test_streamed.py",
    "benchmark/test_paper.py", "docs/test_site.py", "docs/test_tutorials.py",
]  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first; what is marked slow only where RSICCLLM_SLOW is set."""
    at = {REPOSITORY / "tests" / name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: at.get(item.path, len(LONG)))
    for item in items:
        if item.get_closest_marker("slow") and "RSICCLLM_SLOW" not in os.environ:
            item.add_marker(pytest.mark.skip(reason="takes a minute or more; set RSICCLLM_SLOW"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real image pairs and captions: RSICCLLM_SHARED_DATA, else `../shared/data` beside the checkout."""
    folder = Path(os.environ.get("RSICCLLM_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("real data (RSICCLLM_SHARED_DATA or ../shared/data) is not here")
    return folder


@pytest.fixture(scope="session")
def tiny_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Plain base checkpoints of the real classes at small size, by family, each with its processor."""
    import torch

    from rsiccllm.model.processor import build_tiny_processor
    from rsiccllm.model.tiny import build_tiny_model

    torch.set_num_threads(1)  # two processes of tests share two cores; and what is compared has one order of sums
    processor = build_tiny_processor(
        ["a house is built in the top left corner", "what changed?"] * 4, 400, patch_size=14
    )
    folders = {}
    for family in ("qwen2_5_vl", "qwen3_vl"):
        model = build_tiny_model(processor, family, width=64, layers=2, vision_width=32, vision_layers=2)
        folders[family] = tmp_path_factory.mktemp(family)
        model.save_pretrained(folders[family])
        processor.save_pretrained(folders[family])
    return folders


@pytest.fixture(scope="session")
def mapping_checkpoint(tiny_checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of ours: the tiny model with the difference path, and random weights so large that what it says
    (nonsense) depends on the images; with the usual small ones it says nothing at all."""
    import torch

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
