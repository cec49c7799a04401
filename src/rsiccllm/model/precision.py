"""Whether bfloat16 is worth while on this machine."""

from __future__ import annotations

import torch


def fast_bf16() -> bool:
    """Whether this machine has instructions for bfloat16.

    Without them torch takes bfloat16 apart number by number: on a processor that ends at AVX2, products of matrices
    and convolutions take many times as long as in float32.
    """
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return any(held for name, held in torch.cpu.get_capabilities().items() if name.endswith("bf16"))
