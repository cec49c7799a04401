"""Files of captions: what is read and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from rsiccllm.benchmark.baselines import baselines, commonest
from rsiccllm.benchmark.predictions import load_predictions, match
from rsiccllm.errors import InputError


def test_lines_are_read_in_order(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    text = '{"id": "b", "caption": "a house\u2028is built", "model": "x"}\n\n{"id": "a", "caption": ""}\r\n'
    path.write_text(text, encoding="utf-8", newline="")
    assert list(load_predictions(path).items()) == [("b", "a house\u2028is built"), ("a", "")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "p.jsonl: no captions in it"),
        ("\n \n", "p.jsonl: no captions in it"),
        ('{"id": "a"}', "p.jsonl:1: field 'caption': Field required"),
        ('{"caption": "a"}', "p.jsonl:1: field 'id': Field required"),
        (
            '{"id": "a", "caption": "x"}\n{"id": 3, "caption": "x"}',
            "p.jsonl:2: field 'id': Input should be a valid str",
        ),
        ('{"id": "a", "caption": null}', "p.jsonl:1: field 'caption': Input should be a valid string, got None"),
        ('{"id": "a", "caption": ["x"]}', "p.jsonl:1: field 'caption': Input should be a valid string"),
        (
            '{"id": "a", "caption": "x"}\n\n{"id": "a", "caption": "y"}',
            "p.jsonl:3: field 'id': 'a' is on line 1 already",
        ),
        ('{"id": "a", "caption": ', "p.jsonl:1: field 'record': Invalid JSON"),
        ('["a", "b"]', "p.jsonl:1: field 'record': Input should be an object"),
    ],
)
def test_bad_files_are_one_line_that_names_the_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_predictions(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_directory_and_bytes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_predictions(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="is a directory"):
        load_predictions(tmp_path)
    (tmp_path / "b").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not UTF-8"):
        load_predictions(tmp_path / "b")


def test_match_names_how_many_and_which() -> None:
    match({"a": "", "b": ""}, ["b", "a"])
    with pytest.raises(InputError) as caught:
        match({"x": "", "a": ""}, ["a", "b", "c", "d", "e"], "p.jsonl")
    assert str(caught.value) == (
        "p.jsonl: 4 of 5 pairs have no caption (b, c, d, ...); 1 ids are not among the references (x)"
    )


def test_baselines_follow_the_references() -> None:
    references = {"a": ["first", "second", "third"], "b": ["one", "two"]}
    same, flag, person = baselines(references, {"a": True, "b": False}, "nothing", "houses")
    assert same.job.predictions == {"a": "nothing", "b": "nothing"}
    assert flag.job.predictions == {"a": "houses", "b": "nothing"}
    assert person.job.predictions == {"a": "first", "b": "one"}
    assert person.job.references == {"a": ["second", "third"], "b": ["two"]}
    assert [row.name for row in (same, flag, person)] == ["no change", "true flag", "a person"]
    assert same.legend == '"nothing" for every pair'
    assert "against the other 1 to 2" in person.legend
    assert len(baselines(references, None)) == 2
    assert len(baselines({"a": ["alone"]}, {"a": True})) == 2


def test_commonest_caption() -> None:
    assert commonest(["A house .", "trees", "a house", " . "]) == "a house"
    assert commonest(["b", "a"]) == "b"
    assert commonest([]) is None
