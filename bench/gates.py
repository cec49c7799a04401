"""How many planted errors the gates catch, and how many true texts they refuse, on rendered pairs.

    python bench/gates.py [--pairs 2000] [--seed 21] [--show 3]

Each pair gives a true caption and a true description. Into one of them is planted, where it can be, one error of each
of eight kinds: object, place, count, direction, verb (by the swaps that preference negatives are made with, into what
the planted facts do not support), an invented change, a missed change and a leak of the prior. Prints the recall of
each kind and the false rejections, with 95 % Wilson intervals, and some of what went wrong.
"""

from __future__ import annotations

import argparse
import random
import re
from collections import defaultdict

from rsiccllm.facts import parse
from rsiccllm.records import ImagePair
from rsiccllm.rsici.gates import check
from rsiccllm.rsici.prior import Prior, prior_of
from rsiccllm.rsicp.replace import replacements
from rsiccllm.rsicp.swaps import Kind
from rsiccllm.sources.scenes.source import ScenesSource

SWAPS: dict[str, Kind] = {
    "object": "object", "place": "place", "count": "quantity", "direction": "direction", "verb": "verb",
}  # fmt: skip
KINDS = (*SWAPS, "invented", "missed", "leak")
LEAKS = (
    "As the mask shows, {}", "Within the outlined area, {}", "In the highlighted region, {}", "{} It matches the mask.",
    "{} The yellow outline marks its border.", "According to the change map, {}", "{} The rest is not annotated.",
    "Inside the bounding box, {}", "{} The segmentation covers the whole of it.", "In the marked area {}",
    "In the area indicated, {}", "{} No other pixels are white in the third image.", "The labelled regions show: {}",
    "Based on the provided regions, {}", "{} All of this lies inside the polygon.", "In region 1, {}",
    "The contour encloses the change: {}", "{} This is consistent with the ground truth.",
    "In the areas that are outlined, {}", "In the specified area, {}",
)  # fmt: skip
NO_CHANGE = (
    "No change has occurred between the two images.",
    "The scene is the same as before and nothing has been built or removed in it.",
    "There is no difference between the two dates.",
)


def wilson(part: int, whole: int) -> str:
    """Share with its 95 % interval."""
    if not whole:
        return "none"
    z, share = 1.96, part / whole
    center = (share + z * z / (2 * whole)) / (1 + z * z / whole)
    half = z * ((share * (1 - share) + z * z / (4 * whole)) / whole) ** 0.5 / (1 + z * z / whole)
    return (
        f"{part:5d} of {whole:5d}  {100 * share:6.2f} %  ({100 * (center - half):.2f} to {100 * (center + half):.2f})"
    )


def plant(kind: str, pair: ImagePair, task: str, text: str, seed: int) -> str | None:
    """`text` with one error of a kind, or None where it has no place for one."""
    dice = random.Random(f"{kind}:{seed}")
    if kind == "leak":
        return dice.choice(LEAKS).format(text)
    if kind == "invented":
        made = _invention(pair, seed)
        if made is None:
            return None
        if task == "describe":
            return f"{text} {made[0].upper()}{made[1:]}."
        return f"{text} and {made}" if pair.changed else made
    if kind == "missed":
        return _omission(pair, task, text, dice) if pair.changed else None
    if not pair.changed:
        return None
    if task == "caption":
        return _swap(text, [*pair.captions], SWAPS[kind], seed)
    # One sentence of the description, so that one error is planted and no more.
    sentences = re.split(r"(?<=\.) ", text)
    order = [i for i, sentence in enumerate(sentences) if parse(sentence).facts]
    dice.shuffle(order)
    for i in order:
        wrong = _swap(sentences[i], [*pair.captions, text], SWAPS[kind], seed)
        if wrong is not None:
            return " ".join([*sentences[:i], wrong, *sentences[i + 1 :]])
    return None


def _swap(text: str, references: list[str], kind: Kind, seed: int) -> str | None:
    others = [reference for reference in references if reference != text]
    made = replacements([text, *others], 1, seed, weights={(kind,): 1.0})
    return made[0].text if made else None


def _invention(pair: ImagePair, seed: int) -> str | None:
    """A change of an object that did not change."""
    known = {fact.object for fact in pair.facts or []}
    for offset in range(12):
        for item in replacements(["there is no difference"], 1, seed + 7919 * offset, variant="ours"):
            if not {fact.object for fact in parse(item.text).facts} & known:
                return item.text
    return None


def _omission(pair: ImagePair, task: str, text: str, dice: random.Random) -> str | None:
    """No change told over a change; or, of a description with several changes, all but one."""
    objects = sorted({fact.object for fact in pair.facts or []})
    if task == "describe" and len(objects) > 1 and dice.random() < 0.5:
        gone = dice.choice(objects)
        sentences = re.split(r"(?<=\.) ", text)
        kept = [s for s in sentences if gone not in {fact.object for fact in parse(s).facts}]
        left = {fact.object for fact in parse(" ".join(kept)).facts}
        if gone not in left and left:
            return " ".join(kept)
    return dice.choice(NO_CHANGE) + (" The light differs, the ground does not." if task == "describe" else "")


def measure(pairs: int, seed: int) -> tuple[dict[str, list[int]], dict[str, list[str]]]:
    """({kind or "true caption" or "true description": [refused, all]}, {the same: what went wrong})."""
    source = ScenesSource(pairs, seed=seed, size=128)
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    wrong: dict[str, list[str]] = defaultdict(list)

    def count(name: str, text: str, task: str, prior: Prior, expected: bool) -> None:
        found = check(text, task, prior)
        counts[name][0] += bool(found)
        counts[name][1] += 1
        if bool(found) != expected:
            wrong[name].append(f"{text}  {[f'{item.reason}: {item.detail}' for item in found]}")

    for number, pair in enumerate(source.pairs):
        prior = prior_of(source, pair)
        caption = pair.captions[number % len(pair.captions)]
        texts = {"caption": caption, "describe": str(pair.description)}
        count("true caption", texts["caption"], "caption", prior, False)
        count("true description", texts["describe"], "describe", prior, False)
        for place, kind in enumerate(KINDS):
            first = ("caption", "describe")[(number // 2 + place) % 2]
            for task in (first, "describe" if first == "caption" else "caption"):
                planted = plant(kind, pair, task, texts[task], seed * 1_000_003 + number)
                if planted is not None:
                    count(kind, planted, task, prior, True)
                    break
    return counts, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=21)
    parser.add_argument("--show", type=int, default=3, help="how many mistakes of each kind are printed")
    given = parser.parse_args()
    counts, wrong = measure(given.pairs, given.seed)
    for kind in KINDS:
        print(f"planted {kind:10} refused  {wilson(*counts[kind])}")
    for kind in ("true caption", "true description"):
        print(f"{kind:18} refused  {wilson(*counts[kind])}")
    both = [counts["true caption"][i] + counts["true description"][i] for i in (0, 1)]
    print(f"{'true texts':18} refused  {wilson(*both)}")
    for kind, lines in wrong.items():
        for line in lines[: given.show]:
            print(f"  {kind}: {line}")


if __name__ == "__main__":
    main()
