"""The paper's eight scores and the field's own, over all pairs and over the changed ones.

The paper (as publicly known): BLEU-1 to BLEU-4, ROUGE-1, ROUGE-L, METEOR, SBS. That there are eight, and BLEU-4,
ROUGE-1, ROUGE-L and SBS among them, is reported; the other four names are our reading. Which package computed them, and
whether its BLEU-4 counts words, is not known. The field (LEVIR-CC): BLEU, METEOR, ROUGE-L, CIDEr-D and S*m.

BLEU's counts, ROUGE-L and CIDEr-D come from pycocoevalcap 1.2, METEOR from its Java program, ROUGE-1 and a second
ROUGE-L from rouge-score. What differs elsewhere:

- ROUGE-L is pycocoevalcap's: beta 1.2, the best precision and the best recall among the references taken apart, then F.
  ROUGE-1 and the ROUGE-L named F1 are rouge-score's: beta 1, the reference with the best F. That package tokenises by
  itself ([a-z0-9]+) and can stem; here it is given our tokens.
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
from functools import cached_property, partial
from typing import Any, Literal, NamedTuple

import numpy as np
from pycocoevalcap.bleu.bleu_scorer import cook_refs, cook_test
from pycocoevalcap.cider.cider import Cider

from rsiccllm.benchmark import similarity
from rsiccllm.benchmark.bootstrap import Interval, Part, bootstrap_all, mean_part
from rsiccllm.benchmark.meteor import COUNTS, MeteorError, fold_perfect, meteor_counts, meteor_of_sums
from rsiccllm.benchmark.rouge import MADE_BY as ROUGE_MADE_BY
from rsiccllm.benchmark.rouge import rouge
from rsiccllm.benchmark.similarity import SentenceEncoder, similarities
from rsiccllm.benchmark.tokenise import Tokenisation, tokenise, vocabulary
from rsiccllm.errors import InputError

BLEU_COUNTS = 10


@dataclass(frozen=True)
class Values:
    """One set of scores, x 100: CIDEr-D in 0..1000, SBS in -100..100, the others in 0..100.

    rouge_l: pycocoevalcap, beta 1.2. rouge_1, rouge_l_f1: as rouge-score, beta 1. meteor, sbs: None if absent.
    """

    bleu_1: float
    bleu_2: float
    bleu_3: float
    bleu_4: float
    meteor: float | None
    rouge_1: float
    rouge_l: float
    rouge_l_f1: float
    cider_d: float
    sbs: float | None

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
    """What each pair adds to the scores, in the order of `ids`; for intervals and paired tests.

    bleu: [pairs, 10] lengths of caption and closest reference, n-grams of 1 to 4 offered, and matched.
    meteor: [pairs, 23] or None. rouge: [pairs, 3] of 0..1, in the order of `Rouge`. cider_d: [pairs], 0..10, with idf
    of these pairs. sbs: [pairs] of -1..1, or None.
    """

    ids: tuple[str, ...]
    bleu: np.ndarray
    meteor: np.ndarray | None
    rouge: np.ndarray
    cider_d: np.ndarray
    sbs: np.ndarray | None

    def parts(self) -> dict[str, Part]:
        """Every score that there is, x 100, by its name in `Values.to_dict`, as a function of sums over pairs."""
        found = {
            **{f"bleu_{n + 1}": Part(self.bleu, partial(_bleu, n)) for n in range(4)},
            **{
                name: mean_part(100 * self.rouge[:, column])
                for column, name in enumerate(("rouge_1", "rouge_l", "rouge_l_f1"))
            },
            "cider_d": mean_part(100 * self.cider_d),
        }
        if self.sbs is not None:
            found["sbs"] = mean_part(100 * self.sbs)
        if self.meteor is not None:
            found["meteor"] = Part(self.meteor, lambda sums: 100 * meteor_of_sums(sums))
        found["mean_without_meteor" if self.meteor is None else "s_m"] = self._mean()
        return found

    def _mean(self) -> Part:
        """S*m, or the mean of three without METEOR."""
        count = len(self.ids)
        means = 100 * np.stack([self.rouge[:, 1], self.cider_d], axis=1)  # [pairs, 2]
        if self.meteor is None:
            return Part(
                np.concatenate([self.bleu, means], axis=1),
                lambda sums: (
                    (100 * bleu_of_sums(sums[..., :BLEU_COUNTS])[..., 3] + sums[..., BLEU_COUNTS:].sum(-1) / count) / 3
                ),
            )
        end = BLEU_COUNTS + COUNTS
        return Part(
            np.concatenate([self.bleu, self.meteor, means], axis=1),
            lambda sums: (
                (
                    100 * bleu_of_sums(sums[..., :BLEU_COUNTS])[..., 3]
                    + 100 * meteor_of_sums(sums[..., BLEU_COUNTS:end])
                    + sums[..., end:].sum(-1) / count
                )
                / 4
            ),
        )

    def values(self) -> Values:
        """The scores of these pairs."""
        found = {name: part.value() for name, part in self.parts().items()}
        return Values(**{name: found.get(name) for name in Values.__dataclass_fields__})  # type: ignore[arg-type]

    def intervals(self, draws: int = 1000, seed: int = 0) -> dict[str, Interval]:
        """95 % intervals of every score of `parts` over these pairs, x 100, all on the same draws."""
        return bootstrap_all(self.parts(), draws, seed)

    @cached_property
    def interval_95(self) -> dict[str, Interval]:
        """`intervals` of 1,000 draws, computed once."""
        return self.intervals()


@dataclass(frozen=True)
class Scores:
    """Scores of one set of captions over all pairs, and over the changed ones where it is known which those are.

    tokenisation: how captions and references were cut. sbs_model: the sentence-embedding model, or None.
    changed_only: None where `changed` was not given or no pair changed. notes: one line on each score that is absent.
    """

    tokenisation: Tokenisation
    overall: Values
    changed_only: Values | None
    segments: Segments = field(repr=False)
    changed_segments: Segments | None = field(repr=False)
    sbs_model: str | None = None
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For JSON: tokenisation, counts of pairs, scores, and 95 % intervals beside them."""
        result: dict[str, Any] = {
            "tokenisation": self.tokenisation,
            "rouge": ROUGE_MADE_BY,
            "sbs_model": self.sbs_model,
            "notes": list(self.notes),
        }
        for name, segments in (("overall", self.segments), ("changed_only", self.changed_segments)):
            if segments is None:
                result[name] = None
                continue
            intervals = {key: [found.low, found.high] for key, found in segments.interval_95.items()}
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
    sbs: str | Literal[False] | None = None,
) -> Scores:
    """Score one caption a pair against that pair's references.

    predictions, references: by pair id, the same ids in both. changed: by id, for the changed-only scores.
    meteor: True: an error where it cannot be computed; None: absent with a note there; False: left out.
    sbs: a sentence-embedding model's folder or hub name; None: the usual one where it is on this machine, else absent
    with a note; False: left out.
    Raises InputError for ids that differ, no pairs, a pair without references or with an empty one, METEOR asked for
    and not to be had, and a model that cannot be loaded.
    """
    return score_jobs([Job(predictions, references)], changed, tokenisation, meteor, sbs)[0]


