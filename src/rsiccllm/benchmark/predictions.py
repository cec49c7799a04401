"""Files of captions: JSON Lines, `{"id": "train_000016", "caption": "a house is built"}`."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from rsiccllm.errors import InputError
from rsiccllm.files import describe_validation, read_text
from rsiccllm.journal import SEAL, unseal


class Prediction(BaseModel):
    """One caption. Other fields of a line (a model's name, a time) are allowed and not read.

    caption: may be empty: a model that said nothing is scored, and scores 0. probability: of the caption, by its model.
    change_map: a grey PNG of where the model saw change, relative to the file's folder.
    """

    model_config = ConfigDict(strict=True, extra="ignore")

    id: str
    caption: str
    probability: float | None = None
    change_map: str | None = None


def load_predictions(path: Path | str) -> dict[str, str]:
    """Captions by pair id, in the order of the file; blank lines pass.

    Raises InputError naming file, line and field for a missing key, a wrong type, a line that is not JSON, an id that
    was given before, and a file without captions.
    """
    return {name: line.caption for name, line in load_lines(path).items()}


def load_lines(path: Path | str) -> dict[str, Prediction]:
    """As `load_predictions`, with all that is read of a line."""
    found: dict[str, Prediction] = {}
    lines: dict[str, int] = {}
    # split("\n") and not splitlines(): JSON strings may hold U+2028 and the like unescaped
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            prediction = Prediction.model_validate_json(line)
        except ValidationError as error:
            raise InputError(f"{path}:{number}: {describe_validation(error)}") from None
        if SEAL in line and unseal(json.loads(line)) is None:
            raise InputError(f"{path}:{number}: not as it was written; the file was edited or damaged")
        if prediction.id in found:
            raise InputError(
                f"{path}:{number}: field 'id': '{prediction.id}' is on line {lines[prediction.id]} already"
            )
        found[prediction.id] = prediction
        lines[prediction.id] = number
    if not found:
        raise InputError(f'{path}: no captions in it, expected lines {{"id": ..., "caption": ...}}')
    return found


def match(predictions: Mapping[str, str], references: Collection[str], name: str = "predictions") -> None:
    """Pass when both hold the same ids. Raises InputError naming how many and which are missing or unknown.

    references: the ids expected (or a mapping by id). name: stands first in the message, usually the file.
    """
    missing = [key for key in references if key not in predictions]
    unknown = [key for key in predictions if key not in references]
    faults = []
    if missing:
        faults.append(f"{len(missing)} of {len(references)} pairs have no caption ({_some(missing)})")
    if unknown:
        faults.append(f"{len(unknown)} ids are not among the references ({_some(unknown)})")
    if faults:
        raise InputError(f"{name}: {'; '.join(faults)}")


def _some(ids: list[str]) -> str:
    return ", ".join(ids[:3]) + (", ..." if len(ids) > 3 else "")
