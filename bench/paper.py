"""Run every table of recipes/paper/ on rendered scenes with the tiny model, and print how long each takes.

    python bench/paper.py [OUT]

It shows that each command is whole. The numbers in the tables mean nothing at this size.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from rsiccllm.benchmark.paper import run_paper


def main(out: Path) -> None:
    """Run all; the last line of each is what CI or a reader looks for."""
    for path in sorted((Path(__file__).parent.parent / "recipes" / "paper").glob("*.yaml")):
        start = time.monotonic()
        found = run_paper(path, out / path.stem, small=True)
        rows = len(found.speed) if found.result is None else sum(not row.baseline for row in found.result.rows)
        print(f"{path.stem}: {rows} rows in {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp()))
