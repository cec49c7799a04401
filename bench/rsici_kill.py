"""Kill a build twenty times at random moments and compare what it ends in with an undisturbed build, byte for byte.

    python bench/rsici_kill.py [--kills 20] [--pairs 400] [--seed 0]

The teacher is a stand-in for a model behind an endpoint: it answers each ask the same way every time, some wrongly at
first, one to eight milliseconds later and out of order, and writes down every ask it gets. Two thirds of the kills fall
anywhere in the build; then one as the lists begin to be written, and the rest anywhere in a run in which everything is
answered. Prints how often answers were asked for, and whether the folders are equal.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from rsiccllm.rsici.build import BuildSettings, build_rsici
from rsiccllm.rsici.tasks import TASKS, TaskSettings
from rsiccllm.rsici.teachers.base import Ask, Failure
from rsiccllm.rsici.teachers.rules import answer

IN_FLIGHT = 8


class SlowTeacher:
    """Eight asks at a time, answered by the rules; of every third the first answer is wrong."""

    name = "slow"

    def __init__(self, notes: Path) -> None:
        self.notes = notes.open("a", encoding="utf-8")

    def answer_all(self, asks: Iterable[Ask]) -> Iterator[tuple[Ask, list[str] | Failure]]:
        waiting: list[Ask] = []
        for ask in asks:
            self.notes.write(f"{ask.key}\n")
            self.notes.flush()
            waiting.append(ask)
            if len(waiting) == IN_FLIGHT:
                yield self._answer(waiting)
        while waiting:
            yield self._answer(waiting)

    def _answer(self, waiting: list[Ask]) -> tuple[Ask, list[str] | Failure]:
        ask = waiting.pop(sum(map(ord, waiting[0].key)) % len(waiting))
        time.sleep(0.001 * (1 + sum(map(ord, ask.key)) % 8))
        if ask.attempt == 0 and sum(map(ord, ask.key)) % 3 == 0:
            return ask, ["The mask shows nothing."]
        return ask, answer(ask)


def build(folder: Path, spec: str) -> None:
    teacher = SlowTeacher(folder.with_suffix(".asked"))
    build_rsici([spec], folder, teacher=teacher, settings=BuildSettings(TaskSettings(TASKS), shard=500))


def contents(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file() and path.suffix != ".tmp")
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def _stage(folder: Path) -> str:
    """How far a killed build had come."""
    if any(folder.glob("instructions*")):
        return "writing the lists"
    return "asking" if (folder / "answers.journal.jsonl").exists() else "before the first answer"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--build", nargs=2, metavar=("DIR", "SPEC"), help="build once and end; what the child does")
    given = parser.parse_args()
    if given.build:
        build(Path(given.build[0]), given.build[1])
        return
    work = Path(tempfile.mkdtemp(prefix="rsici_kill_"))
    spec = f"rsici:{work / 'pairs'}"  # rendered once, so that the time is the build's and not the renderer's
    build_rsici([f"scenes:{given.pairs},size=64,seed=8"], work / "pairs")
    lines = []
    for line in (work / "pairs" / "pairs.jsonl").read_text(encoding="utf-8").splitlines():
        lines.append(line.split(',"captions"')[0] + "}")  # without texts: everything is asked of the teacher
    (work / "pairs" / "pairs.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = [sys.executable, __file__, "--build"]
    begin = time.monotonic()
    subprocess.run([*command, str(work / "whole"), spec], stderr=subprocess.DEVNULL, check=True)
    seconds = time.monotonic() - begin
    begin = time.monotonic()
    subprocess.run([*command, str(work / "whole"), spec], stderr=subprocess.DEVNULL, check=True)  # nothing left to do
    start = time.monotonic() - begin
    dice, slice_ = random.Random(given.seed), (seconds - start) / given.kills
    cut, moments = work / "cut", list[float]()
    stages: Counter[str] = Counter()

    def kill(moment: float | None) -> bool:
        """Start a run and kill it after so many seconds, or (None) when it begins to write the lists.

        False where the run was through before.
        """
        process = subprocess.Popen([*command, str(cut), spec], stderr=subprocess.DEVNULL)
        started = time.monotonic()
        while not any(cut.glob("instructions*")) if moment is None else time.monotonic() - started < moment:
            if process.poll() is not None:
                return False
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        moments.append(time.monotonic() - started)
        stages[_stage(cut)] += 1
        return True

    for _ in range(given.kills * 2 // 3):
        if not kill(start + dice.uniform(-0.1 * start, slice_)):
            raise SystemExit("a run was through before its kill: take more --pairs or another --seed")
    kill(None)
    shutil.copytree(cut, work / "answered")
    shutil.copytree(cut, work / "probe")
    begin = time.monotonic()
    subprocess.run([*command, str(work / "probe"), spec], stderr=subprocess.DEVNULL, check=True)
    rest = time.monotonic() - begin
    while len(moments) < given.kills:
        if not kill(dice.uniform(0.8 * start, 0.9 * rest)):  # it was faster this time: back to where nothing is asked
            shutil.rmtree(cut)
            shutil.copytree(work / "answered", cut)
    killed = len(moments)
    subprocess.run([*command, str(cut), spec], stderr=subprocess.DEVNULL, check=True)
    once = Counter((work / "whole.asked").read_text(encoding="utf-8").splitlines())
    asked = Counter((work / "cut.asked").read_text(encoding="utf-8").splitlines())
    whole, other = contents(work / "whole"), contents(cut)
    print(f"an undisturbed build takes {seconds:.1f} s and asks {once.total():,} times")
    print(f"killed {killed} times, {min(moments):.1f} to {max(moments):.1f} s after a start that takes {start:.1f} s:")
    print("  " + ", ".join(f"{stage} {number}" for stage, number in sorted(stages.items())))
    print(f"asked in all {asked.total():,} times: {asked.total() - len(asked):,} repeated, "
          f"at most {killed * IN_FLIGHT} were in flight at the kills")  # fmt: skip
    print(f"asks that only one of the two builds made: {len(once.keys() ^ asked.keys())}")
    differ = sorted(name for name in whole.keys() | other.keys() if whole.get(name) != other.get(name))
    print(f"files {len(whole):,}; different or missing: {len(differ)} {differ[:5] or ''}")
    shutil.rmtree(work)
    raise SystemExit(bool(differ) or asked.total() - len(asked) > killed * IN_FLIGHT)


if __name__ == "__main__":
    main()
