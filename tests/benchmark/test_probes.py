"""Probes on pairs whose truth is drawn by hand, and a captioner that reads pixels."""

from __future__ import annotations

import base64
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from chat_server import Act, ChatServer, completion
from rsiccllm.benchmark.probe_scores import SCORES, score_point
from rsiccllm.benchmark.probe_views import probe_table
from rsiccllm.benchmark.probes import PROBES, Case, case_of, undone
from rsiccllm.benchmark.probing import probe_model, run_probes
from rsiccllm.errors import InputError
from rsiccllm.facts import Fact, parse
from rsiccllm.pairs import OpenedPair
from rsiccllm.records import ImagePair
from rsiccllm.sources.base import Source

PLACES = ["top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right"]
PROBE = {probe.name: probe for probe in PROBES}
SIZE = 48


class Squares(Source):
    """A bright square comes into one of nine places of a grey image; every third pair stays as it is."""

    name = "squares"

    def __init__(self, count: int) -> None:
        super().__init__(Path(), (self._record(number) for number in range(count)))

    def _record(self, number: int) -> ImagePair:
        where = PLACES[number % 9]
        changed = number % 3 != 0
        fact = Fact(object="building", direction="appear", verb="build", quantity="one", place=where.replace(" ", "_"))
        said = [f"a house is built in the {where}", f"a house appears in the {where}"]
        return ImagePair(
            id=str(number), split="test", before="b.png", after="a.png", changed=changed,
            captions=said if changed else ["there is no difference", "no change has occurred"],
            facts=[fact] if changed else [],
        )  # fmt: skip

    def open(self, pair: ImagePair) -> OpenedPair:
        before = np.full((SIZE, SIZE, 3), 90, np.uint8)
        after = before.copy()
        mask = np.zeros((SIZE, SIZE), bool)
        if pair.changed:
            row, column = divmod(int(pair.id) % 9, 3)
            mask[16 * row + 2 : 16 * row + 14, 16 * column + 2 : 16 * column + 14] = True
            after[mask] = 200
        return OpenedPair(Image.fromarray(before), Image.fromarray(after), mask)


def reads_pixels(pairs: list[OpenedPair]) -> list[str]:
    """Right on clean pairs; takes any larger difference in brightness for a house that comes or goes."""
    said = []
    for pair in pairs:
        before, after = (np.asarray(image.convert("L"), np.float32) for image in (pair.before, pair.after))
        cells = (after - before).reshape(3, 16, 3, 16).mean((1, 3)).ravel()
        most = int(np.abs(cells).argmax())
        verb = "is built" if cells[most] > 0 else "is removed"
        said.append(f"a house {verb} in the {PLACES[most]}" if abs(cells[most]) > 20 else "no change has occurred")
    return said


