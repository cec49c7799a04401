"""ChangeChat-105k: questions, answers and dialogues over LEVIR-CC's pairs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, StrictInt, ValidationError

from rsiccllm.errors import InputError
from rsiccllm.files import read_json, validation_faults
from rsiccllm.records import ImagePair, Turn
from rsiccllm.sources.base import Fault, Source, is_file, listing, make_pair, refuse

CAPTION_QUESTION = "please briefly describe the changes"
"""How the questions begin whose answers are LEVIR-CC's captions."""

PLACES = ("", "images", "LEVIR-CC/images", "Levir-CC-dataset/images", "LEVIR-CC")
"""Where under the root the images may lie: the set is published without them."""


class Message(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(strict=True)

    speaker: str = Field(alias="from")
    value: str


class Conversation(BaseModel):
    """An entry of the training file and of the test files of questions."""

    model_config = ConfigDict(strict=True)

    image: list[str] = Field(min_length=2, max_length=2)
    changeflag: StrictInt | None = None
    conversations: list[Message]


class CaptionTest(BaseModel):
    """An entry of the caption test file."""

    model_config = ConfigDict(strict=True)

    image_A: str
    image_B: str
    captions: list[str]
    changeflag: StrictInt | None = None


@dataclass
class _Pair:
    split: str
    flag: int | None
    captions: dict[str, None] = field(default_factory=dict)
    dialogues: list[list[Turn]] = field(default_factory=list)


class ChangeChat(Source):
    """ChangeChat-105k: LEVIR-CC's pairs with captions, questions of five kinds, and dialogues of several turns.

    Format: `*.json`, lists of `{id, image: [A, B], changeflag, conversations: [{from, value}]}`, and for the caption
    test `{image_A, image_B, captions, changeflag}`; files with "test" in their name are the split test. Images are
    LEVIR-CC's, under the root, `images/` or `LEVIR-CC/images/`. All entries of one pair of images become one pair:
    answers to the caption question are its captions, everything else its dialogues. "<image>" marks are taken out.
    Classes: changeflag 0 / 1 (`changed`).
    Licence: CC BY 4.0; images as LEVIR-CC.
    Paper: Deng et al., "DeltaVLM: Interactive Remote Sensing Image Change Analysis via Instruction-guided Difference
    Perception", arXiv 2507.22346.
    """

    name = "changechat"
    layout = "*.json of conversations, and LEVIR-CC's images under the root, images/ or LEVIR-CC/images/"
    home = "huggingface.co/datasets/hlwu/changechat-105k, images from huggingface.co/datasets/lcybuaa/LEVIR-CC"
    licence = "CC BY 4.0, images as LEVIR-CC"

    def __init__(self, root: Path, fault: Fault = refuse) -> None:
        super().__init__(root, self._read(root, fault), fault)

    def _read(self, root: Path, fault: Fault) -> Iterator[ImagePair]:
        if not root.is_dir():
            raise self.absent(root, "no such folder")
        files = [name for name in listing(root) if name.endswith(".json") and name != "LevirCCcaptions.json"]
        if not files:
            raise self.absent(root, "holds no .json file")
        found: dict[tuple[str, str], _Pair] = {}
        for file in files:
            content = read_json(root / file)
            if not isinstance(content, list):
                raise InputError(f"{root / file}: expected a list of conversations")
            split = "test" if "test" in file.lower() else "train"
            for number, item in enumerate(content):
                self._take(f"{root / file}: entry {number}", item, split, found, fault)
        for (before, after), pair in found.items():
            paths = [_locate(root, path) for path in (before, after)]
            for path, there in zip((before, after), paths, strict=True):
                if there is None:
                    fault(f"{root / path}: no such file, nor under {', '.join(PLACES[1:])}")
            yield from make_pair(
                root, fault, id=Path(before).stem, split=pair.split, before=paths[0] or before, after=paths[1] or after,
                changed=None if pair.flag is None else bool(pair.flag), captions=list(pair.captions),
                dialogues=pair.dialogues,
            )  # fmt: skip

    def _take(
        self, where: str, item: Any, split: str, found: dict[tuple[str, str], _Pair], fault: Fault
    ) -> None:  # fmt: skip
        test = isinstance(item, dict) and "captions" in item
        try:
            entry = (CaptionTest if test else Conversation).model_validate(item)
            if isinstance(entry, CaptionTest):
                key, turns = (entry.image_A, entry.image_B), []
            else:
                key, turns = (entry.image[0], entry.image[1]), list(_turns(entry.conversations))
        except ValidationError as error:
            for line in validation_faults(error):
                fault(f"{where}: {line}")
            return
        if entry.changeflag not in {None, 0, 1}:
            fault(f"{where}: field 'changeflag': expected 0 or 1, got {entry.changeflag}")
            return
        pair = found.setdefault(key, _Pair(split, entry.changeflag))
        if pair.split != split:
            fault(f"{where}: its images are in split '{pair.split}' already, here in '{split}'")
            return
        if pair.flag is None:
            pair.flag = entry.changeflag
        elif entry.changeflag not in {None, pair.flag}:
            fault(f"{where}: field 'changeflag': {entry.changeflag}, elsewhere {pair.flag} for the same images")
            return
        if isinstance(entry, CaptionTest):
            pair.captions.update((" ".join(text.split()), None) for text in entry.captions if text.strip())
        elif not turns:
            fault(f"{where}: field 'conversations': expected a human message and an answer")
        elif len(turns) == 1 and turns[0].question.lower().startswith(CAPTION_QUESTION):
            pair.captions[turns[0].answer] = None
        else:
            pair.dialogues.append(turns)


def _turns(messages: list[Message]) -> Iterator[Turn]:
    """The messages two by two; marks that stand for the images are taken out."""
    for asked, answered in zip(messages[::2], messages[1::2], strict=False):
        question = " ".join(asked.value.replace("<image>", " ").split())
        yield Turn(question=question, answer=" ".join(answered.value.split()))


def _locate(root: Path, path: str) -> str | None:
    for place in PLACES:
        candidate = f"{place}/{path}" if place else path
        if is_file(root / candidate):
            return candidate
    return None
