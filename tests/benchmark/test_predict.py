"""`bench run`: what is written, what goes on, what is refused; every kind of model, the endpoint a real server."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from chat_server import Act, ChatServer, completion
from families import save_family
from rsiccllm.benchmark.bench import run_bench
from rsiccllm.benchmark.endpoint_model import EndpointModel
from rsiccllm.benchmark.models import Checkpoint
from rsiccllm.benchmark.predict import difference, predict, read_predictions
from rsiccllm.benchmark.said import Said
from rsiccllm.endpoint import Endpoint
from rsiccllm.errors import InputError
from rsiccllm.model.stock import VisionLanguageModel
from rsiccllm.rsici.prompts import PROMPTS
from rsiccllm.sources import open_source

SPEC = "scenes:40,seed=5,size=64,easy=1"


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llava")
    save_family("llava_onevision", folder)
    return folder


@pytest.fixture(scope="module")
def ours(tiny_checkpoints: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a change map, untrained."""
    from rsiccllm.model.checkpoint import save_model
    from rsiccllm.model.processor import load_processor
    from rsiccllm.model.vlm import load_model

    folder = tmp_path_factory.mktemp("ours") / "model"
    base = tiny_checkpoints["qwen2_5_vl"]
    save_model(load_model(base, "ours"), load_processor(base), folder)
    return folder


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_ours_writes_captions_maps_and_what_shaped_them(
    ours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")  # no Java, whose start would take most of the time
    out = tmp_path / "out"
    result = run_bench(str(ours), out, SPEC, batch_size=3)
    said = lines(out / "predictions.jsonl")
    pairs = open_source(SPEC).select("test")
    assert [line["id"] for line in said] == [pair.id for pair in pairs]
    for line in said:
        with Image.open(out / line["change_map"]) as seen:
            assert seen.mode == "L"
            assert seen.size == (64, 64)
        assert 0 <= line["probability"] <= 1
    settings = json.loads((out / "settings.json").read_text())
    assert settings["model"]["kind"] == "rsiccllm"
    assert len(settings["model"]["digest"]) == 64
    assert settings["data"]["pairs"] == len(pairs)
    assert settings["prompt"] == PROMPTS["caption"]
    assert settings["generation"] == {"decoding": "greedy", "max_new_tokens": 64, "batch_size": 3}
    assert settings["tokenisation"] == "word"
    assert {"rsiccllm", "torch", "transformers", "python"} <= settings["libraries"].keys()
    scores = json.loads((out / "scores.json").read_text())
    assert scores == json.loads(json.dumps(result.to_dict()))
    assert scores["rows"][0]["name"] == "out"


def test_another_transformers_model_says_what_it_says_alone(family: Path, tmp_path: Path) -> None:
    path = predict(str(family), SPEC, "test", tmp_path, batch_size=4, max_new_tokens=6)
    source = open_source(SPEC)
    model = VisionLanguageModel.load(str(family))
    for pair, line in zip(source.select("test"), lines(path), strict=True):
        opened = source.open(pair)
        assert len(str(line.pop("crc32"))) == 8
        assert line == {
            "id": pair.id,
            "caption": model.answers([((opened.before, opened.after), PROMPTS["caption"])], 6)[0],
        }
    assert json.loads((tmp_path / "settings.json").read_text())["model"]["kind"] == "transformers"


def test_a_stopped_run_goes_on_where_it_was(family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = predict(str(family), SPEC, "test", tmp_path / "whole", batch_size=2, max_new_tokens=6)
    asked: list[int] = []
    caption_all = Checkpoint.caption_all

    def stopping(self: Checkpoint, source: Any, pairs: Any, *settings: Any) -> Iterator[tuple[Any, Said]]:
        asked.append(len(pairs))
        for number, found in enumerate(caption_all(self, source, pairs, *settings)):
            if len(asked) == 1 and number == 3:
                raise KeyboardInterrupt
            yield found

    monkeypatch.setattr(Checkpoint, "caption_all", stopping)
    with pytest.raises(KeyboardInterrupt):
        predict(str(family), SPEC, "test", tmp_path / "cut", batch_size=2, max_new_tokens=6)
    cut = tmp_path / "cut" / "predictions.jsonl"
    assert len(lines(cut)) == 3
    predict(str(family), SPEC, "test", tmp_path / "cut", batch_size=2, max_new_tokens=6)
    assert asked == [len(lines(whole)), len(lines(whole)) - 3]
    assert cut.read_bytes() == whole.read_bytes()
    predict(str(family), SPEC, "test", tmp_path / "cut", batch_size=2, max_new_tokens=6)
    assert len(asked) == 2  # nothing is left, so nothing is loaded


def test_results_that_differ_are_never_mixed(family: Path, tmp_path: Path) -> None:
    captions = tmp_path / "c.jsonl"
    test, val = (open_source(SPEC).select(split) for split in ("test", "val"))
    captions.write_text("".join(json.dumps({"id": p.id, "caption": "no change"}) + "\n" for p in [*test, *val]))
    out = tmp_path / "out"
    predict(str(captions), SPEC, "test", out)
    predict(str(captions), SPEC, "test", out, batch_size=2)  # changes no caption
    moved = tmp_path / "moved.jsonl"
    captions.rename(moved)
    predict(str(moved), SPEC, "test", out)  # the same file under another name
    for change, message in (
        ({"split": "val"}, "data.split='test', this one has 'val'"),
        ({"spec": SPEC.replace("seed=5", "seed=6")}, "data.records="),
        ({"tokenisation": "character"}, "tokenisation='word', this one has 'character'"),
        ({"model": str(family)}, "model.kind='file', this one has 'transformers'"),
    ):
        given = {"model": str(moved), "spec": SPEC, "split": "test", "out": out, **change}
        with pytest.raises(InputError, match=message):
            predict(**given)
    settings = json.loads((out / "settings.json").read_text())
    older = {**settings, "libraries": {**settings["libraries"], "transformers": "4.0"}}
    assert [name for name, _, _ in difference(older, settings)] == ["libraries.transformers"]
    (out / "settings.json").write_text("{}")
    with pytest.raises(InputError, match="not the settings of a benchmark run"):
        predict(str(moved), SPEC, "test", out)


def test_images_on_disk_are_part_of_the_data(tmp_path: Path) -> None:
    for side in ("A", "B"):
        (tmp_path / "set" / side).mkdir(parents=True)
        Image.fromarray(np.full((32, 32, 3), 9, dtype=np.uint8)).save(tmp_path / "set" / side / "x.png")
    (tmp_path / "set" / "captions.json").write_text('{"x.png": ["nothing has changed"]}')
    said = tmp_path / "c.jsonl"
    said.write_text('{"id": "x", "caption": "nothing has changed"}\n')
    spec = f"folder:{tmp_path / 'set'}"
    predict(str(said), spec, "train", tmp_path / "out")
    Image.fromarray(np.full((32, 32, 3), 10, dtype=np.uint8)).save(tmp_path / "set" / "B" / "x.png")
    with pytest.raises(InputError, match=r"data\.images="):
        predict(str(said), spec, "train", tmp_path / "out")


def test_a_file_without_a_pair_and_other_mistakes(tmp_path: Path) -> None:
    said = tmp_path / "c.jsonl"
    said.write_text('{"id": "x", "caption": "nothing has changed"}\n')
    with pytest.raises(InputError, match=r"no caption for 4 of 4 pairs"):
        predict(str(said), SPEC, "test", tmp_path / "a")
    with pytest.raises(InputError, match="no such model"):
        predict(str(tmp_path / "none"), SPEC, "test", tmp_path / "b")
    with pytest.raises(InputError, match="expected endpoint:URL#MODEL"):
        predict("endpoint:http://127.0.0.1:1/v1", SPEC, "test", tmp_path / "c")
    with pytest.raises(InputError, match="either --data or --suite"):
        run_bench(str(said), tmp_path / "d")
    with pytest.raises(InputError, match="expected one of paper-test-in, paper-test-out"):
        run_bench(str(said), tmp_path / "d", suite="x")
    with pytest.raises(InputError, match=r"rsici build --preset paper-test-in --source levir-cd:.*--source sysu-cd:"):
        run_bench(str(said), tmp_path / "d", suite="paper-test-in", root=tmp_path)
    assert not (tmp_path / "d").exists()


def test_what_cannot_be_scored_is_refused_before_it_is_captioned(tmp_path: Path) -> None:
    for side in ("A", "B", "label"):
        (tmp_path / "set" / side).mkdir(parents=True)
        Image.fromarray(np.full((32, 32), 9, dtype=np.uint8)).save(tmp_path / "set" / side / "x.png")
    said = tmp_path / "c.jsonl"
    said.write_text('{"id": "x", "caption": "nothing has changed"}\n')
    spec = f"folder:{tmp_path / 'set'}"
    with pytest.raises(
        InputError, match=r"none of the 1 pairs .* has captions to score against; `rsiccllm rsici build"
    ):
        run_bench(str(said), tmp_path / "out", spec, split="train")
    with pytest.raises(InputError, match=r"--sbs .*none: cannot be loaded"):
        run_bench(str(said), tmp_path / "out", SPEC, sbs=str(tmp_path / "none"))
    entry = '[{"filename": "x.png", "split": "test", "sentences": ["a house is built"]}]'
    (tmp_path / "set" / "captions.json").write_text(entry)
    with pytest.raises(InputError, match=r"--training .* no split 'train'"):
        run_bench(str(said), tmp_path / "out", SPEC, training=[spec])
    assert not (tmp_path / "out").exists()


def served(model: VisionLanguageModel, refused: set[int] = frozenset()) -> Any:  # type: ignore[assignment]
    """What a server does with a request: the tiny model answers what stands in it, images and all."""

    def act(number: int, request: dict[str, Any]) -> Act:
        if number in refused:
            return Act({"error": {"message": "too long"}}, 400)
        parts = request["messages"][0]["content"]
        images = [
            Image.open(io.BytesIO(base64.b64decode(part["image_url"]["url"].partition("base64,")[2])))
            for part in parts
            if part["type"] == "image_url"
        ]
        assert request["temperature"] == 0
        return completion(model.answers([(images, parts[-1]["text"])], request["max_tokens"])[0])

    return act


def test_an_endpoint_says_what_the_model_behind_it_says(family: Path, tmp_path: Path) -> None:
    direct = predict(str(family), SPEC, "test", tmp_path / "direct", max_new_tokens=6)
    model = VisionLanguageModel.load(str(family))
    out = tmp_path / "out"
    with ChatServer(served(model, refused={2})) as server:
        name = f"endpoint:{server.url}#tiny"
        with pytest.raises(InputError, match=r"no answer for 1 of 4 pairs .*too long.*a second call asks"):
            predict(name, SPEC, "test", out, max_new_tokens=6, concurrency=1)
        assert len(lines(out / "predictions.jsonl")) == 3
    with ChatServer(served(model)) as server:  # another port, the same model: only what is missing is asked
        path = predict("tiny", SPEC, "test", out, max_new_tokens=6, base_url=server.url)
        assert len(server.requests) == 1
    assert sorted(map(str, lines(path))) == sorted(map(str, lines(direct)))
    settings = json.loads((out / "settings.json").read_text())["model"]
    assert (settings["kind"], settings["served"]) == ("endpoint", "tiny")
    with pytest.raises(InputError, match=r"model\.served='tiny', this one has 'large'"):
        predict("large", SPEC, "test", out, max_new_tokens=6, base_url="http://127.0.0.1:1/v1")


def test_an_endpoint_that_says_nothing_is_scored(tmp_path: Path) -> None:
    def act(number: int, request: dict[str, Any]) -> Act:
        return completion("" if number % 2 else "  ")

    source = open_source(SPEC)
    pairs = source.select("test")
    with ChatServer(act) as server:
        model = EndpointModel(Endpoint(server.url, "silent", backoff=0.0, attempts=2), tmp_path / "answers.jsonl")
        said = {pair.id: answer.caption for pair, answer in model.caption_all(source, pairs, "caption", 8, 4)}
    assert said == dict.fromkeys((pair.id for pair in pairs), "")


def test_a_file_of_captions_brings_its_maps(tmp_path: Path) -> None:
    pair = open_source(SPEC).select("test")[0]
    (tmp_path / "maps").mkdir()
    Image.fromarray(np.full((64, 64), 204, np.uint8)).save(tmp_path / "maps" / "x.png")
    lines = [{"id": one.id, "caption": "no change"} for one in open_source(SPEC).select("test")]
    lines[0] |= {"change_map": "maps/x.png", "probability": 0.5}
    said = tmp_path / "c.jsonl"
    said.write_text("".join(json.dumps(line) + "\n" for line in lines))
    held = read_predictions(predict(str(said), SPEC, "test", tmp_path / "out"))
    assert held[pair.id]["probability"] == 0.5
    assert (np.asarray(Image.open(tmp_path / "out" / held[pair.id]["change_map"])) == 204).all()
    assert "change_map" not in held[lines[1]["id"]]


def test_a_suite_is_of_its_own_split_and_task(tmp_path: Path) -> None:
    for given, told in (({"split": "train"}, "--split train: the suite 'scenes' is of split test"),
                        ({"task": "describe"}, "--task describe: the suite 'scenes' is of task caption")):  # fmt: skip
        with pytest.raises(InputError, match=told):
            run_bench("x.jsonl", tmp_path / "out", suite="scenes", **given)
