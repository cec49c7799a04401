"""Key words of a caption, and how alike two captions are by them.

RSICP reduces captions to the words that carry the meaning (object, direction, verb, quantity, place) and compares
those:

    S(c, r) = (BLEU-1(c, r) + BLEU-2(c, r) + ROUGE-1(c, r)) / 3        for the key words c and r of two captions
    p_n     = n-grams of c that r has too, each counted at most as often as in r, / n-grams of c
    BP      = 1 if |c| >= |r| else exp(1 - |r| / |c|)
    BLEU-1  = BP * p_1,   BLEU-2 = BP * sqrt(p_1 * p_2)
    ROUGE-1 = 2 m / (|c| + |r|)                                       m: the words they share, counted as in p_1

BLEU is not smoothed. Where c or r is one word, there are no pairs of words to compare and BLEU-2 is BLEU-1.
Against several references the best S is taken. S lies in 0..1; 0 where either has no key words.
"""

from __future__ import annotations

import math
from collections import Counter

from rsiccllm.grammar import read
from rsiccllm.phrases import NP, PLACE, PREP, VERB
from rsiccllm.words import Words, load_words, word_set

# Words inside a phrase that carry no meaning of their own.
PLAIN = word_set("a an the of is are was were be been being has have had in on at to from and or with by")

# The words that carry "nothing changed".
DENIAL = word_set(
    """
    no nothing not change changes changed difference differences different same identical unchanged
    remain remains remained intact scene scenes
    """
)


def key_words(caption: str, words: Words | None = None) -> list[str]:
    """The words of a caption that carry meaning, in lower case and in order: nouns of change, verbs, numbers, places.

    Articles, auxiliaries, prepositions, pronouns and describing adjectives are left out.
    """
    words = words or load_words()
    reading = read(caption, words)
    tokens, kept = reading.tokens, set[int]()
    for phrase in reading.phrases:
        if phrase.kind == NP:
            kept.update(range(phrase.noun_start, phrase.end) if not phrase.pronoun else ())
            quantity = words.quantity_tokens | words.position_words.keys()
            kept.update(i for i in range(phrase.start, phrase.end) if tokens[i][0] in quantity)
        elif phrase.kind == VERB:
            kept.update(range(phrase.verb_start, phrase.end))
        elif phrase.kind == PLACE or (phrase.kind == PREP and phrase.word in words.along | {"side_of"}):
            kept.update(range(phrase.start, phrase.end))
    if reading.denied:  # "no change has occurred": these words are the whole meaning
        kept.update(i for i, token in enumerate(tokens) if token[0] in DENIAL)
    return [tokens[i][0] for i in sorted(kept) if tokens[i][0] not in PLAIN and tokens[i][0][0].isalnum()]


def bleu(candidate: list[str], reference: list[str], order: int) -> float:
    """Sentence BLEU of order 1 or 2, unsmoothed, with the brevity penalty; 0..1."""
    if not candidate or not reference:
        return 0.0
    order = min(order, len(candidate), len(reference))
    precisions = []
    for n in range(1, order + 1):
        ours, theirs = _grams(candidate, n), _grams(reference, n)
        precisions.append(sum((ours & theirs).values()) / sum(ours.values()))
    if not all(precisions):
        return 0.0
    penalty = 1.0 if len(candidate) >= len(reference) else math.exp(1 - len(reference) / len(candidate))
    return penalty * math.prod(precisions) ** (1 / order)


def rouge_1(candidate: list[str], reference: list[str]) -> float:
    """F1 of shared words; 0..1."""
    if not candidate or not reference:
        return 0.0
    shared = sum((Counter(candidate) & Counter(reference)).values())
    return 2 * shared / (len(candidate) + len(reference))


def similarity(caption: str, references: list[str], words: Words | None = None) -> float:
    """S of the caption's key words against each reference's, the best one; 0..1."""
    own = key_words(caption, words)
    return max((_mean(own, key_words(reference, words)) for reference in references), default=0.0)


def _mean(own: list[str], other: list[str]) -> float:
    return (bleu(own, other, 1) + bleu(own, other, 2) + rouge_1(own, other)) / 3


def _grams(tokens: list[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(tokens[i:] for i in range(n)), strict=False))
