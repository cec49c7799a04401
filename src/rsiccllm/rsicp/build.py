"""Building RSICP: for each pair of an RSICI folder, a right answer and several wrong ones."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, Literal

from rsiccllm.errors import InputError
from rsiccllm.facts import OPPOSITE, parse
from rsiccllm.files import (
    CHECKSUMS,
    check_sums,
    inside,
    link_or_copy,
    read_json,
    read_jsonl,
    sha256,
    shards,
    write_json,
    write_jsonl,
)
from rsiccllm.keywords import similarity
from rsiccllm.model.checkpoint import resolve_checkpoint, weights_digest
from rsiccllm.progress import track
from rsiccllm.records import INSTRUCTIONS, PREFERENCES, Instruction, Preference, Rejected
from rsiccllm.rsici.output import refuse_strangers, write_checksums
from rsiccllm.rsicp.card import write_card
from rsiccllm.rsicp.dates import reversed_caption
from rsiccllm.rsicp.filter import Truth, Window, distinct, is_wrong, truth_of, window_for
from rsiccllm.rsicp.replace import plain, rejected_answer, replacements
from rsiccllm.words import Words, load_words

NEIGHBOURS = 8
"""Pairs of the same scene type that are looked at for a caption that is wrong here."""


def build_rsicp(
    data: Path,
    out: Path,
    negatives: int = 3,
    variant: Literal["paper", "ours"] = "ours",
    split: str = "train",
    seed: int = 0,
    task: str = "caption",
    model: str | None = None,
    samples: int = 8,
    window: tuple[float, float] | None = None,
    keep_share: float = 0.8,
    temperature: float = 1.0,
    top_p: float = 0.95,
    words_file: Path | None = None,
    kinds: Literal["both", "filtering", "replacement"] = "both",
    pairs: int | None = None,
) -> dict[str, int]:
    """Write `out/preferences.jsonl`: one reference of each pair against up to `negatives` wrong answers of each source.

    data: a folder that `rsici build` wrote. task: "caption", or "describe" for the long texts.
    variant: "paper" has replacement negatives and, with a model, filtering negatives. "ours" adds "no change" on
    changed pairs and an invented change on unchanged ones, the caption of another pair with the same objects, with a
    model its answer when its difference path is cut, and the pair with its dates swapped where its caption can be
    turned round.
    model: an SFT checkpoint; without one there are no filtering negatives. samples: K, drawn for each pair.
    window: (tau1, tau2), both exclusive; None sets it so that `keep_share` of the samples that are wrong and differ
    survive. temperature, top_p: of the draw. words_file: word groups merged over the package's own.
    pairs: the first so many of the split; None takes all. Drawing from a model takes its time.
    kinds: "filtering" keeps of all these the model's own wrong answers alone, "replacement" draws none (for ablations).

    Rejected answers come in turn from each source, so that a stage that takes the first few has of every kind. What the
    references support is never rejected. Deterministic in `seed`; stopped, a call goes on where it was.
    Returns counts. Raises InputError for settings that differ from what `out` was built with, and where nothing comes
    out.
    """
    _check(negatives, samples, window, keep_share, temperature, top_p, pairs)
    if (model is None) if kinds == "filtering" else (model is not None and kinds == "replacement"):
        raise InputError(f"--kinds {kinds}: expected {'a' if model is None else 'no'} --model to draw answers from")
    wanted: dict[str, Any] = {
        "data": data.name, "built": _built(data), "negatives": negatives,
        "variant": variant, "split": split, "seed": seed, "task": task,
        "words": sha256(words_file) if words_file else None, **({} if kinds == "both" else {"kinds": kinds}),
        **({} if pairs is None else {"pairs": pairs}),
    }  # fmt: skip
    if model is not None:
        wanted |= {"weights": weights_digest(resolve_checkpoint(model)), "samples": samples, "temperature": temperature,
                   "top_p": top_p, "window": list(window) if window else None, "keep_share": keep_share}  # fmt: skip
    note = out / "build.json"
    refuse_strangers(out, note.name)
    if note.exists() and (held := read_json(note)) != wanted:
        raise InputError(f"{out}: was built with {held}, now asked for {wanted}; choose another --out")
    words = load_words(words_file)
    every = read_jsonl(data / INSTRUCTIONS, Instruction)
    check_sums(data, shards(data / INSTRUCTIONS))
    records = [item for item in every if item.split == split and item.task == task][:pairs]
    if not records:
        raise InputError(f"{data / INSTRUCTIONS}: no task '{task}' of split '{split}'")
    truths = [truth_of(record.answers, words) for record in track(records, "reading", len(records))]
    counts: dict[str, int] = {}
    sampled: list[list[Rejected]] = [[] for _ in records]
    cut: list[str | None] = [None] * len(records)
    if model is not None:
        write_json(note, wanted)  # from here on the folder holds samples of this model
        from rsiccllm.rsicp.sample import sample_pairs  # torch, which replacement alone does not need

        alone = variant == "ours" and kinds != "filtering"
        said = sample_pairs(model, data, records, out, samples, temperature, top_p, seed, cut=alone)
        texts = [said[record.id].samples for record in records]
        cut = [said[record.id].cut for record in records]
        sampled, found = filter_samples(texts, truths, negatives, window, keep_share, words)
        counts = {"sampled": sum(map(len, texts)), "sampled_wrong": found.wrong, "sampled_in_window": found.kept}
        wanted = {**wanted, "window_used": [round(bound, 4) for bound in found.window]}
    near = _by_scene(truths) if variant == "ours" else {}
    preferences: list[Preference] = []
    without = 0
    for number, record in enumerate(track(records, "negatives", len(records))):
        chosen = record.answers[(number + seed) % len(record.answers)]
        truth = truths[number]
        others = [answer for answer in record.answers if answer != chosen]
        draw = seed * 1_000_003 + number
        sources = [sampled[number]]
        if kinds != "filtering":
            sources.append(replacements([chosen, *others], negatives, seed=draw, variant=variant, words=words))
        if variant == "ours" and kinds != "filtering":
            sources.append(_neighbour(number, near, records, truths, random.Random(f"{draw}:near"), words))
            sources.append(_cut(cut[number], truth, words))
        rejected = _in_turn(sources, chosen)
        if rejected:
            preferences.append(_preference(record, chosen, rejected, record.answers))
        else:
            without += 1
        if variant == "ours" and kinds != "filtering":
            preferences += _swapped_dates(record, chosen, negatives, draw, words)
    if not preferences:
        raise InputError(f"{data}: no negative could be made for any of the {len(records)} pairs")
    if model is None:
        write_json(note, wanted)  # from here on the folder holds images of this data
    for preference in preferences:
        for path in (preference.before, preference.after, preference.mask):
            if path:
                link_or_copy(inside(data, path), out / path)
    counts = {
        "preferences": len(preferences),
        "rejected": sum(len(item.rejected) for item in preferences),
        "without": without,
        **counts,
    }
    write_card(out, {k: v for k, v in wanted.items() if v is not None}, counts, preferences)
    write_jsonl(out / PREFERENCES, preferences)
    write_checksums(out)
    return counts


def _built(data: Path) -> str | None:
    """What tells one built folder from another of the same name: the checksum of its checksums."""
    path = data / CHECKSUMS
    return sha256(path) if path.is_file() else None


def _check(
    negatives: int, samples: int, window: tuple[float, float] | None, keep_share: float, temperature: float,
    top_p: float, pairs: int | None,
) -> None:  # fmt: skip
    if pairs is not None and pairs < 1:
        raise InputError(f"--pairs {pairs}: expected at least 1")
    if negatives < 1 or samples < 1:
        raise InputError(f"--negatives {negatives}, --samples {samples}: expected at least 1")
    if window is not None and not 0 <= window[0] < window[1] <= 1.01:
        raise InputError(f"--window {window[0]} {window[1]}: expected 0 <= tau1 < tau2 <= 1")
    if not 0 < keep_share <= 1:
        raise InputError(f"--keep-share {keep_share}: expected a share over 0 and at most 1")
    if not 0 < temperature < math.inf or not 0 < top_p <= 1:
        raise InputError(f"--temperature {temperature}, --top-p {top_p}: expected over 0, and over 0 and at most 1")


class Filtered:
    """What filtering did. window: the bounds used. wrong: samples that are wrong and differ. kept: those inside."""

    def __init__(self, window: Window, wrong: int, kept: int) -> None:
        self.window, self.wrong, self.kept = window, wrong, kept


def filter_samples(
    texts: Sequence[Sequence[str]],
    truths: Sequence[Truth],
    most: int,
    window: tuple[float, float] | None,
    keep_share: float,
    words: Words,
) -> tuple[list[list[Rejected]], Filtered]:
    """Filtering negatives: of each pair's samples those that are wrong, differ from one another and lie in the window.

    The likest come first, at most `most` a pair. Raises InputError where not one survives.
    """
    scored: list[list[tuple[float, str]]] = []
    for own, truth in zip(texts, truths, strict=True):
        wrong = [text for text in dict.fromkeys(own) if is_wrong(text, truth, words)]
        values = sorted(((similarity(text, truth.references, words), text) for text in wrong), key=lambda v: -v[0])
        kept = set(distinct([text for _, text in values], words=words))
        scored.append([(value, text) for value, text in values if text in kept])
    every = [value for own in scored for value, _ in own]
    if not every:
        raise InputError(f"none of the {sum(map(len, texts)):,} samples is wrong and ended; draw more, or hotter")
    bounds = Window(*window) if window else window_for(every, keep_share)
    survivors = [[(value, text) for value, text in own if bounds.holds(value)] for own in scored]
    kept_count = sum(map(len, survivors))
    if not kept_count:
        raise InputError(
            f"--window {bounds.low} {bounds.high}: none of the {len(every):,} wrong samples lies in it "
            f"(theirs run from {min(every):.3f} to {max(every):.3f})"
        )
    rejected = [
        [Rejected(text=text, kind="sampled", similarity=round(value, 4)) for value, text in own[:most]]
        for own in survivors
    ]
    return rejected, Filtered(bounds, len(every), kept_count)


def _by_scene(truths: Sequence[Truth]) -> dict[frozenset[str], list[int]]:
    """Pairs by the objects that their references name, which is what they tell of the kind of scene."""
    found: dict[frozenset[str], list[int]] = {}
    for number, truth in enumerate(truths):
        if truth.known.facts:
            found.setdefault(truth.known.objects, []).append(number)
    return found


def _neighbour(
    number: int,
    near: dict[frozenset[str], list[int]],
    records: Sequence[Instruction],
    truths: Sequence[Truth],
    rng: random.Random,
    words: Words,
) -> list[Rejected]:
    """A caption of another pair with the same objects, that is wrong here."""
    truth = truths[number]
    others = near.get(truth.known.objects, [])
    for other in rng.sample(others, min(NEIGHBOURS, len(others))) if truth.known.facts else ():
        text = rng.choice(records[other].answers)
        if other != number and is_wrong(text, truth, words):
            return [rejected_answer(text, "neighbour", [records[other].pair], truth.references, words)]
    return []


def _cut(text: str | None, truth: Truth, words: Words) -> list[Rejected]:
    if not text or not is_wrong(text, truth, words):
        return []
    return [rejected_answer(text, "no_difference", [], truth.references, words)]


def _in_turn(sources: Sequence[Sequence[Rejected]], chosen: str) -> list[Rejected]:
    """One of each source, then the next of each; no text twice, and never the chosen one."""
    seen = {plain(chosen)}
    found: list[Rejected] = []
    for rejected in chain.from_iterable(zip_longest(*sources)):
        if rejected is not None and plain(rejected.text) not in seen:
            seen.add(plain(rejected.text))
            found.append(rejected)
    return found


def _swapped_dates(record: Instruction, chosen: str, negatives: int, draw: int, words: Words) -> Iterator[Preference]:
    """The pair in the other order, its caption turned round, against the caption as it was."""
    turned = {answer: reversed_caption(answer, words) for answer in record.answers}
    right = turned[chosen]
    if right is None:
        return
    references = [right, *(text for answer, text in turned.items() if text and answer != chosen)]
    truth = truth_of(references, words)
    if not is_wrong(chosen, truth, words):  # one person saw things come and another saw the same things go
        return
    # A reference that cannot be turned round still says what came and went.
    seen = {(fact.object, OPPOSITE[fact.direction]) for answer, text in turned.items() if text is None
            for fact in parse(answer, words).facts}  # fmt: skip
    rejected = [
        one
        for one in (
            rejected_answer(chosen, "dates", [], references, words),
            *replacements(references, negatives, seed=draw + 1, variant="paper", words=words),
        )
        if not any((fact.object, fact.direction) in seen for fact in parse(one.text, words).facts)
    ]
    if not rejected:
        return
    other = record.model_copy(
        # A coded mask's direction is that of the dates as they were: what it says is left out, where it marks stays.
        update={
            "id": f"{record.id}/swapped", "before": record.after, "after": record.before, "coded_mask": False,
        }
    )  # fmt: skip
    yield _preference(other, right, _in_turn([rejected], right), references)


def _preference(record: Instruction, chosen: str, rejected: list[Rejected], references: list[str]) -> Preference:
    return Preference(
        id=record.id,
        pair=record.pair,
        split=record.split,
        source=record.source,
        before=record.before,
        after=record.after,
        mask=record.mask,
        coded_mask=record.coded_mask,
        prompt=record.prompt,
        chosen=chosen,
        rejected=rejected,
        references=references,
    )
