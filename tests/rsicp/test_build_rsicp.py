from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from rsiccllm.errors import InputError
from rsiccllm.facts import Fact, parse, places_agree, quantities_agree, verb_kind
from rsiccllm.files import read_json, read_jsonl
from rsiccllm.model.checkpoint import save_model
from rsiccllm.model.processor import build_tiny_processor
from rsiccllm.model.tiny import build_tiny_model
from rsiccllm.records import INSTRUCTIONS, PREFERENCES, Instruction, Preference
from rsiccllm.rsici.build import build_rsici
from rsiccllm.rsici.prompts import PROMPTS
from rsiccllm.rsicp.build import _swapped_dates, build_rsicp
from rsiccllm.rsicp.dates import reversed_caption
from rsiccllm.rsicp.filter import is_wrong, truth_of
from rsiccllm.rsicp.sample import SAMPLES
from rsiccllm.sources import open_source
from rsiccllm.training.recipe import SFTRecipe
from rsiccllm.training.sft import train_sft
from rsiccllm.words import load_words


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rsici")
    build_rsici(["scenes:120,seed=5,size=64,easy=1"], folder)
    return folder


def correct_by(planted: list[Fact], text: str) -> bool:
    """Whether all that the text says is so by the planted facts."""
    said = parse(text)
    if not planted or not said.facts:
        return not planted and said.changed is False
    return all(
        any(
            (fact.object, fact.direction, verb_kind(fact)) == (true.object, true.direction, verb_kind(true))
            and (not fact.place or not true.place or places_agree(fact.place, true.place))
            and (not fact.quantity or not true.quantity or quantities_agree(fact.quantity, true.quantity))
            for true in planted
        )
        for fact in said.facts
    )


def test_negatives_are_wrong_by_the_planted_facts(data: Path, tmp_path: Path) -> None:
    counts = build_rsicp(data, tmp_path)
    records = read_jsonl(tmp_path / PREFERENCES, Preference)
    planted = {pair.id: pair for pair in open_source("scenes:120,seed=5,size=64,easy=1").pairs}
    swapped = [record for record in records if record.id.endswith("/swapped")]
    assert counts["preferences"] == len(records) == 96 + len(swapped)
    assert len(swapped) > 20
    kinds = set()
    for record in records:
        truth = planted[record.pair]
        facts = list(truth.facts or [])
        if record in swapped:
            turn = {"appear": "disappear", "disappear": "appear"}
            facts = [f.model_copy(update={"direction": turn[f.direction], "verb": turn[f.direction]}) for f in facts]
            assert "before" in record.after
            assert "after" in record.before
            assert record.rejected[0].kind == "dates"
            assert record.rejected[0].text in truth.captions
        else:
            assert record.chosen in truth.captions
        assert correct_by(facts, record.chosen), record
        for rejected in record.rejected:
            kinds.add(rejected.kind.split(":")[0])
            assert not correct_by(facts, rejected.text), (rejected, record.references)
            assert rejected.text not in record.references
            assert rejected.similarity is not None
    assert kinds == {"replace", "no_change", "invented", "neighbour", "dates"}


def test_the_card_counts_what_is_there(data: Path, tmp_path: Path) -> None:
    counts = build_rsicp(data, tmp_path)
    card = read_json(tmp_path / "card.json")
    assert card["counts"] == counts
    assert sum(row["count"] for row in card["kinds"].values()) == counts["rejected"]
    page = (tmp_path / "README.md").read_text(encoding="utf-8")
    for kind in card["kinds"]:
        assert f"### {kind}" in page
    for name in ("kinds", "similarity"):
        assert Image.open(tmp_path / "plots" / f"{name}.png").size[0] > 300


