"""Captions as the field scores them: lower case, words as given, no final full stop.

pycocoevalcap's own PTBTokenizer is not used: on LEVIR-CC nobody does, and scores are only comparable if tokens are.
A capital letter and a final "." left standing drop CIDEr-D of the constant no-change caption from 101.9 to 8.9.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, get_args

from rsiccllm.errors import InputError

Tokenisation = Literal["word", "character", "ids"]

LABELS: dict[Tokenisation, str] = {
    "word": "words",
    "character": "CHARACTERS (not comparable with words)",
    "ids": "word NUMBERS (METEOR not comparable)",
}
"""What the title of every table of scores says of how its captions were cut."""

# A space is a token of its own among characters, as in frameworks that score `list(text)`; the scorers split at
# white space, so it needs a visible stand-in.
SPACE = "␣"


def tokenise(text: str, how: Tokenisation = "word", numbers: Mapping[str, str] | None = None) -> list[str]:
    """Tokens of one caption; [] for one that is empty or only full stops.

    "word": split at white space; punctuation inside the caption stays where it stands ("trees," is one token).
    "character": every character, spaces included. Inflates BLEU-4 (human paraphrases of LEVIR-CC: 45.3 against 10.4
    by words). "ids": each word as its number in `numbers` (see `vocabulary`), as several published repositories score:
    what counts equal words stays the same, and METEOR loses its stems and synonyms. The last two are here only to
    reproduce how some have scored. Raises InputError for another `how`.
    """
    if how not in get_args(Tokenisation):
        raise InputError(f"tokenisation '{how}': expected one of {', '.join(get_args(Tokenisation))}")
    words = " ".join(text.lower().split()).rstrip(" .").split(" ")
    if words == [""]:
        return []
    if how == "ids":
        return [(numbers or {})[word] for word in words]
    return words if how == "word" else list(SPACE.join(words))


def vocabulary(texts: Iterable[str]) -> dict[str, str]:
    """A number, as text, for each word of `texts`, in alphabetical order, from 1."""
    words = sorted({word for text in texts for word in tokenise(text)})
    return {word: str(number) for number, word in enumerate(words, start=1)}
