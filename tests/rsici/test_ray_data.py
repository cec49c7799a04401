"""Requests as a Ray Data job on a real Ray of this machine, to a real server: the same files as without."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from chat_server import Act, ChatServer, completion, text_of
from rsiccllm.benchmark.bench import run_bench
from rsiccllm.benchmark.judge import judge_results
from rsiccllm.benchmark.judge_questions import DIMENSIONS
from rsiccllm.benchmark.models import folder_digest, open_model
from rsiccllm.benchmark.predict import predict
from rsiccllm.cli import main
from rsiccllm.endpoint import (
    Budget,
    Client,
    Cluster,
    Endpoint,
    NoReply,
    Reply,
    Request,
    cluster_of,
    image_part,
    text_part,
)
from rsiccllm.endpoint.on_ray import HTTP_BLOCK
from rsiccllm.errors import InputError
from rsiccllm.files import read_json
from rsiccllm.model.processor import load_processor
from rsiccllm.rsici.build import BuildSettings, build_rsici
from rsiccllm.rsici.tasks import TaskSettings
from rsiccllm.rsici.teachers.openai import JOURNAL, OpenAITeacher
from rsiccllm.sources import open_source

ray = pytest.importorskip("ray")
pytest.importorskip("aiohttp")

PAIRS = 40
WORKERS = 2
STANDIN = str(Path(__file__).parent / "standin")


@pytest.fixture(scope="module")
def monkeypatch_module() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def cluster(monkeypatch_module: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Two workers on a Ray of two CPUs; the address by which other processes join it."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Workers find the stand-in for vLLM there; and for Ray a GPU is what it is told that there is.
    monkeypatch_module.setenv("PYTHONPATH", os.pathsep.join([STANDIN, *filter(None, [os.environ.get("PYTHONPATH")])]))
    try:
        ray.init(num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:
        if "timed out during startup" in str(error):
            pytest.skip("Ray did not start within its own 30 s: the machine is too busy")
        raise
    yield Cluster(ray.get_runtime_context().gcs_address, WORKERS)
    ray.shutdown()


def digest(request: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


def teach(number: int, request: dict[str, Any]) -> Act:
    """The same answer to the same question; to one of six it names a place where nothing changed."""
    place = "bottom right" if int(digest(request), 16) % 6 == 0 else "top left"
    return completion(f"A house is built in the {place}.")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs in LEVIR-CD's layout with one building each, at the top left."""
    root, noise = tmp_path_factory.mktemp("set"), np.random.default_rng(0)
    for index in range(PAIRS):
        mask = np.zeros((96, 96), np.uint8)
        mask[8:28, 8 : 24 + index % 5] = 255
        pixels = {side: noise.integers(0, 255, (96, 96, 3), np.uint8) for side in "AB"}
        for side, image in {**pixels, "label": mask}.items():
            path = root / "train" / side / f"train_{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    return root


def build(pairs: Path, out: Path, endpoint: Endpoint) -> dict[str, bytes]:
    """The built folder, but for the journal of the teacher, which is in the order of arrival."""
    with OpenAITeacher(out, endpoint) as teacher:
        build_rsici([f"levir-cd:{pairs}"], out, teacher=teacher, settings=BuildSettings(TaskSettings(("caption",))))
    return tree(out)


def tree(out: Path) -> dict[str, bytes]:
    files = (path for path in out.rglob("*") if path.is_file() and path.name != JOURNAL)
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def test_a_build_is_the_same_and_asks_the_same(cluster: Cluster, pairs: Path, tmp_path: Path) -> None:
    with ChatServer(teach) as server:
        direct = build(pairs, tmp_path / "direct", Endpoint(server.url, "vl"))
        asked = Counter(map(digest, server.requests))
        server.requests.clear()
        through = build(pairs, tmp_path / "ray", Endpoint(server.url, "vl", cluster=cluster))
        assert through == direct
        assert Counter(map(digest, server.requests)) == asked
        assert len(asked) > PAIRS, "no answer was rejected: the second round was not looked at"
        assert max(asked.values()) == 1
        server.requests.clear()
        assert build(pairs, tmp_path / "ray", Endpoint(server.url, "vl", cluster=cluster)) == direct
        assert not server.requests