@pytest.fixture(scope="module")
def talker(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that says something like a caption after a few updates: its tokenizer knows the captions' words."""
    folder = tmp_path_factory.mktemp("talker")
    texts = [answer for record in read_jsonl(data / INSTRUCTIONS, Instruction) for answer in record.answers]
    processor = build_tiny_processor([*texts, *PROMPTS.values()], 640, patch_size=14)
    model = build_tiny_model(processor, "qwen2_5_vl", width=64, layers=1, vision_width=32, vision_layers=1)
    save_model(model, processor, folder / "random")
    recipe = SFTRecipe(
        model=str(folder / "random"), data=data, out=folder / "sft", max_steps=40, batch_size=8, learning_rate=1e-2,
        warmup_steps=5, map_weight=0, fact_weight=0, save_steps=1000,
    )  # fmt: skip
    train_sft(recipe)
    return recipe.out


def test_filtering_negatives_of_a_model(talker: Path, data: Path, tmp_path: Path) -> None:
    counts = build_rsicp(data, tmp_path / "whole", model=str(talker), samples=3)
    records = read_jsonl(tmp_path / "whole" / PREFERENCES, Preference)
    sampled = [(record, bad) for record in records for bad in record.rejected if bad.kind == "sampled"]
    assert sampled
    assert counts["sampled_in_window"] <= counts["sampled_wrong"] <= counts["sampled"] <= 96 * 3
    assert counts["sampled_in_window"] >= 0.8 * counts["sampled_wrong"]
    low, high = read_json(tmp_path / "whole" / "card.json")["settings"]["window_used"]
    for record, bad in sampled:
        assert bad.similarity is not None
        assert low - 1e-4 <= bad.similarity <= high + 1e-4
        assert is_wrong(bad.text, truth_of(record.references))

    # Stopped in the middle of sampling, with a last line cut short, it ends as an undisturbed run.
    (tmp_path / "cut").mkdir()
    lines = (tmp_path / "whole" / SAMPLES).read_bytes().splitlines(keepends=True)
    (tmp_path / "cut" / SAMPLES).write_bytes(b"".join(lines[:21]) + lines[21][:10])
    (tmp_path / "cut" / "build.json").write_bytes((tmp_path / "whole" / "build.json").read_bytes())
    assert build_rsicp(data, tmp_path / "cut", model=str(talker), samples=3) == counts
    for name in (PREFERENCES, SAMPLES, "README.md"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name

    with pytest.raises(InputError, match="choose another --out"):
        build_rsicp(data, tmp_path / "whole", model=str(talker), samples=4)
    for name in ("build.json", "README.md", "card.json", "SHA256SUMS", PREFERENCES):
        (tmp_path / "whole" / name).unlink()
    with pytest.raises(InputError, match=r"samples.jsonl: was drawn with count=3, now 4; choose another --out"):
        build_rsicp(data, tmp_path / "whole", model=str(talker), samples=4)


def test_of_one_kind_alone(talker: Path, data: Path, tmp_path: Path) -> None:
    build_rsicp(data, tmp_path / "own", model=str(talker), samples=2, kinds="filtering")
    build_rsicp(data, tmp_path / "made", kinds="replacement")
    build_rsicp(data, tmp_path / "both")  # without a model the same
    found = {
        name: {bad.kind for pair in read_jsonl(tmp_path / name / PREFERENCES, Preference) for bad in pair.rejected}
        for name in ("own", "made")
    }
    assert found["own"] == {"sampled"}
    build_rsicp(data, tmp_path / "few", pairs=5)
    few = {pair.pair for pair in read_jsonl(tmp_path / "few" / PREFERENCES, Preference)}
    asked = [item.pair for item in read_jsonl(data / INSTRUCTIONS, Instruction) if item.split == "train"]
    assert few
    assert few <= set(asked[:5])
    assert "sampled" not in found["made"]
    assert (tmp_path / "made" / PREFERENCES).read_bytes() == (tmp_path / "both" / PREFERENCES).read_bytes()
    with pytest.raises(InputError, match="--kinds filtering: expected a --model"):
        build_rsicp(data, tmp_path / "x", kinds="filtering")
    with pytest.raises(InputError, match="--kinds replacement: expected no --model"):
        build_rsicp(data, tmp_path / "x", model=str(talker), kinds="replacement")


def test_the_same_call_writes_the_same_bytes_and_another_seed_others(data: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        build_rsicp(data, tmp_path / name, seed=seed)
    first, again, other = ((tmp_path / name / PREFERENCES).read_bytes() for name in "abc")
    assert first == again
    assert first != other


def test_paper_variant_swaps_words_only(data: Path, tmp_path: Path) -> None:
    counts = build_rsicp(data, tmp_path, variant="paper")
    records = read_jsonl(tmp_path / PREFERENCES, Preference)
    assert all(rejected.kind.startswith("replace:") for record in records for rejected in record.rejected)
    assert counts["without"] >= 48  # a no-change sentence holds no key word to swap


def test_what_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        build_rsicp(tmp_path / "none", tmp_path / "out")
    with pytest.raises(InputError, match="no task 'caption' of split 'holdout'"):
        build_rsicp(data, tmp_path / "out", split="holdout")
    for field, value, told in (
        ("negatives", 0, "--negatives 0"),
        ("samples", 0, "--samples 0"),
        ("window", (0.5, 0.5), "--window 0.5 0.5: expected 0 <= tau1 < tau2 <= 1"),
        ("keep_share", 0.0, "--keep-share 0.0"),
        ("temperature", 0.0, "--temperature 0.0"),
        ("top_p", 1.5, "--top-p 1.5"),
    ):
        with pytest.raises(InputError, match=told):
            build_rsicp(data, tmp_path / "out", **{field: value})  # type: ignore[arg-type]
    build_rsicp(data, tmp_path / "out")
    with pytest.raises(InputError, match="choose another --out"):
        build_rsicp(data, tmp_path / "out", seed=9)


def test_a_folder_is_bound_to_what_its_data_is_and_not_to_a_name(tmp_path: Path) -> None:
    for version, seed in (("v1", 5), ("v2", 6)):
        build_rsici([f"scenes:6,seed={seed},size=64,easy=1"], tmp_path / version / "set")
    build_rsicp(tmp_path / "v1" / "set", tmp_path / "out")
    with pytest.raises(InputError, match="was built with"):
        build_rsicp(tmp_path / "v2" / "set", tmp_path / "out")


def test_a_strangers_page_is_not_written_over(data: Path, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# mine")
    for build in (lambda: build_rsicp(data, tmp_path), lambda: build_rsici(["scenes:4,size=64,easy=1"], tmp_path)):
        with pytest.raises(InputError, match=r"holds README\.md and no build\.json"):
            build()
    assert (tmp_path / "README.md").read_text() == "# mine"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("temperature", [float("nan"), float("inf"), 0.0])
def test_a_temperature_that_is_none_binds_nothing(data: Path, tmp_path: Path, temperature: float) -> None:
    with pytest.raises(InputError, match="--temperature"):
        build_rsicp(data, tmp_path, temperature=temperature)
    assert not list(tmp_path.iterdir())


def test_the_swapped_pair_knows_what_a_reference_that_cannot_be_turned_says() -> None:
    """The pool came for one of three people, whose caption cannot be turned round: with the dates swapped it went."""
    answers = [
        "a house appears at the edge of the woods .",
        "a villa with a swimming pool is constructed replacing some trees .",
        "a villa is built in the forest .",
    ]
    words = load_words()
    record = Instruction(
        id="0", pair="0", source="x", task="caption", prompt="?", before="a.png", after="b.png", answers=answers
    )
    assert reversed_caption(answers[1], words) is None
    seen = 0
    for draw in range(80):
        for made in _swapped_dates(record, answers[2], 6, draw, words):
            seen += len(made.rejected)
            for rejected in made.rejected:
                said = {(fact.object, fact.direction) for fact in parse(rejected.text).facts}
                assert not said & {("pool", "disappear"), ("tree", "appear")}, rejected.text
    assert seen > 80
