"""The three record types every stage reads and writes: ImagePair, Instruction, Preference.

Files are JSON Lines, one record a line, with a `schema` field that carries the version. Paths are relative to the
data root (the folder that holds the file) and never leave it, so a data set can be moved as one folder.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from rsiccllm.facts import Fact

# The names of the files in a data root that hold each type.
PAIRS = "pairs.jsonl"
INSTRUCTIONS = "instructions.jsonl"
PREFERENCES = "preferences.jsonl"


def _relative(path: str) -> str:
    parts = PurePosixPath(path)
    if not parts.parts or parts.is_absolute() or ".." in parts.parts or "\\" in path or "\0" in path:
        raise ValueError("expected a relative path with forward slashes that stays inside the data root")
    return _encodable(path)


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("expected text, got an empty string")
    return _encodable(text)


def _encodable(text: str) -> str:
    # Half of a surrogate pair: "\ud800" in a JSON, or a file name that is not UTF-8. It could not be written again.
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("expected text that is valid Unicode")
    return text


RelativePath = Annotated[str, AfterValidator(_relative)]
Text = Annotated[str, AfterValidator(_not_blank)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)


class Turn(_Record):
    """One question about an image pair and its answer."""

    question: Text
    answer: Text


class ImagePair(_Record):
    """Two images of one place, with what is known about the change between them.

    id: unique in its source. split: train, val, test or another name the source uses.
    before, after: images of equal size. mask: same size, non-zero where something changed; coded_mask: its values say
    what changed there (`masks`).
    changed: None where the source does not say. captions: short sentences, empty where there are none.
    description: a long text, where there is one. facts: None where unknown, [] where nothing changed.
    dialogues: conversations about the pair that the source holds, each a list of turns.
    """

    version: Literal["rsiccllm.image_pair.v1"] = Field(default="rsiccllm.image_pair.v1", alias="schema")
    id: Text
    split: Text = "train"
    before: RelativePath
    after: RelativePath
    mask: RelativePath | None = None
    coded_mask: bool = False
    changed: bool | None = None
    captions: list[Text] = []
    description: Text | None = None
    facts: list[Fact] | None = None
    dialogues: list[Annotated[list[Turn], Field(min_length=1)]] = []


class Instruction(_Record):
    """One prompt over one image pair and every answer that is right for it (RSICI; what SFT learns from).

    pair: the ImagePair's id. task: what is asked ("caption", "describe", ...). source: the data set.
    history: the turns before `prompt`, for a dialogue. teacher: who wrote the answers: "source" (they are the data
    set's own), "rules", or a model's name. asked: the prompt a model was given, as version/task/attempt.
    """

    version: Literal["rsiccllm.instruction.v1"] = Field(default="rsiccllm.instruction.v1", alias="schema")
    id: Text
    pair: Text
    split: Text = "train"
    source: Text
    task: Text
    before: RelativePath
    after: RelativePath
    mask: RelativePath | None = None
    coded_mask: bool = False
    changed: bool | None = None
    history: list[Turn] = []
    prompt: Text
    answers: list[Text] = Field(min_length=1)
    facts: list[Fact] | None = None
    teacher: Text = "source"
    asked: Text | None = None


class Rejected(_Record):
    """A wrong answer: how it was made (`kind`), which words were changed, and its similarity to the references."""

    text: Text
    kind: Text
    changed: list[str] = []
    similarity: float | None = None


class Preference(_Record):
    """One chosen answer and several rejected ones for one prompt (RSICP; what DNPO learns from)."""

    version: Literal["rsiccllm.preference.v1"] = Field(default="rsiccllm.preference.v1", alias="schema")
    id: Text
    pair: Text
    split: Text = "train"
    source: Text
    before: RelativePath
    after: RelativePath
    mask: RelativePath | None = None
    coded_mask: bool = False
    prompt: Text
    chosen: Text
    rejected: list[Rejected] = Field(min_length=1)
    references: list[Text] = Field(min_length=1)

    @model_validator(mode="after")
    def _chosen_is_not_rejected(self) -> Preference:
        for answer in self.rejected:
            if answer.text.strip() == self.chosen.strip():
                raise ValueError(f"the chosen answer is also rejected: {self.chosen!r}")
        return self
