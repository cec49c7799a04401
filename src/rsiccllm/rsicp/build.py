"""Building RSICP: for each pair of an RSICI folder, a right answer and several wrong ones."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from rsiccllm.errors import InputError
from rsiccllm.files import inside, link_or_copy, read_json, read_jsonl, write_json, write_jsonl
from rsiccllm.progress import track
from rsiccllm.records import INSTRUCTIONS, PREFERENCES, Instruction, Preference
from rsiccllm.rsicp.replace import replacements


def build_rsicp(
    data: Path,
    out: Path,
    negatives: int = 3,
    variant: Literal["paper", "ours"] = "ours",
    split: str = "train",
    seed: int = 0,
    task: str = "caption",
) -> dict[str, int]:
    """Write `out/preferences.jsonl` with up to `negatives` replacement negatives for one reference of each pair.

    data: a folder that `rsici build` wrote. variant: "paper" swaps key words only; "ours" adds "no change" on changed
    pairs and an invented change on unchanged ones. task: "caption", or "describe" for the long texts. Deterministic in
    `seed`.
    Returns counts: preferences, rejected, and pairs without any negative. Raises InputError where nothing comes out.
    """
    wanted = {"data": data.name, "negatives": negatives, "variant": variant, "split": split, "seed": seed}
    if task != "caption":
        wanted["task"] = task
    note = out / "build.json"
    if note.exists() and read_json(note) != wanted:
        raise InputError(f"{out}: was built with {read_json(note)}, now asked for {wanted}; choose another --out")
    every = read_jsonl(data / INSTRUCTIONS, Instruction)
    records = [item for item in every if item.split == split and item.task == task]
    if not records:
        raise InputError(f"{data / INSTRUCTIONS}: no {task} task of split '{split}'")
    preferences: list[Preference] = []
    without = 0
    for number, record in enumerate(track(records, "negatives", len(records))):
        chosen = record.answers[(number + seed) % len(record.answers)]
        others = [answer for answer in record.answers if answer != chosen]
        rejected = replacements([chosen, *others], negatives, seed=seed * 1_000_003 + number, variant=variant)
        if not rejected:
            without += 1
            continue
        for path in (record.before, record.after, record.mask):
            if path:
                link_or_copy(inside(data, path), out / path)
        preferences.append(
            Preference(
                id=record.id,
                pair=record.pair,
                split=record.split,
                source=record.source,
                before=record.before,
                after=record.after,
                mask=record.mask,
                prompt=record.prompt,
                chosen=chosen,
                rejected=rejected,
                references=record.answers,
            )
        )
    if not preferences:
        raise InputError(f"{data}: no negative could be made for any of the {len(records)} pairs")
    write_json(note, wanted)
    write_jsonl(out / PREFERENCES, preferences)
    return {
        "preferences": len(preferences),
        "rejected": sum(len(item.rejected) for item in preferences),
        "without": without,
    }
