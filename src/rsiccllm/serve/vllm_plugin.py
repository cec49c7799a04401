"""vLLM's way in: it calls `register` in each of its processes (entry point `vllm.general_plugins`)."""

from __future__ import annotations


def register() -> None:
    """Make our models and their configurations known to vLLM. A class is imported when such a model is loaded."""
    from vllm import ModelRegistry

    import rsiccllm.model.processor
    import rsiccllm.model.vlm  # noqa: F401  (both make themselves known to transformers)

    ModelRegistry.register_model("PairQwen2_5_VL", "rsiccllm.serve.vllm_model:VllmPairQwen2_5_VL")
    ModelRegistry.register_model("PairQwen3VL", "rsiccllm.serve.vllm_model:VllmPairQwen3VL")
