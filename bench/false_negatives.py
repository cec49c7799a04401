"""How many negatives are in truth correct: on LEVIR-CC train captions labelled by hand, and on rendered scenes exactly.

    python bench/false_negatives.py [--data DIR] [--scenes N]
    python bench/false_negatives.py --built RSICP --truth RSICI      of a set built from rendered scenes, every kind
    python bench/false_negatives.py --draw 200          what the label file was made from; prints what to label

false_negatives.txt beside this file holds no text: each line is a sentence of LevirCCcaptions (by `sentid`), the tokens
of it that give way, and the tokens of another sentence that stand there instead; then a label, given by reading the
five captions of the pair before the check by facts was first run on these lines:

    r  in truth correct: one of the five says it, or it can be said of what they say
    w  wrong: what it says anew is said by none of the five, and does not follow from them

DIR holds levir_cc_captions_train_val.json (RSICCLLM_SHARED_DATA, else ../shared/data).
"""

from __future__ import annotations

import argparse
import json
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

LABELS = Path(__file__).with_suffix(".txt")
FILE = "levir_cc_captions_train_val.json"
# How many of each kind are drawn: swaps of one group of words, taken from anywhere, and whole captions of other pairs.
SHARES = {"object": 0.35, "direction": 0.125, "quantity": 0.1, "place": 0.125, "sentence": 0.3}


class Line(NamedTuple):
    """One candidate: tokens start..end of sentence `sentid` become tokens `first`..`last` of sentence `donor`."""

    kind: str
    sentid: int
    start: int
    end: int
    donor: int
    first: int
    last: int
    label: str

    def text(self, tokens: dict[int, list[str]]) -> str:
        own, other = tokens[self.sentid], tokens[self.donor]
        return " ".join([*own[: self.start], *other[self.first : self.last], *own[self.end :]])


def read_captions(path: Path) -> tuple[dict[int, list[str]], dict[int, list[str]], dict[int, int]]:
    """Tokens by sentence, captions by pair, and the pair of each sentence, of the changed train pairs."""
    tokens, captions, pair_of = {}, {}, {}
    for image in json.loads(path.read_text(encoding="utf-8"))["images"]:
        if image["split"] == "train" and image["changeflag"]:
            captions[image["imgid"]] = [" ".join(sentence["tokens"]) for sentence in image["sentences"]]
            for sentence in image["sentences"]:
                tokens[sentence["sentid"]] = sentence["tokens"]
                pair_of[sentence["sentid"]] = image["imgid"]
    return tokens, captions, pair_of


def read_lines(path: Path = LABELS) -> list[Line]:
    lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
    return [Line(kind, *map(int, numbers), label=label) for kind, *numbers, label in lines]


def draw(path: Path, count: int, seed: int) -> None:
    """Print candidates to label, each with the five captions of its pair."""
    from rsiccllm.facts import parse
    from rsiccllm.words import PLURAL, load_words

    words = load_words()
    tokens, captions, pair_of = read_captions(path)
    rng = random.Random(seed)
    groups: dict[str, dict[str, str]] = {"object": {}, "direction": {}, "quantity": {}, "place": {}}
    for name, nouns in words.nouns.items():
        for noun in nouns:
            for form, number in ((noun.singular, "singular"), (noun.plural, PLURAL)):
                if form and " " not in form:
                    groups["object"][form] = f"{number} {name}"
    groups["direction"] = dict.fromkeys(
        ("built", "constructed", "planted", "removed", "demolished", "replaced"), "done"
    )
    groups["direction"] |= dict.fromkeys(("appear", "disappear"), "does") | dict.fromkeys(
        ("appears", "disappears"), "do"
    )
    groups["quantity"] = dict.fromkeys(("two", "three", "several", "many", "some"), "many")
    groups["place"] = dict.fromkeys(("left", "right", "top", "bottom", "upper", "lower", "middle", "center"), "side")
    identifiers = sorted(tokens)
    shuffled = {name: rng.sample(identifiers, len(identifiers)) for name in SHARES}
    lines: list[Line] = []
    for kind, share in SHARES.items():
        wanted, used = round(count * share), set[int]()
        for sentid in shuffled[kind]:
            if len(used) == wanted:
                break
            own = tokens[sentid]
            if kind == "sentence":
                known = {(fact.object, fact.direction) for fact in parse(" ".join(own)).facts}
                donor = next(
                    d
                    for d in rng.sample(identifiers, 400)
                    if pair_of[d] != pair_of[sentid]
                    and known & {(f.object, f.direction) for f in parse(" ".join(tokens[d])).facts}
                ) if known else None  # fmt: skip
                if donor is not None:
                    used.add(sentid)
                    lines.append(Line(kind, sentid, 0, len(own), donor, 0, len(tokens[donor]), "?"))
                continue
            group = groups[kind]
            places = [i for i, word in enumerate(own) if word in group]
            if not places:
                continue
            at = rng.choice(places)
            form = group[own[at]].split()[0]
            for donor in rng.sample(identifiers, 400):
                spots = [
                    i
                    for i, word in enumerate(tokens[donor])
                    if word in group
                    and group[word].split()[0] == form
                    and (group[word] != group[own[at]] if kind == "object" else word != own[at])
                ]
                if pair_of[donor] != pair_of[sentid] and spots:
                    used.add(sentid)
                    lines.append(Line(kind, sentid, at, at + 1, donor, spots[0], spots[0] + 1, "?"))
                    break
    for number, line in enumerate(lines):
        print(f"{number} {line.kind}: {line.text(tokens)}")
        if line.kind != "sentence":
            print(f"    ({' '.join(tokens[line.sentid][line.start : line.end])})")
        for caption in captions[pair_of[line.sentid]]:
            print(f"    - {caption}")
    LABELS.write_text("\n".join(" ".join(map(str, line)) for line in lines) + "\n", encoding="utf-8")


