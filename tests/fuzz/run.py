"""`make fuzz`: a million inputs over every parser; prints how many each took, and keeps what reaches new code.

    python tests/fuzz/run.py [--inputs 1000000] [--guided 0.1] [--targets records,images] [--seed 1] [--keep]

A tenth of the inputs is guided by atheris, which looks for what reaches new code of ours, each parser in a process of
its own; the rest is drawn at random, which is ten times faster. Bounds: 10 s an input, 3 GB of memory. What fails is
kept in tests/fuzz/found/, and the exit status is 1. With --keep, what reaches new code goes to tests/fuzz/corpus/.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

HERE = Path(__file__).resolve().parent
FOUND = HERE / "found"
SECONDS, MEGABYTES, LONGEST = 10, 3000, 400
LARGEST_KEPT = 512
"""Bytes of an input in the corpus; longer ones are of no use to the next run, for the reader of choices ends before."""
MOST_KEPT = 12
"""Inputs in the corpus, a parser."""


def one(name: str, arguments: list[str]) -> None:
    """The body of a process: atheris over one target, as its arguments say."""
    import atheris

    with atheris.instrument_imports(include=["rsiccllm"], enable_loader_override=False):
        from targets import TARGETS

        target, _ = TARGETS[name]
        target(b"")  # imports what it needs while the instrumentation is on
    atheris.Setup([sys.argv[0], *arguments], target)
    atheris.Fuzz()


def guided(name: str, runs: int, seed: int, keep: bool) -> tuple[int, str]:
    """(inputs, what was wrong) of one parser under atheris."""
    from targets import SHM

    corpus = HERE / "corpus" / name
    corpus.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as fresh, tempfile.TemporaryDirectory(dir=SHM) as room:
        options = [f"-runs={runs}", f"-timeout={SECONDS}", f"-rss_limit_mb={MEGABYTES}", f"-seed={seed}",
                   f"-max_len={LONGEST}", "-len_control=0", "-print_final_stats=1", "-verbosity=0",
                   f"-artifact_prefix={FOUND}/{name}-"]  # fmt: skip
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent.parent / "src"),
                       "TRANSFORMERS_VERBOSITY": "critical", "FUZZ_ROOM": room}  # fmt: skip
        done = subprocess.run(
            [sys.executable, __file__, "--one", name, "--", *options, fresh, str(corpus)],
            capture_output=True, text=True, errors="replace", env=environment, check=False,
        )  # fmt: skip
        told = re.search(r"number_of_executed_units:\s*(\d+)", done.stderr)
        if keep:
            _keep(Path(fresh), corpus)
    return int(told[1]) if told else 0, "" if done.returncode == 0 else _fault(done.stderr)


def drawn(name: str, runs: int, seed: int) -> tuple[int, str]:
    """(inputs, what was wrong) of one parser under random bytes."""
    from targets import TARGETS

    target, _ = TARGETS[name]
    target(b"")  # what it imports takes longer than an input may
    dice = random.Random(f"{seed}:{name}")
    for number in range(runs):
        data = dice.randbytes(dice.randrange(LONGEST) if number % 8 == 0 else dice.randrange(120))
        signal.alarm(SECONDS)
        try:
            target(data)
        except BaseException:
            (FOUND / f"{name}-{hashlib.sha256(data).hexdigest()[:16]}").write_bytes(data)
            return number + 1, traceback.format_exc()
        finally:
            signal.alarm(0)
    return runs, ""


def _too_long(*_: object) -> None:
    raise TimeoutError(f"an input took over {SECONDS} s")


def _keep(fresh: Path, corpus: Path) -> None:
    """The shortest of the new inputs, up to `MOST_KEPT` in all."""
    held = {path.name for path in corpus.iterdir()}
    for path in sorted(fresh.iterdir(), key=lambda path: path.stat().st_size):
        if len(held) < MOST_KEPT and path.stat().st_size <= LARGEST_KEPT and path.name not in held:
            (corpus / path.name).write_bytes(path.read_bytes())
            held.add(path.name)


def _fault(log: str) -> str:
    """The exception of a failing input, and where it came from."""
    lines = [line for line in log.splitlines() if line.strip()]
    at = next((number for number, line in enumerate(lines) if "Uncaught Python exception" in line), None)
    return "\n".join(lines[-25:] if at is None else lines[at : at + 40])


def main() -> None:
    if "--one" in sys.argv:
        one(sys.argv[2], sys.argv[4:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--guided", type=float, default=0.1, help="share of the inputs that atheris makes")
    parser.add_argument("--targets", default="")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="add what reaches new code to the corpus")
    given = parser.parse_args()
    from targets import TARGETS

    FOUND.mkdir(exist_ok=True)
    wanted = given.targets.split(",") if given.targets else list(TARGETS)
    shares = sum(TARGETS[name][1] for name in wanted)
    totals, failed = [0, 0], []
    warnings.simplefilter("ignore")  # PIL's, of broken images
    signal.signal(signal.SIGALRM, _too_long)
    resource.setrlimit(resource.RLIMIT_DATA, (MEGABYTES * 2**20, resource.RLIM_INFINITY))
    for name in wanted:
        runs = given.inputs * TARGETS[name][1] / shares
        begun = time.perf_counter()
        counts, wrongs = [0, 0], ["", ""]
        if given.guided > 0:
            counts[0], wrongs[0] = guided(name, int(runs * given.guided) + 1, given.seed, given.keep)
        if given.guided < 1:
            counts[1], wrongs[1] = drawn(name, int(runs * (1 - given.guided)) + 1, given.seed)
        totals = [total + count for total, count in zip(totals, counts, strict=True)]
        wrong = "\n".join(filter(None, wrongs))
        print(f"{name:18} {counts[0]:9,} guided {counts[1]:9,} drawn  {time.perf_counter() - begun:6.1f} s  "
              f"{'FAILED' if wrong else 'ok'}", flush=True)  # fmt: skip
        if wrong:
            failed.append(name)
            print(wrong, flush=True)
    print(f"{'all':18} {totals[0]:9,} guided {totals[1]:9,} drawn  {sum(totals):,} inputs over {len(wanted)} parsers, "
          f"{len(failed)} failed {' '.join(failed)}")  # fmt: skip
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
