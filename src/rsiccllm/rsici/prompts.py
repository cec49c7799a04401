"""What is asked of a model, by task. The words are recorded with every sample."""

from __future__ import annotations

PROMPTS = {
    "caption": "What changed between the two images? Answer in one short sentence.",
    "describe": "Describe in detail what changed between the two images.",
}
