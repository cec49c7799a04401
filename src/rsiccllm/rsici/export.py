"""RSICI in the forms that other training tools read: TRL, LLaMA-Factory, ms-swift and Qwen's own scripts.

Each form is a folder of its own: the images (linked, or copied where the file system has no links) and one list a
split, with paths relative to that folder. A record with several right answers becomes a sample for each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from rsiccllm.errors import InputError
from rsiccllm.files import atomic_write, inside, link_or_copy, read_jsonl, write_json, write_jsonl
from rsiccllm.progress import track
from rsiccllm.records import INSTRUCTIONS, Instruction
from rsiccllm.rsici.review.decisions import read_reviews

Form = Literal["trl", "llama-factory", "ms-swift", "qwen"]
FORMS: tuple[Form, ...] = get_args(Form)

PLACEHOLDERS = ("<image>", "<video>", "<audio>")
"""Words that LLaMA-Factory, ms-swift and Qwen's scripts replace by media wherever they stand."""

Turns = list[tuple[str, str]]
"""(question, answer) in order, the last one the sample's own."""


def export(
    root: Path, form: str, out: Path, answers: Literal["all", "first"] = "all", reviewed: bool = False
) -> dict[str, int]:
    """Write the instructions of a folder that `rsici build` wrote to `out`, in one of `FORMS`.

    answers: a sample for each right answer of a record, or for the first alone. reviewed: without what reviewers
    rejected, and in the words of their edits (see `Reviews.apply`).

    Returns the number of samples by split. Raises InputError for an unknown form, a folder with something else in it,
    an image that is not there, and text that holds a placeholder which the tool would take for an image.
    """
    if form not in FORMS:
        raise InputError(f"--form: unknown '{form}', expected one of {', '.join(FORMS)}")
    records = read_jsonl(root / INSTRUCTIONS, Instruction)
    if reviewed:
        records = read_reviews(root, records).apply(records)
    if not records:
        raise InputError(f"{root / INSTRUCTIONS}: no record to export")
    _check(records, root, form)
    _claim(out, form)
    # An image folder of `datasets` holds its images beside its own list, so TRL's are kept by split.
    paths = sorted({(f"{record.split}/" if form == "trl" else "", p) for record in records for p in _images(record)})
    for place, path in track(paths, "linking images", len(paths)):
        link_or_copy(inside(root, path), inside(out, place + path))
    counts: Counter[str] = Counter()
    for split in sorted({record.split for record in records}):
        own = [record for record in records if record.split == split]
        samples = [sample for record in own for sample in _samples(record, _MAKERS[form], answers)]
        _write(out, form, split, samples)
        counts[split] = len(samples)
    if form == "llama-factory":
        write_json(out / "dataset_info.json", {f"rsici_{split}": _llama_factory_entry(split) for split in counts})
    with atomic_write(out / "README.md") as handle:
        handle.write(_readme(form, counts))
    return dict(counts)


def _images(record: Instruction) -> list[str]:
    return [record.before, record.after]


def _check(records: Iterable[Instruction], root: Path, form: str) -> None:
    for record in records:
        for path in _images(record):
            if not inside(root, path).is_file():
                raise InputError(f"{root / path}: no such file, named by record '{record.id}' in {INSTRUCTIONS}")
        if form == "trl":
            continue
        texts = [record.prompt, *record.answers, *(text for t in record.history for text in (t.question, t.answer))]
        for word in PLACEHOLDERS:
            if any(word in text for text in texts):
                raise InputError(
                    f"{root / INSTRUCTIONS}: record '{record.id}' holds the text '{word}', which {form} would take for "
                    "an image of its own"
                )


def _claim(out: Path, form: str) -> None:
    """Refuse a folder in which another form, or anything else, would be mixed with this one."""
    readme = out / "README.md"
    if out.exists() and any(out.iterdir()) and not (readme.is_file() and f"({form})" in readme.read_text("utf-8")):
        raise InputError(f"{out}: is not empty and holds no earlier export in the form {form}; choose another --out")


def _samples(
    record: Instruction, make: Callable[[Instruction, Turns], dict[str, Any]], answers: str
) -> Iterator[dict[str, Any]]:
    for answer in record.answers if answers == "all" else record.answers[:1]:
        yield make(record, [*((turn.question, turn.answer) for turn in record.history), (record.prompt, answer)])


def _trl(record: Instruction, turns: Turns) -> dict[str, Any]:
    """TRL's conversational prompt-completion type; `images` comes from `datasets`, and TRL puts both images before the
    first question itself."""
    said = [{"role": role, "content": text} for role, text in _messages(turns, "")]
    return {"images_file_names": _images(record), "prompt": said[:-1], "completion": said[-1:]}


def _messages(turns: Turns, images: str) -> list[tuple[str, str]]:
    """(role, text) with the placeholders before the first question."""
    said: list[tuple[str, str]] = []
    for number, (question, answer) in enumerate(turns):
        said += [("user", (images if number == 0 else "") + question), ("assistant", answer)]
    return said


def _llama_factory(record: Instruction, turns: Turns) -> dict[str, Any]:
    names = {"user": "human", "assistant": "gpt"}
    said = [{"from": names[role], "value": text} for role, text in _messages(turns, "<image><image>")]
    return {"conversations": said, "images": _images(record)}


def _ms_swift(record: Instruction, turns: Turns) -> dict[str, Any]:
    said = [{"role": role, "content": text} for role, text in _messages(turns, "<image><image>")]
    return {"messages": said, "images": _images(record)}


def _qwen(record: Instruction, turns: Turns) -> dict[str, Any]:
    names = {"user": "human", "assistant": "gpt"}
    said = [{"from": names[role], "value": text} for role, text in _messages(turns, "<image>\n<image>\n")]
    return {"id": record.id, "image": _images(record), "conversations": said}


_MAKERS: dict[str, Callable[[Instruction, Turns], dict[str, Any]]] = {
    "trl": _trl,
    "llama-factory": _llama_factory,
    "ms-swift": _ms_swift,
    "qwen": _qwen,
}


def _write(out: Path, form: str, split: str, samples: list[dict[str, Any]]) -> None:
    if form in {"llama-factory", "qwen"}:
        write_json(out / f"{split}.json", samples)
    elif form == "ms-swift":
        write_jsonl(out / f"{split}.jsonl", samples)
    else:
        write_jsonl(out / split / "metadata.jsonl", samples)


def _llama_factory_entry(split: str) -> Mapping[str, Any]:
    """How LLaMA-Factory's dataset_info.json names a file in its ShareGPT form."""
    columns = {"messages": "conversations", "images": "images"}
    return {"file_name": f"{split}.json", "formatting": "sharegpt", "columns": columns}


_USE = {
    "trl": 'dataset = datasets.load_dataset("imagefolder", data_dir="FOLDER")  # then trl.SFTTrainer',
    "llama-factory": "dataset_dir: FOLDER\ndataset: rsici_train",
    "ms-swift": "cd FOLDER && swift sft --dataset train.jsonl ...   # paths are relative to this folder",
    "qwen": 'data_dict["rsici"] = {"annotation_path": "FOLDER/train.json", "data_path": "FOLDER"}',
}


def _readme(form: str, counts: Mapping[str, int]) -> str:
    listed = ", ".join(f"{split} {number}" for split, number in counts.items())
    use = f"```\n{_USE[form]}\n```\n\nFOLDER is where this file lies."
    return f"# RSICI, exported ({form})\n\nSamples: {listed}.\n\n{use}\n"
