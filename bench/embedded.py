"""What the model in the package can do on rendered scenes it has not seen, in numbers.

    python bench/embedded.py [--model DIR] [--scenes 400] [--candidates N]
    python bench/embedded.py --ceiling

Held-out scenes are of another seed than any that training, validation or calibration saw. Swapped dates: of the changed
pairs whose caption names an object and which way, the share that names the same object the other way when the dates are
swapped, among those that are right both times to name that object. Intervals: 95 % over pairs.

"verb" asks for the very word of the plan, though people choose among several for one event; "its sense" takes verbs
that say the same for one (`rsiccllm.facts.verb_kind`: come, go, alter, reduce).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping

import numpy as np

from rsiccllm.benchmark.bootstrap import bootstrap
from rsiccllm.benchmark.fact_scores import f1_of_sums, fact_scores
from rsiccllm.benchmark.grounding import score_maps
from rsiccllm.benchmark.scores import score
from rsiccllm.caption.captioner import Captioner
from rsiccllm.facts import Fact, parse, verb_kind
from rsiccllm.pairs import OpenedPair
from rsiccllm.progress import track
from rsiccllm.sources.scenes import ScenesSource

SEED = 99
FIELDS = ("object", "direction", "quantity", "place", "verb")


def said_of(
    captioner: Captioner, pairs: list[OpenedPair], what: str, candidates: int
) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Captions and maps by number."""
    found = list(track(captioner.caption_all(pairs, candidates=candidates), what, len(pairs)))
    maps = {str(i): one.change_map for i, one in enumerate(found) if one.change_map is not None}
    return {str(i): one.caption for i, one in enumerate(found)}, maps


def reversed_share(forth: Mapping[str, str], back: Mapping[str, str], truth: Mapping[str, list[Fact]]) -> np.ndarray:
    """For each changed pair whose first rightly named object is named again with swapped dates: whether reversed."""
    found = []
    for name, facts in truth.items():
        true = {(fact.object, fact.direction) for fact in facts}
        right = [fact for fact in parse(forth[name]).facts if (fact.object, fact.direction) in true]
        if right:
            other = {(fact.object, fact.direction) for fact in parse(back[name]).facts}
            opposite = "disappear" if right[0].direction == "appear" else "appear"
            found.append(float((right[0].object, opposite) in other))
    return np.array(found)


def senses(said: Mapping[str, str], planted: Mapping[str, list[Fact]]) -> np.ndarray:
    """For each changed pair the senses of its verbs: [pairs, 3], right, stated, true."""
    found = []
    for name, facts in planted.items():
        if facts:
            stated, true = ({verb_kind(fact) for fact in some} for some in (parse(said[name]).facts, facts))
            found.append((len(stated & true), len(stated), len(true)))
    return np.array(found, np.float64)


def ceiling(count: int) -> None:
    """Print what the first of the true captions reaches against the planted facts; nothing is rendered."""
    names = {str(i): pair for i, pair in enumerate(ScenesSource(count, seed=SEED).pairs)}
    said = {name: pair.captions[0] for name, pair in names.items()}
    facts = fact_scores(
        said,
        {name: list(pair.captions) for name, pair in names.items()},
        {name: bool(pair.changed) for name, pair in names.items()},
        {name: list(pair.facts or []) for name, pair in names.items()},
    )
    assert facts.planted is not None
    sense = f1_of_sums(senses(said, {name: list(pair.facts or []) for name, pair in names.items()}).sum(0))
    print(
        ", ".join(f"{field} {facts.planted[field].f1:.1f}" for field in FIELDS), f"verb's sense {sense:.1f}", sep=", "
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a checkpoint; by default the model in the package")
    parser.add_argument("--scenes", type=int, default=400)
    parser.add_argument("--candidates", type=int, help="answers to choose from; by default as suits the model")
    parser.add_argument("--ceiling", action="store_true", help="score the first true caption of each scene instead")
    given = parser.parse_args()
    if given.ceiling:
        ceiling(given.scenes)
        return
    captioner = Captioner.load(given.model)
    answers = given.candidates or captioner.usual("caption")
    source = ScenesSource(given.scenes, seed=SEED, size=256)
    pairs = [source.open(pair) for pair in track(source.pairs, "rendering", len(source.pairs))]
    said, maps = said_of(captioner, pairs, "captioning", answers)
    names = {str(i): pair for i, pair in enumerate(source.pairs)}
    references = {name: list(pair.captions) for name, pair in names.items()}
    changed = {name: bool(pair.changed) for name, pair in names.items()}
    planted = {name: list(pair.facts or []) for name, pair in names.items()}
    facts = fact_scores(said, references, changed, planted)
    only = score(said, references, changed, meteor=False, sbs=False).changed_only
    assert only is not None
    assert facts.planted is not None
    print(f"{len(pairs)} held-out scenes, {sum(changed.values())} of them changed; answers to choose from: {answers}")
    print(f"balanced change accuracy {facts.flag.balanced_accuracy:.1f} %, "
          f"hallucination {facts.flag.hallucination:.1f} %, misses {facts.flag.misses:.1f} %")  # fmt: skip
    for field in FIELDS:
        interval = bootstrap(facts.planted[field].counts, f1_of_sums)
        print(f"{field:10} F1 {facts.planted[field].f1:5.1f}   {interval.low:.1f} to {interval.high:.1f}")
    sense = bootstrap(senses(said, planted), f1_of_sums)
    print(f"its sense  F1 {sense.value:5.1f}   {sense.low:.1f} to {sense.high:.1f}")
    print(f"CIDEr-D of the changed pairs {only.cider_d:.1f}")
    masks = {name: pair.mask for name, pair in zip(names, pairs, strict=True) if pair.mask is not None}
    ground = score_maps(maps, masks)
    if ground is not None:
        print("change map: " + ", ".join(f"{name} {i.value:.1f}" for name, i in ground.intervals(200).items()))
    moved = [name for name in names if changed[name]]
    back, _ = said_of(
        captioner,
        [OpenedPair(pairs[int(n)].after, pairs[int(n)].before, None) for n in moved],
        "swapped dates",
        answers,
    )
    turned = dict(zip(moved, back.values(), strict=True))
    shares = reversed_share(said, turned, {name: planted[name] for name in moved})
    interval = bootstrap(shares)
    print(f"swapped dates described in reverse {100 * shares.mean():.1f} % of {len(shares)}   "
          f"{100 * interval.low:.1f} to {100 * interval.high:.1f}")  # fmt: skip


if __name__ == "__main__":
    main()
