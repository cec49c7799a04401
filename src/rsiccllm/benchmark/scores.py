"""BLEU, METEOR, ROUGE-L and CIDEr-D as the field computes them, and S*m, over all pairs and over the changed ones.

The counts, ROUGE-L and CIDEr-D come from pycocoevalcap 1.2, METEOR from its Java program. What differs elsewhere:

- ROUGE-L here is pycocoevalcap's: beta 1.2, the best precision and the best recall among the references taken apart,
  then F. The package rouge-score computes F with beta 1, takes the best F among the references, tokenises by itself
  ([a-z0-9]+) and can stem; its figures are not comparable.
- BLEU here is of the corpus, unsmoothed, with the closest reference length. sacrebleu has the same formula but
  tokenises by its own rule ("13a", case kept) unless told otherwise, and smooths an order without a match; frameworks
  that print the mean of smoothed sentence scores, or score characters, print something else by the name of BLEU-4.
- CIDEr-D is what pycocoevalcap's `cider` computes under the name of CIDEr: counts clipped to the reference's, a
  Gaussian of the length difference (sigma 6), ten times the mean over n-grams of 1 to 4. Its document frequencies are
  those of the references scored: with one pair alone all idf are 0, and so is the score.
- The changed-only scores take the changed pairs as a corpus of their own, with its own idf, as published code does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from pycocoevalcap.bleu.bleu_scorer import cook_refs, cook_test
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from rsiccllm.benchmark.bootstrap import Interval, bootstrap
from rsiccllm.benchmark.meteor import MeteorError, fold_perfect, meteor_counts, meteor_of_sums
from rsiccllm.benchmark.tokenise import Tokenisation, tokenise
from rsiccllm.errors import InputError


@dataclass(frozen=True)
class Values:
    """One set of scores, x 100: BLEU, METEOR and ROUGE-L in 0..100, CIDEr-D in 0..1000. `meteor` is None if absent."""

    bleu_1: float
    bleu_2: float
    bleu_3: float
    bleu_4: float
    meteor: float | None
    rouge_l: float
    cider_d: float

    @property
    def s_m(self) -> float | None:
        """S*m, the mean of BLEU-4, METEOR, ROUGE-L and CIDEr-D; None without METEOR."""
        if self.meteor is None:
            return None
        return (self.bleu_4 + self.meteor + self.rouge_l + self.cider_d) / 4

    @property
    def mean_without_meteor(self) -> float:
        """The mean of BLEU-4, ROUGE-L and CIDEr-D. It is not S*m and not comparable with it."""
        return (self.bleu_4 + self.rouge_l + self.cider_d) / 3

    def to_dict(self) -> dict[str, float | None]:
        """The scores by name, with `s_m` and `mean_without_meteor`."""
        return {**vars(self), "s_m": self.s_m, "mean_without_meteor": self.mean_without_meteor}


@dataclass(frozen=True)
class Segments:
    """What each pair adds to the scores, in the order of `ids`; for intervals and paired differences.

    bleu: [pairs, 10] lengths of caption and closest reference, n-grams of 1 to 4 offered, and matched.
    meteor: [pairs, 23] or None. rouge_l: [pairs], 0..1. cider_d: [pairs], 0..10, with idf of these pairs.
    """

    ids: tuple[str, ...]
    bleu: np.ndarray
    meteor: np.ndarray | None
    rouge_l: np.ndarray
    cider_d: np.ndarray

    def values(self) -> Values:
        """The scores of these pairs."""
        bleu_1, bleu_2, bleu_3, bleu_4 = (100 * float(order) for order in bleu_of_sums(self.bleu.sum(axis=0)))
        meteor = None if self.meteor is None else 100 * float(meteor_of_sums(self.meteor.sum(axis=0)))
        rouge_l, cider_d = 100 * float(self.rouge_l.mean()), 100 * float(self.cider_d.mean())
        return Values(bleu_1, bleu_2, bleu_3, bleu_4, meteor, rouge_l, cider_d)

    def intervals(self, draws: int = 1000, seed: int = 0) -> dict[str, Interval]:
        """95 % intervals of `bleu_4`, `meteor` (where it is), `rouge_l`, `cider_d` over these pairs, x 100."""
        found = {"bleu_4": bootstrap(self.bleu, lambda sums: 100 * bleu_of_sums(sums)[..., 3], draws, seed)}
        if self.meteor is not None:
            found["meteor"] = bootstrap(self.meteor, lambda sums: 100 * meteor_of_sums(sums), draws, seed)
        found["rouge_l"] = bootstrap(100 * self.rouge_l, draws=draws, seed=seed)
        found["cider_d"] = bootstrap(100 * self.cider_d, draws=draws, seed=seed)
        return found


@dataclass(frozen=True)
class Scores:
    """Scores of one set of captions over all pairs, and over the changed ones where it is known which those are.

    tokenisation: how captions and references were cut. note: one line on why METEOR is absent, or None.
    changed_only: None where `changed` was not given or no pair changed.
    """

    tokenisation: Tokenisation
    overall: Values
    changed_only: Values | None
    segments: Segments = field(repr=False)
    changed_segments: Segments | None = field(repr=False)
    note: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON: tokenisation, counts of pairs, scores, and 95 % intervals beside them."""
        result: dict[str, Any] = {"tokenisation": self.tokenisation, "note": self.note}
        for name, segments in (("overall", self.segments), ("changed_only", self.changed_segments)):
            if segments is None:
                result[name] = None
                continue
            intervals = {key: [found.low, found.high] for key, found in segments.intervals().items()}
            result[name] = {"pairs": len(segments.ids), **segments.values().to_dict(), "interval_95": intervals}
        return result


