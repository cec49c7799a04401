"""Records on disk, as samples for the packing collator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from torch.utils.data import Dataset

from rsiccllm.errors import InputError
from rsiccllm.facts import parse
from rsiccllm.files import inside, read_jsonl
from rsiccllm.pairs import open_pair, probe_image
from rsiccllm.records import Instruction, Preference
from rsiccllm.training.packing import PackingCollator, Sample

Record = TypeVar("Record", Instruction, Preference)


class PairDataset(Dataset):
    """Instructions or preferences under one data root; images are opened when a sample is asked for."""

    def __init__(self, root: Path, records: Sequence[Instruction] | Sequence[Preference],
                 answers: Callable[[Instruction | Preference], list[str]]) -> None:  # fmt: skip
        self.root = root
        self.records = records
        self.answers = answers

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        record = self.records[index]
        mask = inside(self.root, record.mask) if record.mask else None
        pair = open_pair(inside(self.root, record.before), inside(self.root, record.after), mask)
        answers = self.answers(record)
        history = [(turn.question, turn.answer) for turn in record.history] if isinstance(record, Instruction) else []
        return Sample(
            record.id, [pair.before, pair.after], record.prompt, answers, pair.mask, stated_facts(record), history
        )


def stated_facts(record: Instruction | Preference) -> list[tuple[str, str]] | None:
    """The (object, direction) of every change: as recorded, else as its right answers say; None where they say none.

    What the rules wrote says no more than was recorded: "a building has changed" tells no direction.
    """
    if isinstance(record, Instruction) and record.facts is not None:
        return [(fact.object, fact.direction) for fact in record.facts]
    if isinstance(record, Instruction) and record.teacher == "rules":
        return None
    texts = record.answers if isinstance(record, Instruction) else record.references
    parsed = [parse(text) for text in texts]
    facts: list[tuple[str, str]] = [(fact.object, fact.direction) for item in parsed for fact in item.facts]
    return facts if facts or any(item.changed is False for item in parsed) else None


def load_records(root: Path, filename: str, record: type[Record], split: str) -> list[Record]:
    """Records of one split, with every image file found and every id seen once. Raises InputError otherwise."""
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; expected one that `rsiccllm rsici build` or `rsicp build` wrote")
    every = read_jsonl(root / filename, record)
    records = [item for item in every if item.split == split]
    if not records:
        splits = ", ".join(sorted({item.split for item in every})) or "none"
        raise InputError(f"{root / filename}: no record of split '{split}' (there: {splits})")
    seen: set[str] = set()
    for item in records:
        if item.id in seen:
            raise InputError(f"{root / filename}: id '{item.id}' stands twice")
        seen.add(item.id)
        if probe_image(inside(root, item.before)) != probe_image(inside(root, item.after)):
            raise InputError(f"{root / item.before} and {root / item.after}: sizes differ")
    return records


def check_lengths(dataset: PairDataset, collator: PackingCollator) -> int:
    """Pack the row with the most answer text and return its tokens: too long is told before training starts."""
    longest = max(range(len(dataset)), key=lambda i: sum(len(a) for a in dataset.answers(dataset.records[i])))
    return int(collator([dataset[longest]])["input_ids"].shape[1])