def score_jobs(
    jobs: Sequence[Job],
    changed: Mapping[str, bool] | None = None,
    tokenisation: Tokenisation = "word",
    meteor: bool | None = None,
    sbs: str | Literal[False] | None = None,
) -> list[Scores]:
    """`score` for several sets of captions, with one Java process for all of them; the same settings and errors."""
    for job in jobs:
        _check(job, changed)
    cut = _tokenised(jobs, tokenisation)
    model = similarity.local_model() if sbs is None else sbs or None
    vectors: list[np.ndarray | None] = [None] * len(jobs)
    if model is not None:
        encoder = SentenceEncoder(model)
        words = cut if tokenisation == "word" else _tokenised(jobs, "word")
        vectors = [
            similarities(encoder, list(job.predictions.values()), [job.references[pair] for pair in job.predictions])
            for job in words
        ]
    notes = [] if model or sbs is False else [similarity.ABSENT]
    counts: list[np.ndarray | None] = [None] * len(jobs)
    if meteor is None and tokenisation == "character":
        notes.append("METEOR is absent: it is defined on words, not on characters")
    elif meteor is not False:
        try:
            if tokenisation == "character":
                raise MeteorError("METEOR is defined on words, not on characters")
            rows = meteor_counts(
                [caption for job in cut for caption in job.predictions.values()],
                [job.references[name] for job in cut for name in job.predictions],
            )
            ends = np.cumsum([len(job.predictions) for job in cut])[:-1]
            counts = list(np.split(fold_perfect(rows), ends))
        except MeteorError as error:
            if meteor:
                raise InputError(str(error)) from None
            notes.append(str(error))
    return [
        _score(job, table, alike, changed, tokenisation, model, tuple(notes))
        for job, table, alike in zip(cut, counts, vectors, strict=True)
    ]


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


