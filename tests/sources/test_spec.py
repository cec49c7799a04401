"""What a spec may say."""

from __future__ import annotations

from pathlib import Path

import fakes
import pytest

from rsiccllm.errors import InputError
from rsiccllm.sources import Source, open_source


def test_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.levir_cc(tmp_path / "cc")
    fakes.levir_cd(tmp_path / "cd")
    fakes.folder(tmp_path / "own, with: odd name")
    for spec, name, count in (
        (f"levir-cc:{tmp_path}/cc", "levir-cc", 3),
        (f"levir-mci:{tmp_path}/cc", "levir-cc", 3),
        (f"levir-cc-captions:{tmp_path}/cc/LevirCCcaptions.json", "levir-cc-captions", 3),
        (f"levir-cd:{tmp_path}/cd", "levir-cd", 3),
        (f"folder:{tmp_path}/own, with: odd name", "folder", 2),
    ):
        source = open_source(spec)
        assert isinstance(source, Source)
        assert (source.name, len(source.pairs)) == (name, count)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_source("levir-cd:~/cd").root == tmp_path / "cd"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("levir:x", "unknown kind 'levir'; expected one of levir-cc:DIR"),
        ("", "unknown kind ''"),
        ("data/LEVIR-CC", "no kind; expected one of levir-cc:DIR"),
        ("levir-cc", "nothing after 'levir-cc:'; expected levir-cc:DIR"),
        ("folder:", "nothing after"),
        ("scenes:", "expected scenes:N"),
        ("scenes:ten", "count is 'ten'; expected a whole number"),
        ("scenes:-3", "count is '-3'"),
        ("scenes:4,colour=1", "bad option 'colour=1'; expected seed=S, size=PX or easy=1"),
        ("scenes:4,seed", "bad option 'seed'"),
        ("scenes:4,seed=1.5", "seed is '1.5'"),
        ("scenes:4,size=", "size is ''"),
        ("scenes:4,easy=2", "easy is 2; expected 0 or 1"),
        ("scenes:4,count=9", "bad option 'count=9'"),
        ("scenes:99999999999999", "expected a whole number"),
        ("scenes:٣", "expected a whole number"),
    ],
)
def test_specs_that_are_refused(spec: str, expected: str) -> None:
    with pytest.raises(InputError) as caught:
        open_source(spec)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_scenes() -> None:
    source = open_source("scenes:4,seed=3,size=64,easy=1")
    assert isinstance(source, Source)
    assert len(source.pairs) == 4
    opened = source.open(source.pairs[0])
    assert opened.before.size == opened.after.size == (64, 64)
    assert opened.mask is not None
    assert opened.mask.shape == (64, 64)
    assert [pair.captions for pair in open_source("scenes:4,seed=3,size=64,easy=1").pairs] == [
        pair.captions for pair in source.pairs
    ]
