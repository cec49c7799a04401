"""RSICCLLM: vision-language models that say what changed between two remote sensing images of one place."""

__version__ = "0.1.0"
