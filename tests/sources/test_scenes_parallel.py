"""Rendering with several processes: the same files, one clear line for every end, and nobody left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rsiccllm.errors import InputError
from rsiccllm.sources.scenes.parallel import SceneFiles, write_scenes

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")


def scenes(folder: Path, count: int) -> list[SceneFiles]:
    return [
        SceneFiles(3, k, 64, True, *(folder / f"{k}.{role}.png" for role in ("before", "after", "mask")))
        for k in range(count)
    ]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def group(leader: int) -> set[int]:
    """Processes of a group that run; multiprocessing's own tracker, which outlives all by a moment, is not counted."""
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if (
                int(fields[2]) == leader
                and fields[0] != "Z"
                and b"resource_tracker" not in (entry / "cmdline").read_bytes()
            ):
                found.add(int(entry.name))
        except (OSError, ValueError):
            continue
    return found


def until(condition: Callable[[], bool], seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def start(out: Path) -> subprocess.Popen[str]:
    """A build with two rendering processes, in a process group of its own."""
    code = f"""
from pathlib import Path
import rsiccllm.sources.scenes.parallel as parallel
parallel._cores = lambda: 2
from rsiccllm.cli import main
if __name__ == "__main__":
    import sys
    sys.argv = ["rsiccllm", "rsici", "build", "--source", "scenes:200,seed=3,size=64,easy=1", "--out", {str(out)!r}]
    main()
"""
    script = out.with_name("build.py")
    script.write_text(code, encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Tests that were themselves started in the background ignore Ctrl-C, and so would what they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def test_two_processes_write_what_one_writes_in_order(tmp_path: Path) -> None:
    for processes in (1, 2):
        jobs = scenes(tmp_path / str(processes), 24)
        for count, _ in enumerate(write_scenes(jobs, processes), start=1):
            assert all(path.exists() for job in jobs[:count] for path in (job.before, job.after, job.mask))
        assert count == 24
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


def test_ctrl_c_is_one_line_and_the_next_call_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(out)
    images = out / "images/scenes"
    assert until(lambda: len(list(images.glob("*.png"))) > 30)
    assert len(group(process.pid)) == 3
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the whole group at once
    _, messages = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in messages
    assert messages.strip().splitlines()[-1] == "rsiccllm: stopped; call again to go on"
    assert until(lambda: group(process.pid) == set(), 10)
    done = contents(images)
    assert 30 < len(done) < 600, "stopped too late to show anything"
    assert all(name.endswith(".png") and not name.startswith(".") for name in done), "only whole files stay"
    process = start(out)
    process.communicate(timeout=120)
    assert process.returncode == 0
    after = contents(images)
    assert len(after) == 600
    assert done.items() <= after.items()


def test_a_killed_build_leaves_no_process_behind(tmp_path: Path) -> None:
    process = start(tmp_path / "out")
    assert until(lambda: len(list((tmp_path / "out/images/scenes").glob("*.png"))) > 10)
    assert len(group(process.pid)) == 3
    process.kill()
    assert until(lambda: group(process.pid) == set(), 10)
    process.communicate()


def test_what_goes_wrong_in_a_process_is_told_by_the_caller(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(InputError, match=r"file/0\.before\.png: cannot be written"):
        list(write_scenes(scenes(tmp_path / "file", 8), 2))


def test_a_rendering_process_that_is_killed_is_told(tmp_path: Path) -> None:
    work = write_scenes(scenes(tmp_path, 2000), 2)
    next(work)
    for child in multiprocessing.active_children():
        child.kill()
    with pytest.raises(InputError, match="ended from outside"):
        list(work)