class Job(NamedTuple):
    """Captions by id, and the references each is scored against by the same ids."""

    predictions: Mapping[str, str]
    references: Mapping[str, Sequence[str]]


def score(
    predictions: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    changed: Mapping[str, bool] | None = None,
    tokenisation: Tokenisation = "word",
    meteor: bool | None = None,
) -> Scores:
    """Score one caption a pair against that pair's references.

    predictions, references: by pair id, the same ids in both. changed: by id, for the changed-only scores.
    meteor: True: an error where it cannot be computed; None: absent with a note there; False: left out.
    Raises InputError for ids that differ, no pairs, a pair without references or with an empty one, and for METEOR
    asked for and not to be had.
    """
    return score_jobs([Job(predictions, references)], changed, tokenisation, meteor)[0]


def score_jobs(
    jobs: Sequence[Job],
    changed: Mapping[str, bool] | None = None,
    tokenisation: Tokenisation = "word",
    meteor: bool | None = None,
) -> list[Scores]:
    """`score` for several sets of captions, with one Java process for all of them; the same settings and errors."""
    cut = [_tokenised(job, changed, tokenisation) for job in jobs]
    note = None
    counts: list[np.ndarray | None] = [None] * len(jobs)
    if meteor is None and tokenisation != "word":
        note = f"METEOR is absent: it is defined on words, not on {tokenisation}s"
    elif meteor is not False:
        try:
            if tokenisation != "word":
                raise MeteorError(f"METEOR is defined on words, not on {tokenisation}s")
            rows = meteor_counts(
                [caption for job in cut for caption in job.predictions.values()],
                [job.references[name] for job in cut for name in job.predictions],
            )
            ends = np.cumsum([len(job.predictions) for job in cut])[:-1]
            counts = list(np.split(fold_perfect(rows), ends))
        except MeteorError as error:
            if meteor:
                raise InputError(str(error)) from None
            note = str(error)
    return [_score(job, table, changed, tokenisation, note) for job, table in zip(cut, counts, strict=True)]


def bleu_of_sums(sums: np.ndarray) -> np.ndarray:
    """BLEU-1..4 of a corpus, 0..1, from sums of `Segments.bleu`, [..., 10] -> [..., 4] (Papineni et al. 2002).

    The two small constants are pycocoevalcap's. They make an order without a match about 0, never a division by 0,
    and the precision of an order for which every caption of the corpus is too short 1e-6: BLEU-4 of three-word
    captions alone can reach 3.2.
    """
    tiny, small = 1e-15, 1e-9
    precision = (sums[..., 6:10] + tiny) / (sums[..., 2:6] + small)
    mean = np.cumprod(precision, axis=-1) ** (1 / np.arange(1, 5))
    ratio = (sums[..., 0] + tiny) / (sums[..., 1] + small)
    penalty = np.exp(np.minimum(0.0, 1 - 1 / ratio))
    return mean * penalty[..., None]


def _tokenised(job: Job, changed: Mapping[str, bool] | None, how: Tokenisation) -> Job:
    if not job.references:
        raise InputError("references: there are no pairs to score")
    if job.predictions.keys() != job.references.keys():
        differ = sorted(job.predictions.keys() ^ job.references.keys())
        raise InputError(f"predictions and references differ in {len(differ)} ids (first: {differ[0]})")
    if changed is not None and (missing := job.references.keys() - changed.keys()):
        raise InputError(f"changed: {len(missing)} ids have no change flag (first: {min(missing)})")
    known: dict[str, str] = {}  # the same sentence stands in thousands of pairs

    def cut(text: str) -> str:
        if text not in known:
            known[text] = " ".join(tokenise(text, how))
        return known[text]

    references = {}
    for name, texts in job.references.items():
        references[name] = [cut(text) for text in texts]
        if not texts or not all(references[name]):
            raise InputError(f"references of '{name}': expected one or more captions, none of them empty")
    return Job({name: cut(job.predictions[name]) for name in references}, references)


def _score(
    job: Job,
    meteor: np.ndarray | None,
    changed: Mapping[str, bool] | None,
    tokenisation: Tokenisation,
    note: str | None,
) -> Scores:
    ids = tuple(job.predictions)
    rouge = Rouge()
    segments = Segments(
        ids=ids,
        bleu=np.array([_bleu_counts(job.predictions[name], job.references[name]) for name in ids], dtype=np.float64),
        meteor=meteor,
        rouge_l=np.array([rouge.calc_score([job.predictions[name]], job.references[name]) for name in ids]),
        cider_d=_cider_d(job, ids),
    )
    part = None
    keep = [row for row, name in enumerate(ids) if changed is not None and changed[name]]
    if keep:
        chosen = tuple(ids[row] for row in keep)
        part = Segments(
            ids=chosen,
            bleu=segments.bleu[keep],
            meteor=None if meteor is None else meteor[keep],
            rouge_l=segments.rouge_l[keep],
            cider_d=_cider_d(job, chosen),
        )
    return Scores(tokenisation, segments.values(), part.values() if part else None, segments, part, note)


def _bleu_counts(caption: str, references: Sequence[str]) -> list[int]:
    counts = cook_test(caption, cook_refs(references), eff="closest")
    return [counts["testlen"], counts["reflen"], *counts["guess"], *counts["correct"]]


def _cider_d(job: Job, ids: Sequence[str]) -> np.ndarray:
    """CIDEr-D of each pair, 0..10, [ids], with the document frequencies of these pairs' references."""
    captions = {name: [job.predictions[name]] for name in ids}
    return Cider().compute_score({name: job.references[name] for name in ids}, captions)[1]