def test_a_captioner_that_reads_pixels(tmp_path: Path) -> None:
    source = Squares(27)
    found = run_probes(reads_pixels, source, source.pairs, tmp_path, {"model": "pixels"}, batch_size=8)
    assert list(found.points) == [probe.name for probe in PROBES]
    value = {
        (name, point.strength): {key: interval.value for key, interval in point.scores.items()}
        for name, points in found.points.items()
        for point in points
    }
    for name in found.points:  # each curve starts at the pairs as they are, of which all is said rightly
        start = value[name, 0]
        assert (start["flag"], start["object_direction_f1"], start["place_f1"], start["same_answer"]) == (100,) * 4
        assert start["reversed"] == start["invented"] == 0
    # built becomes removed, and both the captions and the truth say so
    swapped = value["swapped_dates", 1]
    assert (swapped["reversed"], swapped["object_direction_f1"], swapped["place_f1"], swapped["flag"]) == (100,) * 4
    assert swapped["same_answer"] == pytest.approx(100 / 3)  # of the pairs without a change
    assert "rouge_l" not in swapped  # no reference says what happens backwards
    same = value["same_twice", 1]
    assert (same["flag"], same["invented"]) == (100, 0)
    assert "object_direction_f1" not in same
    for key in [("rotation", 90), ("rotation", 180), ("rotation", 270), ("flip", 1), ("flip", 2)]:
        turned = value[key]
        assert (turned["flag"], turned["place_f1"]) == (100, 100), key
        assert turned["rouge_l"] == pytest.approx(value["flip", 0]["rouge_l"]), key
        assert turned["same_answer"] < 100, key
    # a square that is right at every shift, and light that this captioner takes for a change
    assert value["shift", 1]["flag"] == value["jpeg", 10]["flag"] == 100
    assert value["light", 0.6]["invented"] == 100
    assert value["light", 0.6]["flag"] < 80
    assert value["black_part", 0.5]["invented"] == 100
    assert value["unrelated", 1].keys() == {"flag", "same_answer", "reversed"}

    data = json.loads((tmp_path / "probes.json").read_text())
    assert data == json.loads(json.dumps(found.to_dict(), allow_nan=False))
    point = data["probes"]["rotation"][1]
    assert point["strength"] == 90
    assert set(point["scores"]) <= set(SCORES)
    assert point["scores"]["object_direction_gain"] == 0  # one constant (object, direction): nothing is gained by it
    low, high = point["interval_95"]["rouge_l"]
    assert low <= point["scores"]["rouge_l"] <= high
    picture = Image.open(tmp_path / "probes.png")
    assert min(picture.size) > 500
    for width in (80, 120):
        console = Console(width=width, force_terminal=False)
        with console.capture() as capture:
            console.print(probe_table(found))
        assert max(map(len, capture.get().splitlines())) <= width
        assert "swapped_dates" in capture.get()


def test_stopped_it_goes_on_and_does_not_mix(tmp_path: Path) -> None:
    source = Squares(6)
    calls: list[int] = []

    def stops(pairs: list[OpenedPair]) -> list[str]:
        calls.append(len(pairs))
        if len(calls) == 5:
            raise KeyboardInterrupt
        return reads_pixels(pairs)

    names = ["flip", "same_twice"]
    with pytest.raises(KeyboardInterrupt):
        run_probes(stops, source, source.pairs, tmp_path, {"model": 1}, names, batch_size=2)
    assert not (tmp_path / "probes.json").exists()
    found = run_probes(stops, source, source.pairs, tmp_path, {"model": 1}, names, batch_size=4)
    # twos: as they are, one of flip 1, one stopped; fours: the rest of flip 1 (2 and 2), flip 2, same twice
    assert calls == [2, 2, 2, 2, 2, 2, 2, 4, 2, 4, 2]
    whole = run_probes(reads_pixels, source, source.pairs, tmp_path / "b", {"model": 1}, names)
    assert found.to_dict() == whole.to_dict()
    with pytest.raises(InputError, match="holds probes with another identity"):
        run_probes(stops, source, source.pairs, tmp_path, {"model": 2}, names)
    with pytest.raises(InputError, match="holds probes with another pairs"):
        run_probes(stops, source, source.pairs[:3], tmp_path, {"model": 1}, names)
    with pytest.raises(InputError, match="expected one of swapped_dates"):
        run_probes(stops, source, source.pairs, tmp_path, {"model": 1}, ["fog"])
    with pytest.raises(InputError, match="1 pairs; expected two"):
        run_probes(stops, source, source.pairs[:1], tmp_path / "c", {"model": 1}, names)


@pytest.fixture
def case() -> Case:
    source = Squares(3)
    return case_of(source.pairs[1], source.open(source.pairs[1]))


