"""The rows that stand in every table: outputs of no model. Half of LEVIR-CC's pairs share five no-change sentences, so
some of these score high, and a model means little until it stands beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rsiccllm.benchmark.scores import Job
from rsiccllm.benchmark.tokenise import tokenise

# Two frequent sentences of LEVIR-CC, with which the known figures of its validation split were computed.
NO_CHANGE = "the scene is the same as before"
CHANGE = "many houses are built along the road"

ALWAYS, FLAG, NEAREST, DIFFERENCE, PERSON = "no change", "true flag", "nearest pair", "pixel diff.", "a person"


@dataclass(frozen=True)
class Baseline:
    """A row's name, short enough for a column, what it is in one line, and what it scores against what."""

    name: str
    legend: str
    job: Job


def baselines(
    references: Mapping[str, Sequence[str]],
    changed: Mapping[str, bool] | None,
    no_change: str = NO_CHANGE,
    change: str = CHANGE,
) -> list[Baseline]:
    """The rows that need no image: one sentence for all pairs; the true change flag and one sentence for the changed
    (where flags are known); a person's first sentence against the other people's (where every pair has two or more).
    """
    legend = f'"{no_change}" for every pair'
    rows = [Baseline(ALWAYS, legend, Job(dict.fromkeys(references, no_change), references))]
    if changed is not None:
        flagged = {name: change if changed[name] else no_change for name in references}
        legend = f'the true change flag; "{change}" where changed'
        rows.append(Baseline(FLAG, legend, Job(flagged, references)))
    if references and all(len(texts) > 1 for texts in references.values()):
        person = {name: texts[0] for name, texts in references.items()}
        others = {name: texts[1:] for name, texts in references.items()}
        fewest, most = (pick(map(len, others.values())) for pick in (min, max))
        count = f"{most}" if fewest == most else f"{fewest} to {most}"
        legend = f"the first person's sentence against the other {count}: the ceiling of agreement, on fewer references"
        rows.append(Baseline(PERSON, legend, Job(person, others)))
    return rows


def commonest(captions: Iterable[str]) -> str | None:
    """The caption given most often, compared without case and final full stop; the first of equals; None for none."""
    counts = Counter(" ".join(tokenise(caption)) for caption in captions)
    counts.pop("", None)
    return counts.most_common(1)[0][0] if counts else None
