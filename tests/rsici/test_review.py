"""The review: over HTTP as a browser or an attacker would, and in a real Chromium by keyboard."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from browser import Browser
from people_page import Served, arrive
from rsiccllm.errors import InputError
from rsiccllm.files import read_jsonl, write_jsonl
from rsiccllm.records import INSTRUCTIONS, PAIRS, ImagePair, Instruction
from rsiccllm.rsici.review.decisions import REVIEWS, Decision, Reviews, read_reviews
from rsiccllm.rsici.review.items import Review

ATTACK = "a house is built in the top left</p><script>document.title='owned'</script>"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three pairs; the captions of the second hold markup, and the third names a place where nothing changed."""
    random = np.random.default_rng(0)
    texts = [["a house is built in the top left"], [ATTACK, "second answer"], ["a house is built in the bottom right"]]
    pairs, records = [], []
    for number, answers in enumerate(texts):
        mask = np.zeros((64, 64), np.uint8)
        mask[4:20, 4:20] = 255
        for name in ("a", "b"):
            Image.fromarray(random.integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / f"{name}{number}.png")
        Image.fromarray(mask).save(tmp_path / f"m{number}.png")
        paths = {"before": f"a{number}.png", "after": f"b{number}.png", "mask": f"m{number}.png"}
        pairs.append(ImagePair(id=f"p{number}", **paths))
        records.append(
            Instruction(
                id=f"p{number}/caption",
                pair=f"p{number}",
                source="x",
                task="caption",
                prompt="What?",
                answers=answers,
                **paths,
            )
        )
    write_jsonl(tmp_path / PAIRS, pairs)
    write_jsonl(tmp_path / INSTRUCTIONS, records)
    note = {
        "pair": "p0",
        "task": "caption",
        "attempt": 0,
        "gate": "leak",
        "reason": "leak",
        "detail": "mask",
        "text": "<i> a line \u2028 and another",
    }
    write_jsonl(tmp_path / "rejected.jsonl", [note])
    return tmp_path


def place_of(served: Served, item: str) -> int:
    return served.items.place[item]  # type: ignore[attr-defined]


@pytest.fixture
def served(root: Path) -> Iterator[Served]:
    served = Served(Review(root))
    yield served
    served.stop()


def test_an_item_shows_everything_and_nothing_runs(served: Served) -> None:
    status, text, _ = served.ask("GET", f"/item/{place_of(served, 'p0/caption')}?by=Ann")
    assert status == 200
    assert text.count("<img ") == 3
    assert "passes all" in text
    assert "building, appear (build), one, top left" in text
    assert "Rejected when the set was built" in text
    assert "&lt;i&gt;" in text
    _, text, _ = served.ask(
        "GET", f"/item/{place_of(served, 'p1/caption')}?by=" + "%3Cscript%3Ealert(1)%3C%2Fscript%3E"
    )
    assert text.count("<script>") == 1, "only our own"
    assert "&lt;script&gt;document" in text
    assert re.search(r"script-src 'sha256-[\w+/=]+'", text)
    _, text, _ = served.ask("GET", f"/item/{place_of(served, 'p2/caption')}?by=Ann")
    assert "facts: place (" in text, "the gate's reason"


def test_decisions_are_kept_go_on_and_outlive_the_server(served: Served, root: Path) -> None:
    token = served.token()
    assert served.ask("GET", "/?by=Ann")[2] == "/item/0?by=Ann"
    order = [record.id for record in served.items.records]
    several = place_of(served, "p1/caption")
    # On the third line she changes her mind on the first item.
    for place, choice, then in ((0, "accept", 1), (1, "reject", 2), (0, "reject", 2)):
        status, _, where = served.ask("POST", f"/item/{place}", {"token": token, "by": "Ann", "choice": choice})
        assert (status, where) == (303, f"/item/{then}?by=Ann")
    fields = {
        "token": token,
        "by": "Bob  O",
        "choice": "edit",
        "text0": "one <b>\r\n",
        "text1": " two ",
        "note": "better",
    }
    assert served.ask("POST", f"/item/{several}", fields)[0] == 303
    assert (
        served.ask("POST", f"/item/{place_of(served, 'p0/caption')}", {**fields, "text0": " \n", "text1": ""})[0] == 400
    )
    lines = read_jsonl(root / REVIEWS, Decision)
    assert [(line.reviewer, line.choice) for line in lines] == [
        ("Ann", "accept"),
        ("Ann", "reject"),
        ("Ann", "reject"),
        ("Bob O", "edit"),
    ]
    assert lines[3].edited == ["one <b>", "two"]
    assert lines[3].note == "better"
    with pytest.raises(InputError, match="in use"):
        Review(root)
    served.items.close()
    again = Review(root)
    assert again.reviews.of("Ann", order[0]).choice == "reject"  # type: ignore[union-attr]
    assert again.next("Ann") == 2
    assert again.reviews.counts() == {"Ann": {"reject": 2}, "Bob O": {"edit": 1}}
    again.close()


