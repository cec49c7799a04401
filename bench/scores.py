"""Time of the word-level scores beside pycocoevalcap's own, on as many pairs as LEVIR-CC's test split has.

    python bench/scores.py [--annotations LevirCCcaptions.json] [--meteor]

With --annotations: LEVIR-CC captions, repeated to 1,929 pairs of 5 references; without: random words.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from itertools import cycle, islice
from pathlib import Path

PAIRS = 1929


def captions(annotations: Path | None) -> tuple[dict[str, list[str]], dict[str, bool]]:
    if annotations:
        images = [image for image in json.loads(annotations.read_text())["images"] if image["split"] != "train"]
        found = [([s["raw"] for s in image["sentences"]], image["changeflag"] == 1) for image in images]
    else:
        rng = random.Random(0)
        words = [f"word{number}" for number in range(300)]
        found = [([" ".join(rng.choices(words, k=11)) for _ in range(5)], bool(i % 2)) for i in range(PAIRS)]
    chosen = list(islice(cycle(found), PAIRS))
    references = {str(i): texts for i, (texts, _) in enumerate(chosen)}
    return references, {str(i): flag for i, (_, flag) in enumerate(chosen)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--annotations", type=Path)
    parser.add_argument("--meteor", action="store_true", help="time METEOR too (needs Java)")
    arguments = parser.parse_args()

    start = time.perf_counter()
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    from rsiccllm.benchmark.scores import score
    from rsiccllm.benchmark.tokenise import tokenise

    print(f"{'imports':44} {time.perf_counter() - start:6.2f} s")
    references, changed = captions(arguments.annotations)
    predictions = {name: texts[0] for name, texts in references.items()}
    others = {name: texts[1:] + texts[:1] for name, texts in references.items()}

    def cut(text: str) -> str:
        return " ".join(tokenise(text))

    theirs = {name: [cut(text) for text in texts] for name, texts in others.items()}
    ours = {name: [cut(text)] for name, text in predictions.items()}
    start = time.perf_counter()
    Bleu(4).compute_score(theirs, ours, verbose=0)
    Rouge().compute_score(theirs, ours)
    Cider().compute_score(theirs, ours)
    print(f"{'pycocoevalcap, all pairs, tokens given':44} {time.perf_counter() - start:6.2f} s")

    for name, flags, meteor in (
        ("rsiccllm, all pairs", None, False),
        ("rsiccllm, all pairs and changed only", changed, False),
        ("rsiccllm, the same with METEOR", changed, True),
    ):
        if not meteor or arguments.meteor:
            start = time.perf_counter()
            found = score(predictions, others, flags, meteor=meteor)
            print(f"{name:44} {time.perf_counter() - start:6.2f} s")
    start = time.perf_counter()
    found.segments.intervals(draws=1000)
    print(f"{'bootstrap, 1,000 draws':44} {time.perf_counter() - start:6.2f} s")


if __name__ == "__main__":
    main()
