"""One run of a command in a forked child: disturbed from outside, or from within before it begins."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HUNG = "hung, and was ended:"


@dataclass(frozen=True)
class Ended:
    """How a child ended. status: exit status, or minus the signal. said: its output. cpu, wall: seconds."""

    status: int
    said: str
    cpu: float
    wall: float

    @property
    def traceback(self) -> bool:
        return "Traceback" in self.said or "rsiccllm: unexpected " in self.said


def start(arguments: list[str], log: Path, before: Callable[[], None] | None = None) -> int:
    """Fork a child that runs `rsiccllm` with these arguments; returns its id. before: called in it first."""
    child = os.fork()
    if child:
        return child
    status = 70
    try:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        sys.argv = ["rsiccllm", *arguments]
        os.environ["PATH"] = ""  # no Java: METEOR takes as long as all the rest
        from rsiccllm.cli import main

        if before is not None:
            before()
        try:
            main()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def cpu_of(child: int) -> float:
    """Seconds of CPU that a running child has used."""
    try:
        fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("inf")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait(child: int, log: Path, begun: float, limit: float = 300.0) -> Ended:
    """Wait for a child's end. One that takes longer than `limit` seconds is ended, and its output says so."""
    end = time.monotonic() + limit
    while True:
        found, status, usage = os.wait4(child, os.WNOHANG)
        if found:
            cpu = usage.ru_utime + usage.ru_stime
            said = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
            return Ended(os.waitstatus_to_exitcode(status), said, cpu, time.monotonic() - begun)
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            os.wait4(child, 0)
            return Ended(-signal.SIGKILL, f"{HUNG} {log.read_text(errors='replace')[-500:]}", limit, limit)
        time.sleep(0.01)


def run(
    arguments: list[str],
    log: Path,
    before: Callable[[], None] | None = None,
    stop: tuple[int, float] | None = None,
    limit: float = 300.0,
) -> Ended:
    """Run to the end, or with `stop` until a signal after so many seconds of CPU. limit: as for `wait`."""
    begun = time.monotonic()
    child = start(arguments, log, before)
    if stop is not None:
        while cpu_of(child) < stop[1]:
            time.sleep(0.004)
            if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                break
        else:
            os.kill(child, stop[0])
    return wait(child, log, begun, limit)


def limit_memory(more: int) -> Callable[[], None]:
    """Let the child's address space grow by so many bytes and no further."""

    def limit() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        size = pages * os.sysconf("SC_PAGE_SIZE") + more
        resource.setrlimit(resource.RLIMIT_AS, (size, size))

    return limit


def jumping_clock() -> None:
    """time.time goes forth and back by up to a day from call to call. time.monotonic stays: the system promises it."""
    true, calls = time.time, [0]

    def jumped() -> float:
        calls[0] += 1
        return true() + ((calls[0] * 7919) % 17 - 8) * 10_800

    time.time = jumped


def limit_files(size: int) -> Callable[[], None]:
    """Stand for a full disk where none can be mounted: no file may grow over so many bytes."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit
