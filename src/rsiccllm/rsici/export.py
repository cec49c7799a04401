"""RSICI in the forms that other training tools read: TRL, LLaMA-Factory, ms-swift and Qwen's own scripts.

A record with several right answers becomes a sample for each. What the folders hold besides: exports.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args

from rsiccllm.errors import InputError
from rsiccllm.exports import Form, images_of, write_export
from rsiccllm.files import read_jsonl
from rsiccllm.records import INSTRUCTIONS, Instruction
from rsiccllm.rsici.review.decisions import read_reviews

FORMS: tuple[str, ...] = get_args(Literal["trl", "llama-factory", "ms-swift", "qwen"])

Turns = list[tuple[str, str]]
"""(question, answer) in order, the last one the sample's own."""


def export(
    root: Path, form: str, out: Path, answers: Literal["all", "first"] = "all", reviewed: bool = False
) -> dict[str, int]:
    """Write the instructions of a folder that `rsici build` wrote to `out`, in one of `FORMS`.

    answers: a sample for each right answer of a record, or for the first alone. reviewed: without what reviewers
    rejected, and in the words of their edits (see `Reviews.apply`).

    Returns the number of samples by split. Raises InputError for an unknown form, and as `write_export` does.
    """
    if form not in FORMS:
        raise InputError(f"--form: unknown '{form}', expected one of {', '.join(FORMS)}")
    records = read_jsonl(root / INSTRUCTIONS, Instruction)
    if reviewed:
        records = read_reviews(root, records).apply(records)

    def samples(record: Instruction) -> Iterator[dict[str, Any]]:
        for answer in record.answers if answers == "all" else record.answers[:1]:
            yield _MAKERS[form](
                record, [*((turn.question, turn.answer) for turn in record.history), (record.prompt, answer)]
            )

    return write_export(root, INSTRUCTIONS, records, Form(form, "RSICI", samples, _texts, _USE[form], _COLUMNS), out)


def _texts(record: Instruction) -> list[str]:
    return [record.prompt, *record.answers, *(text for turn in record.history for text in (turn.question, turn.answer))]


def _trl(record: Instruction, turns: Turns) -> dict[str, Any]:
    """TRL's conversational prompt-completion type; `images` comes from `datasets`, and TRL puts both images before the
    first question itself."""
    said = [{"role": role, "content": text} for role, text in _messages(turns, "")]
    return {"images_file_names": images_of(record), "prompt": said[:-1], "completion": said[-1:]}


def _messages(turns: Turns, images: str) -> list[tuple[str, str]]:
    """(role, text) with the placeholders before the first question."""
    said: list[tuple[str, str]] = []
    for number, (question, answer) in enumerate(turns):
        said += [("user", (images if number == 0 else "") + question), ("assistant", answer)]
    return said


def _llama_factory(record: Instruction, turns: Turns) -> dict[str, Any]:
    names = {"user": "human", "assistant": "gpt"}
    said = [{"from": names[role], "value": text} for role, text in _messages(turns, "<image><image>")]
    return {"conversations": said, "images": images_of(record)}


def _ms_swift(record: Instruction, turns: Turns) -> dict[str, Any]:
    said = [{"role": role, "content": text} for role, text in _messages(turns, "<image><image>")]
    return {"messages": said, "images": images_of(record)}


def _qwen(record: Instruction, turns: Turns) -> dict[str, Any]:
    names = {"user": "human", "assistant": "gpt"}
    said = [{"from": names[role], "value": text} for role, text in _messages(turns, "<image>\n<image>\n")]
    return {"id": record.id, "image": images_of(record), "conversations": said}


_MAKERS: dict[str, Callable[[Instruction, Turns], dict[str, Any]]] = {
    "trl": _trl,
    "llama-factory": _llama_factory,
    "ms-swift": _ms_swift,
    "qwen": _qwen,
}

_COLUMNS = {"formatting": "sharegpt", "columns": {"messages": "conversations", "images": "images"}}

_USE = {
    "trl": 'dataset = datasets.load_dataset("imagefolder", data_dir="FOLDER")  # then trl.SFTTrainer',
    "llama-factory": "dataset_dir: FOLDER\ndataset: rsici_train",
    "ms-swift": "cd FOLDER && swift sft --dataset train.jsonl ...   # paths are relative to this folder",
    "qwen": 'data_dict["rsici"] = {"annotation_path": "FOLDER/train.json", "data_path": "FOLDER"}',
}
