"""Every stage under every fault, at the smallest size: what is lost, what is wrong, how long it takes to be well again.

    python bench/faults/run.py [--moments 20] [--stages sft,map] [--faults kill,term] [--seed 0]

Each stage runs once undisturbed. Then, for each fault, it runs in a folder of its own until the fault has struck, and
is called again, whole, until it is through. lost: records of the undisturbed run that the recovered one lacks. wrong:
runs that say they are finished and whose results differ in a byte from the undisturbed one's. Children are forked from
one process that has imported everything, so that a kill falls into the work and not into imports; the moment is drawn
over the CPU seconds of the undisturbed run. Rows go to bench/results/faults.jsonl.

The disk is a small tmpfs, made full, and remounted read-only, which needs root; without it a limit on the size of files
stands for the full disk, and read-only is left out. The clock is `time.time`, replaced in the child. Memory is limited
by RLIMIT_AS.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_WAIT_POLICY": "passive",
               "HF_HUB_OFFLINE": "1"}  # fmt: skip

import child as children  # noqa: E402
import stages  # noqa: E402
from server import serve_under_fire  # noqa: E402
from stages import STAGES, Stage  # noqa: E402

from teacher import Teacher  # noqa: E402

RESULTS = HERE.parent / "results" / "faults.jsonl"


@dataclass
class Tally:
    """What one stage did under one fault. recovery: seconds of the run that ends well, after each fault."""

    stage: str
    fault: str
    runs: int = 0
    faults: int = 0
    lost: int = 0
    wrong: int = 0
    tracebacks: int = 0
    refused: int = 0
    recovery: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def row(self) -> dict[str, object]:
        found = {name: value for name, value in vars(self).items() if name not in {"recovery", "notes"}}
        times = [round(value, 2) for value in self.recovery]
        spread = {"recovery_median": statistics.median(times), "recovery_most": max(times)} if times else {}
        return {**found, **spread, "notes": sorted(set(self.notes))[:5]}


class Bench:
    """The stages' inputs below `work`, and their undisturbed runs."""

    def __init__(self, work: Path, dice: random.Random, mounts: bool) -> None:
        self.work, self.dice, self.mounts = work, dice, mounts
        self.log = work / "log.txt"
        self.whole: dict[str, tuple[dict[str, str], set[str], float]] = {}

    def undisturbed(self, stage: Stage) -> None:
        out = self.work / "whole" / stage.name
        ended = children.run(stage.arguments(self.work, out), self.log)
        if ended.status:
            raise SystemExit(f"{stage.name}: an undisturbed run ends with {ended.status}: {ended.said[-2000:]}")
        again = self.work / "again" / stage.name
        second = children.run(stage.arguments(self.work, again), self.log)
        held = stages.results(stage, out)
        if not held or held != stages.results(stage, again):
            raise SystemExit(f"{stage.name}: two undisturbed runs differ: {held} {stages.results(stage, again)}")
        shutil.rmtree(again)
        self.whole[stage.name] = held, stages.records(stage, out), max(ended.cpu, second.cpu)
        print(f"{stage.name}: undisturbed {ended.wall:.1f} s ({ended.cpu:.1f} s of CPU), {len(held)} files, "
              f"{len(self.whole[stage.name][1])} records", flush=True)  # fmt: skip

    def finish(self, stage: Stage, out: Path, tally: Tally, again: Callable[[], None] | None = None) -> None:
        """Call the stage again until it is through (again: puts right what the message names), and compare."""
        for attempt in range(3):
            ended = children.run(stage.arguments(self.work, out), self.log)
            tally.runs += 1
            self.judge(ended, tally)
            if not ended.status:
                break
            tally.refused += 1
            if again is not None and attempt == 0:
                again()
        held, every, _ = self.whole[stage.name]
        tally.recovery.append(ended.wall)
        tally.lost += len(every - stages.records(stage, out))
        if ended.status or stages.results(stage, out) != held:
            tally.wrong += 1
            tally.notes.append(f"end {ended.status}: {' '.join(ended.said.split())[-300:]}")

    def judge(self, ended: children.Ended, tally: Tally) -> None:
        """Count what no user may see."""
        if ended.traceback:
            tally.tracebacks += 1
            tally.notes.append(" ".join(ended.said.split())[-300:])

    def struck(self, stage: Stage, out: Path, tally: Tally, before: Callable[[], None] | None = None,
               stop: tuple[int, float] | None = None, limit: float = 300.0) -> children.Ended:  # fmt: skip
        """A run that the fault strikes. A finished run with other results is wrong already."""
        ended = children.run(stage.arguments(self.work, out), self.log, before, stop, limit)
        tally.runs += 1
        tally.faults += 1
        if stop is None:
            self.judge(ended, tally)
        if ended.status == 0 and stages.results(stage, out) != self.whole[stage.name][0]:
            tally.wrong += 1
            tally.notes.append("a run that was disturbed ends well and with other results")
        return ended

    @contextmanager
    def folder(self, stage: Stage) -> Iterator[Path]:
        """Named as the undisturbed run's is, for the benchmark calls a row by its folder."""
        path = Path(tempfile.mkdtemp(dir=self.work))
        try:
            yield path / stage.name
        finally:
            shutil.rmtree(path, ignore_errors=True)

    # The faults

    def signals(self, stage: Stage, kind: int, moments: int) -> Tally:
        tally = Tally(stage.name, {signal.SIGKILL: "kill -9", signal.SIGTERM: "SIGTERM"}[kind])
        for _ in range(moments):
            with self.folder(stage) as out:
                self.struck(stage, out, tally, stop=(kind, self.dice.uniform(0.05, 1) * self.whole[stage.name][2]))
                self.finish(stage, out, tally)
        return tally

    def full_disk(self, stage: Stage) -> Tally:
        tally = Tally(stage.name, "full disk")
        size = sum(path.stat().st_size for path in (self.work / "whole" / stage.name).rglob("*") if path.is_file())
        for share in (0.02, 0.3, 0.7):
            room = max(64 * 1024, int(size * share))
            if not self.mounts:
                with self.folder(stage) as out:
                    self.struck(stage, out, tally, children.limit_files(room // 3))
                    self.finish(stage, out, tally)
                continue
            with self.folder(stage) as out, mounted(out, room) as disk:
                tally.refused += self.struck(stage, disk / stage.name, tally).status == 2
                subprocess.run(["mount", "-o", "remount,size=1g", str(disk)], check=True)
                self.finish(stage, disk / stage.name, tally)
        return tally

    def read_only(self, stage: Stage) -> Tally:
        """From the start, and from the middle of a run on."""
        tally = Tally(stage.name, "read-only output")
        for half in (False, True):
            with self.folder(stage) as out, mounted(out, 2**30) as disk:
                if half:
                    self.struck(stage, disk / stage.name, tally, stop=(signal.SIGKILL, self.whole[stage.name][2] / 2))
                subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
                ended = self.struck(stage, disk / stage.name, tally)
                tally.refused += ended.status == 2
                subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
                self.finish(stage, disk / stage.name, tally)
        return tally

    def vanished(self, stage: Stage, moments: int) -> Tally:
        """An input is gone from some moment on, and comes back before the second call."""
        tally = Tally(stage.name, "vanished input")
        for number in range(moments):
            here, away = self.work / stage.vanishes, self.work / "away"
            with self.folder(stage) as out:
                begun = time.monotonic()
                process = children.start(stage.arguments(self.work, out), self.log)
                moment = 0 if number == 0 else self.dice.uniform(0, 0.9) * self.whole[stage.name][2]
                while children.cpu_of(process) < moment:
                    time.sleep(0.004)
                    if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                        break
                here.rename(away)
                ended = children.wait(process, self.log, begun)
                away.rename(here)
                tally.runs, tally.faults = tally.runs + 1, tally.faults + 1
                self.judge(ended, tally)
                tally.refused += ended.status == 2
                self.finish(stage, out, tally)
        return tally

    def clock(self, stage: Stage) -> Tally:
        tally = Tally(stage.name, "clock jumps")
        with self.folder(stage) as out:
            self.struck(stage, out, tally, children.jumping_clock, (signal.SIGKILL, self.whole[stage.name][2] / 2))
            ended = self.struck(stage, out, tally, children.jumping_clock)
            if ended.status:
                tally.notes.append(ended.said[-200:])
            self.finish(stage, out, tally)
        return tally

    def memory(self, stage: Stage) -> Tally:
        tally = Tally(stage.name, "memory limit")
        for more in (2, 16, 64, 256):
            with self.folder(stage) as out:
                ended = self.struck(stage, out, tally, children.limit_memory(more * 2**20), limit=60)
                tally.refused += ended.status != 0
                if ended.said.startswith(children.HUNG):
                    tally.notes.append(f"with {more} MiB more: {' '.join(ended.said.split())[:200]}")
                self.finish(stage, out, tally)
        return tally

    def damage(self, stage: Stage, kind: str, moments: int) -> Tally:
        """Stop a run past its middle, damage what it would go on from, and go on. What cannot be mended by itself is
        named in one line; the file is then removed, as the line says, and the run called again."""
        tally = Tally(stage.name, kind)
        for _ in range(moments):
            with self.folder(stage) as out:
                ended = None
                while ended is None or ended.status == 0:
                    shutil.rmtree(out, ignore_errors=True)
                    moment = self.dice.uniform(0.5, 0.9) * self.whole[stage.name][2]
                    ended = children.run(stage.arguments(self.work, out), self.log, stop=(signal.SIGKILL, moment))
                    tally.runs += 1
                    found = sorted(path for pattern in stage.state for path in out.glob(pattern) if path.stat().st_size)
                    if not found and ended.status:
                        ended = None
                file = self.dice.choice(found)
                data = bytearray(file.read_bytes())
                if kind == "truncated state":
                    data = data[: self.dice.randrange(len(data))]
                else:
                    data[self.dice.randrange(len(data))] ^= 1 << self.dice.randrange(8)
                file.write_bytes(data)
                tally.faults += 1
                self.finish(stage, out, tally, again=file.unlink)
        return tally

    def flipped_input(self, stage: Stage, moments: int) -> Tally:
        """A flipped byte in what the stage reads, list, shard or weights: one line, or the same results."""
        tally = Tally(stage.name, "flipped byte in an input")
        for number in range(moments if stage.flips else 0):
            file = self.work / stage.flips[number % len(stage.flips)]
            whole = file.read_bytes()
            data = bytearray(whole)
            data[self.dice.randrange(len(data))] ^= 1 << self.dice.randrange(8)
            with self.folder(stage) as out:
                file.write_bytes(data)
                ended = self.struck(stage, out, tally)
                tally.refused += ended.status == 2
                file.write_bytes(whole)
                self.finish(stage, out, tally)
        return tally

    def two_at_once(self, stage: Stage) -> Tally:
        tally = Tally(stage.name, "two runs on one folder")
        for _ in range(3):
            with self.folder(stage) as out:
                begun = time.monotonic()
                logs = [self.work / "log1.txt", self.work / "log2.txt"]
                both = [children.start(stage.arguments(self.work, out), log) for log in logs]
                for process, log in zip(both, logs, strict=True):
                    ended = children.wait(process, log, begun)
                    tally.runs += 1
                    self.judge(ended, tally)
                    tally.refused += ended.status == 2
                tally.faults += 1
                self.finish(stage, out, tally)
        return tally


@contextmanager
def mounted(out: Path, size: int) -> Iterator[Path]:
    """A tmpfs of so many bytes beside `out`."""
    disk = out.with_name("disk")
    disk.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def can_mount(work: Path) -> bool:
    try:
        with mounted(work / "try" / "out", 65536):
            return True
    except (subprocess.CalledProcessError, OSError):
        return False


FAULTS = ("kill", "term", "disk", "readonly", "vanished", "clock", "truncated", "flipped", "input", "two", "memory")


def tallies(bench: Bench, stage: Stage, fault: str, moments: int) -> Tally | None:
    few = max(1, moments // 5)
    if fault in {"kill", "term"}:
        return bench.signals(stage, signal.SIGKILL if fault == "kill" else signal.SIGTERM, moments)
    if fault == "readonly":
        return bench.read_only(stage) if bench.mounts else None
    if fault == "truncated":
        return bench.damage(stage, "truncated state", few)
    if fault == "flipped":
        return bench.damage(stage, "flipped byte in state", few)
    if fault == "input":
        return bench.flipped_input(stage, few)
    if fault == "vanished":
        return bench.vanished(stage, few)
    return {"disk": bench.full_disk, "clock": bench.clock, "two": bench.two_at_once, "memory": bench.memory}[fault](
        stage
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=20, help="of each signal; a fifth of it for the slower faults")
    parser.add_argument("--stages", default=",".join([*(stage.name for stage in STAGES), "server"]))
    parser.add_argument("--faults", default=",".join(FAULTS))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    wanted, faults = given.stages.split(","), given.faults.split(",")
    work = Path(tempfile.mkdtemp(prefix="faults_"))
    try:
        mounts = can_mount(work)
        print(f"full and read-only disk: {'tmpfs' if mounts else 'RLIMIT_FSIZE, and no read-only (no right to mount)'}")
        stages.load_everything()
        with Teacher() as teacher:
            stages.prepare(work / "in")
            (work / "in" / "teacher").write_text(teacher.url)
            bench = Bench(work / "in", random.Random(given.seed), mounts)
            for stage in [stage for stage in STAGES if stage.name in wanted]:
                bench.undisturbed(stage)
                for fault in faults:
                    if (tally := tallies(bench, stage, fault, given.moments)) is not None and tally.faults:
                        show(tally)
            if "server" in wanted:
                for kind, name in ((signal.SIGKILL, "kill"), (signal.SIGTERM, "term")):
                    if name in faults:
                        tally = Tally("server", {"kill": "kill -9", "term": "SIGTERM"}[name])
                        serve_under_fire(work / "in", kind, given.moments, random.Random(given.seed), tally)
                        show(tally)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def show(tally: Tally) -> None:
    """Print a row and keep it."""
    row = tally.row()
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("a", encoding="utf-8") as handle:
        handle.write(json.dumps(row) + "\n")
    print(
        f"{tally.stage:7} {tally.fault:25} runs {tally.runs:3}  faults {tally.faults:3}  lost {tally.lost}  "
        f"wrong {tally.wrong}  tracebacks {tally.tracebacks}  refused {tally.refused:2}  recovery "
        f"{row.get('recovery_median', 0)} s (most {row.get('recovery_most', 0)} s)",
        flush=True,
    )
    for note in row["notes"]:  # type: ignore[attr-defined]
        print(f"        {note}", flush=True)


if __name__ == "__main__":
    main()
