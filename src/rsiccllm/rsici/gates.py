"""Three gates an answer passes before it becomes data: facts against the mask, leaks of the prior, and form.

Every rejection says its gate and its reason; the reasons are the keys of `hints` in the prompt file, so that a teacher
can be told what was wrong. (The fourth gate is people: `rsiccllm rsici review`.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from rsiccllm.facts import RANGES, Fact, Known, Parsed, places_agree, read_facts, verb_kind
from rsiccllm.grammar import Reading
from rsiccllm.phrases import PLACE
from rsiccllm.rsici.form import Rejection, check_form, check_leaks
from rsiccllm.rsici.prior import ROOMY, Prior
from rsiccllm.words import load_words, word_set

PER_REGION = 3
"""How many things a region that is not ROOMY may hold at most."""


def check(answer: str, task: str, prior: Prior) -> list[Rejection]:
    """Every reason to refuse an answer; none means that it passes.

    task: "describe", "caption" or "kind". prior: what is known of the pair. A fact is refused only where it contradicts
    the prior: what the prior leaves open passes.
    """
    found = [*check_form(answer, task), *check_leaks(answer)]
    if not any(item.reason in {"language", "refusal"} for item in found):
        found += _facts(answer, task, prior)
    return found


def _facts(answer: str, task: str, prior: Prior) -> list[Rejection]:
    words = load_words()
    reading, parsed = read_facts(answer, words)
    if prior.empty:
        if parsed.facts or parsed.changed:
            return [_no("invented", _name(parsed.facts[0]) if parsed.facts else "says that something changed")]
        return [] if parsed.changed is False else [_no("unclear", "does not say that nothing changed")]
    if parsed.changed is False:
        return [_no("no_change", "says that nothing changed over a change")]
    if parsed.changed is None:
        return [_no("unclear", "names no change")]
    found: list[Rejection] = []
    for fact in parsed.facts:
        own = [item for item in prior.known if item.object == fact.object]
        if not own:
            if not _may_be(fact, prior):
                found.append(_no("object", f"{_name(fact)}, known: {_names(prior)}"))
            continue
        ways = {item.direction for item in own}
        if None not in ways and fact.direction not in ways:
            found.append(_no("direction", _name(fact)))
    found += _verbs(parsed, prior)
    found += _counts(parsed, prior)
    found += _places(reading, parsed, prior)
    found += _missed(parsed, task, prior)
    return found


def _no(reason: str, detail: str) -> Rejection:
    return Rejection("facts", reason, detail)


def _name(fact: Fact) -> str:
    words = [fact.quantity, fact.object, fact.verb, "come" if fact.direction == "appear" else "go", fact.place]
    return " ".join(word.replace("_", " ") for word in words if word)


def _names(prior: Prior) -> str:
    return ", ".join(dict.fromkeys(item.object for item in prior.known))


def _kind(item: Known) -> str:
    return verb_kind(Fact(object=item.object, direction=item.direction or "appear", verb=item.verb or "appear"))


def _may_be(fact: Fact, prior: Prior) -> bool:
    """Whether an object that is not among the known ones may have changed too."""
    if not prior.known:
        return True
    if prior.complete:
        return False
    words = load_words()
    covers = any(len(region.known) > 1 for region in prior.regions)  # what the ground was and what it became
    if not covers and (prior.scope or any(region.known for region in prior.regions)):
        # A building takes the place of trees, or leaves bare ground; no lake comes with it.
        other = "disappear" if fact.direction == "appear" else "appear"
        return fact.object not in words.made and any(item.direction in {None, other} for item in prior.known)
    if covers:
        near: set[str] = {item.object for item in prior.known}
        for name in list(near):
            near |= words.near[name]
        if "bareland" in near:  # ground without vegetation is often paved
            near |= words.near["parking_lot"]
        return fact.object in near
    return True  # two of five people named the known ones; a third may have seen another


def _verbs(parsed: Parsed, prior: Prior) -> list[Rejection]:
    """Kinds of change that are told of a thing and never the known one ("built" of a road that was extended)."""
    if not prior.complete:
        return []
    told: dict[tuple[str, str], list[Fact]] = {}
    for fact in parsed.facts:
        told.setdefault((fact.object, fact.direction), []).append(fact)
    found = []
    for (name, direction), facts in told.items():
        kinds = {_kind(item) for item in prior.known if (item.object, item.direction) == (name, direction)}
        # "It is extended by a piece, which is seen at the top": that it appears says least of what happened.
        telling = [fact for fact in facts if fact.verb not in {"appear", "disappear"}] or facts
        if kinds and not kinds & {verb_kind(fact) for fact in telling}:
            found.append(_no("verb", f"{_name(facts[0])}, known: {', '.join(sorted(kinds))}"))
    return found


def _counts(parsed: Parsed, prior: Prior) -> list[Rejection]:
    """Quantities that no count of the known things, or of the regions, allows."""
    found = []
    number = len(prior.regions)
    roomy = any(region.share > ROOMY for region in prior.regions)
    several = Counter((fact.object, fact.direction) for fact in parsed.facts)
    for fact in parsed.facts:
        if fact.quantity is None:
            continue
        low, high = RANGES[fact.quantity]
        own = [k for k in prior.known if k.object == fact.object and k.direction in {None, fact.direction}]
        if prior.complete and own:
            if not any(max(low, item.fewest) <= min(high, item.most) for item in own):
                found.append(_no("count", f"{_name(fact)}, known: {own[0].fewest:g} to {own[0].most:g}"))
            continue
        if not prior.masked or not number:
            continue
        if low > PER_REGION * number and not roomy:
            found.append(_no("count", f"{_name(fact)} over {number} small area{'s' if number > 1 else ''}"))
        few = min((item.fewest for item in own), default=0) if any(region.known for region in prior.regions) else 0
        # "A house" of four is a part of the truth where others are told of beside it; "some" is said of any number.
        if high < few and few >= 4 and high <= PER_REGION and several[(fact.object, fact.direction)] == 1:
            found.append(_no("count", f"{_name(fact)}, at least {few:g} changed"))
    return found


def _places(reading: Reading, parsed: Parsed, prior: Prior) -> list[Rejection]:
    """Places where nothing changed, or not this."""
    said = {(name, place) for name, place in (*parsed.places, *_further(reading, parsed)) if place != "along_road"}
    if not parsed.facts:  # a text that names no object still says where
        said = {("", p.place) for p in reading.phrases if p.kind == PLACE and p.place and p.place != "along_road"}
    found = []
    for name, place in sorted(said):
        known = [item.place for item in prior.known if item.object == name]
        if (
            known
            and all(item is not None and item != "along_road" for item in known)
            and (prior.complete or not prior.masked)
        ):
            if not any(places_agree(place, str(item)) for item in known):
                found.append(_no("place", f"{name} {place}, known: {', '.join(map(str, known))}"))
        elif prior.masked and prior.zone(place) == 0:
            found.append(_no("place", f"{name or 'change'} at the {place.replace('_', ' ')}, where nothing changed"))
    return found


LISTING = word_set(
    """
    and in at on to the as well one two another other others more also both part side corner corners area of
    """
) | {","}
"""What stands between the places of one list: "in the top left and, as well, in the bottom right"."""


def _further(reading: Reading, parsed: Parsed) -> Iterator[tuple[str, str]]:
    """Places that are listed behind one that a thing has: (object, place). A fact keeps the first alone."""
    names: list[str] = []
    end = 0
    for phrase in reading.phrases:
        if phrase.kind != PLACE or not phrase.place:
            continue
        own = [name for name, place in parsed.places if place == phrase.place]
        between = {token for token, _, _ in reading.tokens[end : phrase.start]}
        names = own or (names if between <= LISTING else [])
        end = phrase.end
        yield from ((name, phrase.place) for name in names)


def _missed(parsed: Parsed, task: str, prior: Prior) -> list[Rejection]:
    """Known changes that an answer must name: all of them where they are certain, else the main one."""
    if not prior.known:
        return []
    words = load_words()
    named: set[str] = {fact.object for fact in parsed.facts}
    if not prior.complete:
        named |= {name for item in named for name in words.near[item]}
        if "parking_lot" in named:
            named |= {"bareland"}
    known = list(dict.fromkeys(item.object for item in prior.known))
    if task == "caption":
        return [] if named & set(known) else [_no("missed", f"none of {', '.join(known)} is named")]
    wanted = known if prior.complete else known[:1]
    missing = [name for name in wanted if name not in named]
    return [_no("missed", f"{', '.join(missing)} not named")] if missing else []