@pytest.mark.slow
def test_a_build_killed_with_kill_9_goes_on(cluster: Cluster, pairs: Path, tmp_path: Path) -> None:
    def act(number: int, request: dict[str, Any]) -> Act:
        said = completion("A house is built in the top left.")
        said.delay = 0.1
        return said

    with ChatServer(act) as server:
        direct = build(pairs, tmp_path / "direct", Endpoint(server.url, "vl"))
        server.requests.clear()
        server.most = 0
        out = tmp_path / "ray"
        command = [sys.executable, "-m", "rsiccllm.cli", "rsici", "build", "--source", f"levir-cd:{pairs}"]
        command += ["--teacher", "openai", "--model", "vl", "--base-url", server.url, "--out", str(out)]
        command += ["--ray", cluster.address, "--workers", str(WORKERS)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        while len(server.requests) < PAIRS // 2:
            time.sleep(0.005)
            assert process.poll() is None, process.stdout and process.stdout.read().decode()
        assert server.most == WORKERS
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        kept = sum('"text"' in line for line in (out / JOURNAL).read_text().splitlines())
        assert 0 < kept < PAIRS
        time.sleep(2)  # Ray ends the workers of a process that is gone
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        asked = Counter(map(digest, server.requests))
    assert tree(out) == direct
    assert len(asked) == PAIRS
    # Each worker has a block in hand; one that is done may wait for its turn to be written down.
    assert 0 < asked.total() - PAIRS <= min(2 * WORKERS * HTTP_BLOCK, PAIRS - kept)
    assert f"teacher: {PAIRS} answers; {PAIRS} requests" in done.stdout


def test_a_benchmark_says_the_same(cluster: Cluster, tmp_path: Path) -> None:
    def act(number: int, request: dict[str, Any]) -> Act:
        return completion(f"A house appears. {digest(request)[:8]}")

    spec = "scenes:32,seed=3,size=64"
    with ChatServer(act) as server:
        through = predict("tiny", spec, "train", tmp_path / "ray", base_url=server.url, cluster=cluster)
        direct = predict("tiny", spec, "train", tmp_path / "direct", base_url=server.url)
        asked = len(server.requests)
        shutil.copytree(tmp_path / "ray", tmp_path / "again")
        (tmp_path / "again" / "predictions.jsonl").unlink()
        predict("tiny", spec, "train", tmp_path / "again", base_url=server.url)  # it goes on without Ray, if need be
        assert len(server.requests) == asked
    assert lines(through) == lines(direct) == lines(tmp_path / "again" / "predictions.jsonl")
    assert len(lines(direct)) >= 3 * HTTP_BLOCK


def test_a_judge_says_the_same(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = "scenes:240,seed=3,size=64,easy=1"
    captions = [{"id": pair.id, "caption": "a hut is built"} for pair in open_source(spec).select("test")]
    (tmp_path / "said.jsonl").write_text("".join(json.dumps(line) + "\n" for line in captions))
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "")  # no Java
        run_bench(str(tmp_path / "said.jsonl"), tmp_path / "run", spec)

    def act(number: int, request: dict[str, Any]) -> Act:
        return completion(
            json.dumps({name: {"score": 1 + int(digest(request), 16) % 5, "reason": "x"} for name in DIMENSIONS})
        )

    with ChatServer(act) as server:
        judge = [f"endpoint:{server.url}#judge"]
        through = judge_results([tmp_path / "run"], judge, tmp_path / "ray", 24, cluster=cluster)
        asked = len(server.requests)
        direct = judge_results([tmp_path / "run"], judge, tmp_path / "direct", 24)
    assert asked > HTTP_BLOCK
    assert through.replace(str(tmp_path / "ray"), "") == direct.replace(str(tmp_path / "direct"), "")
    ratings = [read_json(tmp_path / name / "judge.json")["judges"]["judge"]["ratings"] for name in ("ray", "direct")]
    assert ratings[0] == ratings[1]


def lines(path: Path) -> list[dict[str, Any]]:
    return sorted(map(json.loads, path.read_text().splitlines()), key=lambda line: str(line["id"]))


def ask(number: int) -> Request:
    return Request([{"role": "user", "content": f"question {number}"}], {"max_tokens": 20}, tag=number)


def test_one_bad_answer_costs_no_other(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "sk-never-to-be-written-down"
    monkeypatch.setenv("MY_KEY", key)
    acts = {
        4: Act({"error": {"message": "too long"}}, 400),
        5: Act(b"busy", 503),
        6: Act(b"<html>", headers={"Content-Type": "text/html"}),
        7: Act(b"x" * 2000),
        8: Act({"said": "b" * 100}, cut=10),
        9: Act(hang=True),
        10: Act(b"", 500),
        12: completion(" "),
    }

    def act(number: int, request: dict[str, Any]) -> Act:
        asked = int(text_of(request).split()[1])
        return acts.get(asked) or completion(f"said {asked} to {key}", finish="length" if asked == 11 else "stop")

    with ChatServer(act) as server:
        endpoint = Endpoint(server.url, "m", "MY_KEY", timeout=1.0, attempts=2, max_answer_bytes=1000,
                            backoff=0.01, cluster=cluster)  # fmt: skip
        with Client(endpoint, tmp_path / "j") as client:
            found = list(client.ask_all(ask(number) for number in (*range(2 * HTTP_BLOCK), 0, 13)))
            usage = client.usage
    said = {item.request.tag: item.text for item in found if isinstance(item, Reply)}
    reasons = {item.request.tag: item.reason for item in found if isinstance(item, NoReply)}
    assert said == {number: f"said {number} to [key]" for number in range(2 * HTTP_BLOCK) if number not in acts}
    assert reasons == {4: "refused", 5: "server error", 6: "broken body", 7: "too large", 8: "connection",
                       9: "timeout", 10: "server error", 12: "empty"}  # fmt: skip
    assert [item.finish for item in found if isinstance(item, Reply) and item.request.tag == 11] == ["length"]
    assert len(found) == 2 * HTTP_BLOCK + 2
    assert (usage.answered, usage.reused) == (2 * HTTP_BLOCK - len(acts), 1)
    assert {headers.get("authorization") for headers in server.headers} == {f"Bearer {key}"}
    logs = Path(ray._private.worker.global_worker.node.get_session_dir_path()) / "logs"
    written = [path for path in logs.rglob("*") if path.is_file()]
    assert len(written) > 5
    for path in [*written, tmp_path / "j"]:
        assert key.encode() not in path.read_bytes(), path


def test_a_budget_holds_on_a_cluster(cluster: Cluster, tmp_path: Path) -> None:
    with ChatServer(lambda n, r: Act(b"busy", 503) if n == 2 else completion("yes")) as server:
        endpoint = Endpoint(server.url, "m", attempts=3, backoff=0.01, cluster=cluster)
        with Client(endpoint, tmp_path / "j", Budget(requests=6)) as client:
            found = list(client.ask_all(map(ask, range(12))))
        assert Counter(getattr(item, "reason", "") for item in found) == {"": 5, "budget": 7}
        assert len(server.requests) == 6


@pytest.fixture
def standin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """For this process, too, vLLM is installed: the stand-in."""
    monkeypatch.syspath_prepend(STANDIN)
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "vllm"]:
        del sys.modules[name]


def test_engines_are_given_what_a_server_would_be(
    cluster: Cluster, tiny_checkpoints: dict[str, Path], tmp_path: Path, standin: None
) -> None:
    """Through Ray's own stages for vLLM, with a stand-in for vLLM itself."""
    model = tiny_checkpoints["qwen2_5_vl"]
    engines = Endpoint("", str(model), cluster=Cluster(cluster.address, 1, {"max_model_len": 512}))
    images = [image_part(Image.new("RGB", size)) for size in ((56, 28), (28, 84))]
    settings = {"temperature": 0, "seed": 0, "max_tokens": 5}
    words = ["what changed?", "fail", "a long one"]

    def requests(*texts: str) -> Iterator[Request]:
        for text in texts:
            yield Request([{"role": "user", "content": [*images, text_part(text)]}], settings, tag=text)

    short = Cluster("local", 2, {"tensor_parallel_size": 2})
    too_few = pytest.raises(InputError, match=r"--ray local: 1 GPUs here, but --workers 2 with 2 each")
    with Client(Endpoint("", "m", cluster=short), tmp_path / "j") as client, too_few:
        list(client.ask_all(requests("what?")))
    with Client(engines, tmp_path / "j") as client:
        found = {item.request.tag: item for item in client.ask_all(requests(*words))}
        again = list(client.ask_all(requests(words[0], words[2])))
    assert all(isinstance(item, Reply) and item.reused for item in again)
    good, failed, cut = (found[text] for text in words)
    assert isinstance(failed, NoReply)
    assert (failed.reason, failed.detail[:60]) == (
        "refused",
        "status 400, ValueError: the prompt is longer than max_model_",
    )
    assert isinstance(cut, Reply)
    assert cut.finish == "length"
    assert isinstance(good, Reply)
    assert (good.finish, good.prompt_tokens, good.completion_tokens) == ("stop", 7, 3)
    told = json.loads(good.text)
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": words[0]}]}]
    assert told == {
        "prompt": load_processor(model).apply_chat_template(chat, add_generation_prompt=True, tokenize=False),
        "images": [[56, 28], [28, 84]],
        "settings": settings,
        "max_model_len": 512,
    }


def test_what_engines_hold_is_recorded(tiny_checkpoints: dict[str, Path], tmp_path: Path) -> None:
    model = open_model(str(tiny_checkpoints["qwen2_5_vl"]), tmp_path / "j", cluster=Cluster(engine={"dtype": "half"}))
    identity = {"kind": "vllm", "digest": folder_digest(tiny_checkpoints["qwen2_5_vl"]), "engine": {"dtype": "half"}}
    assert model.identity == identity
    assert open_model("a/b", tmp_path / "j", "http://127.0.0.1:9/v1", cluster=Cluster()).identity["kind"] == "endpoint"
    with pytest.raises(InputError, match="nothing: no such model"):
        open_model("nothing", tmp_path / "j", cluster=Cluster())
    with pytest.raises(InputError, match=r"--ray: said\.jsonl is a file of captions"):
        open_model("said.jsonl", tmp_path / "j", cluster=Cluster())


def test_what_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = Cluster("nonsense")

    def told(endpoint: Endpoint, message: str, number: int = 20) -> None:
        with Client(endpoint, tmp_path / "j") as client, pytest.raises(InputError, match=message):
            list(client.ask_all(map(ask, range(number))))

    nobody = Endpoint("http://127.0.0.1:9/v1", "m", attempts=1, cluster=elsewhere)
    told(nobody, r"127\.0\.0\.1:9/v1/chat/completions: the first 3 requests failed; no job is begun")
    with ChatServer(lambda n, r: Act(b"", 401)) as server:
        told(Endpoint(server.url, "m", cluster=elsewhere), r"refuses model 'm' .*the key is read from \$OPENAI_API_KEY")
        assert len(server.requests) == 1
    told(Endpoint("", "m", cluster=elsewhere), r"--ray: vllm is not installed; pip install 'ray\[llm\]'", 1)
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    monkeypatch.setattr("rsiccllm.endpoint.on_ray.find_spec", lambda name: None if name == "aiohttp" else True)
    told(nobody, r"--ray: aiohttp is not installed; pip install 'rsiccllm\[ray\]'", 1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((None, 2, []), "--workers: expected with --ray"),
        ((None, None, ["dtype=half"]), "--vllm: expected with --ray"),
        (("local", 0, []), "--workers 0: expected at least 1"),
        (("local", None, ["half"]), "--vllm half: expected NAME=VALUE"),
        (
            ("local", None, ["tensor_parallel_size=four"]),
            "--vllm tensor_parallel_size: 'four'; expected a whole number",
        ),
        (("local", None, ["dtype={"]), "--vllm dtype:1: not valid YAML"),
    ],
)
def test_impossible_options(given: tuple[Any, ...], message: str) -> None:
    with pytest.raises(InputError) as caught:
        cluster_of(*given)
    assert str(caught.value).startswith(message)


def test_rules_are_not_asked_on_a_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["rsiccllm", "rsici", "build", "--source", "scenes:4", "--out", str(tmp_path / "out"), "--ray", "local"]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert capsys.readouterr().err == "rsiccllm: --ray: the rules ask nobody; expected it with --teacher openai\n"
    assert not (tmp_path / "out").exists()


def test_options() -> None:
    assert cluster_of(None, None, []) is None
    assert cluster_of("auto", 3, ["tensor_parallel_size=4", "dtype=half", "limit_mm_per_prompt={image: 3}"]) == Cluster(
        "auto", 3, {"tensor_parallel_size": 4, "dtype": "half", "limit_mm_per_prompt": {"image": 3}}
    )
    with pytest.raises(InputError, match="--base-url"):
        Endpoint("", "m")
    with pytest.raises(InputError, match="--vllm: arguments of engines"):
        Endpoint("http://127.0.0.1:9/v1", "m", cluster=Cluster(engine={"dtype": "half"}))
    with pytest.raises(InputError, match="--requests-per-minute: workers of Ray keep no rate"):
        Endpoint("http://127.0.0.1:9/v1", "m", requests_per_minute=5.0, cluster=Cluster())
