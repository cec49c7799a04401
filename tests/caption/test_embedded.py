"""The model that comes with the package, on scenes that nothing of it has seen. Its full figures: docs/embedded.md."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from rsiccllm import Captioner
from rsiccllm.benchmark.fact_scores import fact_scores
from rsiccllm.caption.captioner import EMBEDDED
from rsiccllm.caption.result import Caption
from rsiccllm.cli import main
from rsiccllm.demo.calibrate import is_right
from rsiccllm.facts import Fact
from rsiccllm.sources.scenes import ScenesSource

COUNT = 40


@pytest.fixture(scope="module")
def said() -> tuple[ScenesSource, list[Caption]]:
    source = ScenesSource(COUNT, seed=4711, size=224)
    captioner = Captioner.load()
    return source, list(captioner.caption_all([source.open(pair) for pair in source.pairs]))


def test_it_is_small_and_ours() -> None:
    assert sum(path.stat().st_size for path in EMBEDDED.iterdir()) < 40e6
    provenance = json.loads((EMBEDDED / "config.json").read_text(encoding="utf-8"))["provenance"]
    assert provenance["seen"] == ["scenes/train"]
    assert "/" not in provenance["base"], "a path of the machine that trained it"


def test_it_says_what_changed_on_scenes_it_has_not_seen(said: tuple[ScenesSource, list[Caption]]) -> None:
    source, captions = said
    names = {pair.id: pair for pair in source.pairs}
    texts = {pair.id: caption.caption for pair, caption in zip(source.pairs, captions, strict=True)}
    references = {name: list(pair.captions) for name, pair in names.items()}
    changed = {name: bool(pair.changed) for name, pair in names.items()}
    facts = fact_scores(texts, references, changed, {name: list(pair.facts or []) for name, pair in names.items()})
    assert facts.planted is not None
    # Under the lower end of what 400 scenes gave, by what 40 of them may differ.
    assert (facts.flag.balanced_accuracy or 0) >= 97
    assert (facts.planted["object"].f1 or 0) > 82
    assert (facts.planted["direction"].f1 or 0) > 85


def test_it_is_sure_by_its_calibration_and_shows_where(said: tuple[ScenesSource, list[Caption]]) -> None:
    source, captions = said
    for pair, caption in zip(source.pairs, captions, strict=True):
        assert caption.confidence is not None
        assert caption.change_map is not None
        assert caption.change_map.shape == (224, 224)
        mask = source.mask(pair)
        if pair.changed:
            assert caption.change_map[mask].mean() > 2 * caption.change_map[~mask].mean()
        else:
            assert caption.change_map.mean() < 0.05


def test_right_in_the_sense_of_the_calibration() -> None:
    house = Fact(object="building", direction="appear", verb="build")
    assert is_right("a house is built in the scene", [house], changed=True)
    assert not is_right("a house is removed from the scene", [house], changed=True)
    assert not is_right("a house and a road are built", [house], changed=True)
    assert not is_right("the scene is the same as before", [house], changed=True)
    assert is_right("the scene is the same as before", [], changed=False)
    assert not is_right("a house is built in the scene", [], changed=False)


def test_the_command_answers_with_the_best_of_several_and_shows_them_on_demand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = ScenesSource(4, seed=4713, size=224)
    pair = source.open(next(one for one in source.pairs if one.changed))
    files = [tmp_path / "before.png", tmp_path / "after.png"]
    pair.before.save(files[0])
    pair.after.save(files[1])
    expected = Captioner.load().caption(*files)
    assert expected.agreement is not None
    lines = []
    for more in ([], ["--candidates", "18"]):
        monkeypatch.setattr(sys, "argv", ["rsiccllm", "caption", *map(str, files), "--json", *more])
        with pytest.raises(SystemExit):
            main()
        lines.append(json.loads(capsys.readouterr().out))
    assert (lines[0]["caption"], lines[0]["agreement"]) == (expected.caption, round(expected.agreement, 4))
    assert "candidates" not in lines[0]
    assert lines[1]["candidates"] == list(expected.candidates)
