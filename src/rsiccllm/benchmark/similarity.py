"""SBS: how alike a caption and its references are to a sentence-embedding model.

The paper names SBS and not its model; any encoder that transformers' AutoModel opens will do, and its name stands
beside the score. A text's vector is the mean over its tokens' last hidden states, scaled to length 1 (Reimers and
Gurevych 2019); SBS is the cosine with the nearest reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rsiccllm.errors import InputError

USUAL = "sentence-transformers/all-MiniLM-L6-v2"
ABSENT = f"SBS is absent: no sentence-embedding model; name one with --sbs (a folder, or a hub name such as {USUAL})"


def local_model() -> str | None:
    """The usual sentence-embedding model where it is in the hub's cache on this machine; nothing is downloaded."""
    from huggingface_hub import try_to_load_from_cache

    return USUAL if isinstance(try_to_load_from_cache(USUAL, "config.json"), str) else None


class SentenceEncoder:
    """A sentence-embedding model. `name`: a folder or hub name. Raises InputError where it cannot be loaded."""

    def __init__(self, name: str) -> None:
        from transformers import AutoModel, AutoTokenizer

        from rsiccllm.model.checkpoint import DATA_ONLY, WEIGHTS_ONLY, refuse_pickles

        if Path(name).is_dir() and not (Path(name) / "config.json").is_file():
            raise InputError(f"--sbs {name}: no config.json in it; expected a transformers model")
        refuse_pickles(name)
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(name, **DATA_ONLY)
            self.model = AutoModel.from_pretrained(name, **WEIGHTS_ONLY).eval()
        except (OSError, ValueError, KeyError) as error:
            line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise InputError(f"--sbs {name}: cannot be loaded as a sentence-embedding model ({line[:200]})") from None
        if self.model.config.is_encoder_decoder:
            raise InputError(f"--sbs {name}: has a decoder; expected an encoder of sentences")
        self.name = name

    def encode(self, texts: Sequence[str], batch_size: int = 64) -> np.ndarray:
        """[texts, width] float32 vectors of length 1; an empty text has the zero vector."""
        import torch

        limit = min(getattr(self.model.config, "max_position_embeddings", 512), 512)
        distinct = sorted({text for text in texts if text.strip()}, key=len)  # like lengths together: less padding
        rows: dict[str, np.ndarray] = {}
        with torch.inference_mode():
            for start in range(0, len(distinct), batch_size):
                chunk = distinct[start : start + batch_size]
                batch = self.tokenizer(chunk, padding=True, truncation=True, max_length=limit, return_tensors="pt")
                hidden = self.model(**batch).last_hidden_state.float()  # [texts, tokens, width]
                seen = batch["attention_mask"][..., None].float()
                mean = (hidden * seen).sum(1) / seen.sum(1).clamp(min=1e-9)
                vectors = torch.nn.functional.normalize(mean, dim=-1)
                rows.update(zip(chunk, vectors.numpy(), strict=True))
        width = int(self.model.config.hidden_size)
        return np.stack([rows.get(text, np.zeros(width, np.float32)) for text in texts]).reshape(len(texts), width)


def similarities(encoder: SentenceEncoder, captions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """Cosine of each caption with the nearest of its references, [captions], -1..1; 0 for an empty caption."""
    texts = list(dict.fromkeys([*captions, *(text for group in references for text in group)]))
    vectors = dict(zip(texts, encoder.encode(texts), strict=True))
    return np.array(
        [
            max(float(vectors[caption] @ vectors[text]) for text in group)
            for caption, group in zip(captions, references, strict=True)
        ]
    )
