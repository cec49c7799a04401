"""The model teacher: what it shows and says, and what becomes of every kind of answer."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from chat_server import Act, ChatServer, completion, text_of
from rsiccllm.endpoint import Budget, Endpoint
from rsiccllm.facts import Known
from rsiccllm.page import overlay
from rsiccllm.records import ImagePair
from rsiccllm.rsici.prior import Prior, mask_prior
from rsiccllm.rsici.prompts import facts_in_words, teacher_prompt
from rsiccllm.rsici.teachers.base import Ask, Failure
from rsiccllm.rsici.teachers.openai import DRY_RUN, JOURNAL, Look, OpenAITeacher, dry_run, make_request
from rsiccllm.sources.base import ChangeMask


@pytest.fixture
def asks(tmp_path: Path) -> list[Ask]:
    """Four pairs; the last one has an empty mask."""
    random = np.random.default_rng(0)
    found = []
    for number in range(4):
        mask = np.zeros((64, 96), np.uint8)
        if number < 3:
            mask[8 : 20 + number, 60:80] = 255
        for name, pixels in (
            ("a", random.integers(0, 255, (64, 96, 3), np.uint8)),
            ("b", np.full((64, 96, 3), 90, np.uint8)),
        ):
            Image.fromarray(pixels).save(tmp_path / f"{name}{number}.png")
        Image.fromarray(mask).save(tmp_path / f"m{number}.png")
        pair = ImagePair(id=f"p{number}", before=f"a{number}.png", after=f"b{number}.png", mask=f"m{number}.png")
        found.append(Ask(pair, "describe", mask_prior(ChangeMask((mask > 0).astype(np.uint8), {}))))
    return found


def images_of(request: dict[str, Any]) -> list[Image.Image]:
    parts = request["messages"][1]["content"]
    uris = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    return [Image.open(io.BytesIO(base64.b64decode(uri.partition("base64,")[2]))) for uri in uris]


def endpoint(server: ChatServer, **settings: Any) -> Endpoint:
    return Endpoint(server.url, "vl", **{"timeout": 1.5, "backoff": 0.01, "attempts": 2, **settings})


def test_what_a_mask_says_in_words() -> None:
    values = np.zeros((100, 100), np.uint8)
    values[10:20, 70:90] = 1
    building = {1: (Known("building"),)}
    assert facts_in_words(mask_prior(ChangeMask(values, building), scope="building")) == (
        "1 area, 2.0 % of the image. One at the top right, compact, 2.0 %: building. Of all changes only those of "
        "buildings are marked. Known to have changed: building."
    )
    for row in range(14):  # one a row of 7 pixels, 4 x 8 each
        values[7 * row + 1 : 7 * row + 5, 10:18] = 1
    lines = facts_in_words(mask_prior(ChangeMask(values)))
    assert lines.startswith("15 separate areas, 6.5 % of the image in all. One at the top right")
    assert lines.endswith("Smaller ones: 3.")
    assert lines.count("One at the") == 12
    told = Prior(100, 100, known=(Known("parking_lot", "appear"), Known("tree", "disappear")))
    assert facts_in_words(told) == "Known to have changed: parking lot (came), tree (went)."


@pytest.mark.parametrize("look", ["outline", "mask", "none"])
def test_what_the_teacher_is_shown(look: Look, asks: list[Ask], tmp_path: Path) -> None:
    with ChatServer(lambda n, r: completion(" A house was built. ")) as server:
        with OpenAITeacher(tmp_path, endpoint(server), look=look) as teacher:
            answers = {ask.pair.id: answer for ask, answer in teacher.answer_all(asks[:1])}
        request = server.requests[0]
    assert teacher.name == f"openai:vl/{look}"
    assert answers == {"p0": ["A house was built."]}
    assert [message["role"] for message in request["messages"]] == ["system", "user"]
    images = images_of(request)
    before, after = (Image.open(tmp_path / name) for name in ("a0.png", "b0.png"))
    mask = np.asarray(Image.open(tmp_path / "m0.png")) > 0
    assert images[0].tobytes() == before.tobytes()
    if look == "outline":
        assert len(images) == 2
        assert images[1].tobytes() == overlay(after, mask).tobytes() != after.tobytes()
    else:
        assert images[1].tobytes() == after.tobytes()
    if look == "mask":
        assert ((np.asarray(images[2].convert("L")) > 0) == mask).all()
    said = text_of(request)
    assert ("outlined" in said, "third image" in said) == (look == "outline", look == "mask")
    assert "top right" in said


def test_an_empty_mask_is_not_spoken_of_as_an_outline(asks: list[Ask], tmp_path: Path) -> None:
    for look in ("outline", "mask"):
        request = make_request(tmp_path, asks[3], look, {})  # type: ignore[arg-type]
        text = request.body("m").decode()
        assert "outlined in yellow" not in text
        assert text.count("data:image/png") == 2


def test_each_attempt_has_another_prompt(asks: list[Ask], tmp_path: Path) -> None:
    first = asks[0]
    bodies = set()
    for attempt, hint in ((0, ""), (1, "it was too long"), (2, "it named a place where nothing changed")):
        ask = Ask(first.pair, first.task, first.prior, attempt, hint)
        body = make_request(tmp_path, ask, "outline", {}).body("m")
        assert hint in body.decode()
        assert make_request(tmp_path, ask, "outline", {}).body("m") == body
        bodies.add(body)
    assert len(bodies) == 3


def test_what_is_no_answer_is_a_failure(asks: list[Ask], tmp_path: Path) -> None:
    acts = {
        "a long one": completion("A house was built in the", finish="length"),
        "refused": completion(None, refusal="I cannot help with that"),
        "filtered": completion("…", finish="content_filter"),
        "bad request": Act({"error": {"message": "image too large"}}, status=400),
        "down": Act(b"", status=500),
        "hangs": Act(hang=True),
    }
    expected = {
        "a long one": ("cut_off", True),
        "refused": ("refusal", True),
        "filtered": ("refusal", True),
        "bad request": ("refused", True),
        "down": ("server_error", False),
        "hangs": ("timeout", False),
    }
    for number, (name, act) in enumerate(acts.items()):
        root = tmp_path
        (root / JOURNAL).unlink(missing_ok=True)
        with ChatServer(lambda n, r, act=act: act) as server, OpenAITeacher(root, endpoint(server)) as teacher:
            ((ask, answer),) = teacher.answer_all(asks[number % 3 : number % 3 + 1])
        assert isinstance(answer, Failure), name
        assert (answer.kind, answer.final) == expected[name]
        assert ask is asks[number % 3]


def test_a_copied_example_or_instruction_is_no_answer(asks: list[Ask], tmp_path: Path) -> None:
    system, user = teacher_prompt(asks[0])
    example = user.partition("for another place: ")[2].split("\n")[0]
    assert len(example.split()) > 30
    for text in (example, user, f"A house was built. {system}"):
        server = ChatServer(lambda n, r, text=text: completion(text))
        with server, OpenAITeacher(tmp_path, endpoint(server)) as teacher:
            ((_, answer),) = teacher.answer_all(asks[:1])
        assert isinstance(answer, Failure)
        assert answer.kind == "echo"
        (tmp_path / JOURNAL).unlink()


def test_a_budget_ends_the_asking_and_the_journal_lives_in_the_root(asks: list[Ask], tmp_path: Path) -> None:
    with ChatServer(lambda n, r: completion("A house was built.")) as server:
        with OpenAITeacher(tmp_path, endpoint(server), Budget(requests=2)) as teacher:
            answers = [answer for _, answer in teacher.answer_all(asks)]
        assert sum(isinstance(answer, list) for answer in answers) == 2
        assert {a.kind for a in answers if isinstance(a, Failure)} == {"budget"}
        assert not any(a.final for a in answers if isinstance(a, Failure))
        assert (tmp_path / JOURNAL).is_file()
        with OpenAITeacher(tmp_path, endpoint(server)) as teacher:
            assert all(isinstance(answer, list) for _, answer in teacher.answer_all(asks))
        assert len(server.requests) == 4


def test_dry_run_shows_the_prompts_and_what_they_would_cost(asks: list[Ask], tmp_path: Path) -> None:
    where = Endpoint("http://127.0.0.1:9/v1", "vl", price_in=2.0, price_out=10.0)
    lines = dry_run(OpenAITeacher(tmp_path, where), asks, 1000)
    text = (tmp_path / DRY_RUN).read_text(encoding="utf-8")
    assert text.count("<section") == 4
    assert text.count("<img ") == 8
    assert "Answer" not in lines[0]
    assert lines[0].startswith("1,000 asks, ")
    prompt = int(lines[0].split(", ")[1].split()[0].replace(",", ""))
    # Two images of 96 x 64: ceil(96 / 28) * ceil(64 / 28) = 12 tokens each; the rest is text.
    assert 24 + 200 < prompt < 24 + 900
    assert "1,000 requests" in lines[1]
    assert " + 126,000 tokens" in lines[1]  # 90 words of 1.4 tokens
    assert "3,000 requests" in lines[2]
    assert "1,200,000 tokens" in lines[2]
    assert "money units" in lines[1]
    assert lines[-1] == str(tmp_path / DRY_RUN)
    assert not (tmp_path / JOURNAL).exists()
