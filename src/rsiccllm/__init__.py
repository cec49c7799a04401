"""RSICCLLM: vision-language models that say what changed between two remote sensing images of one place."""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rsiccllm.caption.captioner import Captioner as Captioner
    from rsiccllm.caption.result import Caption as Caption

# A spinning OpenMP makes a training step 15 times slower wherever another process is busy; torch reads this on import.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

__version__ = "0.1.0"

__all__ = ["Caption", "Captioner", "__version__"]


def __getattr__(name: str) -> Any:
    # Only who asks for a captioner waits for torch and transformers.
    if name == "Captioner":
        from rsiccllm.caption.captioner import Captioner

        return Captioner
    if name == "Caption":
        from rsiccllm.caption.result import Caption

        return Caption
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
