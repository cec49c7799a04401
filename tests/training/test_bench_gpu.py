"""bench/gpu.py at tiny size: the code that a GPU would run, and its arithmetic of what fits."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench" / "gpu.py"


@pytest.fixture(scope="module")
def gpu() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_gpu", BENCH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_every_way_runs_at_small_size(gpu: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    gpu.main(["--small", "--rounds", "1", "--pairs", "2", "--rank", "4"])
    lines = [line for line in capsys.readouterr().out.splitlines() if "ms a step" in line]
    ways = [line.split(":")[0] for line in lines]
    assert ways == [
        "fine-tuning, LoRA, ours", "fine-tuning, LoRA, TRL", "DNPO, lambda 0, LoRA, ours", "DNPO, lambda 0, LoRA, TRL",
        "DNPO, lambda 0.1, LoRA, ours", "fine-tuning, full, ours", "DNPO, lambda 0, full, ours",
    ]  # fmt: skip


def test_what_fits_a_card_of_80_gb_by_hand(gpu: ModuleType) -> None:
    config = gpu.configuration(gpu.tiny_words(), small=False)
    # A layer: q and o 3584^2, k and v 3584 x 512, biases, three of 3584 x 18944, two norms.
    layer = 2 * 3584**2 + 2 * 3584 * 512 + 3584 + 2 * 512 + 3 * 3584 * 18944 + 2 * 3584
    assert layer == 233_057_792
    embeddings = 2 * 152064 * 3584
    # 56e9 bytes at 16 a weight are 3.5e9 weights; tower (0.68e9) and embeddings (1.09e9) leave room for 7 layers.
    assert (3.5e9 - embeddings - 0.7e9) // layer == 7
    assert gpu.layers_that_fit(80e9, config) == 7
    assert gpu.layers_that_fit(1e12, config) == 28
    assert gpu.layers_that_fit(1e9, config) == 1
    cut = gpu.configuration(gpu.tiny_words(), small=False, layers=7)
    assert cut.text_config.num_hidden_layers == len(cut.text_config.layer_types) == 7


def test_the_language_models_operations_by_hand(gpu: ModuleType) -> None:
    import torch

    config = gpu.configuration(gpu.tiny_words(), small=False)
    with torch.device("meta"):
        model = gpu.PairQwen2_5_VL(config)
    assert gpu.language_forward(config, model, 300) == 2 * 28 * 233_057_792 * 300 + 4 * 300**2 * 3584 * 28
