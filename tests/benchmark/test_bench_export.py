"""Exports for other harnesses: their form, the same pixels, and the scores that our own command gives."""

from __future__ import annotations

import ast
import base64
import csv
import importlib.util
import io
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from rsiccllm.benchmark.export import export
from rsiccllm.benchmark.scores import score
from rsiccllm.errors import InputError
from rsiccllm.sources import open_source

SPEC = "scenes:40,seed=5,size=64,easy=1"

# The fields of lmms-eval 0.7.3's TaskConfig that a task file may set and that this one does.
FIELDS = {
    "task", "dataset_path", "dataset_kwargs", "test_split", "output_type", "doc_to_visual", "doc_to_text",
    "doc_to_target", "process_results", "generation_kwargs", "metric_list", "metadata",
}  # fmt: skip


class Loader(yaml.SafeLoader):
    """Reads `!function module.name` as the pair of both, as the harness does before it imports them."""


Loader.add_constructor("!function", lambda loader, node: tuple(loader.construct_scalar(node).rsplit(".", 1)))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], ModuleType]:
    out = tmp_path_factory.mktemp("lmms")
    files = export(SPEC, "test", out, "lmms-eval", "rsicc_scenes")
    assert [path.name for path in files] == ["rsicc_scenes.parquet", "rsicc_scenes.yaml", "rsicc_scenes_utils.py"]
    spec = importlib.util.spec_from_file_location("rsicc_scenes_utils", files[2])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return out, yaml.load(files[1].read_text(encoding="utf-8"), Loader), module


def test_the_lmms_eval_task_holds_the_pairs_and_scores_as_we_do(task: tuple[Path, dict[str, Any], ModuleType]) -> None:
    datasets = pytest.importorskip("datasets")
    _, config, module = task
    assert config.keys() == FIELDS
    functions = [config[name] for name in ("doc_to_visual", "doc_to_text", "doc_to_target", "process_results")]
    functions += [metric["aggregation"] for metric in config["metric_list"]]
    assert all(where == "rsicc_scenes_utils" and callable(getattr(module, name)) for where, name in functions)

    path = config["dataset_kwargs"]["data_files"]["test"]
    docs = datasets.Dataset.from_parquet(path, keep_in_memory=True, cache_dir=str(Path(path).parent / "cache"))
    source = open_source(SPEC)
    pairs = source.select("test")
    said = {pair.id: ("A House is built ." if number % 2 else pair.captions[1]) for number, pair in enumerate(pairs)}
    results: dict[str, list[Any]] = {}
    for doc, pair in zip(docs, pairs, strict=True):
        opened = source.open(pair)
        for seen, image in zip(module.doc_to_visual(doc), (opened.before, opened.after), strict=True):
            assert np.array_equal(np.asarray(seen), np.asarray(image))
        assert module.doc_to_target(doc) == pair.captions
        for metric, found in module.process_results(doc, [said[pair.id]]).items():
            results.setdefault(metric, []).append(found)
    ours = score(said, {pair.id: pair.captions for pair in pairs}, meteor=False).overall
    for metric, value in (("BLEU-4", ours.bleu_4), ("ROUGE-L", ours.rouge_l), ("CIDEr-D", ours.cider_d)):
        name = next(item["aggregation"][1] for item in config["metric_list"] if item["metric"] == metric)
        assert getattr(module, name)(results[metric]) == pytest.approx(value, abs=1e-9)


def test_the_harness_itself_reads_the_task(task: tuple[Path, dict[str, Any], ModuleType]) -> None:
    tasks = pytest.importorskip("lmms_eval.tasks")
    manager = tasks.TaskManager(include_path=str(task[0]))
    found = tasks.get_task_dict(["rsicc_scenes"], manager)["rsicc_scenes"]
    doc = found.test_docs()[0]
    assert len(found.doc_to_visual(doc)) == 2
    assert found.doc_to_target(doc) == doc["references"]


def test_the_vlmevalkit_table(tmp_path: Path) -> None:
    files = export(SPEC, "test", tmp_path, "vlmevalkit", "rsicc_scenes")
    assert [path.name for path in files] == ["rsicc_scenes.tsv", "rsicc_scenes.py"]
    csv.field_size_limit(1 << 24)
    with files[0].open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle, delimiter="\t"))
    source = open_source(SPEC)
    for number, (row, pair) in enumerate(zip(rows, source.select("test"), strict=True)):
        assert (row["index"], row["id"]) == (str(number), pair.id)
        images, names = (ast.literal_eval(row[field]) for field in ("image", "image_path"))
        assert len(images) == len(set(names)) == 2
        opened = source.open(pair)
        for text, image in zip(images, (opened.before, opened.after), strict=True):
            found = Image.open(io.BytesIO(base64.b64decode(text)))
            assert np.array_equal(np.asarray(found), np.asarray(image))
        assert ast.literal_eval(row["answer"]) == pair.captions
    text = files[1].read_text(encoding="utf-8")
    names = {node.name for node in ast.parse(text).body if isinstance(node, ast.ClassDef)}
    assert names == {"RsiccScenes"}
    assert "@" not in text.replace("@classmethod", "")


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="lower-case letters"):
        export(SPEC, "test", tmp_path, "lmms-eval", "../x")
    with pytest.raises(InputError, match="no split 'x'"):
        export(SPEC, "x", tmp_path, "lmms-eval", "x")
    assert not list(tmp_path.iterdir())
