"""`rsiccllm bench rate`: people rate captions 1 to 5 in the browser, so that a judge can be held against them.

The same pairs, dimensions and blindness as for the judge: no model's name is shown, and the order is random and the
same for everyone. Unlike a judge without `--images`, people see both images.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path

from rsiccllm.benchmark.judge_people import RATINGS, PersonRating, Scores, agreement_lines, agreements, read_people
from rsiccllm.benchmark.judge_questions import DIMENSIONS, UNCHANGED, Rating, questions_of, sample
from rsiccllm.benchmark.results import JUDGE, Board, load_board, load_judge
from rsiccllm.benchmark.texts import texts_of
from rsiccllm.journal import Journal
from rsiccllm.page import Html, element, figure, join, overlay, table
from rsiccllm.people.pages import document, field_of, item_form, moves, status
from rsiccllm.people.server import Items, Refused, now

SIDE = 640


class Rate(Items):
    """Captions of a board to be rated.

    Args:
        board: results on the same pairs. out: a folder; ratings.jsonl in it only grows, a person's last rating of a
            caption stands. count: pairs, drawn with `seed` as `bench judge` draws them.

    Raises InputError where the data is not here, and for a ratings.jsonl or judge.json of other results.
    """

    title = "Rate captions"

    def __init__(self, board: Board, out: Path, count: int = 200, seed: int = 0) -> None:
        self.board, self.out = board, out
        self.source, pairs = sample(board, count, seed)
        self.questions = questions_of(board, pairs, False, seed)
        self.captions = board.captions
        held = load_judge(out, [board])["judges"] if (out / JUDGE).is_file() else {}
        self.judges = {name: _ratings(found["ratings"]) for name, found in held.items()}
        self._journal = Journal(out / RATINGS)
        try:
            self.ratings: dict[str, Scores] = read_people(out / RATINGS, self.captions)[0]
        except BaseException:
            self._journal.close()
            raise
        self._lock = threading.Lock()
        self._figures = lru_cache(maxsize=32)(self._draw)

    def __len__(self) -> int:
        return len(self.questions)

    @property
    def people(self) -> list[str]:
        """Everyone who rated anything."""
        return sorted(self.ratings)

    def close(self) -> None:
        """Let go of the file of ratings."""
        self._journal.close()

    def said(self, person: str, place: int) -> bool:
        """Whether a person has rated a caption."""
        return self._key(place) in self.ratings.get(person, {})

    def show(self, place: int, person: str, token: str) -> Html:
        """Both images, what people wrote, the caption, and four rows of 1 to 5."""
        pair = self.questions[place].pair
        own = self.ratings.get(person, {}).get(self._key(place), {})
        badges = [element("span", "rated by you", css="badge")] if own else []
        texts = texts_of(pair, self.board.settings["task"])
        card = element(
            "section",
            element("div", element("h3", pair.id), *badges, css="head"),
            self._figures(place),
            element("div", "What people wrote", css="label"),
            element("ol", *(element("li", text, css="text") for text in texts)),
            element("div", "The caption to rate", css="label"),
            element("p", self.captions[self._key(place)].strip() or "(nothing)", css="text said"),
            item_form(
                place,
                person,
                token,
                element("p", f"From 1, wrong or absent, to 5, right and complete. {UNCHANGED}", css="quiet"),
                *(_row(name, meaning, own.get(name)) for name, meaning in DIMENSIONS.items()),
                element(
                    "div",
                    element("button", "Save", element("kbd", "Enter"), css="main"),
                    element("span", element("kbd", "1"), " to ", element("kbd", "5"), " rate, ",
                            element("kbd", "Backspace"), " goes up a row", css="quiet"),
                    moves(place, len(self), person),
                    css="bar",
                ),
            ),
            css="card",
        )  # fmt: skip
        here = resources.files("rsiccllm.benchmark")
        style, script = ((here / name).read_text(encoding="utf-8") for name in ("rate.css", "rate.js"))
        above = status(place, len(self), self.done(person), person)
        return document(self.title, above, card, style=style, script=script)

    def take(self, place: int, person: str, fields: dict[str, str]) -> None:
        """Keep four scores."""
        if not all(fields.get(name) in {"1", "2", "3", "4", "5"} for name in DIMENSIONS):
            raise Refused(f"Expected a rating from 1 to 5 of each of {', '.join(DIMENSIONS)}.")
        pair, model = key = self._key(place)
        scores = {name: int(fields[name]) for name in DIMENSIONS}
        rating = PersonRating(rater=person, pair=pair, model=model, caption=self.captions[key], at=now(), **scores)
        with self._lock:
            self._journal.append(rating.model_dump())
            self.ratings.setdefault(person, {})[key] = scores

    def report(self) -> Html:
        """Who rated how many captions, and how far they agree."""
        rows = [[name, len(own)] for name, own in sorted(self.ratings.items())]
        return document(
            "What was decided",
            table(["rated by", "captions"], rows) if rows else element("p", "nothing yet"),
            *(element("p", line) for line in self.lines()),
        )

    def lines(self) -> list[str]:
        """For the page and the terminal: how much was rated, and how far people agree, with each other and with the
        judges of judge.json in the same folder, where there is one on these results."""
        rated = {key for own in self.ratings.values() for key in own}
        asked = {self._key(place) for place in range(len(self))}
        first = f"{len(rated & asked)} of {len(asked)} captions rated by {len(self.ratings)} people"
        return [first, *agreement_lines(agreements(self.judges, self.ratings))]

    def _key(self, place: int) -> tuple[str, str]:
        question = self.questions[place]
        return question.pair.id, question.models[0]

    def _draw(self, place: int) -> Html:
        opened = self.source.open(self.questions[place].pair)
        figures = [figure(opened.before, "before", SIDE), figure(opened.after, "after", SIDE)]
        if opened.mask is not None and opened.mask.any():
            figures.append(figure(overlay(opened.after, opened.mask), "after, mask outlined", SIDE))
        return element("div", *figures, css="figures")


def open_rating(folders: Sequence[Path], out: Path, count: int = 200, seed: int = 0) -> Rate:
    """`Rate` of folders that `bench run` wrote on the same pairs. Raises InputError where they are not."""
    return Rate(load_board(folders), out, count, seed)


def _row(name: str, meaning: str, chosen: int | None) -> Html:
    """One dimension: five radio buttons, which work without a script too."""
    choices = [
        element(
            "label",
            field_of(type="radio", name=name, value=score, required="", **({"checked": ""} if score == chosen else {})),
            score,
        )
        for score in range(1, 6)
    ]
    title = element("legend", element("b", name), f" {meaning}")
    return element("fieldset", title, join(choices), css="rating")


def _ratings(lines: Sequence[dict[str, object]]) -> dict[tuple[str, str], Rating | None]:
    """The ratings of one judge of judge.json; None for an answer that could not be read."""
    return {
        (str(line["id"]), str(line["model"])): Rating.model_validate(line) if "object" in line else None
        for line in lines
    }
