"""Records: what they refuse, and that they come back as they were written."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from rsiccllm.errors import InputError
from rsiccllm.facts import Fact
from rsiccllm.files import describe_validation, read_jsonl, validation_faults
from rsiccllm.records import ImagePair, Instruction, Preference, Rejected

PAIR = {"id": "a", "before": "A/a.png", "after": "B/a.png"}
PREFERENCE = {
    **PAIR,
    "pair": "a",
    "source": "test",
    "prompt": "What changed?",
    "chosen": "a house is built",
    "rejected": [Rejected(text="a road is built", kind="replacement")],
    "references": ["a house is built"],
}


def fault(record: type, **fields: object) -> str:
    with pytest.raises(ValidationError) as caught:
        record(**fields)
    return describe_validation(caught.value)


@pytest.mark.parametrize(
    "path",
    ["../a.png", "A/../../a.png", "/etc/passwd", "", ".", "./", "A\\a.png", "..", "a\0.png"],
)
@pytest.mark.parametrize("field", ["before", "after", "mask"])
def test_paths_stay_inside_the_root(field: str, path: str) -> None:
    assert f"field '{field}'" in fault(ImagePair, **(PAIR | {field: path}))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"id": " "}, "field 'id'"),
        ({"captions": ["a", ""]}, "field 'captions.1'"),
        ({"captions": "a"}, "field 'captions'"),
        ({"description": ""}, "field 'description'"),
        ({"colour": "red"}, "field 'colour': Extra inputs are not permitted"),
        ({"id": 3}, "field 'id': Input should be a valid string, got 3"),
        ({"schema": "rsiccllm.image_pair.v2"}, "field 'schema'"),
        ({"captions": ["x\ud800"]}, "field 'captions.0'"),
        ({"facts": [{"object": "dragon", "direction": "appear", "verb": "build"}]}, "field 'facts.0.object'"),
    ],
)
def test_bad_fields(fields: dict[str, object], expected: str) -> None:
    assert expected in fault(ImagePair, **(PAIR | fields))


def test_missing_fields_are_all_named() -> None:
    with pytest.raises(ValidationError) as caught:
        ImagePair(id="a")  # type: ignore[call-arg]
    assert validation_faults(caught.value) == ["field 'before': Field required", "field 'after': Field required"]
    assert describe_validation(caught.value) == "field 'before': Field required (and 1 more)"


def test_long_values_are_cut_in_messages() -> None:
    assert len(fault(ImagePair, **(PAIR | {"captions": "word " * 10_000}))) < 200


def test_a_caption_of_10_000_words_is_a_record() -> None:
    assert len(ImagePair(**PAIR, captions=["word " * 10_000]).captions[0].split()) == 10_000


def test_records_come_back() -> None:
    facts = [Fact(object="building", direction="appear", verb="build", quantity="two", place="top_left")]
    pair = ImagePair(**PAIR, mask="label/a.png", changed=True, captions=["x"], description="y", facts=facts)
    text = pair.model_dump_json(exclude_none=True)
    assert '"schema":"rsiccllm.image_pair.v1"' in text
    assert ImagePair.model_validate_json(text) == pair
    # Unknown and nothing are two things, and stay so.
    for known in (None, []):
        again = ImagePair.model_validate_json(ImagePair(**PAIR, facts=known).model_dump_json(exclude_none=True))
        assert again.facts == known


def test_an_id_stands_once_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    line = ImagePair(**PAIR).model_dump_json() + "\n"
    path.write_text(line + line.replace('"a"', '"b"', 1) + "\n" + line, encoding="utf-8")
    with pytest.raises(InputError, match=r"pairs\.jsonl:4: field 'id': 'a' is on line 1 already$"):
        read_jsonl(path, ImagePair)


def test_records_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        ImagePair(**PAIR).id = "b"  # type: ignore[misc]


def test_an_instruction_has_an_answer() -> None:
    fields = PAIR | {"pair": "a", "source": "s", "task": "caption", "prompt": "p"}
    assert "field 'answers'" in fault(Instruction, **fields, answers=[])
    assert Instruction(**fields, answers=["x"]).split == "train"


def test_a_preference_does_not_reject_what_it_chose() -> None:
    assert Preference(**PREFERENCE).rejected[0].text == "a road is built"
    same = [Rejected(text="a house is built ", kind="replacement")]
    assert "the chosen answer is also rejected" in fault(Preference, **(PREFERENCE | {"rejected": same}))
    assert "field 'rejected'" in fault(Preference, **(PREFERENCE | {"rejected": []}))
