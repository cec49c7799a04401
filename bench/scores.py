"""Time of the scores from the start of a process, beside pycocoevalcap's own, on as many pairs as LEVIR-CC's test has.

    python bench/scores.py [--annotations LevirCCcaptions.json] [--meteor]

With --annotations: 1,929 pairs of LEVIR-CC's captions, evenly spaced (every pair five references, the second person's
sentence as the output); without: random words. Every line is a process of its own, timed from outside.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path

PAIRS = 1929
LIMITS = {"ours": 4.0, "ours-meteor": 15.0, "bootstrap": 20.0}
WHAT = {
    "peer": "pycocoevalcap: BLEU, ROUGE-L, CIDEr-D",
    "ours": "rsiccllm: all words' scores, all pairs and changed only",
    "peer-meteor": "pycocoevalcap: the same with METEOR",
    "ours-meteor": "rsiccllm: the same with METEOR",
    "facts": "rsiccllm: change flag and facts",
    "bootstrap": "rsiccllm: 1,000 draws of every score (draws alone)",
}


def captions(annotations: Path | None) -> tuple[dict[str, list[str]], dict[str, bool]]:
    if annotations:
        images = json.loads(annotations.read_text())["images"]
        images = [images[number * len(images) // PAIRS] for number in range(PAIRS)]
        found = [([s["raw"] for s in image["sentences"]], image["changeflag"] == 1) for image in images]
    else:
        rng = random.Random(0)
        words = [f"word{number}" for number in range(300)]
        found = [([" ".join(rng.choices(words, k=11)) for _ in range(5)], bool(i % 2)) for i in range(PAIRS)]
    references = {str(i): texts for i, (texts, _) in enumerate(found)}
    return references, {str(i): flag for i, (_, flag) in enumerate(found)}


def peer(references: dict[str, list[str]], predictions: dict[str, str], meteor: bool) -> None:
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge

    from rsiccllm.benchmark.tokenise import tokenise

    def cut(text: str) -> str:
        return " ".join(tokenise(text))

    theirs = {name: [cut(text) for text in texts] for name, texts in references.items()}
    ours = {name: [cut(text)] for name, text in predictions.items()}
    Bleu(4).compute_score(theirs, ours, verbose=0)
    Rouge().compute_score(theirs, ours)
    Cider().compute_score(theirs, ours)
    if meteor:
        Meteor().compute_score(theirs, ours)


def measure(what: str, annotations: Path | None) -> None:
    references, changed = captions(annotations)
    predictions = {name: texts[1] for name, texts in references.items()}
    if what.startswith("peer"):
        peer(references, predictions, what.endswith("meteor"))
        return
    from rsiccllm.benchmark.fact_scores import fact_scores
    from rsiccllm.benchmark.scores import score

    if what == "facts":
        fact_scores(predictions, references, changed)
        return
    found = score(predictions, references, changed, meteor=what == "ours-meteor", sbs=False)
    if what != "bootstrap":
        return
    facts = fact_scores(predictions, references, changed)
    start = time.perf_counter()
    count = len(found.segments.interval_95)
    count += len(found.changed_segments.interval_95) if found.changed_segments else 0
    count += len(facts.flag.interval_95)
    count += sum(len(kind.intervals) for kind in (*facts.references.values(), *facts.consensus.values()))
    print(f"{time.perf_counter() - start:.2f} {count}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", type=Path)
    parser.add_argument("--meteor", action="store_true", help="time METEOR too (needs Java)")
    parser.add_argument("--measure", choices=WHAT, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure, arguments.annotations)
        return
    where = ["--annotations", str(arguments.annotations)] if arguments.annotations else []
    print(f"{PAIRS} pairs, 5 references each; seconds from process start")
    for name, title in WHAT.items():
        if name.endswith("meteor") and not arguments.meteor:
            continue
        start = time.perf_counter()
        command = [sys.executable, __file__, "--measure", name, *where]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds = time.perf_counter() - start
        if name == "bootstrap":
            given, count = done.stdout.split()
            seconds, title = float(given), f"{title[:-1]}, {count} intervals)"
        limit = f"  (limit {LIMITS[name]:.0f} s)" if name in LIMITS else ""
        print(f"{title:76} {seconds:6.2f} s{limit}", flush=True)


if __name__ == "__main__":
    main()
