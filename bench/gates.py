"""How many planted errors the gates catch, and how many true texts they refuse, on rendered pairs.

    python bench/gates.py [--pairs 2000] [--seed 21] [--show 3]

Each pair gives a true caption and a true description. Into one of them is planted, where it can be, one error of each
of eight kinds: object, place, count, direction, verb, an invented change, a missed change and a leak of the prior.
Captions are changed by the swaps that preference negatives are made with. Descriptions are written anew from a plan of
the scene in which one thing is wrong, by the renderer's own words, which know nothing of the facts parser or the gates.
Prints the recall of each kind and the false rejections, with 95 % Wilson intervals, and some of what went wrong.
"""

from __future__ import annotations

import argparse
import random
from collections import defaultdict
from dataclasses import replace
from typing import Any

from rsiccllm.facts import RANGES, parse, places_agree
from rsiccllm.records import ImagePair
from rsiccllm.rsici.gates import check
from rsiccllm.rsici.prior import Prior, prior_of
from rsiccllm.rsicp.replace import replacements
from rsiccllm.rsicp.swaps import Kind
from rsiccllm.sources.scenes.events import Change, Event
from rsiccllm.sources.scenes.plan import Plan, plan_scene
from rsiccllm.sources.scenes.source import ScenesSource
from rsiccllm.sources.scenes.words import description

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


# Things a wrong object may be drawn from: the kind that the renderer writes of, and the object that it is.
THINGS = {"house": "building", "lot": "parking_lot", "road": "road", "pond": "water", "trees": "tree"}
PLACES = ("top_left", "top_right", "bottom_left", "bottom_right", "left", "right", "top", "bottom", "center")
COUNTS = {"one": 1, "two": 2, "three": 3, "several": 5, "many": 12}


def plant(kind: str, pair: ImagePair, plan: Plan, task: str, text: str, seed: int) -> str | None:
    """`text` with one error of a kind, or None where it has no place for one."""
    dice = random.Random(f"{kind}:{seed}")
    if kind == "leak":
        return dice.choice(LEAKS).format(text)
    if kind == "missed":
        return _omission(pair, plan, task, dice) if pair.changed else None
    if task == "describe":
        wrong = _wrong_plan(kind, plan, dice)
        return None if wrong is None else description(wrong)
    if kind == "invented":
        made = _invention(pair, seed)
        return None if made is None else f"{text} and {made}" if pair.changed else made
    others = [caption for caption in pair.captions if caption != text]
    swapped = replacements([text, *others], 1, seed, weights={(SWAPS[kind],): 1.0}) if pair.changed else []
    return swapped[0].text if swapped else None


def _wrong_plan(kind: str, plan: Plan, dice: random.Random) -> Plan | None:
    """The plan with one change made wrong, or one that never was."""
    if kind == "invented":
        known = {fact.object for fact in plan.facts}
        things = [thing for thing, name in THINGS.items() if name not in known]
        fact = {"object": THINGS[thing := dice.choice(things)], "direction": dice.choice(["appear", "disappear"]),
                "verb": "build", "quantity": "one", "place": dice.choice(PLACES)}  # fmt: skip
        return replace(plan, events=(*plan.events, Event((Change(_fact(fact), 1, thing),))))
    spots = [(e, c) for e, event in enumerate(plan.events) for c in range(len(event.changes))]
    dice.shuffle(spots)
    for e, c in spots:
        wrong = _wrong_change(kind, plan.events[e].changes[c], plan, dice)
        if wrong is not None:
            changes = plan.events[e].changes
            event = replace(plan.events[e], changes=(*changes[:c], wrong, *changes[c + 1 :]))
            return replace(plan, events=(*plan.events[:e], event, *plan.events[e + 1 :]))
    return None


def _fact(values: dict[str, Any]) -> Any:
    from rsiccllm.facts import Fact

    return Fact.model_validate(values)


