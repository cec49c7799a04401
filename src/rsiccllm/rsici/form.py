"""Gates 2 and 3: an answer that leaks the prior, and one whose form gives it away.

Leaks are words of the help that a teacher was given to see the change (masks, outlines, boxes). Form is length,
repetition, language, refusal, markup, and what no image can show.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from typing import Literal, NamedTuple

from rsiccllm.words import load_words, word_set

Gate = Literal["facts", "leak", "form"]


class Rejection(NamedTuple):
    """Why an answer was refused: the gate, a reason that is counted by, and what exactly was found."""

    gate: Gate
    reason: str
    detail: str


LENGTHS = {"describe": (15, 180), "caption": (3, 60), "kind": (2, 40)}
"""Words, fewest and most, by task. LEVIR-CC's captions have 3 to 39, SYSU-CD's up to 50, the paper's descriptions 77
on average."""

FOREIGN = 0.5
"""Share of words of the English vocabulary and function words, under which an answer is no plain English."""

LEAK = re.compile(
    r"\b(?:masks?|masked|masking|segmentation|segmented|ground[- ]truth|annotat\w+|overlays?|overlaid|bounding|"
    r"polygons?|contours?|binary|heat ?maps?|change maps?|third image|prompts?|pixels?|"
    r"instructions?|users?|api keys?|wanted style|another place|"
    r"(?:yellow|white|coloured|colored|drawn) (?:\w+ )?(?:lines?|outlines?|borders?|boxes|contours?)|"
    r"(?:outlined|highlighted|marked|indicated|labell?ed|delineated|designated|specified|provided|given) "
    r"(?:\w+ )?(?:areas?|regions?|parts?|zones?|sections?|portions?|facts?|changes?|locations?)|"
    r"(?:areas?|regions?|parts?|zones?|locations?) (?:that (?:is|are|was|were) |as )?"
    r"(?:outlined|highlighted|marked|indicated|labell?ed|delineated|specified|provided)|"
    r"(?:in|within|inside) the outlines?|areas? of interest|changed areas? (?:list|map|number)|"
    r"region \d|box(?:es)? \d|as (?:instructed|requested|provided|given))\b",
    re.IGNORECASE,
)
REFUSAL = re.compile(
    r"\bI(?:'m| am) (?:sorry|unable|not able|an? )|\bI (?:cannot|can't|can not|could not|won't|apologi[sz]e)\b|"
    r"\bas an? (?:AI|language|assistant)\b|"
    r"\b(?:unable|not possible|impossible) to (?:determine|tell|see|provide|answer)|"
    r"\bno images? (?:was|were|is|are|has|have) (?:been )?(?:provided|given|attached)|"
    r"\b(?:ignore|disregard) (?:all |any |the )?(?:previous|above|prior|earlier)|\bsorry\b",
    re.IGNORECASE,
)
MARKUP = re.compile(
    r"[*_]{2}|```|`|^\s*(?:#{1,6}\s|[-*•]\s|\d+[.)]\s)|</?[a-z][^>]*>|[{}\[\]|\\]|https?:|"
    r"^\s*\w[\w ]{0,20}:\s*$|\b(?:user|assistant|system):|"
    r"^\s*(?:sure|certainly|of course|okay|ok)\b\s*[,.!:]|^\s*here(?:'s| is| are)\b[^.]{0,40}:",
    re.IGNORECASE | re.MULTILINE,
)
UNSEEN = re.compile(
    r"\b(?:19|20)\d\d\b|\b\d+(?:[.,]\d+)? ?%|"
    r"\b\d+(?:[.,]\d+)?[ -]?(?:percent|per cent|m|km|meters?|metres?|feet|hectares?|acres?|square)\b|"
    r"\b(?:people|persons?|residents?|crowds?|workers?|pedestrians?|families|government|mayor|company)\b|"
    r"\b(?:due to|because of|caused by|as a result of|owing to) (?:\w+ ){0,3}?"
    r"(?:earthquakes?|floods?|flooding|hurricanes?|storms?|wars?|fires?|wildfires?|tsunami|tornado|volcan\w+|disasters?|"
    r"polic\w+|demand|population|economic)\b",
    re.IGNORECASE,
)
NAME = re.compile(
    r"(?<=[a-z,;] )(?!(?:Images?|First|Second|Both|I|A|B|North\w*|South\w*|East\w*|West\w*)\b)[A-Z][a-z]{2,}"
)
FUNCTION_WORDS = word_set(
    """
    a an the this that these those it its they them their there here and or but while with without of in on at
    to from by for as than then so is are was were be been being has have had do does did not no nor can could
    may might will would both all each every some any one two three four five six seven eight nine ten first
    second third image images scene scenes where which who what when how more most less least same other another
    only also just between into onto over under near next up down left right top bottom now before after earlier
    later still remain remains place places area areas part parts side sides new old
    """
)


def check_leaks(answer: str) -> list[Rejection]:
    """Gate 2: whether the answer speaks of masks, outlines or of having been told where to look."""
    leak = LEAK.search(answer)
    return [Rejection("leak", "leak", leak.group())] if leak else []


def check_form(answer: str, task: str) -> list[Rejection]:
    """Gate 3: every fault of form. task: a key of LENGTHS."""
    found = []

    def add(reason: str, detail: str) -> None:
        found.append(Rejection("form", reason, detail[:80]))

    words = re.findall(r"[^\W\d_]+(?:['’-][^\W\d_]+)*|\d+", answer)
    fewest, most = LENGTHS[task]
    if len(words) < fewest:
        add("short", f"{len(words)} words, expected at least {fewest}")
    if len(words) > most:
        add("long", f"{len(words)} words, expected at most {most}")
    low = [word.lower() for word in words]
    known = sum(word in _vocabulary() for word in low)
    if low and (known < FOREIGN * len(low) or sum(not word.isascii() for word in low) > 0.1 * len(low)):
        add("language", f"{known} of {len(low)} words are known")
    if refusal := REFUSAL.search(answer):
        add("refusal", refusal.group())
    if markup := MARKUP.search(answer):
        add("markup", markup.group().strip())
    names = (name for name in NAME.finditer(answer) if name.group().lower() not in _vocabulary())
    if unseen := UNSEEN.search(answer) or next(names, None):
        add("hallucination", unseen.group())
    if repeated := _repeated(low, answer):
        add("repetition", repeated)
    return found


@cache
def _vocabulary() -> frozenset[str]:
    """Single words of the word lists, and function words."""
    listed = {token for entries in load_words().phrases.values() for tokens, _ in entries for token in tokens}
    return FUNCTION_WORDS | _SEEN | {part for token in listed for part in (token, *token.split("-"))}


# Words that descriptions of aerial images use and the facts parser has no need to know.
_SEEN = word_set(
    """
    gave give gives way took taken place unchanged changed change changes visible seen see look looks looking
    show shows describe described ground ground-level open empty bare surface covered cover stands stand stood
    standing lies lie large small big long short wide narrow dense sparse scattered clustered compact elongated
    irregular curved straight roof roofs roofed plot plots light dark bright grey gray white brown green blue
    red color colour colors colours north south east west central middle upper lower edge edges corner corners
    half quarter around along across beside behind inside outside within through throughout toward towards
    previously formerly previous former existing added altered whole entire overall mostly largely nearly almost
    slightly partly mainly several many few number numbers separate different difference season seasons shadow
    shadows date dates time times comparison compared against developed development construction residential
    landscaping groundwork performed progress roadside seaside rural urban suburban industrial agricultural
    neighborhood vegetation structure structures ones located
    position positions total apart rest everything nothing anything something
    """
)


def _repeated(words: list[str], answer: str) -> str:
    """What an answer says over and over, or an empty text."""
    sentences = [" ".join(part.split()).lower() for part in re.split(r"[.!?\n]+", answer) if len(part.split()) > 2]
    twice = [text for text, number in Counter(sentences).items() if number > 1]
    if twice:
        return twice[0]
    for i in range(len(words) - 2):
        if words[i] == words[i + 1] == words[i + 2]:
            return " ".join(words[i : i + 3])
    grams = Counter(tuple(words[i : i + 6]) for i in range(len(words) - 5))
    gram, number = grams.most_common(1)[0] if grams else ((), 0)
    return " ".join(gram) if number > 2 else ""
