"""How many negatives are in truth correct: on LEVIR-CC train captions labelled by hand, and on rendered scenes exactly.

    python bench/false_negatives.py [--data DIR] [--scenes N]
    python bench/false_negatives.py --draw 200          what the label file was made from; prints what to label

false_negatives.txt beside this file holds no text: each line is a sentence of LevirCCcaptions (by `sentid`), the tokens
of it that give way, and the tokens of another sentence that stand there instead; then a label, given by reading the five
captions of the pair before the check by facts was first run on these lines:

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
    groups["direction"] = {w: "done" for w in ("built", "constructed", "planted", "removed", "demolished", "replaced")}
    groups["direction"] |= {w: "does" for w in ("appear", "disappear")} | {w: "do" for w in ("appears", "disappears")}
    groups["quantity"] = {w: "many" for w in ("two", "three", "several", "many", "some")}
    groups["place"] = {w: "side" for w in ("left", "right", "top", "bottom", "upper", "lower", "middle", "center")}
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RSICCLLM_SHARED_DATA", "../shared/data")))
    parser.add_argument("--scenes", type=int, default=300)
    parser.add_argument("--draw", type=int, default=0)
    parser.add_argument("--seed", type=int, default=2026)
    arguments = parser.parse_args()
    if arguments.draw:
        draw(arguments.data / FILE, arguments.draw, arguments.seed)
        return


if __name__ == "__main__":
    main()