def _bleu(order: int, sums: np.ndarray) -> np.ndarray:
    return 100 * bleu_of_sums(sums)[..., order]


def _check(job: Job, changed: Mapping[str, bool] | None) -> None:
    if not job.references:
        raise InputError("references: there are no pairs to score")
    if job.predictions.keys() != job.references.keys():
        differ = sorted(job.predictions.keys() ^ job.references.keys())
        raise InputError(f"predictions and references differ in {len(differ)} ids (first: {differ[0]})")
    if changed is not None and (missing := job.references.keys() - changed.keys()):
        raise InputError(f"changed: {len(missing)} ids have no change flag (first: {min(missing)})")
    for name, texts in job.references.items():
        if not texts or not all(map(tokenise, texts)):
            raise InputError(f"references of '{name}': expected one or more captions, none of them empty")


def _tokenised(jobs: Sequence[Job], how: Tokenisation) -> list[Job]:
    """The jobs with every text as its tokens, a space between them."""
    numbers = None
    if how == "ids":
        numbers = vocabulary(
            text for job in jobs for name in job.references for text in (job.predictions[name], *job.references[name])
        )
    known: dict[str, str] = {}  # the same sentence stands in thousands of pairs

    def cut(text: str) -> str:
        if text not in known:
            known[text] = " ".join(tokenise(text, how, numbers))
        return known[text]

    return [
        Job(
            {name: cut(job.predictions[name]) for name in job.references},
            {name: [cut(text) for text in texts] for name, texts in job.references.items()},
        )
        for job in jobs
    ]


def _score(
    job: Job,
    meteor: np.ndarray | None,
    sbs: np.ndarray | None,
    changed: Mapping[str, bool] | None,
    tokenisation: Tokenisation,
    sbs_model: str | None,
    notes: tuple[str, ...],
) -> Scores:
    ids = tuple(job.predictions)
    segments = Segments(
        ids=ids,
        bleu=np.array([_bleu_counts(job.predictions[name], job.references[name]) for name in ids], dtype=np.float64),
        meteor=meteor,
        rouge=np.array([rouge(job.predictions[name], job.references[name]) for name in ids], dtype=np.float64),
        cider_d=_cider_d(job, ids),
        sbs=sbs,
    )
    part = None
    keep = [row for row, name in enumerate(ids) if changed is not None and changed[name]]
    if keep:
        chosen = tuple(ids[row] for row in keep)
        part = Segments(
            ids=chosen,
            bleu=segments.bleu[keep],
            meteor=None if meteor is None else meteor[keep],
            rouge=segments.rouge[keep],
            cider_d=_cider_d(job, chosen),
            sbs=None if sbs is None else sbs[keep],
        )
    return Scores(tokenisation, segments.values(), part.values() if part else None, segments, part, sbs_model, notes)


def _bleu_counts(caption: str, references: Sequence[str]) -> list[int]:
    counts = cook_test(caption, cook_refs(references), eff="closest")
    return [counts["testlen"], counts["reflen"], *counts["guess"], *counts["correct"]]


def _cider_d(job: Job, ids: Sequence[str]) -> np.ndarray:
    """CIDEr-D of each pair, 0..10, [ids], with the document frequencies of these pairs' references."""
    captions = {name: [job.predictions[name]] for name in ids}
    return Cider().compute_score({name: job.references[name] for name in ids}, captions)[1]
