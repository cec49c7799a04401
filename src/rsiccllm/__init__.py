"""RSICCLLM: vision-language models that say what changed between two remote sensing images of one place."""

import os

# A spinning OpenMP makes a training step 15 times slower wherever another process is busy; torch reads this on import.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

__version__ = "0.1.0"
