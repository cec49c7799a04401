"""Records on disk, as samples for the packing collator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from torch.utils.data import Dataset

from rsiccllm.errors import InputError
from rsiccllm.facts import parse
from rsiccllm.files import check_sums, inside, read_jsonl, shards
from rsiccllm.masks import decode
from rsiccllm.pairs import ImageFile, open_classes, open_pair, probe_image
from rsiccllm.records import INSTRUCTIONS, PREFERENCES, Instruction, Preference
from rsiccllm.training.packing import PackingCollator, Sample
from rsiccllm.training.recipe import Recipe
from rsiccllm.training.shards import Index, holds_shards

Record = TypeVar("Record", Instruction, Preference)
Pairs = TypeVar("Pairs", bound="PairDataset")


Answers = Callable[[Instruction | Preference], list[str]]
"""Which answers of a record are trained on; with preferences the first is the chosen one."""


class Rows(Dataset, ABC):
    """What is trained on: records with their images, which are opened when a sample is asked for.

    answers: which of a record's. sizes: rows of each folder that they are from. weights: how often each is drawn from,
    against the others. index: of shards, by which their rows are ordered; None for folders.
    """

    index: Index | None = None

    def __init__(self, answers: Answers, size: int) -> None:
        self.answers = answers
        self.sizes = [size]
        self.weights = [1.0]

    @property
    @abstractmethod
    def seen(self) -> frozenset[str]:
        """The sets and splits of the records, as "set/split"; a checkpoint keeps what its training saw."""

    @property
    @abstractmethod
    def longest(self) -> Sequence[int]:
        """Rows among which the one with most tokens is."""

    @abstractmethod
    def drawn(self, count: int) -> Sequence[int]:
        """About `count` rows that stand for all."""

    @abstractmethod
    def files(self, index: int) -> tuple[Instruction | Preference, list[ImageFile]]:
        """The record of a row, and its images: before, after and, where there is one, the mask."""

    def __len__(self) -> int:
        return sum(self.sizes)

    def __getitem__(self, index: int) -> Sample:
        return sample_of(*self.files(index), self.answers)


class PairDataset(Rows):
    """Instructions or preferences under one data root, or more laid end to end by `add`."""

    def __init__(self, root: Path, records: Sequence[Instruction] | Sequence[Preference], answers: Answers) -> None:
        super().__init__(answers, len(records))
        self.records: list[Instruction | Preference] = list(records)
        self.roots = [root] * len(records)

    def add(self, root: Path, records: Sequence[Instruction] | Sequence[Preference]) -> None:
        """Lay another root's records after these."""
        self.records += records
        self.roots += [root] * len(records)
        self.sizes.append(len(records))
        self.weights.append(1.0)

    @property
    def seen(self) -> frozenset[str]:
        """As in Rows."""
        return frozenset(f"{record.source}/{record.split}" for record in self.records)

    @property
    def longest(self) -> Sequence[int]:
        """All rows."""
        return range(len(self))

    def drawn(self, count: int) -> Sequence[int]:
        """As in Rows, evenly."""
        return range(0, len(self), max(1, len(self) // count))

    def files(self, index: int) -> tuple[Instruction | Preference, list[ImageFile]]:
        """As in Rows."""
        record, root = self.records[index], self.roots[index]
        return record, [inside(root, path) for path in (record.before, record.after, record.mask) if path is not None]


def sample_of(record: Instruction | Preference, files: Sequence[ImageFile], answers: Answers) -> Sample:
    """A record with its images opened. files: before, after and, where there is one, the mask."""
    before, after, mask = (*files, None)[:3]
    assert before is not None
    assert after is not None
    pair = open_pair(before, after, mask)
    objects = decode(open_classes(mask)) if mask is not None and record.coded_mask else None
    chosen, kinds, history, task = answers(record), [], [], "caption"
    if isinstance(record, Instruction):
        history = [(turn.question, turn.answer) for turn in record.history]
        task = record.task
    else:
        kinds = [rejected.kind.split(":")[0] for rejected in record.rejected[: len(chosen) - 1]]
    return Sample(
        record.id,
        [pair.before, pair.after],
        record.prompt,
        chosen,
        pair.mask,
        stated_facts(record),
        history,
        kinds,
        objects,
        task=task,
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


def same_size(first: ImageFile, *others: ImageFile) -> tuple[int, int]:
    """(width, height) of an image, from its header. Raises InputError where it or one of the others is none, or where
    they differ."""
    size = probe_image(first)
    for other in others:
        if (found := probe_image(other)) != size:
            wrong, right = ("x".join(map(str, sides)) for sides in (found, size))
            raise InputError(f"{other}: {wrong} pixels, but {first} has {right}; expected equal sizes")
    return size


def load_records(root: Path, filename: str, record: type[Record], split: str, images: bool = True) -> list[Record]:
    """Records of one split, with every image and mask found, of one size in a pair. images: false leaves these unseen.

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
    if images:
        for item in records:
            same_size(*(inside(root, path) for path in (item.before, item.after, item.mask) if path is not None))
    return records


def fill_dataset(
    dataset: type[Pairs],
    recipe: Recipe,
    filename: str,
    record: type[Record],
    answers: Answers,
    keep: Callable[[list[Record]], list[Record]] = list,
) -> Pairs:
    """The rows that a recipe trains on, from all its folders. keep: which records of a folder.

    Raises InputError as `load_records` does, and where one of the folders is one of shards.
    """
    for place in recipe.weights:
        if holds_shards(place):
            raise InputError(f"data: {place} holds shards, which are neither mixed nor trained on by this stage")
    folders = [(Path(root), keep(load_records(Path(root), filename, record, recipe.split))) for root in recipe.weights]
    found = dataset(*folders[0], answers)
    for root, records in folders[1:]:
        found.add(root, records)
    found.weights = list(recipe.weights.values())
    return found


def row_lengths(dataset: Rows, collator: PackingCollator, indices: Iterable[int]) -> list[tuple[int, int, int]]:
    """(image tokens, other tokens of the prompt, tokens of all answers) of rows, about; no pixel is decoded for it.

    What the chat template adds is not counted: the rows are compared with one another, and its part is small.
    """
    patches = collator.processor.image_processor.get_number_of_image_patches
    merged = collator.processor.image_processor.merge_size**2

    def count(texts: Iterable[str]) -> int:
        return sum(len(collator.processor.encode_answer(text)) for text in texts)

    lengths = []
    for index in indices:
        record, files = dataset.files(index)
        width, height = probe_image(files[0])
        history = record.history if isinstance(record, Instruction) else []
        asked = [record.prompt, *(text for turn in history for text in (turn.question, turn.answer))]
        lengths.append((2 * patches(height, width) // merged, count(asked), count(dataset.answers(record))))
    return lengths


def check_lengths(dataset: Rows, collator: PackingCollator, further: int = 0) -> int:
    """Pack the longest row and return its tokens. InputError tells one that is too long before training starts.

    further: tokens that a row may yet come to hold, of an answer that is drawn in training.
    """
    rows = dataset.longest
    lengths = row_lengths(dataset, collator, rows)
    longest = max(range(len(rows)), key=lambda at: sum(lengths[at]))
    tokens = int(collator([dataset[rows[longest]]])["input_ids"].shape[1])
    if tokens + further > collator.max_tokens:
        raise InputError(
            f"max_tokens: {collator.max_tokens}; the longest row has {tokens} tokens, and an answer that is drawn "
            f"takes up to {further} more (max_new_tokens)"
        )
    return tokens
