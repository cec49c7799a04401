"""Scores against the field's known figures, slow implementations from the formulas, and the METEOR program itself."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsiccllm.benchmark import meteor as meteor_module
from rsiccllm.benchmark import scores as scores_module
from rsiccllm.benchmark.baselines import baselines
from rsiccllm.benchmark.meteor import MeteorError, fold_perfect, meteor_counts, meteor_of_sums
from rsiccllm.benchmark.scores import Job, score, score_jobs
from rsiccllm.benchmark.tokenise import LABELS, Tokenisation, tokenise, vocabulary
from rsiccllm.errors import InputError

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="METEOR needs Java")

# metrics.md: BLEU-1, BLEU-4, METEOR, ROUGE-L, CIDEr-D, S*m of LEVIR-CC validation
KNOWN = [
    (64.84, 51.26, 28.09, 61.07, 101.46, 60.47),
    (79.05, 63.53, 40.55, 72.60, 123.95, 75.16),
    (58.47, 19.84, 19.30, 34.43, 31.02, 26.15),
]


def test_words_are_lower_case_without_final_full_stop() -> None:
    assert tokenise(" A house is built .") == ["a", "house", "is", "built"]
    assert tokenise("A house\nis  built.") == ["a", "house", "is", "built"]
    assert tokenise("No. 5 is new, they say. .") == ["no.", "5", "is", "new,", "they", "say"]
    assert tokenise("") == tokenise(" . ") == []
    assert tokenise("A b.", "character") == ["a", "␣", "b"]
    assert tokenise("A b a.", "ids", vocabulary(["b a c"])) == ["1", "2", "1"]
    with pytest.raises(InputError, match="expected one of word, character, ids"):
        tokenise("a", "letter")  # type: ignore[arg-type]


def test_characters_and_numbers_are_labelled_as_not_comparable() -> None:
    assert LABELS == {
        "word": "words",
        "character": "CHARACTERS (not comparable with words)",
        "ids": "word NUMBERS (METEOR not comparable)",
    }
    assert LABELS.keys() == set(get_args(Tokenisation))


@pytest.fixture(scope="module")
def levir(shared_data: Path) -> tuple[dict[str, list[str]], dict[str, bool]]:
    images = json.loads((shared_data / "levir_cc_captions_train_val.json").read_text())["images"]
    images = [image for image in images if image["split"] == "val"]
    references = {image["filename"]: [sentence["raw"] for sentence in image["sentences"]] for image in images}
    return references, {image["filename"]: image["changeflag"] == 1 for image in images}


@needs_java
def test_known_figures_of_levir_cc(levir: tuple[dict[str, list[str]], dict[str, bool]]) -> None:
    references, changed = levir
    assert len(references) == 1333
    assert sum(changed.values()) == 667
    found = score_jobs([row.job for row in baselines(references, changed)], changed, meteor=True)
    for known, scores in zip(KNOWN, found, strict=True):
        values = scores.overall
        assert scores.tokenisation == "word"
        got = (values.bleu_1, values.bleu_4, values.meteor, values.rouge_l, values.cider_d, values.s_m)
        assert got == pytest.approx(known, abs=0.0051)
    part = found[1].changed_only
    assert part is not None
    alone = score(
        {name: "many houses are built along the road" for name in references if changed[name]},
        {name: texts for name, texts in references.items() if changed[name]},
        meteor=False,
    )
    # changed pairs are a corpus of their own
    assert replace(part, meteor=None) == alone.overall


# Slow implementations, written from the formulas.


def grams(words: list[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def slow_bleu(pairs: list[tuple[list[str], list[list[str]]]], tiny: float = 0.0, small: float = 0.0) -> list[float]:
    """Papineni et al. 2002, closest reference length (the shorter of two equally close), no smoothing.

    tiny, small: what pycocoevalcap adds to numerators (1e-15) and denominators (1e-9).
    """
    length = sum(len(caption) for caption, _ in pairs)
    closest = sum(min((abs(len(r) - len(c)), len(r)) for r in refs)[1] for c, refs in pairs)
    precisions = []
    for n in range(1, 5):
        matched = offered = 0
        for caption, references in pairs:
            best = Counter[tuple[str, ...]]()
            for reference in references:
                best |= grams(reference, n)
            matched += sum((grams(caption, n) & best).values())
            offered += sum(grams(caption, n).values())
        precisions.append((matched + tiny) / (offered + small) if offered + small else 0.0)
    ratio = (length + tiny) / (closest + small)
    penalty = 0.0 if ratio == 0 else math.exp(min(0.0, 1 - 1 / ratio))
    return [
        0.0 if 0 in precisions[:n] else 100 * penalty * math.exp(sum(map(math.log, precisions[:n])) / n)
        for n in range(1, 5)
    ]


def lcs(a: list[str], b: list[str]) -> int:
    best = [0] * (len(b) + 1)
    for x in a:
        row = [0]
        for j, y in enumerate(b):
            row.append(best[j] + 1 if x == y else max(best[j + 1], row[-1]))
        best = row
    return best[-1]


def slow_rouge_l(caption: list[str], references: list[list[str]]) -> float:
    """Lin 2004 with beta 1.2; best precision and best recall over the references, taken apart."""
    common = [lcs(caption, reference) for reference in references]
    precision = max(common) / len(caption) if caption else 0.0
    recall = max(c / len(r) for c, r in zip(common, references, strict=True))
    if precision == 0:
        return 0.0
    return 100 * (1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision)


def slow_f1(common: int, caption: list[str], reference: list[str]) -> float:
    """Beta 1, from precision and recall."""
    if common == 0:
        return 0.0
    precision, recall = common / len(caption), common / len(reference)
    return 100 * 2 * precision * recall / (precision + recall)


def slow_rouge_1(caption: list[str], references: list[list[str]]) -> float:
    """Lin 2004, beta 1, the best reference."""
    found = []
    for reference in references:
        left = list(reference)
        common = 0
        for word in caption:
            if word in left:
                left.remove(word)
                common += 1
        found.append(slow_f1(common, caption, reference))
    return max(found)


def slow_rouge_l_f1(caption: list[str], references: list[list[str]]) -> float:
    """Lin 2004, beta 1, the best reference."""
    return max(slow_f1(lcs(caption, reference), caption, reference) for reference in references)


def slow_cider_d(pairs: list[tuple[list[str], list[list[str]]]]) -> float:
    """Vedantam et al. 2015, CIDEr-D: clipped counts, Gaussian of the length difference (sigma 6), times 10."""
    frequency = Counter(g for _, refs in pairs for g in {g for r in refs for n in range(1, 5) for g in grams(r, n)})

    def vector(words: list[str], n: int) -> dict[tuple[str, ...], float]:
        return {g: c * math.log(len(pairs) / max(1, frequency[g])) for g, c in grams(words, n).items()}

    def norm(weights: dict[tuple[str, ...], float]) -> float:
        return math.sqrt(sum(value**2 for value in weights.values()))

    total = 0.0
    for caption, references in pairs:
        for reference in references:
            for n in range(1, 5):
                ours, theirs = vector(caption, n), vector(reference, n)
                product = sum(min(ours[g], theirs[g]) * theirs[g] for g in ours if g in theirs)
                if norms := norm(ours) * norm(theirs):
                    gauss = math.exp(-((len(caption) - len(reference)) ** 2) / (2 * 6**2))
                    total += 10 * gauss * product / norms / len(references) / 4
    return 100 * total / len(pairs)


WORDS = st.lists(st.sampled_from(["a", "b", "c", "d", "house", "houses"]), max_size=12)
CORPORA = st.lists(st.tuples(WORDS, st.lists(WORDS.filter(bool), min_size=1, max_size=5)), min_size=1, max_size=8)


# 100 random corpora in every run of the tests; RSICCLLM_EXAMPLES=1000 for a thousand.
EXAMPLES = int(os.environ.get("RSICCLLM_EXAMPLES", "100"))


@settings(max_examples=EXAMPLES, deadline=None)
@given(CORPORA)
def test_scores_equal_the_formulas(pairs: list[tuple[list[str], list[list[str]]]]) -> None:
    predictions = {str(i): " ".join(caption) for i, (caption, _) in enumerate(pairs)}
    references = {str(i): [" ".join(text) for text in texts] for i, (_, texts) in enumerate(pairs)}
    values = score(predictions, references, meteor=False).overall
    bleu, with_constants = slow_bleu(pairs), slow_bleu(pairs, 1e-15, 1e-9)
    got = [values.bleu_1, values.bleu_2, values.bleu_3, values.bleu_4]
    for n, (ours, slow) in enumerate(zip(got, bleu, strict=True), start=1):
        if slow:
            # pycocoevalcap's constants move small corpora by parts in a thousand million
            assert ours == pytest.approx(slow, rel=2e-8)
        else:
            assert ours <= 101 * 1e-6 ** (1 / n)  # its precision of an order that no caption is long enough for
    assert got == pytest.approx(with_constants, abs=1e-9)
    assert values.rouge_l == pytest.approx(sum(slow_rouge_l(*pair) for pair in pairs) / len(pairs), abs=1e-9)
    assert values.cider_d == pytest.approx(slow_cider_d(pairs), abs=1e-9)
    for name, slow in (("rouge_1", slow_rouge_1), ("rouge_l_f1", slow_rouge_l_f1)):
        assert vars(values)[name] == pytest.approx(sum(slow(*pair) for pair in pairs) / len(pairs), abs=1e-9)


@settings(max_examples=EXAMPLES, deadline=None)
@given(CORPORA)
def test_bleu_equals_pycocoevalcap(pairs: list[tuple[list[str], list[list[str]]]]) -> None:
    from pycocoevalcap.bleu.bleu import Bleu

    predictions = {str(i): " ".join(caption) for i, (caption, _) in enumerate(pairs)}
    references = {str(i): [" ".join(text) for text in texts] for i, (_, texts) in enumerate(pairs)}
    theirs, _ = Bleu(4).compute_score(references, {name: [text] for name, text in predictions.items()}, verbose=0)
    values = score(predictions, references, meteor=False).overall
    got = [values.bleu_1, values.bleu_2, values.bleu_3, values.bleu_4]
    assert got == pytest.approx([100 * order for order in theirs], abs=1e-9)


def test_empty_one_word_repeated_and_long_captions() -> None:
    references = {"a": ["house"], "b": ["a tree is gone", "a tree"], "c": ["no change"], "d": ["a road"]}
    captions = {"a": "house", "b": "tree tree tree tree tree", "c": "", "d": "road " * 5000}
    pairs = [(captions[k].split(), [text.split() for text in references[k]]) for k in references]
    values = score(captions, references, meteor=False).overall
    assert values.bleu_1 == pytest.approx(slow_bleu(pairs)[0], rel=1e-7)
    assert values.rouge_l == pytest.approx(sum(slow_rouge_l(*pair) for pair in pairs) / 4, abs=1e-9)
    assert values.cider_d == pytest.approx(slow_cider_d(pairs), abs=1e-9)
    assert values.rouge_1 == pytest.approx(sum(slow_rouge_1(*pair) for pair in pairs) / 4, abs=1e-9)
    assert values.rouge_l_f1 == pytest.approx(sum(slow_rouge_l_f1(*pair) for pair in pairs) / 4, abs=1e-9)


def test_changed_only_is_the_changed_pairs_scored_alone() -> None:
    references = {"a": ["a house is built", "a villa"], "b": ["no change"], "c": ["trees go"], "d": ["a house is gone"]}
    captions = {"a": "a house", "b": "no change", "c": "trees", "d": "a tree is gone"}
    changed = {"a": True, "b": False, "c": True, "d": True}
    found = score(captions, references, changed, meteor=False)
    part = [name for name in references if changed[name]]
    alone = score({name: captions[name] for name in part}, {name: references[name] for name in part}, meteor=False)
    assert found.changed_only == alone.overall
    assert found.changed_only != found.overall
    assert found.changed_segments is not None
    assert found.changed_segments.ids == ("a", "c", "d")
    assert score(captions, references, dict.fromkeys(references, False), meteor=False).changed_only is None


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    score({"a": "a house"}, {"a": ["a house"]}, {"a": True}, meteor=False)
    assert capfd.readouterr() == ("", "")


def test_characters_are_labelled_and_score_higher() -> None:
    references = {"a": ["some houses are built"], "b": ["the trees disappear"]}
    captions = {"a": "houses have been built", "b": "trees have disappeared"}
    words = score(captions, references, meteor=False)
    characters = score(captions, references, tokenisation="character")
    assert (words.tokenisation, characters.tokenisation) == ("word", "character")
    assert characters.overall.bleu_4 > 10 > words.overall.bleu_4
    assert characters.overall.meteor is None
    assert characters.overall.s_m is None
    assert any("defined on words" in note for note in characters.notes)


@pytest.mark.parametrize(
    ("predictions", "references", "changed", "message"),
    [
        ({}, {}, None, "no pairs"),
        ({"a": "x"}, {"b": ["x"]}, None, "differ in 2 ids"),
        ({"a": "x"}, {"a": []}, None, "references of 'a'"),
        ({"a": "x"}, {"a": ["x", " . "]}, None, "none of them empty"),
        ({"a": "x"}, {"a": ["x"]}, {"b": True}, "1 ids have no change flag"),
    ],
)
def test_what_cannot_be_scored_is_refused(predictions, references, changed, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=message):
        score(predictions, references, changed, meteor=False)


# METEOR

CAPTIONS = [
    ("a house is built", ["a house is built", "some trees are gone"]),
    ("", ["a house is built ||", "a house stands"]),
    ("two villas ||| are |||| constructed", ["two villas are constructed", "houses are built"]),
    ("a\nvilla\r\nappears\u2028here", ["a villa appears here"]),
    ("un été à la mer 家 🏠", ["un été à la mer 家 🏠"]),
    (".", ["no change"]),
    ("house " * 5000, ["a house"]),
    ("EVAL ||| 1 2 3", ["the scenes are identical", "the scene seems the same"]),
    ("é 家", ["à 宅"]),  # as many bytes, equal only if the letters are lost on the way
    ("buildings were constructing on the meadow", ["some houses are built on the grass", "a building is constructed"]),
]


METEOR_WORDS = [
    "a",
    "house",
    "houses",
    "building",
    "is",
    "are",
    "built",
    "constructed",
    "the",
    "trees",
    "road",
    "roads",
    "new",
    "12",
    "removed",
    "at",
    "top",
]


@needs_java
def test_meteor_equals_its_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    rng = np.random.default_rng(0)

    def text(least: int) -> str:
        return " ".join(rng.choice(METEOR_WORDS, size=rng.integers(least, 12)))

    # 20 random corpora, in one process with the captions above
    corpora = [[(text(0), [text(1) for _ in range(rng.integers(1, 5))]) for _ in range(6)] for _ in range(20)]
    every = [*CAPTIONS, *(entry for corpus in corpora for entry in corpus)]
    counts = meteor_counts([caption for caption, _ in every], [texts for _, texts in every])
    start = len(CAPTIONS)
    subsets = [np.arange(start + 6 * i, start + 6 * i + 6) for i in range(20)] + [np.arange(start)]

    # the program's own EVAL of the same counts, all subsets in one process
    lines = ["EVAL ||| " + " ||| ".join(" ".join(map(str, counts[row])) for row in subset) for subset in subsets]
    replies = meteor_module._run(lines, 120)
    for subset in subsets:
        single, replies = [float(reply) for reply in replies[: len(subset)]], replies[len(subset) :]
        folded = fold_perfect(counts[subset])
        assert meteor_of_sums(folded) == pytest.approx(single, abs=1e-9)
        assert meteor_of_sums(folded.sum(axis=0)) == pytest.approx(float(replies[0]), abs=1e-9)
        replies = replies[1:]
    assert not replies

    scores = meteor_of_sums(fold_perfect(counts))
    assert scores[0] == pytest.approx(1)
    assert scores[1] == scores[5] == 0  # nothing said; a full stop
    assert scores[2] == pytest.approx(1)  # the separator in a caption is not a separator
    assert scores[3] == pytest.approx(1)  # line breaks are spaces
    assert scores[4] == pytest.approx(1)  # UTF-8 reaches the program whole
    assert scores[8] == 0  # also where the locale is ASCII
    assert scores[9] > 0.2  # stems and synonyms count


def fake_java(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    java = folder / "java"
    java.write_text(f"#!/bin/sh\n{script}\n")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_meteor_by_hand() -> None:
    """The published formula; the program itself is asked in `test_meteor_equals_its_program`, where Java is here."""
    # "a house is built" against itself: of 4 words 2 are function words, all matched exactly, in one chunk.
    same = np.array([4, 4, 2, 2, *[2, 2, 2, 2], *[0] * 12, 1, 4, 4], dtype=float)
    assert meteor_of_sums(same) == pytest.approx(1 - 0.6 * (1 / 4) ** 0.2)
    assert meteor_of_sums(fold_perfect(same[None])).tolist() == pytest.approx([1])
    # One exact match of each kind, a stem, a synonym, and a paraphrase of one word by two; 2 chunks.
    other = np.array([7, 6, 2, 1, *[1, 1, 1, 1], *[1, 1, 0, 0], *[1, 1, 0, 0], *[1, 2, 0, 0], 2, 5, 6], dtype=float)
    precision = (0.75 * (1 + 0.6 + 0.8 + 0.6) + 0.25 * 1) / (0.75 * 5 + 0.25 * 2)
    recall = (0.75 * (1 + 0.6 + 0.8 + 2 * 0.6) + 0.25 * 1) / (0.75 * 5 + 0.25 * 1)
    mean = precision * recall / (0.85 * precision + 0.15 * recall)
    score = mean * (1 - 0.6 * (2 / 5.5) ** 0.2)
    assert meteor_of_sums(other) == pytest.approx(score)
    both = np.stack([same, other])
    assert meteor_of_sums(both).tolist() == pytest.approx([1 - 0.6 * (1 / 4) ** 0.2, score])
    assert meteor_of_sums(np.zeros(23)) == 0
    # Perfect: every word of both is matched, in one chunk. Below the reference has a word more, then the caption.
    longer, spoken = same.copy(), same.copy()
    longer[1], spoken[0] = 5, 5
    twice = same.copy()
    twice[20] = 2
    left = same.copy()
    left[21] = 3  # one of the caption's words is matched by none, though both are of four
    folded = fold_perfect(np.stack([same, longer, spoken, twice, left]))
    assert folded[:, 20].tolist() == [0, 1, 1, 2, 1]
    assert same[20] == 1  # a copy


def test_what_meteor_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each distinct caption once, references first; the answers come back in the order of the captions."""
    count = 'awk \'{ for (i = 0; i < 23; i++) printf "%d ", NR; print "" }\''
    fake_java(tmp_path, f'echo "$@" > {tmp_path}/asked; tee {tmp_path}/lines | {count}', monkeypatch)
    captions = ["a  house", "a tree", "a  house", ""]
    found = meteor_counts(captions, [["a villa", "huts ||| |||| here"], ["woods"], ["a villa", "huts   here"], ["a"]])
    assert found.tolist() == [[float(row)] * 23 for row in (1, 2, 1, 3)]
    assert (tmp_path / "lines").read_text().split("\n") == [
        "SCORE ||| a villa ||| huts here ||| a house",
        "SCORE ||| woods ||| a tree",
        "SCORE ||| a ||| ",
        "",
    ]
    asked = (tmp_path / "asked").read_text()
    assert asked.startswith("-Xmx2G -XX:+UseSerialGC -jar ")
    assert asked.endswith("meteor-1.5.jar - - -stdio -l en -norm\n")
    assert meteor_counts([], []).shape == (0, 23)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("exec sleep 60", "took longer than 0.5 s for 1 captions, the longest of 2 words"),
        (
            "echo 'Could not reserve memory' >&2; exit 1",
            r"code 1 on 1 captions, the longest of 2 words \(Could not reserve memory\)",
        ),
        ("cat >/dev/null; exit 3", r"code 3 on 1 captions, the longest of 2 words \(no message\)"),
        ("cat >/dev/null; exit 0", "answered 0 of 1"),
        ("cat >/dev/null; echo 1 2 x", "not 23 numbers"),
        ("cat >/dev/null; echo 1 2 3", "not 23 numbers"),
        ("exit 0", "answered 0 of 1"),
    ],
)
def test_meteor_that_fails_leaves_no_process(
    script: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []
    popen = subprocess.Popen

    def remember(*args, **kwargs):  # type: ignore[no-untyped-def]
        started.append(popen(*args, **kwargs))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", remember)
    fake_java(tmp_path, script, monkeypatch)
    with pytest.raises(MeteorError, match=message):
        meteor_counts(["a house"], [["a house"]], seconds=0.5)
    assert len(started) == 1
    assert started[0].returncode is not None  # ended and reaped
    assert not Path(f"/proc/{started[0].pid}").exists()


def test_without_java_everything_else_is_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    captions, references = {"a": "a house", "b": "a tree"}, {"a": ["a house"], "b": ["a road"]}
    found = score(captions, references)
    assert found.overall.meteor is None
    assert found.overall.s_m is None
    assert found.overall.bleu_1 == pytest.approx(75)
    mean = (found.overall.bleu_4 + found.overall.rouge_l + found.overall.cider_d) / 3
    assert found.to_dict()["overall"]["mean_without_meteor"] == pytest.approx(mean)
    note = next(note for note in found.notes if "METEOR" in note)
    assert "apt install default-jre-headless" in note
    assert "\n" not in note
    assert not any("METEOR" in note for note in score(captions, references, meteor=False).notes)
    with pytest.raises(InputError, match="needs a Java runtime"):
        score(captions, references, meteor=True)


def test_one_process_scores_several_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counts(captions: list[str], references: list[list[str]]) -> np.ndarray:
        calls.append((captions, references))
        return np.array([[len(caption)] * meteor_module.COUNTS for caption in captions], dtype=float)

    monkeypatch.setattr(scores_module, "meteor_counts", counts)
    references = {"a": ["a house is built", "a villa"], "b": ["trees are removed"]}
    jobs = [
        Job({"b": "trees vanish", "a": "a house"}, references),
        Job({"a": "", "b": "a"}, references),
        Job({"a": "abc", "b": "abcd"}, references),
    ]
    first, second, third = score_jobs(jobs, {"a": False, "b": True}, meteor=True)
    assert len(calls) == 1
    assert calls[0] == (["a house", "trees vanish", "", "a", "abc", "abcd"], [references["a"], references["b"]] * 3)
    assert first.segments.ids == second.segments.ids == ("a", "b")
    for found, lengths in ((first, [7, 12]), (second, [0, 1]), (third, [3, 4])):
        assert found.segments.meteor is not None
        assert found.changed_segments is not None
        assert found.changed_segments.meteor is not None
        assert found.segments.meteor[:, 0].tolist() == lengths
        assert found.changed_segments.meteor[:, 0].tolist() == lengths[1:]


@needs_java
def test_ids_keep_every_score_but_meteor() -> None:
    references = {"a": ["some houses are built"], "b": ["the trees disappear", "a tree is gone"]}
    captions = {"a": "a house has been built.", "b": "trees have disappeared"}
    words = score(captions, references, meteor=False)
    ids = score(captions, references, tokenisation="ids", meteor=True)
    assert ids.tokenisation == "ids"
    assert words.overall == replace(ids.overall, meteor=None)
    assert ids.overall.meteor is not None
    assert 0 < ids.overall.meteor < 20  # no stems, no synonyms: 25.6 by words


def test_every_score_has_an_interval_that_holds_it() -> None:
    rng = np.random.default_rng(3)
    words = ["a", "house", "road", "is", "built", "trees", "removed"]
    references = {str(i): [" ".join(rng.choice(words, size=6)) for _ in range(3)] for i in range(60)}
    captions = {name: " ".join(rng.choice(words, size=5)) for name in references}
    found = score(captions, references, meteor=False)
    parts = found.segments.parts()
    values = found.overall.to_dict()
    assert set(parts) == {name for name, value in values.items() if value is not None}
    for name, interval in found.segments.intervals(draws=200).items():
        assert interval.value == pytest.approx(values[name], abs=1e-9)
        assert interval.low < interval.value < interval.high
    told = found.segments.intervals(draws=1000, seed=0)
    assert found.segments.interval_95 == told
    for name, (low, high) in found.to_dict()["overall"]["interval_95"].items():
        assert (low, high) == (told[name].low, told[name].high)


def test_s_m_by_hand() -> None:
    references = {"a": ["a house is built on the grass"], "b": ["some trees are removed by a road"]}
    captions = {"a": "a house is built on the road", "b": "the trees are removed by a road"}
    without = score(captions, references, meteor=False)
    row = [7, 7, 3, 3, *[3, 3, 3, 3], *[0] * 12, 1, 6, 6]
    segments = replace(without.segments, meteor=np.array([row, row], dtype=float))
    values = segments.values()
    assert values.meteor == pytest.approx(100 * 3.0 / 3.75 * (1 - 0.6 * (2 / 12) ** 0.2))
    assert values.bleu_4 > 10
    expected = (values.bleu_4 + values.meteor + values.rouge_l + values.cider_d) / 4
    assert values.s_m == pytest.approx(expected)
    assert values.to_dict()["s_m"] == values.s_m
    assert segments.parts()["s_m"].value() == pytest.approx(expected)
    assert "mean_without_meteor" not in segments.parts()
    three = (values.bleu_4 + values.rouge_l + values.cider_d) / 3
    assert without.segments.parts()["mean_without_meteor"].value() == pytest.approx(three)


def test_rouge_packages_differ_and_are_named() -> None:
    # precision 1 by the first reference, recall 1 by the second: pycocoevalcap takes both
    found = score({"x": "a b c d"}, {"x": ["a b c d e f g h", "a d"]}, meteor=False)
    assert found.overall.rouge_l == pytest.approx(100)
    assert found.overall.rouge_l_f1 == pytest.approx(100 * 2 * 4 / 12)
    assert found.overall.rouge_1 == pytest.approx(100 * 2 * 4 / 12)
    assert found.to_dict()["rouge"] == {
        "rouge_1": "rouge-score, beta 1, our tokens, no stems",
        "rouge_l": "pycocoevalcap, beta 1.2",
        "rouge_l_f1": "rouge-score, beta 1, our tokens, no stems",
    }
    # Tokens are what a space parts: an accent is a letter, a comma part of its word.
    letters = score({"x": "été à", "y": "trees,"}, {"x": ["été à"], "y": ["trees"]}, meteor=False)
    assert letters.segments.rouge[:, 0].tolist() == letters.segments.rouge[:, 2].tolist() == [1, 0]