def _wrong_change(kind: str, change: Change, plan: Plan, dice: random.Random) -> Change | None:
    """One change with one thing wrong that no other change of the plan makes right."""
    fact, facts = change.fact, plan.facts
    same = [other for other in facts if other.object == fact.object]
    if change.kind in {"wing", "bareland"} and kind != "place":
        return None  # the words say of these only that they are there
    if kind == "object":
        things = [thing for thing, name in THINGS.items() if name not in {other.object for other in facts}]
        thing = dice.choice(things)
        if fact.verb == "extend":
            return None
        return replace(change, kind=thing, fact=fact.model_copy(update={"object": THINGS[thing]}))
    if kind == "place":
        if fact.place in {None, "along_road"} or any(other.place in {None, "along_road"} for other in same):
            return None
        free = [place for place in PLACES if not any(places_agree(place, str(other.place)) for other in same)]
        return replace(change, fact=fact.model_copy(update={"place": dice.choice(free)})) if free else None
    if kind == "count":
        if fact.verb == "extend" or fact.quantity is None:
            return None
        low, high = RANGES[fact.quantity]
        taken = [RANGES[other.quantity] for other in same if other.quantity] or [(low, high)]
        free = [q for q in COUNTS if all(max(RANGES[q][0], a) > min(RANGES[q][1], b) for a, b in taken)]
        if not free or len([other for other in same if other.quantity is None]):
            return None
        quantity = dice.choice(free)
        return replace(change, count=COUNTS[quantity], fact=fact.model_copy(update={"quantity": quantity}))
    if kind == "direction":
        other_way = "disappear" if fact.direction == "appear" else "appear"
        if fact.verb == "extend" or any(other.direction == other_way for other in same):
            return None
        return replace(change, fact=fact.model_copy(update={"direction": other_way}))
    if kind == "verb":
        if fact.direction != "appear" or fact.object not in {"road", "building"} or len(same) > 1:
            return None
        if fact.verb == "extend":
            return replace(change, fact=fact.model_copy(update={"verb": "build"}))
        return replace(change, kind="wing" if fact.object == "building" else "road", count=1,
                       fact=fact.model_copy(update={"verb": "extend", "quantity": "one"}))  # fmt: skip
    raise ValueError(kind)


def _invention(pair: ImagePair, seed: int) -> str | None:
    """A caption of a change of an object that did not change."""
    known = {fact.object for fact in pair.facts or []}
    for offset in range(12):
        for item in replacements(["there is no difference"], 1, seed + 7919 * offset, variant="ours"):
            if not {fact.object for fact in parse(item.text).facts} & known:
                return item.text
    return None


def _omission(pair: ImagePair, plan: Plan, task: str, dice: random.Random) -> str | None:
    """No change told over a change; or, of a description with several changes, all but one object's."""
    objects = sorted({fact.object for fact in pair.facts or []})
    if task == "describe" and len(objects) > 1 and dice.random() < 0.5:
        gone = dice.choice(objects)
        events = [Event(tuple(c for c in event.changes if c.fact.object != gone)) for event in plan.events]
        return description(replace(plan, events=tuple(event for event in events if event.changes)))
    if task == "describe":
        return description(replace(plan, events=()))
    return dice.choice(NO_CHANGE)


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
        plan = plan_scene(seed, number)
        texts = {"caption": caption, "describe": str(pair.description)}
        count("true caption", texts["caption"], "caption", prior, False)
        count("true description", texts["describe"], "describe", prior, False)
        for place, kind in enumerate(KINDS):
            first = ("caption", "describe")[(number // 2 + place) % 2]
            for task in (first, "describe" if first == "caption" else "caption"):
                planted = plant(kind, pair, plan, task, texts[task], seed * 1_000_003 + number)
                if planted is not None:
                    count(kind, planted, task, prior, True)
                    count(f"{kind} in a {task}", planted, task, prior, True)
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
        parts = [counts[f"{kind} in a {task}"] for task in ("caption", "describe")]
        split = ", ".join(f"{name} {a}/{n}" for name, (a, n) in zip(("captions", "descriptions"), parts, strict=True))
        print(f"planted {kind:10} refused  {wilson(*counts[kind])}   {split}")
    for kind in ("true caption", "true description"):
        print(f"{kind:18} refused  {wilson(*counts[kind])}")
    both = [counts["true caption"][i] + counts["true description"][i] for i in (0, 1)]
    print(f"{'true texts':18} refused  {wilson(*both)}")
    for kind, lines in wrong.items():
        if " in a " in kind:
            continue
        for line in lines[: given.show]:
            print(f"  {kind}: {line}")


if __name__ == "__main__":
    main()
