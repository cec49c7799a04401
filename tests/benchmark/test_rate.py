"""People rate captions: by keyboard in a real Chromium, over HTTP, and held against each other and a judge."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import boards
import pytest

from browser import Browser
from people_page import Served, arrive
from rsiccllm.benchmark.judge_people import RATINGS, PersonRating, read_people
from rsiccllm.benchmark.judge_questions import DIMENSIONS, sample
from rsiccllm.benchmark.rate import Rate, open_rating
from rsiccllm.benchmark.results import JUDGE_SCHEMA, Board, captions_digests, load_board
from rsiccllm.errors import InputError
from rsiccllm.files import read_jsonl

PAIRS = 3


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Board:
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", "")  # no Java
        folders = [boards.finish(folder / "secret_a", boards.good()), boards.finish(folder / "secret_b", boards.bad())]
    return load_board(folders)


@pytest.fixture
def served(board: Board, tmp_path: Path) -> Iterator[Served]:
    served = Served(Rate(board, tmp_path, PAIRS))
    yield served
    served.stop()


def rated(**given: str) -> dict[str, str]:
    return {**dict.fromkeys(DIMENSIONS, "3"), **given}


def test_by_keyboard_in_a_real_browser(served: Served, tmp_path: Path) -> None:
    with Browser() as browser:
        browser.open(served.address)
        browser.wait("document.activeElement.tagName === 'INPUT'")
        browser.type("Zoë <b>")
        browser.press("Enter")
        arrive(browser, "/item/0")
        shown = browser.run("document.body.innerText")
        assert "secret" not in browser.run("document.documentElement.outerHTML")
        assert all(f"{name} {meaning}" in shown.replace("\n", " ") for name, meaning in DIMENSIONS.items())
        assert browser.run("document.images.length") >= 2
        browser.press("5")
        browser.press("4")
        browser.press("Enter")  # two rows are empty: the form does not go
        assert browser.run("location.pathname") == "/item/0"
        browser.press("2")
        browser.press("Backspace")
        browser.press("3")
        browser.press("1")
        browser.press("Enter")
        arrive(browser, "/item/1")
        browser.press("ArrowLeft")
        arrive(browser, "/item/0")
        assert "rated by you" in browser.run("document.body.innerText")
        chosen = "[...document.querySelectorAll(':checked')].map(each => each.value).join()"
        assert browser.run(chosen) == "5,4,3,1"
        browser.press("2")  # she changes her mind about the object
        browser.press("Enter")
        arrive(browser, "/item/1")
        browser.screenshot(tmp_path / "rate.png")
    lines = read_jsonl(tmp_path / RATINGS, PersonRating)
    assert [(line.rater, *line.scores().values()) for line in lines] == [
        ("Zoë <b>", 5, 4, 3, 1),
        ("Zoë <b>", 2, 4, 3, 1),
    ]
    assert (tmp_path / "rate.png").stat().st_size > 10_000


def test_ratings_are_whole_and_outlive_the_server(served: Served, board: Board, tmp_path: Path) -> None:
    token = served.token()
    good = {"token": token, "by": "Ann", **rated()}
    for wrong in ({"verb": "6"}, {"verb": "0"}, {"verb": "2.5"}, {"verb": ""}, {"by": ""}):
        assert served.ask("POST", "/item/0", {**good, **wrong})[0] == 400, wrong
    assert served.ask("POST", "/item/0", {**good, "token": "x"})[0] == 403
    assert read_jsonl(tmp_path / RATINGS, PersonRating) == []
    for place in range(2 * PAIRS):
        then = f"/item/{place + 1}?by=Ann" if place + 1 < 2 * PAIRS else "/done?by=Ann"
        assert served.ask("POST", f"/item/{place}", good)[::2] == (303, then)
    with pytest.raises(InputError, match="in use"):
        Rate(board, tmp_path, PAIRS)
    served.items.close()  # type: ignore[attr-defined]
    again = Rate(board, tmp_path, PAIRS)
    again.close()
    assert again.next("Ann") is None
    assert again.lines() == [f"{2 * PAIRS} of {2 * PAIRS} captions rated by 1 people"]
    assert again.people == ["Ann"]


def test_people_are_held_against_each_other_and_a_judge(board: Board, tmp_path: Path) -> None:
    pairs = sample(board, PAIRS, 0)[1]
    scores = {"secret_a": 5, "secret_b": 1}
    lines = [
        {"rater": rater, "pair": pair.id, "model": model, "at": "1", **dict.fromkeys(DIMENSIONS, score)}
        for rater in ("Ann", "Bob")
        for pair in pairs
        for model, score in scores.items()
    ]
    lines[-1]["verb"] = 5  # of six captions rated twice, Bob differs on one verb
    (tmp_path / RATINGS).write_text("\n".join(map(json.dumps, lines)) + "\n")
    ratings = [
        {"id": pair.id, "model": model, **{name: {"score": 6 - score, "reason": "x"} for name in DIMENSIONS}}
        for pair in pairs
        for model, score in scores.items()
    ]
    said = captions_digests(board)
    judge = {"schema": JUDGE_SCHEMA, "board": board.title, "captions": said, "pairs": [], "agreement": {}}
    (tmp_path / "judge.json").write_text(json.dumps({**judge, "judges": {"odd": {"ratings": ratings}}}))
    rating = open_rating([result.folder for result in board.results], tmp_path, PAIRS)
    rating.close()
    first, people, odd = rating.lines()
    assert first == "6 of 6 captions rated by 2 people"
    # Krippendorff's alpha by hand, verb: 12 ratings, five captions agree and one has 1 and 5; with two values the
    # ordinal alpha is the nominal one, 1 - 11 * 2 / (5 * 7 * 2) = 1 - 22 / 70.
    assert "agreement, people: object 1.00, direction 1.00, verb 0.69, magnitude 1.00" in people
    assert "ordinal; 6 captions" in people
    # The judge turns the scale round: 3 fives and 3 ones each, never equal; 1 - 11 * 12 / (6 * 6 * 2).
    assert "agreement, odd and people: object -0.83" in odd
    (tmp_path / "judge.json").write_text(json.dumps({**judge, "board": "others", "judges": {}}))
    with pytest.raises(InputError, match="judges none of these results"):
        Rate(board, tmp_path)
    for captions, told in (({**said, "secret_a": "0"}, "has said something else"), ({"x": "0"}, "is not among these")):
        (tmp_path / "judge.json").write_text(json.dumps({**judge, "captions": captions, "judges": {}}))
        with pytest.raises(InputError, match=told):
            Rate(board, tmp_path)


def test_ratings_that_do_not_stand(board: Board, tmp_path: Path) -> None:
    captions = board.captions
    (pair, model), text = next(iter(captions.items()))
    line = {"rater": "Ann", "pair": pair, "model": model, **dict.fromkeys(DIMENSIONS, 2)}
    file = tmp_path / RATINGS

    def read(*lines: dict[str, object]) -> tuple[dict[str, object], int]:
        file.write_text("".join(json.dumps(each) + "\n" for each in lines))
        found, passed = read_people(file, captions)
        return dict(found), passed

    def score(*lines: dict[str, object]) -> object:
        return read(*lines)[0]["Ann"][pair, model]["verb"]  # type: ignore[index]

    later = {**line, "at": "2", "verb": 4}
    assert score(line, later) == 4
    assert score({**line, "caption": text}) == 2
    assert read(line, {**later, "caption": f"{text} before"}, {**line, "model": "gone"})[1] == 2
    with pytest.raises(InputError, match="twice"):
        read(line, line)
    with pytest.raises(InputError, match="none of its 1 ratings is of a caption of these results"):
        read({**line, "model": "gone"})
    assert read() == ({}, 0)


def test_fewer_pairs_are_part_of_more(board: Board) -> None:
    few, more = ({pair.id for pair in sample(board, count, 7)[1]} for count in (3, 6))
    assert few < more
    assert len(few) == 3