def test_nobody_else_can_decide(served: Served, root: Path) -> None:
    token, port = served.token(), urlsplit(served.address).port
    good = {"token": token, "by": "Ann", "choice": "accept"}
    assert served.ask("POST", "/item/0", {**good, "token": "x"})[0] == 403
    assert served.ask("POST", "/item/0", {"by": "Ann", "choice": "accept"})[0] == 403
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1:1", ""):
        assert served.ask("POST", "/item/0", good, {"Host": host})[0] == 403, host
        assert served.ask("GET", "/item/0?by=Ann", headers={"Host": host})[0] == 403, host
    assert served.ask("POST", "/item/0", {**good, "choice": "burn"})[0] == 400
    assert served.ask("POST", "/item/0", {**good, "by": "a\x00b"})[0] == 400
    assert served.ask("POST", "/item/0", {**good, "by": "x" * 100})[0] == 400
    assert served.ask("POST", "/item/99", good)[0] == 400
    assert served.ask("POST", "/item/0", {**good, "text": "x" * 200_000})[0] == 413
    assert served.ask("POST", "/item/0", good, {"Content-Length": "-5"})[0] in {400, 413}
    for path in ("/item/../../etc/passwd", "/item/-1?by=a", "/item/1e3?by=a", "/a0.png", "/item/0"):
        assert served.ask("GET", path)[0] == 404, path
    assert read_jsonl(root / REVIEWS, Decision) == []
    assert served.ask("POST", "/item/0", good)[0] == 303


def decision(item: str, reviewer: str, choice: str, edited: list[str] | None = None, at: str = "1") -> Decision:
    return Decision(item=item, reviewer=reviewer, choice=choice, answers=["x"], edited=edited, at=at)  # type: ignore[arg-type]


def test_what_reviewers_leave(root: Path) -> None:
    records = read_jsonl(root / INSTRUCTIONS, Instruction)
    records = [record.model_copy(update={"answers": ["x"]}) for record in records]
    reviews = Reviews()
    for one in (
        decision("p0/caption", "Ann", "accept"),
        decision("p0/caption", "Bob", "edit", ["y"], "2"),
        decision("p0/caption", "Cem", "edit", ["z"], "1"),
        decision("p1/caption", "Ann", "reject"),
        decision("p1/caption", "Bob", "accept"),
    ):
        reviews.add(one)
    assert [(record.id, record.answers) for record in reviews.apply(records)] == [
        ("p0/caption", ["y"]),  # the latest edit
        ("p2/caption", ["x"]),  # nobody looked; p1 was rejected by half
    ]
    found = reviews.agreement()
    assert (found.items, found.raters, found.same) == (
        2,
        3,
        0.25,
    )  # of accept-edit, accept-edit, edit-edit, reject-accept


def test_a_decision_on_words_that_changed_since_does_not_stand(root: Path) -> None:
    lines = [decision("p0/caption", "Ann", "reject"), decision("gone", "Ann", "reject")]
    write_jsonl(root / REVIEWS, lines)
    assert read_reviews(root, read_jsonl(root / INSTRUCTIONS, Instruction)).reviewers == []


