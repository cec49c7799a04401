"""`bench score` from files to tables."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from rsiccllm.benchmark.baselines import CHANGE, NO_CHANGE
from rsiccllm.benchmark.run import Result, references_of, run_score
from rsiccllm.errors import InputError
from rsiccllm.records import ImagePair
from rsiccllm.sources import open_source

PAIRS = {
    "train_1": ["massive villas are built .", "massive villas are built .", "a road [/red] appears ."],
    "train_2": ["nothing has changed .", "nothing has changed .", "the scenes are identical ."],
    "val_1": ["two houses are built at the top .", "some houses appear .", "houses are built ."],
    "val_2": ["the scene is the same as before .", "no change has occurred .", "nothing has changed ."],
    "val_3": ["the trees are removed .", "the trees have disappeared .", "the forest is gone ."],
}


def levir_file(folder: Path) -> Path:
    images = [
        {
            "filename": f"{name}.png",
            "filepath": name.split("_")[0],
            "split": name.split("_")[0],
            "imgid": number,
            "changeflag": int(name not in {"train_2", "val_2"}),
            "sentids": [0],
            "sentences": [
                {"tokens": text.removesuffix(" .").split(), "raw": f" {text}", "imgid": number, "sentid": place}
                for place, text in enumerate(texts)
            ],
        }
        for number, (name, texts) in enumerate(PAIRS.items())
    ]
    path = folder / "captions.json"
    path.write_text(json.dumps({"images": images, "dataset": "x"}))
    return path


def captions_file(folder: Path, name: str, captions: dict[str, str]) -> Path:
    path = folder / name
    path.write_text("".join(json.dumps({"id": key, "caption": text}) + "\n" for key, text in captions.items()))
    return path


def drawn(result: Result, width: int) -> str:
    console = Console(width=width, record=True, file=None, quiet=False, force_terminal=False)
    with console.capture() as capture:
        console.print(result)
    return capture.get()


@pytest.fixture
def spec(tmp_path: Path) -> str:
    return f"levir-cc-captions:{levir_file(tmp_path)}"


GOOD = {"val_1": "Two houses are built at the top.", "val_2": "no change has occurred", "val_3": "a road is built"}


def test_table_holds_the_file_and_the_trivial_rows(tmp_path: Path, spec: str) -> None:
    other = captions_file(tmp_path, "[b]odd.jsonl", dict.fromkeys(GOOD, "[/]") | {"val_2": ""})
    result = run_score([captions_file(tmp_path, "sft.jsonl", GOOD), other], spec, "val", meteor=False)
    names = [row.name for row in result.rows]
    assert names[:2] == ["sft", "[b]odd"]
    assert names[2:] == ["no change", "true flag", "a person"]
    assert [row.baseline for row in result.rows] == [False, False, True, True, True]
    facts = result.rows[0].facts
    assert facts is not None
    assert facts.flag.accuracy == 100
    assert facts.references["object"].counts.tolist() == [[1, 1, 1], [0, 1, 1]]
    assert any("1 of 3 captions are empty" in note for note in result.notes)

    text = drawn(result, 80)
    assert "3 pairs, 2 changed; tokens: words" in text
    assert text.count("  changed only") == 2 * 5  # in two tables
    assert "[b]odd" in text
    assert "mean of 3" in text  # and not S*m, which needs METEOR
    assert not re.search(r"S\*m\s*\n ─", text)
    assert 'no change: "the scene is the same as before" for every pair.' in text
    assert "nearest pair and pixel diff. are absent: the references are captions without" in text
    assert "sample size: 3 pairs" in text
    assert "SBS is absent" in text
    for values in (result.rows[0].scores.overall, result.rows[0].scores.changed_only):
        assert values is not None
        for number in (values.bleu_1, values.rouge_l, values.cider_d, values.mean_without_meteor):
            assert f"{number:.2f}±" in text
    assert max(map(len, text.splitlines())) <= 80

    data = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert data["tokenisation"] == "word"
    assert data["rows"][0]["scores"]["overall"]["bleu_1"] == pytest.approx(result.rows[0].scores.overall.bleu_1)
    assert data["rows"][0]["scores"]["changed_only"]["pairs"] == 2
    low, high = data["rows"][0]["scores"]["changed_only"]["interval_95"]["cider_d"]
    assert low <= data["rows"][0]["scores"]["changed_only"]["cider_d"] <= high


@pytest.mark.skipif(shutil.which("java") is None, reason="METEOR needs Java")
def test_with_java_there_is_s_m(tmp_path: Path, spec: str) -> None:
    result = run_score(captions_file(tmp_path, "sft.jsonl", GOOD), spec, "val")
    values = result.rows[0].scores.overall
    assert values.meteor is not None
    assert values.s_m == pytest.approx((values.bleu_4 + values.meteor + values.rouge_l + values.cider_d) / 4)
    text = drawn(result, 80)
    assert "S*m" in text
    assert f"{values.s_m:.2f}" in text
    assert "mean of 3" not in text


def test_html_is_well_formed_and_escaped(tmp_path: Path, spec: str) -> None:
    path = captions_file(tmp_path, "<script>.jsonl", GOOD)
    page = run_score(path, spec, "val", meteor=False).html()
    seen: list[str] = []
    stack: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            seen.append(tag)
            if tag != "br":
                stack.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert stack.pop() == tag

    Reader().feed(page)
    assert not stack
    cells = re.findall(r"<tr[^>]*>(<td>.*?</td>)(.*?)</tr>", page)
    assert cells
    assert all(rest.count("<td") == rest.count('<td class="number"') for _, rest in cells)
    assert "script" not in seen
    assert seen.count("table") == 7  # scores in two, flag, facts in two, one system's values, tests
    assert "&lt;script&gt;" in page


def test_files_and_splits_that_do_not_fit(tmp_path: Path, spec: str) -> None:
    good = captions_file(tmp_path, "p.jsonl", GOOD)
    with pytest.raises(InputError, match=r"p\.jsonl: 2 of 2 pairs have no caption .*3 ids are not among"):
        run_score(good, spec, "train", meteor=False)
    with pytest.raises(InputError, match="no split 'test'"):
        run_score(good, spec, "test", meteor=False)
    with pytest.raises(InputError, match="given twice"):
        run_score([good, good, good], spec, "val", meteor=False)


def pair(name: str, captions: list[str], changed: bool | None, split: str = "val") -> ImagePair:
    return ImagePair(id=name, split=split, before="A/x.png", after="B/x.png", captions=captions, changed=changed)


def test_sentences_of_other_sets_come_from_their_training_split() -> None:
    pairs = [pair(name, texts, name not in {"train_2", "val_2"}, name.split("_")[0]) for name, texts in PAIRS.items()]
    truth = references_of(pairs, "val", "scenes:5")
    assert (truth.no_change, truth.change) == ("nothing has changed", "massive villas are built")
    assert truth.changed == {"val_1": True, "val_2": False, "val_3": True}
    itself = references_of(pairs, "train", "scenes:5")  # nothing is learnt from the split that is scored
    assert (itself.no_change, itself.change) == (NO_CHANGE, CHANGE)


def test_pairs_without_captions_or_flags_are_said() -> None:
    pairs = [pair("a", ["a house is built", "no change"], None), pair("b", [], True), pair("c", ["x"], True)]
    truth = references_of(pairs, "val", "folder:x")
    assert list(truth.captions) == ["a", "c"]
    assert truth.changed is None  # one of a's captions against the other
    assert truth.uncaptioned == {"b"}
    assert "1 of 3 pairs have no captions" in truth.notes[0]
    assert "known of 1 of 2 pairs" in truth.notes[1]
    with pytest.raises(InputError, match="none of the 1 pairs of split 'val' has captions"):
        references_of([pair("b", [], True)], "val", "folder:x")


def test_where_the_set_does_not_say_what_changed_most_references_do() -> None:
    still = ["nothing has changed", "the scene is the same as before", "a house is built"]
    pairs = [pair("a", ["a house is built"], None), pair("b", still, None), pair("c", ["x"], True)]
    truth = references_of(pairs, "val", "folder:x")
    assert truth.changed == {"a": True, "b": False, "c": True}
    assert truth.notes == ("folder:x: whether it changed is what most references say in 2 of 3 pairs",)
    against = references_of([pair("a", ["a house is built"], False)], "val", "folder:x")
    assert against.changed == {"a": False}  # what the set says stands


def test_rendered_scenes_bring_their_planted_facts(tmp_path: Path) -> None:
    spec = "scenes:40,seed=3,size=64"
    pairs = [pair for pair in open_source(spec).pairs if pair.split == "val"]
    file = captions_file(tmp_path, "truth.jsonl", {pair.id: pair.captions[0] for pair in pairs})
    result = run_score(file, spec, "val", meteor=False)
    facts = result.rows[0].facts
    assert facts is not None
    assert facts.planted is not None
    assert facts.flag.accuracy == 100
    assert facts.planted["object_direction"].precision == 100
    assert "Facts against the planted facts" in drawn(result, 80)
