"""The report: what is on the page, and that it works from a file in a real Chromium."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import boards
import pytest
from PIL import Image

from browser import Browser
from rsiccllm.benchmark.columns import score_columns
from rsiccllm.benchmark.probe_scores import SCHEMA as PROBES
from rsiccllm.benchmark.report import tex, write_report
from rsiccllm.benchmark.results import Board, load_boards
from rsiccllm.benchmark.samples import choose, read_caption
from rsiccllm.errors import InputError
from rsiccllm.facts import Fact
from rsiccllm.records import ImagePair


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", "")  # no Java
        good, bad = boards.finish(folder / "good", boards.good()), boards.finish(folder / "bad", boards.bad())
    points = [{"strength": float(s), "scores": {"flag": 90 - s, "place_f1": 50}, "interval_95": {}} for s in (0, 4, 8)]
    (good / "probes.json").write_text(json.dumps({"schema": PROBES, "probes": {"shift": points, "blur": points[:2]}}))
    return [good, bad]


@pytest.fixture(scope="module")
def report(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report") / "report.html"
    assert write_report(runs, out, samples=6) == [out, out.with_suffix(".png"), out.with_suffix(".tex")]
    return out


class Text(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.said = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.said += data


def test_the_page_holds_all_and_fetches_nothing(report: Path, runs: list[Path]) -> None:
    page = report.read_text(encoding="utf-8")
    read = Text(page)
    for part in ("Scores, all pairs", "Scores, changed pairs alone", "Change flag", "paired tests", "Probes", "shift",
                 "Samples", "How it was run", "true flag", "tokenisation", "libraries.torch",
                 "ROUGE-L: pycocoevalcap, beta 1.2", "ROUGE-1: rouge-score, beta 1", "1,000 draws",
                 "METEOR is absent"):  # fmt: skip
        assert part in read.said, part
    for tag, given in read.tags:
        for name in ("src", "href", "xlink:href"):
            value = given.get(name) or "#"
            assert value.startswith(("data:image/", "#")), (tag, value)
    assert "url(" not in re.sub(r"url\(#", "", page)
    assert str(runs[0].parent) not in page  # nothing of the machine
    assert [tag for tag, _ in read.tags].count("script") == 1
    with Image.open(report.with_suffix(".png")) as drawn:
        assert drawn.width > 600


def test_the_latex_table_is_whole(report: Path, runs: list[Path]) -> None:
    text = report.with_suffix(".tex").read_text(encoding="utf-8")
    assert text.count("\\begin{tabular}") == text.count("\\end{tabular}") == 2
    for block in text.split("\\begin{tabular}")[1:]:
        columns = len(re.match(r"\{l(r+)\}", block).group(1))  # type: ignore[union-attr]
        lines = [line for line in block.splitlines() if line.endswith("\\\\")]
        assert {line.count(" & ") for line in lines} == {columns}
        assert len(lines) > 4
    scores = json.loads((runs[0] / "scores.json").read_text())["rows"][0]["scores"]["overall"]
    low, high = scores["interval_95"]["cider_d"]
    assert f"{scores['cider_d']:.2f} $\\pm$ {(high - low) / 2:.1f}" in text
    assert tex("a_b & 50% {x} <y>") == r"a\_b \& 50\% \{x\} \textless{}y\textgreater{}"
    assert tex("\\ ^~$#") == r"\textbackslash{} \textasciicircum{}\textasciitilde{}\$\#"


def test_results_on_other_pairs_have_a_board_of_their_own(runs: list[Path], tmp_path: Path) -> None:
    other = shutil.copytree(runs[0], tmp_path / "other")
    settings = json.loads((other / "settings.json").read_text())
    settings["data"]["records"] = "0" * 64
    (other / "settings.json").write_text(json.dumps(settings))
    found = load_boards([*runs, other])
    assert [[result.name for result in board.results] for board in found] == [["good", "bad"], ["other"]]
    again = shutil.copytree(runs[0], tmp_path / "again" / "good")
    assert [result.name for result in load_boards([runs[0], again])[0].results] == [
        f"{runs[0].parent.name}/good",
        "again/good",
    ]


def test_a_page_without_the_data_says_so(runs: list[Path], tmp_path: Path) -> None:
    moved = [shutil.copytree(run, tmp_path / run.name) for run in runs]
    for run in moved:
        settings = json.loads((run / "settings.json").read_text())
        settings["data"]["spec"] = "levir-cc:/nowhere"
        (run / "settings.json").write_text(json.dumps(settings))
    page = write_report(moved, tmp_path / "r.html")[0].read_text(encoding="utf-8")
    assert "No samples: the data cannot be read here" in page
    assert "No paired tests" in page
    assert "Scores, all pairs" in page


def test_what_is_refused(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no settings\.json; expected a folder that"):
        write_report([tmp_path], tmp_path / "r.html")
    with pytest.raises(InputError, match=r"ends in \.html"):
        write_report(runs, tmp_path / "r.pdf")
    with pytest.raises(InputError, match="at least one folder"):
        write_report([], tmp_path / "r.html")
    (tmp_path / "judge.json").write_text('{"board": "another"}')
    with pytest.raises(InputError, match=r"judge\.json: not of schema rsiccllm\.bench_judge\.v2"):
        write_report(runs, tmp_path / "r.html", judged=tmp_path)
    held = {
        "schema": "rsiccllm.bench_judge.v2",
        "board": "another",
        "captions": {},
        "pairs": [],
        "judges": {},
        "agreement": {},
    }
    (tmp_path / "judge.json").write_text(json.dumps(held))
    with pytest.raises(InputError, match="judges none of these results"):
        write_report(runs, tmp_path / "r.html", judged=tmp_path)


@pytest.mark.parametrize(
    ("name", "edit", "message"),
    [
        ("predictions.jsonl", lambda text: text.replace("{", "", 1), r"predictions\.jsonl:1: "),
        ("predictions.jsonl", lambda text: text.split("\n", 1)[1], r"captions, but \d+ pairs were scored"),
        ("predictions.jsonl", lambda text: text.replace('"caption": "', '"caption": 1, "x": "', 1), "field 'caption'"),
        ("settings.json", lambda text: text.replace('"data"', '"dta"'), "field 'data': expected an object"),
        (
            "settings.json",
            lambda text: text.replace('"pairs"', '"pars"'),
            r"field 'data\.pairs': expected a whole number",
        ),
        ("scores.json", lambda text: text.replace('"baseline": false', '"baseline": true'), "expected one row of the"),
        ("scores.json", lambda text: text[: len(text) // 2], r"scores\.json:\d+: not valid JSON"),
        ("probes.json", lambda text: text.replace('"probes":', '"p":'), "field 'probes': expected an object"),
    ],
)
def test_a_folder_that_was_broken_is_named(
    runs: list[Path], tmp_path: Path, name: str, edit: Callable[[str], str], message: str
) -> None:
    broken = shutil.copytree(runs[0], tmp_path / "broken")
    before = (broken / name).read_text()
    (broken / name).write_text(edit(before))
    assert (broken / name).read_text() != before
    with pytest.raises(InputError, match=message):
        load_boards([broken])


def test_a_caption_of_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")  # no Java
    silent = boards.finish(tmp_path / "silent", dict.fromkeys(boards.good(), " "))
    page = write_report([silent], tmp_path / "r.html", samples=2)[0].read_text(encoding="utf-8")
    assert page.count(">(nothing)<") == 2
    assert page.count(">says neither</span>") == 2
    assert ">unclear</button>" in page


def pair(changed: bool, facts: list[Fact] | None, captions: list[str]) -> ImagePair:
    return ImagePair(id="x", before="a.png", after="b.png", changed=changed, facts=facts, captions=captions)


BUILT = Fact(object="building", direction="appear", verb="build", quantity="two", place="top")


def test_facts_of_a_caption_are_right_wrong_or_missing() -> None:
    planted = pair(True, [BUILT], ["x"])
    found = read_caption("two houses are built at the bottom", planted, planted.captions)
    assert ("object_direction", "building appear") in found.right
    assert ("quantity", "two") in found.right
    assert found.wrong == [("place", "bottom")]
    assert found.missing == [("place", "top")]
    assert found.errors == ["wrong place", "missing place"]
    assert read_caption("nothing has changed", planted, planted.captions).errors == ["missed change"]
    assert read_caption("", planted, planted.captions).errors == ["missed change", "says neither"]
    still = pair(False, [], ["nothing has changed"])
    assert read_caption("a road is built", still, still.captions).errors == ["invented change"]
    assert read_caption("no change", still, still.captions).errors == []


def test_without_planted_facts_one_person_of_five_makes_right_but_not_missing() -> None:
    texts = [
        "a house is built",
        "a house is built",
        "a house is built",
        "a house and a road are built",
        "a villa is built",
    ]
    people = pair(True, None, texts)
    assert read_caption("a house is built", people, texts).errors == []
    found = read_caption("a road is built", people, texts)
    assert ("object_direction", "road appear") in found.right
    assert ("object_direction", "building appear") in found.missing


def test_the_samples_show_every_kind_of_error(runs: list[Path]) -> None:
    board: Board = load_boards(runs)[0]
    pairs = boards.pairs()
    chosen = choose(board, pairs, 3)
    assert len(chosen) == 3
    errors = {
        error for p in chosen for error in read_caption(board.results[1].said[p.id]["caption"], p, p.captions).errors
    }
    assert {"invented change", "missed change", "wrong object"} <= errors


NAMES = "[...document.querySelector('table.sortable').tBodies[0].rows].map(row => row.cells[0].textContent)"
SHOWN = "[...document.querySelectorAll('.sample')].filter(card => card.checkVisibility()).map(card => card.innerText)"


def click(browser: Browser, table: int, head: str) -> list[str]:
    """Press a heading; the column's values as the rows then stand."""
    found: list[str] = browser.run(
        f"""(() => {{
            const table = document.querySelectorAll('table.sortable')[{table}];
            const heads = [...table.tHead.rows[0].cells];
            const column = heads.findIndex(each => each.textContent === {json.dumps(head)});
            heads[column].querySelector('button').click();
            return [...table.tBodies[0].rows].map(row => row.cells[column].dataset.v);
        }})()"""
    )
    return found


