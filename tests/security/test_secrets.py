"""The key of an endpoint and of the server: in one header, and in no file, message or traceback."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from chat_server import Act, ChatServer, completion
from rsiccllm.cli import main

KEY = "sk-T0P-s3cr3t-0123456789abcdef"


def echoing(number: int, request: dict[str, Any]) -> Act:
    """An endpoint that sends the key back wherever it can."""
    acts = [
        Act({"error": {"message": f"key {KEY} is slow", "code": KEY}}, status=500),
        completion(f"A house is built in the top left. {KEY}"),
        Act(f"{{broken {KEY}".encode()),
        Act({"error": f"bad request with {KEY}"}, status=400),
        completion("A house is built in the top left.", finish=KEY),
        completion(None, refusal=f"no, {KEY}"),
    ]
    return acts[number % len(acts)]


def write_pairs(root: Path) -> None:
    """Images and masks without a word: everything is asked of the teacher."""
    noise = np.random.default_rng(0)
    mask = np.zeros((64, 64), np.uint8)
    mask[4:24, 4:24] = 255
    for number in range(8):
        images = {side: noise.integers(0, 255, (64, 64, 3), np.uint8) for side in "AB"}
        for side, pixels in {**images, "label": mask}.items():
            (root / side).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / side / f"{number}.png")


def held_by(folder: Path) -> list[str]:
    """Files that hold the key, by their bytes."""
    return [str(path) for path in folder.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def test_the_key_of_an_endpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    write_pairs(tmp_path / "set")
    with ChatServer(echoing) as server:
        base = ["--base-url", server.url, "--model", "m", "--concurrency", "2"]
        build = ["rsici", "build", "--source", f"folder:{tmp_path / 'set'}", "--teacher", "openai", *base]
        command = [*build, "--tasks", "describe", "--max-requests", "30"]
        for out in ("built", "built"):  # the second goes on from the journal
            monkeypatch.setattr(sys, "argv", ["rsiccllm", *command, "--out", str(tmp_path / out)])
            with pytest.raises(SystemExit):
                main()
        assert server.requests
        assert all(headers["authorization"] == f"Bearer {KEY}" for headers in server.headers)
    assert next((tmp_path / "built").rglob("teacher.jsonl")).stat().st_size
    assert held_by(tmp_path) == []
    shown = capfd.readouterr()
    assert KEY not in shown.out + shown.err


def test_a_key_in_the_wrong_place_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY} \u00e9")
    for url in (f"http://user:{KEY}@127.0.0.1:9/v1", "http://127.0.0.1:9/v1"):
        command = [
            "rsici",
            "build",
            "--source",
            "scenes:2,size=64",
            "--out",
            str(tmp_path / "x"),
            "--teacher",
            "openai",
        ]
        monkeypatch.setattr(sys, "argv", ["rsiccllm", *command, "--model", "m", "--base-url", url])
        with pytest.raises(SystemExit, match="2"):
            main()
        shown = capfd.readouterr()
        assert shown.err.startswith("rsiccllm: ")
        assert KEY not in shown.out + shown.err
    assert held_by(tmp_path) == []
