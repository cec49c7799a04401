"""bfloat16 is chosen where the machine has instructions for it, and told where it has none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rsiccllm.errors import InputError
from rsiccllm.model.precision import fast_bf16
from rsiccllm.training.recipe import SFTRecipe, load_recipe


@pytest.mark.parametrize(("held", "fast"), [({"avx2": True, "avx512_bf16": False, "amx_bf16": False}, False),
                                            ({"avx2": True, "avx512_bf16": True, "amx_bf16": False}, True),
                                            ({"neon": True, "bf16": True}, True), ({"neon": True}, False)])  # fmt: skip
def test_auto_is_what_the_processor_has(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, held: dict[str, bool], fast: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: held)
    assert fast_bf16() is fast
    path = tmp_path / "r.yaml"
    path.write_text("model: m\ndata: d\nout: o\nlearning_rate: 1e-3\nbf16: auto\n", encoding="utf-8")
    recipe = load_recipe(path, SFTRecipe)
    assert recipe.bf16 is fast
    written: dict[str, Any] = recipe.model_dump(mode="json")
    assert written["bf16"] is fast, "a run says what it was, not what it was told"
    with pytest.raises(InputError, match="bf16"):
        load_recipe(path, SFTRecipe, ["bf16=sometimes"])
