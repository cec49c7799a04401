"""Records on disk, as samples for the packing collator."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from torch.utils.data import Dataset

from rsiccllm.errors import InputError
from rsiccllm.facts import parse
from rsiccllm.files import check_sums, inside, read_jsonl, shards
from rsiccllm.masks import decode
from rsiccllm.pairs import open_classes, open_pair, probe_image
from rsiccllm.records import INSTRUCTIONS, PREFERENCES, Instruction, Preference
from rsiccllm.training.packing import PackingCollator, Sample
from rsiccllm.training.recipe import Recipe

Record = TypeVar("Record", Instruction, Preference)
Pairs = TypeVar("Pairs", bound="PairDataset")


class PairDataset(Dataset):
    """Instructions or preferences under one data root, or more laid end to end by `add`; images are opened when a
    sample is asked for.

    sizes: records of each root. weights: how often each is drawn from, against the others.
    """

    def __init__(self, root: Path, records: Sequence[Instruction] | Sequence[Preference],
                 answers: Callable[[Instruction | Preference], list[str]]) -> None:  # fmt: skip
        self.records: list[Instruction | Preference] = list(records)
        self.roots = [root] * len(records)
        self.sizes = [len(records)]
        self.weights = [1.0]
        self.answers = answers

    def add(self, root: Path, records: Sequence[Instruction] | Sequence[Preference]) -> None:
        """Lay another root's records after these."""
        self.records += records
        self.roots += [root] * len(records)
        self.sizes.append(len(records))
        self.weights.append(1.0)

    @property
    def seen(self) -> frozenset[str]:
        """The sets and splits of the records, as "set/split"; a checkpoint keeps what its training saw."""
        return frozenset(f"{record.source}/{record.split}" for record in self.records)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        record, root = self.records[index], self.roots[index]
        mask = inside(root, record.mask) if record.mask else None
        pair = open_pair(inside(root, record.before), inside(root, record.after), mask)
        objects = decode(open_classes(mask)) if mask is not None and record.coded_mask else None
        answers = self.answers(record)
        history = [(turn.question, turn.answer) for turn in record.history] if isinstance(record, Instruction) else []
        return Sample(
            record.id,
            [pair.before, pair.after],
            record.prompt,
            answers,
            pair.mask,
            stated_facts(record),
            history,
            objects=objects,
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
    """Records of one split, with every image and mask found, of one size in a pair.

    Raises InputError otherwise.
    """
    if not shards(root / filename)[0].is_file():
        writer = {INSTRUCTIONS: "rsici build", PREFERENCES: "rsicp build"}[filename]
        found = f"no {filename} in it" if root.is_dir() else "no such folder"
        raise InputError(f"{root}: {found}; expected a folder that `rsiccllm {writer}` wrote")
    every = read_jsonl(root / filename, record)
    check_sums(root, shards(root / filename))
    records = [item for item in every if item.split == split]
    if not records:
        splits = ", ".join(sorted({item.split for item in every})) or "none"
        raise InputError(f"{root / filename}: no record of split '{split}' (there: {splits})")
    for item in records:
        size = probe_image(inside(root, item.before))
        for other in (item.after, item.mask):
            if other is not None and (found_size := probe_image(inside(root, other))) != size:
                wrong, right = ("x".join(map(str, sides)) for sides in (found_size, size))
                raise InputError(f"{root / other}: {wrong} pixels, but {item.before} has {right}; expected equal sizes")
    return records


def fill_dataset(
    dataset: type[Pairs],
    recipe: Recipe,
    filename: str,
    record: type[Record],
    answers: Callable[[Instruction | Preference], list[str]],
    keep: Callable[[list[Record]], list[Record]] = list,
) -> Pairs:
    """The rows that a recipe trains on, from all its folders. keep: which records of a folder.

    Raises InputError as `load_records` does.
    """
    folders = [(root, keep(load_records(root, filename, record, recipe.split))) for root in recipe.weights]
    found = dataset(*folders[0], answers)
    for root, records in folders[1:]:
        found.add(root, records)
    found.weights = list(recipe.weights.values())
    return found


def row_lengths(dataset: PairDataset, collator: PackingCollator, indices: Iterable[int]) -> list[tuple[int, int, int]]:
    """(image tokens, other tokens of the prompt, tokens of all answers) of rows, about; no pixel is decoded for it.

    What the chat template adds is not counted: the rows are compared with one another, and its part is small.
    """
    patches = collator.processor.image_processor.get_number_of_image_patches
    merged = collator.processor.image_processor.merge_size**2

    def count(texts: Iterable[str]) -> int:
        return sum(len(collator.processor.encode_answer(text)) for text in texts)

    lengths = []
    for index in indices:
        record = dataset.records[index]
        width, height = probe_image(inside(dataset.roots[index], record.before))
        history = record.history if isinstance(record, Instruction) else []
        asked = [record.prompt, *(text for turn in history for text in (turn.question, turn.answer))]
        lengths.append((2 * patches(height, width) // merged, count(asked), count(dataset.answers(record))))
    return lengths


def check_lengths(dataset: PairDataset, collator: PackingCollator) -> int:
    """Pack the longest row and return its tokens. InputError tells one that is too long before training starts."""
    lengths = row_lengths(dataset, collator, range(len(dataset)))
    longest = max(range(len(dataset)), key=lambda index: sum(lengths[index]))
    return int(collator([dataset[longest]])["input_ids"].shape[1])