def test_pixels_of_each_probe(case: Case) -> None:
    before, after, _ = case.pair
    old = np.asarray(after).astype(int)

    def new(name: str, strength: float) -> np.ndarray:
        turned = PROBE[name].turn(case, strength, case)
        assert turned.pair.before.tobytes() == before.tobytes()
        return np.asarray(turned.pair.after).astype(int)

    assert np.array_equal(new("light", 0.4), np.rint(old * 0.6))
    assert new("season", 1)[0, 0].tolist() == [117, 81, 58]  # 90 times 1.3, 0.9, 0.65
    moved = new("shift", 4)
    assert np.array_equal(moved[:, 4:], old[:, :-4])
    assert np.array_equal(moved[:, :4], old[:, :1].repeat(4, 1))
    assert (new("black_part", 0.25)[:, 36:] == 0).all()
    assert np.array_equal(new("black_part", 0.25)[:, :36], old[:, :36])
    spread = [np.abs(np.diff(new("blur", radius), axis=1)).max() for radius in (1, 2, 4)]
    assert spread == sorted(spread, reverse=True)
    again = io.BytesIO()
    after.save(again, "JPEG", quality=10)
    assert np.array_equal(new("jpeg", 90), np.asarray(Image.open(again)))


def test_truth_of_each_probe(case: Case) -> None:
    swapped = PROBE["swapped_dates"].turn(case, 1, case)
    assert (swapped.pair.before, swapped.pair.after) == (case.pair.after, case.pair.before)
    assert swapped.facts is not None
    assert [(fact.direction, fact.verb, fact.place) for fact in swapped.facts] == [("disappear", "remove", "top")]
    twice = PROBE["same_twice"].turn(case, 1, case)
    assert twice.facts == ()
    assert all(parse(text).changed is False for text in twice.references)
    turned = PROBE["rotation"].turn(case, 90, case)
    assert turned.references[0] == "a house is built in the left"
    assert turned.facts is not None
    assert turned.facts[0].place == "left"
    assert turned.pair.mask is not None
    assert turned.pair.mask[24, 8]
    other = PROBE["unrelated"].turn(case, 1, case)
    assert (other.references, other.facts, other.changed) == ((), None, True)


def test_undone_twice_is_the_fact() -> None:
    for verb, direction in (("build", "appear"), ("remove", "disappear"), ("extend", "appear"), ("replace", "appear")):
        fact = Fact(object="road", direction=direction, verb=verb)
        assert undone(undone(fact)) == fact
        assert undone(fact).direction != direction


def test_facts_of_a_pair_come_from_its_captions_where_none_are_planted() -> None:
    opened = Squares(2).open(Squares(2).pairs[1])
    record = ImagePair(id="x", before="a", after="b", changed=True, captions=["a house is built", "a road is built"])
    found = case_of(record, opened).facts
    assert found is not None
    assert {fact.object for fact in found} == {"building", "road"}
    assert case_of(record.model_copy(update={"changed": False}), opened).facts == ()
    unstated = record.model_copy(update={"changed": None})
    assert case_of(unstated, opened) == case_of(record, opened)  # the captions say that it changed
    undecided = unstated.model_copy(update={"captions": ["a house is built", "nothing has changed"]})
    assert case_of(undecided, opened).facts is None
    assert case_of(undecided, opened).changed is None
    still = unstated.model_copy(update={"captions": ["nothing has changed"]})
    assert (case_of(still, opened).facts, case_of(still, opened).changed) == ((), False)


def test_reversed_counts_what_is_said_the_other_way_round(case: Case) -> None:
    cases = [case] * 3
    before = ["a house is built", "a house is built and trees are removed", "no change has occurred"]
    now = ["a house is removed", "a house is removed", "a road is removed"]
    point = score_point(1, now, cases, before)
    assert point.scores["reversed"].value == pytest.approx(100 * 2 / 3)
    assert point.scores["same_answer"].value == 0


