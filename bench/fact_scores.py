"""How far the fact scores can be believed: planted facts read back, how well people agree, and planted cheats.

    python bench/fact_scores.py [--captions 10000] [--annotations LevirCCcaptions.json]

1. Captions written from planted facts, every field of which is said or left out on purpose: what is read must be equal.
   Then the captions of rendered scenes, which say their scene's facts in freer words.
2. LEVIR-CC (with --annotations): one person's caption against the other four: the ceiling a model can be held to.
3. Cheats on LEVIR-CC: a constant caption, captions dealt at random, captions copied from training: their F1 and gain.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

from rsiccllm.benchmark.copied import count_copied, training_captions
from rsiccllm.benchmark.fact_scores import KINDS, FactScores, fact_scores
from rsiccllm.facts import Fact, parse, quantities_agree, verb_kind
from rsiccllm.sources.scenes.plan import plan_scene
from rsiccllm.sources.scenes.words import WHERE
from rsiccllm.sources.scenes.words import captions as captions_of

NOUNS = {
    "building": (
        ("a house", "houses"),
        ("a villa", "villas"),
        ("a building", "buildings"),
        ("a large building", "large buildings"),
    ),
    "road": (("a road", "roads"),),
    "tree": (("a tree", "trees"),),
    "water": (("a pond", "ponds"),),
    "parking_lot": (("a parking lot", "parking lots"),),
    "playground": (("a playground", "playgrounds"),),
}
NUMBERS: dict[str, tuple[str, ...]] = {
    "two": ("two",), "three": ("three",), "several": ("several", "some"), "many": ("many", "lots of"),
}  # fmt: skip
MADE = ("building", "road", "parking_lot", "playground")
# direction, canonical verb, (singular, plural), objects it is said of (MADE where not named)
VERBS = (
    ("appear", "build", ("is built", "are built"), None),
    ("appear", "build", ("has been constructed", "have been constructed"), None),
    ("appear", "build", ("is planted", "are planted"), ("tree",)),
    ("appear", "appear", ("appears", "appear"), (*NOUNS,)),
    ("appear", "extend", ("is extended", "are extended"), ("road",)),
    ("disappear", "remove", ("is removed", "are removed"), (*NOUNS,)),
    ("disappear", "remove", ("is demolished", "are demolished"), ("building",)),
    ("disappear", "disappear", ("disappears", "disappear"), (*NOUNS,)),
)


def written(wanted: int) -> None:
    """Captions of one or two planted facts, all fields of which are said; the facts read must be equal to them."""
    rng = random.Random(5)
    equal = 0
    shown: list[str] = []
    for _ in range(wanted):
        clauses, facts = [], []
        for name in rng.sample(list(NOUNS), rng.choice((1, 1, 2))):
            one, more = rng.choice(NOUNS[name])
            possible = [verb for verb in VERBS if name in (verb[3] or MADE)]
            direction, verb, (singular, plural), _ = rng.choice(possible)
            quantity = rng.choice(("one", "one", *NUMBERS, None))
            number = "" if quantity in {"one", None} else f"{rng.choice(NUMBERS[quantity])} "
            subject = one if quantity == "one" else number + more
            # "along the road" is no place of a road itself
            places = [place for place in WHERE if not (name == "road" and place == "along_road")]
            place = rng.choice((None, *places))
            where = f" {rng.choice(WHERE[place])}" if place else ""
            clauses.append(f"{subject} {singular if quantity == 'one' else plural}{where}")
            facts.append(Fact.model_validate(
                {"object": name, "direction": direction, "verb": verb, "quantity": quantity, "place": place}
            ))  # fmt: skip
        caption = rng.choice((" and ", ", and ", ". ")).join(clauses)
        read = parse(caption)
        good = read.changed is True and set(read.facts) == set(facts)
        equal += good
        if not good and len(shown) < 5:
            shown.append(f"    {caption!r}\n      read {read.facts}")
    print(f"{wanted} captions written from planted facts: equal in every field {100 * equal / wanted:6.2f} % ({equal})")
    for line in shown:
        print(line)


def planted(wanted: int) -> None:
    """Captions of rendered scenes with their planted facts; unchanged scenes have none.

    A caption may leave a field out, or where several things change one of them; it says the planted verb and number in
    several words ("trees are planted" for trees that appear, "some houses" for many). So two figures are printed: the
    fields as they stand, and whether what is said can be said of the planted fact (the sense of the verb: comes, goes,
    is altered; ranges of number that meet).
    """
    counts: Counter[str] = Counter()
    shown: list[str] = []
    index = 0
    while counts["captions"] < wanted:
        plan = plan_scene(23, index)
        texts = captions_of(plan)
        truth = {(fact.object, fact.direction): fact for fact in plan.facts}
        for text in texts:
            read = parse(text)
            good = read.changed is plan.changed and bool(read.facts) is plan.changed
            good = good and all(agrees(fact, truth) for fact in read.facts)
            counts.update(
                {"captions": 1, "equal": good, "changed": plan.changed, "changed equal": good and plan.changed}
            )
            for fact in read.facts:
                known = truth.get((fact.object, fact.direction))
                counts.update({"object and direction": 1, "object and direction right": known is not None})
                for field in ("verb", "quantity", "place"):
                    value = getattr(fact, field)
                    if known is not None and value is not None:
                        counts.update({field: 1, f"{field} right": value == getattr(known, field)})
            if not good and len(shown) < 8:
                shown.append(f"    {text!r}\n      read {read.facts}\n      planted {plan.facts}")
        pairs = [{(fact.object, fact.direction) for fact in parse(text).facts} for text in texts]
        counts["changes planted"] += len(truth)
        counts["changes read"] += sum(sum(pair in said for said in pairs) >= 4 for pair in truth)
        index += 1
    print(f"{counts['captions']} rendered captions of {index} scenes with planted facts")
    for title, part, whole in (
        ("all that is read can be said of what is planted", "equal", "captions"),
        ("the same, captions of a change", "changed equal", "changed"),
        ("planted changes read in four of five captions", "changes read", "changes planted"),
        *((f"field as it stands: {name}", f"{name} right", name)
          for name in ("object and direction", "verb", "quantity", "place")),
    ):  # fmt: skip
        print(f"  {title:50} {counts[part]:6} of {counts[whole]:6}  {100 * counts[part] / counts[whole]:6.2f} %")
    for line in shown:
        print(line)


def agrees(fact: Fact, truth: dict[tuple[str, str], Fact]) -> bool:
    """Whether what was read can be said of the planted change; "along_road" may stand for, or beside, its place."""
    known = truth.get((fact.object, fact.direction))
    if known is None or verb_kind(fact) != verb_kind(known):
        return False
    if fact.quantity and known.quantity and not quantities_agree(fact.quantity, known.quantity):
        return False
    return fact.place in {None, "along_road", known.place}


def show(name: str, found: FactScores, note: str = "") -> None:
    cells = []
    for kind in KINDS:
        score = found.references[kind]
        cells.append(f"{score.f1 or 0:5.1f} {score.gain or 0:+6.1f}")
    print(f"  {name:30} " + "  ".join(cells) + note)


def people(images: list[dict[str, Any]]) -> None:
    """The agreement of one person with the other four, each of the five in turn."""
    held = [image for image in images if image["split"] == "val"]
    changed = {image["filename"]: image["changeflag"] == 1 for image in held}
    texts = {image["filename"]: [s["raw"] for s in image["sentences"]] for image in held}
    print(
        f"LEVIR-CC validation: {len(held)} pairs, {sum(changed.values())} changed; F1 and gain over shuffled captions"
    )
    print(f"  {'':30} " + "  ".join(f"{kind[:12]:>12}" for kind in KINDS))
    for person in range(5):
        one = {name: every[person] for name, every in texts.items()}
        others = {name: every[:person] + every[person + 1 :] for name, every in texts.items()}
        show(f"person {person + 1} against the other 4", fact_scores(one, others, changed))
    train = training_captions(s["raw"] for image in images if image["split"] == "train" for s in image["sentences"])
    rng = random.Random(0)
    first = {name: every[0] for name, every in texts.items()}
    others = {name: every[1:] for name, every in texts.items()}
    constant = {name: "many houses are built along the road" if changed[name] else "no change" for name in first}
    moved = [name for name in first if changed[name]]
    dealt = dict(first)
    for name, given in zip(moved, rng.sample([first[name] for name in moved], len(moved)), strict=True):
        dealt[name] = given
    source = [
        s["raw"] for image in images if image["split"] == "train" and image["changeflag"] for s in image["sentences"]
    ]
    copied = {name: rng.choice(source) if changed[name] else "no change has occurred" for name in first}
    for name, said in (("cheat: one constant sentence", constant), ("cheat: a person's, dealt out", dealt),
                       ("cheat: random training captions", copied)):  # fmt: skip
        copies = count_copied(said, train, changed)
        show(name, fact_scores(said, others, changed), f"   copies on changed pairs {copies.changed_share:.1f} %")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=int, default=10000)
    parser.add_argument("--annotations", type=Path)
    given = parser.parse_args()
    written(given.captions)
    planted(given.captions)
    if given.annotations:
        people(json.loads(given.annotations.read_text(encoding="utf-8"))["images"])


if __name__ == "__main__":
    main()
