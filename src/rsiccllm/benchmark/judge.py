"""`rsiccllm bench judge`: a language model rates captions, and compares them two by two.

Four dimensions, 1 to 5, each with a reason: object, direction of change, action verb, magnitude (the paper's four; its
prompts are not public, these are ours). The judge is blind: it never sees a model's name, and is asked in random order.
Two captions are always compared both ways round; where the verdict turns with the order, it is a tie and counted as one
that turned. What a judge says is only as good as its agreement with people, which is printed beside it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from rsiccllm.benchmark.bootstrap import bootstrap
from rsiccllm.benchmark.endpoint_model import endpoint_of
from rsiccllm.benchmark.judge_people import RATINGS, agreement_lines, agreements, read_people
from rsiccllm.benchmark.judge_questions import (
    DIMENSIONS,
    Question,
    Rating,
    Verdict,
    questions_of,
    read_answer,
    request_of,
    sample,
)
from rsiccllm.benchmark.results import JUDGE, JUDGE_SCHEMA, Board, captions_digests, load_board
from rsiccllm.endpoint import Budget, Client, Cluster, Endpoint, NoReply, Reply, estimate_tokens
from rsiccllm.errors import InputError
from rsiccllm.files import write_json
from rsiccllm.progress import track
from rsiccllm.rsici.place import safe_name
from rsiccllm.sources.base import Source

ATTEMPTS = 2
"""How often one question is asked before its answer counts as unreadable."""


@dataclass(frozen=True)
class Asked:
    """Answers of one judge: by question, None where none of its answers could be read or had."""

    ratings: dict[tuple[str, str], Rating | None]
    verdicts: dict[tuple[str, str, str], Verdict | None]
    usage: str


def judge_results(
    folders: Sequence[Path],
    judges: Sequence[str],
    out: Path,
    count: int = 200,
    pairwise: bool = False,
    images: bool = False,
    people: Path | None = None,
    seed: int = 0,
    concurrency: int = 8,
    price_in: float = 0.0,
    price_out: float = 0.0,
    max_cost: float | None = None,
    dry: bool = False,
    cluster: Cluster | None = None,
) -> str:
    """`judge_board` for folders that `bench run` wrote, as lines to print; dry: `dry_run`.

    judges: "endpoint:URL#MODEL". cluster: whose workers ask them. Raises InputError where the folders are not on the
    same pairs.
    """
    board = load_board(folders)
    settings = {"concurrency": concurrency, "price_in": price_in, "price_out": price_out, "cluster": cluster}
    endpoints = [endpoint_of(name, None, "--judge", **settings) for name in judges]
    if dry:
        return dry_run(board, endpoints, count, pairwise, images, seed)
    budget = None if max_cost is None else Budget(money=max_cost)
    result = judge_board(board, endpoints, out, count, pairwise, images, seed, budget, people)
    lines = [f"{out / JUDGE}: {len(result['pairs'])} pairs"]
    for judge, found in result["judges"].items():
        for model, means in found["means"].items():
            lines.append(f"{judge} on {model}: " + ", ".join(f"{k} {v['value']:.2f}" for k, v in means.items()))
        lines += [
            f"{judge}: {match['first_model']} better {match['first']}x, {match['second_model']} {match['second']}x, "
            f"{match['ties']} ties, {match['turned']} of them because the verdict turned with the order"
            for match in found["pairwise"]
        ]
        lines.append(f"{judge}: {found['unreadable']} unreadable; {found['usage']}")
    lines += people_lines(result["people"]) + agreement_lines(result["agreement"])
    return "\n".join(lines)


def judge_board(
    board: Board,
    judges: Sequence[Endpoint],
    out: Path,
    count: int = 200,
    pairwise: bool = False,
    images: bool = False,
    seed: int = 0,
    budget: Budget | None = None,
    people: Path | None = None,
) -> dict[str, Any]:
    """Have each judge rate every model of the board on `count` pairs; write and return `out/judge.json`.

    pairwise: every two models also against each other, both ways round. images: show the judge both images, not only
    what people say. seed: which pairs, and the order. Answers stand in a journal for each judge, and none is asked
    for twice. people: a file of people's ratings (`read_people`), held against the judges'; without one, what
    `bench rate` wrote into `out`. Raises InputError where the data is not here, and where no answer of a judge can be
    read.
    """
    if people is None and (out / RATINGS).is_file():
        people = out / RATINGS
    persons, passed = read_people(people, board.captions) if people else ({}, 0)
    source, pairs = sample(board, count, seed)
    questions = questions_of(board, pairs, pairwise, seed)
    found: dict[str, Asked] = {}
    for endpoint in judges:
        journal = _journal(out, endpoint)
        found[_name(endpoint, found)] = _ask(board, source, questions, endpoint, journal, images, budget)
    result = {
        "schema": JUDGE_SCHEMA,
        "board": board.title,
        "captions": captions_digests(board),
        "pairs": [pair.id for pair in pairs],
        "images": images,
        "judges": {name: summary(board, asked) for name, asked in found.items()},
        "people": {"ratings": {name: len(own) for name, own in persons.items()}, "passed_over": passed},
        "agreement": agreements({name: asked.ratings for name, asked in found.items()}, persons),
    }
    write_json(out / JUDGE, result)
    return result


def people_lines(people: dict[str, Any]) -> list[str]:
    """Who rated how many captions, and how many ratings do not stand; nothing where nobody rated."""
    lines = []
    if people["ratings"]:
        lines.append("rated by " + ", ".join(f"{name} ({count})" for name, count in people["ratings"].items()))
    if passed := people["passed_over"]:
        lines.append(f"{passed} ratings are not of these captions, or of what they said before, and do not stand")
    return lines


def dry_run(
    board: Board,
    judges: Sequence[Endpoint],
    count: int = 200,
    pairwise: bool = False,
    images: bool = False,
    seed: int = 0,
) -> str:
    """What `judge_board` would ask and at most cost, and its first prompt; nothing is sent."""
    source, pairs = sample(board, count, seed)
    questions = questions_of(board, pairs, pairwise, seed)
    first = request_of(board, source, questions[0], images)
    tokens = np.zeros(2)
    for question in questions:
        tokens += estimate_tokens(request_of(board, source, question, images))
    lines = [f"{len(pairs)} pairs, {len(questions):,} requests to each judge, each asked again once if unreadable"]
    for judge in judges:
        cost = judge.cost(*tokens)
        price = f", {cost:.2f} at its prices" if cost else ""
        lines.append(f"{judge.model}: about {tokens[0]:,.0f} prompt and at most {tokens[1]:,.0f} answer tokens{price}")
    text = next(part["text"] for part in first.messages[0]["content"] if part["type"] == "text")
    return "\n".join([*lines, "", "The first prompt" + (", below two images" if images else "") + ":", text])


def _ask(
    board: Board,
    source: Source,
    questions: Sequence[Question],
    endpoint: Endpoint,
    journal: Path,
    images: bool,
    budget: Budget | None,
) -> Asked:
    ratings: dict[tuple[str, str], Rating | None] = {}
    verdicts: dict[tuple[str, str, str], Verdict | None] = {}
    left = list(questions)
    refused: Counter[str] = Counter()
    with Client(endpoint, journal, budget) as client:
        for attempt in range(ATTEMPTS):
            requests = (request_of(board, source, question, images, attempt) for question in left)
            again: list[Question] = []
            for outcome in track(client.ask_all(requests), f"asking {endpoint.model}", len(left)):
                question: Question = outcome.request.tag
                text = outcome.text if isinstance(outcome, Reply) else ""
                if isinstance(outcome, NoReply):
                    refused[outcome.reason] += 1
                if len(question.models) == 1:
                    rating = ratings[question.pair.id, question.models[0]] = read_answer(text, Rating)
                    missing = rating is None
                else:
                    one, other = question.models
                    verdict = verdicts[question.pair.id, one, other] = read_answer(text, Verdict)
                    missing = verdict is None
                if missing:
                    again.append(question)
            left = again
            if not left or refused["budget"]:
                break
        usage = str(client.usage)
    if len(left) == len(questions):
        why = f"given up: {dict(refused)}" if refused else "no answer is the JSON that was asked for"
        raise InputError(f"{endpoint.url}: nothing could be had from judge '{endpoint.model}' ({why})")
    return Asked(ratings, verdicts, usage)


def summary(board: Board, asked: Asked) -> dict[str, Any]:
    """For JSON: ratings one by one and their means with 95 % intervals over pairs; wins, ties and turned verdicts."""
    names = [result.name for result in board.results]
    means: dict[str, dict[str, dict[str, float]]] = {}
    for name in names:
        rated = [rating.scores() for (_, who), rating in asked.ratings.items() if who == name and rating is not None]
        means[name] = {}
        for dimension in (*DIMENSIONS, "mean"):
            values = [np.mean([*row.values()]) if dimension == "mean" else row[dimension] for row in rated]
            if values:
                interval = bootstrap(np.array(values, dtype=np.float64))
                means[name][dimension] = {"value": interval.value, "low": interval.low, "high": interval.high}
    return {
        "means": means,
        "pairwise": list(_matches(names, asked.verdicts)),
        "ratings": [
            {"id": pair, "model": name, **({} if rating is None else rating.model_dump())}
            for (pair, name), rating in sorted(asked.ratings.items())
        ],
        "unreadable": sum(found is None for found in [*asked.ratings.values(), *asked.verdicts.values()]),
        "usage": asked.usage,
    }


def _matches(names: Sequence[str], verdicts: dict[tuple[str, str, str], Verdict | None]) -> Iterator[dict[str, Any]]:
    """Each two models: pairs won by one, by the other, tied, and of these ties those that turned with the order."""
    pairs = sorted({pair for pair, _, _ in verdicts})
    for one, other in combinations(names, 2):
        counts: Counter[str] = Counter()
        for pair in pairs:
            ahead, behind = verdicts.get((pair, one, other)), verdicts.get((pair, other, one))
            if ahead is None or behind is None:
                counts["unreadable"] += 1
                continue
            winners = {{"A": one, "B": other}.get(ahead.better, ""), {"A": other, "B": one}.get(behind.better, "")}
            if len(winners) == 1 and (winner := winners.pop()):
                counts["first" if winner == one else "second"] += 1
            else:
                counts["ties"] += 1
                counts["turned"] += len(winners) == 2
        if pairs:
            kinds = ("first", "second", "ties", "turned", "unreadable")
            yield {"first_model": one, "second_model": other, **{kind: counts[kind] for kind in kinds}}


def _journal(out: Path, endpoint: Endpoint) -> Path:
    """Where a judge's answers stand: by who answers, so that judges may be named in any order, or one left out."""
    where = hashlib.sha256(endpoint.url.encode()).hexdigest()[:8]
    return out / f"answers_{safe_name(endpoint.model)}_{where}.jsonl"


def _name(endpoint: Endpoint, taken: Iterable[str]) -> str:
    """The judge's name; a number behind it where one model judges twice, at two addresses."""
    same = sum(name == endpoint.model or name.startswith(f"{endpoint.model} (") for name in taken)
    return endpoint.model if not same else f"{endpoint.model} ({same + 1})"