def test_what_is_refused(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(InputError, match=r"pairs\.jsonl"):
        Review(tmp_path_factory.mktemp("none"))
    with pytest.raises(InputError, match="no record of the tasks describe"):
        Review(root, ("describe",))
    (root / REVIEWS).write_text('{"item": "x"}\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"reviews\.jsonl:1: field 'reviewer'"):
        Review(root)


def test_by_keyboard_in_a_real_browser(served: Served, root: Path, tmp_path: Path) -> None:
    with Browser() as browser:
        browser.open(served.address)
        browser.wait("document.activeElement.tagName === 'INPUT'")
        browser.type("Zoë <b>")
        browser.press("Enter")
        arrive(browser, "/item/0")
        browser.press("a")
        arrive(browser, "/item/1")
        browser.press("ArrowLeft")
        arrive(browser, "/item/0")
        assert "you: accept" in browser.run("document.body.innerText")
        browser.press("ArrowRight")
        arrive(browser, "/item/1")
        browser.press("r")
        arrive(browser, "/item/2")
        browser.press("e")
        assert browser.run("document.activeElement.tagName") == "TEXTAREA"
        browser.run("document.activeElement.select()")
        browser.type("a barn is removed: a, r and e are letters here")
        browser.press("Enter", control=True)
        arrive(browser, "/done")
        browser.open(f"{served.address}item/{place_of(served, 'p1/caption')}?by=Zo%C3%AB")
        assert browser.run("document.title") == "Review", "markup of a caption ran"
        assert "<script>" in browser.run("document.body.innerText")
        assert browser.run("document.images.length") == 3
        assert browser.run("[...document.images].every(image => image.naturalWidth === 64)")
        browser.screenshot(tmp_path / "review.png")
        browser.open(f"{served.address}report")
        assert "3 of 3 items looked at by 1 reviewers" in browser.run("document.body.innerText")
    kept = [json.loads(line) for line in (root / REVIEWS).read_text(encoding="utf-8").splitlines()]
    assert [line["choice"] for line in kept] == ["accept", "reject", "edit"]
    assert kept[2]["edited"] == ["a barn is removed: a, r and e are letters here", "second answer"]
    assert {line["reviewer"] for line in kept} == {"Zoë <b>"}
    assert (tmp_path / "review.png").stat().st_size > 10_000


def test_answers_with_line_breaks_stay_whole_in_an_edit(served: Served, root: Path) -> None:
    token, place = served.token(), place_of(served, "p1/caption")
    fields = {"token": token, "by": "Ann", "choice": "edit", "text0": "Two houses.\r\nTrees are gone.", "text1": "two"}
    assert served.ask("POST", f"/item/{place}", fields)[0] == 303
    assert read_jsonl(root / REVIEWS, Decision)[0].edited == ["Two houses.\nTrees are gone.", "two"]
    page = served.ask("GET", f"/item/{place}?by=Ann")[1]
    assert re.findall(r"<textarea[^>]*>([^<]*)</textarea>", page) == ["Two houses.\nTrees are gone.", "two"]


def test_a_line_cut_short_by_a_kill_is_dropped(root: Path) -> None:
    line = json.dumps(decision("p0/caption", "Ann", "reject").model_dump(exclude_none=True))
    (root / REVIEWS).write_text(line + "\n" + line[:30], encoding="utf-8")
    records = [one.model_copy(update={"answers": ["x"]}) for one in read_jsonl(root / INSTRUCTIONS, Instruction)]
    assert read_reviews(root, records).reviewers == ["Ann"], "while another process may still be writing"
    review = Review(root)
    review.close()
    assert (root / REVIEWS).read_text(encoding="utf-8") == line + "\n"


def test_a_decision_that_cannot_be_kept_is_said(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    token = served.token()

    def full(line: object) -> None:
        raise InputError("reviews.jsonl: cannot be written (No space left on device)")

    monkeypatch.setattr(served.items._journal, "append", full)  # type: ignore[attr-defined]  # no disk of ours is full
    status, page, _ = served.ask("POST", "/item/0", {"token": token, "by": "Ann", "choice": "accept"})
    assert (status, "Not kept: reviews.jsonl: cannot be written" in page) == (500, True)
    assert served.ask("POST", "/item/0", {}, {"Content-Length": "9" * 5000})[0] == 413


def test_of_two_edits_in_one_second_the_later_stands(root: Path) -> None:
    records = [one.model_copy(update={"answers": ["x"]}) for one in read_jsonl(root / INSTRUCTIONS, Instruction)]
    reviews = Reviews()
    for name, text, at in (("Ann", "a", "00"), ("Bob", "b", "05"), ("Ann", "c", "05")):
        reviews.add(decision("p0/caption", name, "edit", [text], at))
    assert reviews.apply(records)[0].answers == ["c"]