def pick(browser: Browser, name: str, value: str) -> list[str]:
    """Choose in a filter; the text of the cards that are then shown."""
    browser.run(
        f"""(() => {{
            const select = document.querySelector('select[name="{name}"]');
            select.value = {json.dumps(value)};
            select.dispatchEvent(new Event('change', {{bubbles: true}}));
            return select.value;
        }})()"""
    )
    cards: list[str] = browser.run(SHOWN)
    return cards


def test_the_page_works_from_a_file_in_chromium(report: Path) -> None:
    with Browser() as browser:
        browser.open(report.as_uri())
        assert "Change captioning" in browser.run("document.title")  # the script in a caption has not run
        start = browser.run(NAMES)
        assert start[:2] == ["good", "bad"]
        values = [float(value) for value in click(browser, 0, "CIDEr-D")]
        assert values == sorted(values, reverse=True)
        down = browser.run(NAMES)
        assert sorted(down) == sorted(start)
        assert [float(value) for value in click(browser, 0, "CIDEr-D")] == values[::-1]
        invented = [float(value) for value in click(browser, 2, "invented")]  # less is better: the best comes first
        assert invented == sorted(invented)
        assert invented[0] < invented[-1]

        every = browser.run(SHOWN)
        assert len(every) == 6
        cards = pick(browser, "error", "invented change")
        assert 0 < len(cards) < 6
        assert all("invented change" in card for card in cards)
        assert browser.run("document.querySelector('output').textContent").startswith(f"{len(cards)} of ")
        assert pick(browser, "model", "good") == []
        assert len(pick(browser, "error", "")) == 6
        answers = "[...document.querySelectorAll('.answer')].filter(a => a.checkVisibility()).map(a => a.dataset.model)"
        assert browser.run(answers) == 6 * ["good"]
        still = pick(browser, "change", "unchanged")
        assert 0 < len(still) < 6
        assert all("unchanged" in card for card in still)


