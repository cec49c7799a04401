"""Contestants of a benchmark, each in a process of its own, that take turns: a busy moment of the machine meets all."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from typing import Any


def peak() -> float:
    """MB that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def serve(work: Callable[[], dict[str, Any]]) -> None:
    """Answer each line of standard input with what a round gives, and the memory held until now."""
    print("READY", peak(), flush=True)
    for _ in sys.stdin:
        print("RESULT", json.dumps({**work(), "peak": peak()}), flush=True)


class Peer:
    """A contestant: `arguments` start this program again, as one that calls `serve`.

    before: MB it held when it was ready.
    """

    def __init__(self, arguments: list[str], threads: int) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
        self.process = subprocess.Popen(
            [sys.executable, *arguments], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        self.before = float(self._answer("READY"))

    def _answer(self, mark: str) -> str:
        assert self.process.stdout
        for line in self.process.stdout:
            if line.startswith(mark):
                return line.removeprefix(mark)
        raise SystemExit(f"a contestant ended early, status {self.process.wait()}: {self.process.args}")

    def round(self) -> dict[str, Any]:
        """What the next round gave."""
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return dict(json.loads(self._answer("RESULT")))

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()
