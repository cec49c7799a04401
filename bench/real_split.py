"""Divide the real pairs of a data folder, by scene, into a tuning and a held-out half: bench/real_split.json.

    python bench/real_split.py DATA

Run once; the list of ids is committed and does not change. What is changed in the scenes or the model is judged on the
tuning half; the held-out half is scored once a release. Crops of one LEVIR image stay together: LEVIR-CC ids say which
image they are of, and unnamed crops are taken in runs of ten, which keeps neighbours in one half.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path

OUT = Path(__file__).with_suffix(".json")
CAPTIONED = ("levir_cc/images", "captioned_crops")
MASKED = ("levir_cd/test", "dsifn", "egy_bcd", "sztaki", "xbd_mexico")


def scene(folder: str, name: str) -> str:
    """The place that a file shows, as far as its name tells."""
    if found := re.fullmatch(r"(train|val|test)_(\d{6})\.png", name):
        return f"levir {found[1]} {(int(found[2]) - 1) // 16 + 1}"
    if found := re.fullmatch(r"panel_(\d+)\.png", name):
        return f"{folder} {int(found[1]) // 10}"
    return f"{folder} {name.removesuffix('.png')}"


def halves(data: Path, folders: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """The largest scene first, each to the half that has fewer pairs; scenes of one size in the order of their hash."""
    scenes: dict[str, list[str]] = {}
    for folder in folders:
        for path in sorted((data / folder).glob("**/A/*.png")):
            scenes.setdefault(scene(folder, path.name), []).append(path.relative_to(data).as_posix())
    parts: tuple[list[str], list[str]] = ([], [])
    for name in sorted(scenes, key=lambda name: (-len(scenes[name]), hashlib.sha256(name.encode()).digest())):
        min(parts, key=len).extend(scenes[name])
    return parts


def main() -> None:
    """Write the list."""
    data = Path(sys.argv[1])
    captioned, masked = halves(data, CAPTIONED), halves(data, MASKED)
    found = {name: sorted(captioned[i] + masked[i]) for i, name in enumerate(("tuning", "held_out"))}
    OUT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print({name: len(ids) for name, ids in found.items()})


if __name__ == "__main__":
    main()
