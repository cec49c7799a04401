"""RSICP in the preference forms of TRL and LLaMA-Factory: a sample for each rejected answer, against the chosen one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rsiccllm.errors import InputError
from rsiccllm.exports import Form, images_of, write_export
from rsiccllm.files import read_jsonl
from rsiccllm.records import PREFERENCES, Preference


def export_preferences(root: Path, form: str, out: Path, most: int | None = None) -> dict[str, int]:
    """Write the preferences of a folder that `rsicp build` wrote to `out`, in one of `FORMS`.

    most: of each record's rejected answers the first so many; None takes all. Returns the number of samples by split.
    Raises InputError for an unknown form, and as `write_export` does.
    """
    if form not in FORMS:
        raise InputError(f"--form: unknown '{form}', expected one of {', '.join(FORMS)}")
    if most is not None and most < 1:
        raise InputError(f"--most {most}: expected at least 1")
    make, use = FORMS[form]

    def samples(record: Preference) -> Iterator[dict[str, Any]]:
        for rejected in record.rejected[:most]:
            yield make(record, rejected.text)

    records = read_jsonl(root / PREFERENCES, Preference)
    return write_export(root, PREFERENCES, records, Form(form, "RSICP", samples, _texts, use, _COLUMNS), out)


def _texts(record: Preference) -> list[str]:
    return [record.prompt, record.chosen, *(rejected.text for rejected in record.rejected)]


def _trl(record: Preference, rejected: str) -> dict[str, Any]:
    """TRL's conversational preference type; it puts both images before the question itself."""
    said = {"prompt": ("user", record.prompt), "chosen": ("assistant", record.chosen),
            "rejected": ("assistant", rejected)}  # fmt: skip
    turns = {name: [{"role": role, "content": text}] for name, (role, text) in said.items()}
    return {"images_file_names": images_of(record), **turns}


def _llama_factory(record: Preference, rejected: str) -> dict[str, Any]:
    """Its ShareGPT form for ranking: the conversation ends with the question."""
    return {
        "conversations": [{"from": "human", "value": f"<image><image>{record.prompt}"}],
        "chosen": {"from": "gpt", "value": record.chosen},
        "rejected": {"from": "gpt", "value": rejected},
        "images": images_of(record),
    }


FORMS: dict[str, tuple[Callable[[Preference, str], dict[str, Any]], str]] = {
    "trl": (
        _trl,
        'dataset = datasets.load_dataset("imagefolder", data_dir="FOLDER")  # then trl.DPOTrainer(train_dataset=...)',
    ),
    "llama-factory": (_llama_factory, "stage: dpo\ndataset_dir: FOLDER\ndataset: rsicp_train"),
}
"""What a sample looks like, and how the folder is used, by the tool's name."""

_COLUMNS = {
    "formatting": "sharegpt",
    "ranking": True,
    "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected", "images": "images"},
}