@pytest.mark.parametrize(("width", "dark"), [(390, False), (1280, True)])
def test_the_page_fits_phones_and_dark_rooms(report: Path, width: int, dark: bool) -> None:
    with Browser(width, 800, dark) as browser:
        browser.open(report.as_uri())
        assert browser.run("document.documentElement.scrollWidth") <= width
        ink = browser.run("getComputedStyle(document.querySelector('.plot text')).fill")
        assert (min(map(int, re.findall(r"\d+", ink)[:3])) > 150) == dark  # the plots' words are as light as the page's


def test_names_take_as_many_parents_as_they_need(runs: list[Path], tmp_path: Path) -> None:
    folders = [tmp_path / place / "bench" / "test" for place in ("exp1", "exp2")]
    for run, folder in zip(runs, folders, strict=True):
        shutil.copytree(run, folder)
    (board,) = load_boards([*folders, runs[0]])
    assert [result.name for result in board.results] == ["exp1/bench/test", "exp2/bench/test", "good"]
    with pytest.raises(InputError, match="given twice"):
        load_boards([runs[0], runs[1], runs[0] / ".." / runs[0].name])


def test_data_that_changed_since_is_not_tested_again(runs: list[Path], tmp_path: Path) -> None:
    """The tests between models read the references anew: of other references they would contradict the table."""
    moved = [shutil.copytree(run, tmp_path / run.name) for run in runs]
    for run in moved:
        settings = json.loads((run / "settings.json").read_text())
        settings["data"]["spec"] = boards.SPEC.replace("seed=11", "seed=12")
        (run / "settings.json").write_text(json.dumps(settings))
    page = write_report(moved, tmp_path / "r.html")[0].read_text(encoding="utf-8")
    assert page.count("is not what was captioned and scored; it has changed since") == 2, "no tests and no samples"
    assert "paired tests on the same pairs" not in page


def test_sbs_of_another_model_shares_no_column() -> None:
    rows = [{"scores": {"overall": {"bleu_4": 1.0, "sbs": value}, "sbs_model": model}}
            for value, model in ((90.0, "one"), (95.0, "other"), (80.0, "one"))]  # fmt: skip
    (column,) = (column for column in score_columns(rows) if column.title == "SBS")
    assert [cell.value for cell in column.cells] == [90.0, None, 80.0]