def share(part: int, whole: int) -> str:
    """A share with its Wilson 95 % interval."""
    p, z, n = part / max(whole, 1), 1.96, max(whole, 1)
    middle, half = p + z * z / (2 * n), z * ((p * (1 - p) + z * z / (4 * n)) / n) ** 0.5
    low, high = ((middle + sign * half) / (1 + z * z / n) for sign in (-1, 1))
    return f"{part:5d} of {whole:5d}  {100 * p:6.2f} %  (95 %: {100 * max(low, 0.0):.1f} to {100 * high:.1f})"


def labelled(path: Path) -> None:
    """What the check by facts lets through of the labelled candidates, and what it drops."""
    from rsiccllm.rsicp.filter import is_wrong, truth_of
    from rsiccllm.words import load_words

    words = load_words()
    tokens, captions, pair_of = read_captions(path)
    lines = read_lines()
    right, kept, good = Counter[str](), Counter[str](), Counter[str]()
    for line in lines:
        references = captions[pair_of[line.sentid]]
        passed = is_wrong(line.text(tokens), truth_of(references, words), words)
        right[line.kind] += line.label == "r"
        kept[line.kind] += passed
        good[line.kind] += passed and line.label == "w"
    print(f"{len(lines)} labelled candidates on LEVIR-CC train captions")
    for kind in (*SHARES, "all"):
        of = [line for line in lines if kind in {line.kind, "all"}]
        pick = (lambda counts: counts.total()) if kind == "all" else (lambda counts, kind=kind: counts[kind])
        passed = pick(kept)
        print(f"  {kind}")
        print(f"    in truth correct, before the check {share(pick(right), len(of))}")
        print(f"    in truth correct, of those it lets through {share(passed - pick(good), passed)}")
        print(f"    wrong ones it lets through         {share(pick(good), len(of) - pick(right))}")


def scenes(count: int) -> None:
    """Of all that `rsicp build` makes for rendered scenes, what the planted facts say is correct."""
    from rsiccllm.rsicp.replace import replacements
    from rsiccllm.sources import open_source

    wrong = made = 0
    shown: list[str] = []
    for number, pair in enumerate(open_source(f"scenes:{count},seed=11,size=64").pairs):
        for rejected in replacements(pair.captions, 6, number, variant="ours"):
            made += 1
            if correct_by(pair.facts or [], rejected.text):
                wrong += 1
                shown.append(f"    {rejected.kind}: {rejected.text}  |  {pair.captions[0]}")
    print(f"{count} rendered scenes, replacement negatives in truth correct {share(wrong, made)}")
    print("\n".join(shown[:10]))


def built(folder: Path, truth: Path) -> None:
    """Of a preference set over rendered scenes, what the planted facts say is correct, by kind."""
    from rsiccllm.files import read_jsonl
    from rsiccllm.records import PAIRS, PREFERENCES, ImagePair, Preference

    planted = {pair.id: pair.facts or [] for pair in read_jsonl(truth / PAIRS, ImagePair)}
    made, wrong = Counter[str](), Counter[str]()
    shown: list[str] = []
    for record in read_jsonl(folder / PREFERENCES, Preference):
        facts = planted[record.pair]
        if record.id.endswith("/swapped"):
            other = {"appear": "disappear", "disappear": "appear"}
            verb = {"appear": "appear", "disappear": "disappear"}
            facts = [
                fact.model_copy(update={"direction": other[fact.direction], "verb": verb[other[fact.direction]]})
                for fact in facts
            ]
        for rejected in record.rejected:
            kind = rejected.kind.split(":")[0]
            made[kind] += 1
            if correct_by(facts, rejected.text):
                wrong[kind] += 1
                shown.append(f"    {rejected.kind}: {rejected.text}  |  {record.chosen}")
    print(f"{folder}: rejected answers in truth correct by the planted facts")
    for kind in sorted(made):
        print(f"  {kind:16} {share(wrong[kind], made[kind])}")
    print(f"  {'all':16} {share(wrong.total(), made.total())}")
    print("\n".join(shown[:10]))


def correct_by(planted: list[Any], text: str) -> bool:
    """Whether all that the text says is so by the planted facts."""
    from rsiccllm.facts import parse, places_agree, quantities_agree, verb_kind

    said = parse(text)
    if not planted or not said.facts:
        return not planted and said.changed is False
    return all(
        any(
            fact.object == true.object
            and fact.direction == true.direction
            and verb_kind(fact) == verb_kind(true)
            and (not fact.place or not true.place or places_agree(fact.place, true.place))
            and (not fact.quantity or not true.quantity or quantities_agree(fact.quantity, true.quantity))
            for true in planted
        )
        for fact in said.facts
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RSICCLLM_SHARED_DATA", "../shared/data")))
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--built", type=Path)
    parser.add_argument("--truth", type=Path)
    parser.add_argument("--draw", type=int, default=0)
    parser.add_argument("--seed", type=int, default=2026)
    arguments = parser.parse_args()
    if arguments.draw:
        draw(arguments.data / FILE, arguments.draw, arguments.seed)
        return
    if arguments.built:
        built(arguments.built, arguments.truth)
        return
    if (arguments.data / FILE).is_file():
        labelled(arguments.data / FILE)
    else:
        print(f"{FILE}: not in {arguments.data}, skipped")
    scenes(arguments.scenes)


if __name__ == "__main__":
    main()
