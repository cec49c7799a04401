"""The paper's tables as commands: every file is readable, stages are shared, and one runs from data to report."""

from __future__ import annotations

from pathlib import Path

import pytest

from rsiccllm.benchmark import paper_small
from rsiccllm.benchmark.paper import load_table, run_paper
from rsiccllm.errors import InputError
from rsiccllm.files import read_json, read_jsonl
from rsiccllm.model.checkpoint import resolve_checkpoint, weights_digest
from rsiccllm.records import PREFERENCES, Preference

RECIPES = Path(__file__).resolve().parents[2] / "recipes" / "paper"
TABLES = ("main", "out_of_domain", "difference_ablation", "training_ablation", "negatives_ablation", "data_scale",
          "throughput")  # fmt: skip


def test_there_is_one_file_for_each_table() -> None:
    assert sorted(path.stem for path in RECIPES.glob("*.yaml")) == sorted(TABLES)


@pytest.mark.parametrize("name", TABLES)
def test_every_file_is_read_with_its_recipes_and_says_how_it_is_run(name: str) -> None:
    path = RECIPES / f"{name}.yaml"
    load_table(path)
    assert f"rsiccllm bench paper recipes/paper/{name}.yaml --root data" in path.read_text(encoding="utf-8")


def table(folder: Path, rows: str, more: str = "") -> Path:
    path = folder / "table.yaml"
    names = {"sft": "qwen2_5_vl_7b_lora", "dnpo": "qwen2_5_vl_7b_lora_dnpo"}
    recipes = "\n".join(f"{stage}: {RECIPES.parent / name}.yaml" for stage, name in names.items())
    path.write_text(f"title: A table\nsuite: scenes\n{recipes}\n{more}\nrows:\n{rows}", encoding="utf-8")
    return path


def test_a_small_table_runs_and_shares_its_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")  # no Java
    path = table(
        tmp_path,
        "- {name: SFT, sft: {}, samples: 6}\n"
        "- {name: SFT & DNPO, sft: {}, samples: 6, dnpo: {}, negatives: {kinds: replacement, negatives: 1}}\n",
    )
    out = tmp_path / "out"
    found = run_paper(path, out, small=True)
    assert found.result is not None
    assert [row.name for row in found.result.rows if not row.baseline] == ["SFT", "SFT & DNPO"]
    assert (out / "report.html").is_file()
    stages = sorted(path.name.split("_")[0] for path in (out / "stages").iterdir() if path.is_dir())
    assert stages == ["dnpo", "rsicp", "sft"]  # one SFT for both rows
    lines = (out / "subsets" / "6" / "instructions.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 6
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.safetensors")}
    run_paper(path, out, small=True, only=["SFT"])
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*.safetensors")} == before


def test_negatives_are_drawn_from_the_rows_own_sft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")  # no Java
    monkeypatch.setattr(paper_small, "TALKING", 40)  # enough for captions; descriptions need more
    rows = "- {name: filtering, sft: {}, dnpo: {}, negatives: {variant: paper, kinds: filtering, negatives: 1}}\n"
    out = tmp_path / "out"
    run_paper(table(tmp_path, rows), out, small=True)
    (pool,) = (path for path in (out / "stages").iterdir() if path.is_dir() and path.name.startswith("rsicp"))
    (sft,) = (path for path in (out / "stages").iterdir() if path.is_dir() and path.name.startswith("sft"))
    kinds = {bad.kind for pair in read_jsonl(pool / PREFERENCES, Preference) for bad in pair.rejected}
    assert kinds == {"sampled"}
    assert read_json(pool / "build.json")["weights"] == weights_digest(resolve_checkpoint(str(sft)))


def test_what_is_refused(tmp_path: Path) -> None:
    row = "- {name: a, model: x}\n"
    cases = {
        ("- {name: a}\n", ""): "row 'a': expected one of model, endpoint or sft",
        ("- {name: a, model: x, sft: {}}\n", ""): "expected one of model, endpoint or sft",
        ("- {name: a, model: x, dnpo: {}}\n", ""): "dnpo and samples need sft",
        ("- {name: a, sft: {varant: none}}\n", ""): "unknown field 'varant'",
        ("- {name: a, sft: {}, dnpo: {beta: -1}}\n", ""): "field 'beta'",
        (row + row, ""): "every name once",
        (row, "batch: 3"): "batch",
    }
    for (rows, more), message in cases.items():
        with pytest.raises(InputError, match=message):
            load_table(table(tmp_path, rows, more))
    served = table(tmp_path, "- {name: large, endpoint: x}\n")
    with pytest.raises(InputError, match=r"no row can be run; large: left out; it needs --base-url"):
        run_paper(served, tmp_path / "o")
    with pytest.raises(InputError, match="no row 'b', expected one of large"):
        run_paper(served, tmp_path / "o", only=["b"])
    with pytest.raises(InputError, match="paper-train: no such folder; `rsiccllm rsici build"):
        run_paper(table(tmp_path, "- {name: a, sft: {}}\n"), tmp_path / "o", root=tmp_path)
    with pytest.raises(InputError, match="not built yet"):
        run_paper(RECIPES / "main.yaml", tmp_path / "o", root=tmp_path)
