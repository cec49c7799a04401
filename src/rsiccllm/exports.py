"""Folders that other training tools read: the images, one list of samples a split, and a page that says how to use it.

What a sample is, each kind of record says for itself (rsici/export.py, rsicp/export.py). Images are linked, or copied
where the file system has no links, and paths are relative to the folder.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from rsiccllm.errors import InputError
from rsiccllm.files import atomic_write, inside, link_or_copy, write_json, write_jsonl
from rsiccllm.progress import track
from rsiccllm.records import Instruction, Preference

PLACEHOLDERS = ("<image>", "<video>", "<audio>")
"""Words that LLaMA-Factory, ms-swift and Qwen's scripts replace by media wherever they stand."""

Record = TypeVar("Record", Instruction, Preference)


@dataclass(frozen=True)
class Form(Generic[Record]):
    """How one tool wants one kind of record.

    name: the tool's. title: what the records are called together ("RSICI"). samples: what a record becomes. use: lines
    that show the folder in use, named FOLDER. columns: of LLaMA-Factory's dataset_info.json. texts: all that a
    sample says.
    """

    name: str
    title: str
    samples: Callable[[Record], Iterable[dict[str, Any]]]
    texts: Callable[[Record], list[str]]
    use: str
    columns: Mapping[str, Any]


def images_of(record: Instruction | Preference) -> list[str]:
    """The two dates, in order."""
    return [record.before, record.after]


def write_export(root: Path, listed: str, records: Sequence[Record], form: Form[Record], out: Path) -> dict[str, int]:
    """Write records of `root` (from its file `listed`) to `out`. Returns the number of samples by split.

    Raises InputError where there is none, for a folder with something else in it, an image that is not there, and text
    that holds a placeholder which the tool would take for an image.
    """
    if not records:
        raise InputError(f"{root / listed}: no record to export")
    _check(records, root, listed, form)
    _claim(out, form)
    # An image folder of `datasets` holds its images beside its own list, so TRL's are kept by split.
    paths = sorted({(f"{r.split}/" if form.name == "trl" else "", path) for r in records for path in images_of(r)})
    for place, path in track(paths, "linking images", len(paths)):
        link_or_copy(inside(root, path), inside(out, place + path))
    counts: Counter[str] = Counter()
    for split in sorted({record.split for record in records}):
        samples = [sample for record in records if record.split == split for sample in form.samples(record)]
        _write(out, form.name, split, samples)
        counts[split] = len(samples)
    pattern: str = _list_of(Path(), form.name, "*").as_posix()
    for stale in {*out.glob(pattern)} - {_list_of(out, form.name, split) for split in counts}:
        stale.unlink()  # of an earlier export, of other records
    if form.name == "llama-factory":
        name = form.title.lower()
        info = {f"{name}_{split}": {"file_name": f"{split}.json", **form.columns} for split in counts}
        write_json(out / "dataset_info.json", info)
    shown = ", ".join(f"{split} {number}" for split, number in counts.items())
    with atomic_write(out / "README.md") as handle:
        handle.write(
            f"# {form.title}, exported ({form.name})\n\nSamples: {shown}.\n\n```\n{form.use}\n```\n\n"
            "FOLDER is where this file lies.\n"
        )
    return dict(counts)


def _check(records: Sequence[Record], root: Path, listed: str, form: Form[Record]) -> None:
    for record in records:
        for path in images_of(record):
            if not inside(root, path).is_file():
                raise InputError(f"{root / path}: no such file, named by record '{record.id}' in {listed}")
        if form.name == "trl":
            continue
        for word in PLACEHOLDERS:
            if any(word in text for text in form.texts(record)):
                raise InputError(
                    f"{root / listed}: record '{record.id}' holds the text '{word}', which {form.name} would take for "
                    "an image of its own"
                )


def _claim(out: Path, form: Form[Any]) -> None:
    """Refuse a folder in which another export, or anything else, would be mixed with this one."""
    readme, heading = out / "README.md", f"# {form.title}, exported ({form.name})"
    if out.exists() and any(out.iterdir()) and not (readme.is_file() and heading in readme.read_text("utf-8")):
        raise InputError(
            f"{out}: is not empty and holds no earlier export of {form.title} in the form {form.name}; choose another "
            "--out"
        )


def _list_of(out: Path, form: str, split: str) -> Path:
    """The file of a split's samples."""
    if form == "trl":
        return out / split / "metadata.jsonl"
    return out / f"{split}.{'jsonl' if form == 'ms-swift' else 'json'}"


def _write(out: Path, form: str, split: str, samples: list[dict[str, Any]]) -> None:
    (write_json if form in {"llama-factory", "qwen"} else write_jsonl)(_list_of(out, form, split), samples)
