"""ROUGE of a caption from two packages, which differ, so every ROUGE is printed with its package and beta.

pycocoevalcap: ROUGE-L with beta 1.2 (recall weighs more), the best precision and the best recall among the references
taken apart. rouge-score: ROUGE-1 and ROUGE-L with beta 1, of the reference with the best F.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pycocoevalcap.rouge.rouge import Rouge as CocoRouge
from rouge_score.rouge_scorer import RougeScorer

MADE_BY = {
    "rouge_l": "pycocoevalcap, beta 1.2",
    "rouge_1": "rouge-score, beta 1, our tokens, no stems",
    "rouge_l_f1": "rouge-score, beta 1, our tokens, no stems",
}


class Rouge(NamedTuple):
    """0..1. one, longest_f1: rouge-score's rouge1 and rougeL F. longest: pycocoevalcap's ROUGE-L."""

    one: float
    longest: float
    longest_f1: float


class _OurTokens:
    """In place of the package's own tokeniser, which drops everything but letters a to z and digits."""

    def tokenize(self, text: str) -> list[str]:
        return text.split()


_coco = CocoRouge()
_scorer = RougeScorer(["rouge1", "rougeL"], tokenizer=_OurTokens())


def rouge(caption: str, references: Sequence[str]) -> Rouge:
    """ROUGE of one caption against one or more references, none empty; all as tokens with a space between them."""
    found = _scorer.score_multi(references, caption)
    return Rouge(
        one=float(found["rouge1"].fmeasure),
        longest=float(_coco.calc_score([caption], references)),
        longest_f1=float(found["rougeL"].fmeasure),
    )