def test_a_checkpoint_is_probed(tiny_checkpoints: dict[str, Path], tmp_path: Path) -> None:
    checkpoint = tmp_path / "model"
    shutil.copytree(tiny_checkpoints["qwen2_5_vl"], checkpoint)
    spec = "scenes:40,seed=3,size=64,easy=1"
    found = probe_model(str(checkpoint), spec, tmp_path / "out", "test", 3, ["flip", "same_twice"], batch_size=2)
    assert found.pairs == 3
    assert [point.strength for point in found.points["flip"]] == [0, 1, 2]
    assert (tmp_path / "out" / "probes" / "as_it_is_0.jsonl").read_text().count("\n") == 3
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "provenance": {"seen": ["scenes/test"]}}))
    with pytest.raises(InputError, match="its training saw scenes/test"):
        probe_model(str(checkpoint), spec, tmp_path / "other", "test", 3)
    (tmp_path / "said.jsonl").write_text('{"id": "x", "caption": "a house"}')
    with pytest.raises(InputError, match="a file of captions cannot be probed"):
        probe_model(str(tmp_path / "said.jsonl"), spec, tmp_path / "file", "test", 3)


def test_an_endpoint_is_probed(tmp_path: Path) -> None:
    """Three pairs with one and the same first image: as "same twice" they are one request, and still three answers."""
    source = Squares(3)
    for side in ("A", "B"):
        (tmp_path / "set" / side).mkdir(parents=True)
    entries = []
    for pair in source.pairs:
        opened = source.open(pair)
        opened.before.save(tmp_path / "set" / "A" / f"{pair.id}.png")
        opened.after.save(tmp_path / "set" / "B" / f"{pair.id}.png")
        entries.append({"filename": f"{pair.id}.png", "split": "test", "sentences": pair.captions,
                        "changeflag": int(bool(pair.changed))})  # fmt: skip
    (tmp_path / "set" / "captions.json").write_text(json.dumps(entries))

    def act(number: int, request: dict[str, Any]) -> Act:
        parts = [part["image_url"]["url"] for part in request["messages"][0]["content"] if part["type"] == "image_url"]
        first, second = (Image.open(io.BytesIO(base64.b64decode(url.partition("base64,")[2]))) for url in parts)
        return completion(reads_pixels([OpenedPair(first, second, None)])[0])

    with ChatServer(act) as server:
        name = f"endpoint:{server.url}#pixels"
        found = probe_model(name, f"folder:{tmp_path / 'set'}", tmp_path / "out", "test", 3, ["same_twice", "flip"])
    assert found.points["same_twice"][1].scores["flag"].value == 100
    assert found.points["flip"][1].scores["place_f1"].value == 100
    assert (tmp_path / "out" / "probes" / "same_twice_1.jsonl").read_text().count("no change has occurred") == 3


def test_probes_of_other_images_or_of_another_run_are_refused(tmp_path: Path) -> None:
    source = Squares(6)
    run_probes(reads_pixels, source, source.pairs, tmp_path, {"model": 1}, ["flip"])
    other = Squares(6)
    other.pairs = [pair.model_copy(update={"captions": ["a road is removed"]}) for pair in other.pairs]
    with pytest.raises(InputError, match="holds probes with another data"):
        run_probes(reads_pixels, other, other.pairs, tmp_path, {"model": 1}, ["flip"])
    run = tmp_path / "run"
    run.mkdir()
    (run / "settings.json").write_text(json.dumps({"model": {"name": "m", "model": 2}}))
    with pytest.raises(InputError, match="holds a run of another model"):
        run_probes(reads_pixels, source, source.pairs, run, {"model": 1}, ["flip"])
    (run / "settings.json").write_text(json.dumps({"model": {"name": "m", "model": 1}}))
    (run / "predictions.jsonl").write_text(json.dumps({"id": "another", "caption": "no change"}) + "\n")
    with pytest.raises(InputError, match="holds a run of another set of pairs"):
        run_probes(reads_pixels, source, source.pairs, run, {"model": 1}, ["flip"])
    assert not (run / "probes").exists()
