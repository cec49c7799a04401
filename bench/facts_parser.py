"""How much of real captions the facts parser reads, how well people agree in its words, and how fast it is.

    python bench/facts_parser.py [--data DIR] [--scenes N] [--labels FILE] [--show]

DIR holds levir_cc_captions_train_val.json and sysu_cd_test_captions.json (RSICCLLM_SHARED_DATA, else ../shared/data).
A file that is absent is skipped with a line that says so. --scenes N also compares with N rendered scenes' own facts.
--labels FILE compares with facts labelled by hand (facts_labels.txt says how); --show prints sentences that differ.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

from rsiccllm.facts import Parsed, parse


def share(part: int, whole: int) -> str:
    return f"{part:6d} of {whole:6d}  {100 * part / max(whole, 1):6.2f} %"


OPEN = "only that it changed "


def named(parsed: Parsed) -> bool:
    """Whether an object and its change were read, even where neither way is said ("change of vegetation occurred")."""
    return bool(parsed.facts) or bool(parsed.changed and parsed.objects)


def levir_cc(path: Path) -> None:
    images: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["images"]
    captions = [(image["changeflag"], sentence["raw"]) for image in images for sentence in image["sentences"]]
    begin = time.perf_counter()
    parsed = [parse(caption) for _, caption in captions]
    seconds = time.perf_counter() - begin
    changed = [p for (flag, _), p in zip(captions, parsed, strict=True) if flag]
    same = [p for (flag, _), p in zip(captions, parsed, strict=True) if not flag]
    print(f"{path.name}: {len(captions)} captions, {len(captions) / seconds:,.0f} captions/s on one core")
    begin = time.perf_counter()
    for flag, caption in captions:
        if flag:
            parse(caption)
    print(f"  changed-pair captions alone: {len(changed) / (time.perf_counter() - begin):,.0f} captions/s")
    print(f"  changed pairs, object and verb read {share(sum(bool(p.facts) for p in changed), len(changed))}")
    print(f"  the same, or {OPEN} {share(sum(named(p) for p in changed), len(changed))}")
    print(f"  changed pairs, read as no change   {share(sum(p.changed is False for p in changed), len(changed))}")
    print(f"  changed pairs, nothing read        {share(sum(p.changed is None for p in changed), len(changed))}")
    print(f"  unchanged pairs, read as no change {share(sum(p.changed is False for p in same), len(same))}")
    agreement(images, parsed)


def agreement(images: list[dict[str, Any]], parsed: list[Parsed]) -> None:
    """Of the (object, direction) pairs of one person, the share that another person of the five names too."""
    at, hit, total, words_hit, words_total = 0, 0, 0, 0, 0
    for image in images:
        own = parsed[at : at + len(image["sentences"])]
        at += len(image["sentences"])
        if not image["changeflag"]:
            continue
        sets = [{(fact.object, fact.direction) for fact in p.facts} for p in own]
        for i, mine in enumerate(sets):
            others = set().union(*(s for j, s in enumerate(sets) if j != i))
            hit, total = hit + len(mine & others), total + len(mine)
        raw = [set(sentence["raw"].split()) for sentence in image["sentences"]]
        for a, b in combinations(raw, 2):
            words_hit, words_total = words_hit + len(a & b), words_total + len(a | b)
    print(f"  (object, direction) of one person named by another of the five {share(hit, total)}")
    print(f"  for comparison, words two people share (Jaccard) {100 * words_hit / words_total:.2f} %")


def sysu_cd(path: Path) -> None:
    images: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["images"]
    captions = [caption for image in images for caption in image["captions"]]
    parsed = [parse(caption) for caption in captions]
    vague = [c.strip().lower().startswith("change of vegetation occurred.") for c in captions]
    print(f"{path.name}: {len(captions)} captions, all of changed pairs")
    print(f"  object and verb read               {share(sum(bool(p.facts) for p in parsed), len(parsed))}")
    print(f"  the same, or {OPEN} {share(sum(named(p) for p in parsed), len(parsed))}")
    print(f"  say only that vegetation changed   {share(sum(vague), len(parsed))}")
    print(f"  read as no change                  {share(sum(p.changed is False for p in parsed), len(parsed))}")


def labelled(path: Path, data: Path, show: bool) -> None:
    """Agreement with facts that a person read from the same sentences, as precision, recall and F1 a field."""
    texts: dict[str, str] = {}
    for name in FILES:
        for image in json.loads((data / name).read_text(encoding="utf-8"))["images"]:
            said = image.get("captions") or [sentence["raw"] for sentence in image["sentences"]]
            stem = image.get("filename") or image["file_name"]
            texts |= {f"{stem}#{number}": text for number, text in enumerate(said)}
    counts: dict[str, Counter[str]] = {field: Counter() for field in FIELDS}
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    alike = 0
    for line in lines:
        key, _, rest = line.partition(":")
        wanted = [part.split() for part in rest.split(";") if part.strip()]
        directions = {"+": "appear", "-": "disappear"}
        truth = [(o, directions[d], v, None if q == "." else q, None if p == "." else p) for o, d, v, q, p in wanted]
        parsed = parse(texts[key])
        # A fact keeps the place in the image; a road beside it, and a place said too, stand in `places`.
        said = [(f.object, f.direction, f.verb, f.quantity, f.place) for f in parsed.facts]
        for field, (a, b) in FIELDS.items():
            left, right = ({(*fact[:a], fact[b]) for fact in facts if fact[b] is not None} for facts in (truth, said))
            counts[field]["both"] += len(left & right)
            counts[field]["labelled"] += len(left)
            counts[field]["read"] += len(right)
        alike += set(truth) == set(said)
        if show and set(truth) != set(said):
            for name, facts in ((texts[key], []), ("  labelled", truth), ("  read    ", said)):
                print("   ", name, *sorted(map(str, facts)))
    print(f"{path.name}: {len(lines)} sentences, every fact alike in every field in {alike}")
    for field, count in counts.items():
        precision, recall = (count["both"] / max(1, count[name]) for name in ("read", "labelled"))
        f1 = 2 * count["both"] / max(1, count["read"] + count["labelled"])
        print(
            f"  {field:9} F1 {f1:.3f}  precision {precision:.3f}  recall {recall:.3f}  ({count['labelled']} labelled)"
        )


FIELDS = {"object": (0, 0), "direction": (1, 1), "verb": (2, 2), "quantity": (2, 3), "place": (2, 4)}
"""A field is compared together with the fields before `a` that say which thing it is of: a verb with its object and
direction. Index of the field: `b`."""
FILES = ("levir_cc_captions_train_val.json", "sysu_cd_test_captions.json")


def scenes(count: int) -> None:
    """Compare what is read with what was planted: every caption may leave a fact out, none may add one."""
    from rsiccllm.sources.scenes import render_scene

    flags = lines = wanted = 0
    differs: dict[str, Counter[str]] = {"missed in all captions": Counter(), "missed in the description": Counter()}
    differs["read and not planted"] = Counter()
    fields = Counter[str]()
    for index in range(count):
        scene = render_scene(11, index, 128, False)
        truth = {(fact.object, fact.direction): fact for fact in scene.facts}
        texts = [*scene.captions, scene.description]
        read = [parse(text) for text in texts]
        lines, wanted = lines + len(read), wanted + len(truth)
        flags += sum(p.changed is bool(truth) for p in read)
        pairs = [{(fact.object, fact.direction) for fact in p.facts} for p in read]
        for pair in truth.keys() - set().union(*pairs[:-1]):
            differs["missed in all captions"][f"{pair}: {' / '.join(scene.captions)}"] += 1
        for pair in truth.keys() - pairs[-1]:
            differs["missed in the description"][f"{pair}: {scene.description}"] += 1
        for text, found in zip(texts, pairs, strict=True):
            for pair in found - truth.keys():
                differs["read and not planted"][f"{pair}: {text}"] += 1
        for field in ("verb", "quantity", "place"):
            for pair, fact in truth.items():
                value = getattr(fact, field)
                said = {getattr(f, field) for p in read for f in p.facts if (f.object, f.direction) == pair} - {None}
                if value is not None:
                    fields[f"{field} planted"] += 1
                    fields[f"{field} read"] += value in said
    print(f"scenes: {count} rendered, {wanted} planted (object, direction); change flag right {share(flags, lines)}")
    for title, counter in differs.items():
        print(f"  {title}: {sum(counter.values())}")
        for line, number in counter.most_common(5):
            print(f"    {number} x {line}")
    for field in ("verb", "quantity", "place"):
        print(f"  {field:9} planted is among those read {share(fields[field + ' read'], fields[field + ' planted'])}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("RSICCLLM_SHARED_DATA", default)))
    parser.add_argument("--scenes", type=int, default=0, help="rendered scenes to compare with (0: none)")
    parser.add_argument("--labels", type=Path, help="compare with facts labelled by hand, and do nothing else")
    parser.add_argument("--show", action="store_true", help="with --labels: print every sentence that differs")
    given = parser.parse_args()
    if given.labels:
        labelled(given.labels, given.data, given.show)
        return
    parse("a house is built")  # the word list is read once, before the clock starts
    for name, measure in zip(FILES, (levir_cc, sysu_cd), strict=True):
        if (given.data / name).is_file():
            measure(given.data / name)
        else:
            print(f"{name}: not in {given.data}, skipped")
    if given.scenes:
        scenes(given.scenes)


if __name__ == "__main__":
    main()
