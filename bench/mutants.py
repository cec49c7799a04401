"""Mutation testing: is every small change to losses, packing, facts, gates and scores noticed by a test?

    python bench/mutants.py [MODULE ...] [--sample 40] [--seed 0] [--fresh]

Of each module's mutants (`mutations.py`) as many as asked for are drawn by the seed, and the tests of that module are
run on each, in a forked process with a time limit, until one fails. Nothing is written into the source. A row a mutant
goes to `results/mutants.jsonl` at once; stopped, it goes on. A mutant that was noticed is not tried again while its
module stays as it is, one that was not is tried again when its tests change; --fresh tries all again. Survivors that
change nothing a test could or should see are listed in `mutants.yaml` with the reason, by their text, not their line.
Prints a line a module, and every survivor that is not explained.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.machinery
import importlib.util
import json
import os
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import pytest
import yaml
from hypothesis import Phase, settings

from mutations import Mutation, mutations
from rows import PACKAGE, add_row, code_digest, digest, read_rows

ROOT = PACKAGE.parent.parent
NAME = "mutants"
EXPLAINED = Path(__file__).with_suffix(".yaml")
MEMORY = 4 << 30
"""Bytes a mutant may take beyond what this process has: one that loops for ever must not take the machine."""

SCORES = "tests/benchmark/test_scores.py"
# Tests that speak of a module.
TESTS = {
    "training/losses": ["tests/training/test_losses.py"],
    "training/packing": ["tests/training/test_packing.py"],
    "facts": ["tests/test_facts.py"],
    "agreement": ["tests/test_agreement.py"],
    "rsici/gates": ["tests/rsici/test_gates.py"],
    "rsici/form": ["tests/rsici/test_form.py", "tests/rsici/test_gates.py"],
    "benchmark/scores": [SCORES, "tests/benchmark/test_similarity.py"],
    "benchmark/fact_scores": ["tests/benchmark/test_fact_scores.py"],
    "benchmark/meteor": [f"{SCORES}::{name}" for name in (
        "test_meteor_by_hand", "test_what_meteor_is_asked", "test_meteor_that_fails_leaves_no_process",
        "test_without_java_everything_else_is_scored",
    )],
    "benchmark/rouge": [f"{SCORES}::{name}" for name in (
        "test_rouge_packages_differ_and_are_named", "test_scores_equal_the_formulas",
    )],
    "benchmark/bootstrap": ["tests/benchmark/test_bootstrap.py"],
    "benchmark/tokenise": [f"{SCORES}::{name}" for name in (
        "test_words_are_lower_case_without_final_full_stop", "test_characters_are_labelled_and_score_higher",
        "test_characters_and_numbers_are_labelled_as_not_comparable",
    )],
    "benchmark/similarity": ["tests/benchmark/test_similarity.py"],
    "rsicp/replace": ["tests/rsicp/test_replace.py"],
    "rsicp/filter": ["tests/rsicp/test_filter.py"],
    "near_duplicates/texts": [f"tests/test_near_duplicates.py::{name}" for name in (
        "test_long_texts_across_splits", "test_a_text_that_hundreds_carry_is_one_finding",
        "test_words_are_lower_case_without_punctuation", "test_which_texts_are_alike_by_hand",
        "test_the_most_alike_come_first", "test_candidates_are_nearly_all_the_alike_and_few_of_the_others",
    )],
    "grammar": ["tests/test_facts.py"],
    "phrases": ["tests/test_facts.py"],
    "training/dnpo": ["tests/training/test_losses.py"],
}  # fmt: skip
# Of a module of which not all is meant: these functions.
PARTS = {"training/dnpo": {"chosen_answers", "chosen_and_rejected", "preference_losses"}}
# Left out of them: what starts Java, and the second of two families of models.
SLOW = [
    f"{SCORES}::test_known_figures_of_levir_cc",
    f"{SCORES}::test_meteor_equals_its_program",
    f"{SCORES}::test_ids_keep_every_score_but_meteor",
    *(
        f"tests/training/test_packing.py::test_packed_equals_separate_sequences[{case}-qwen3_vl]"
        for case in ("none-None-mask", "ours-None-mask", "ours-150-mask", "ours-None-cache")
    ),
]
OPTIONS = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--no-header", "--hypothesis-seed=0"]


class _MutatedLoader(importlib.machinery.SourceFileLoader):
    def __init__(self, name: str, path: str, text: str) -> None:
        super().__init__(name, path)
        self._text = text

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._text, self.path, "exec", dont_inherit=True)


class _Finder:
    """Gives one module another text; stands before the ordinary finders."""

    def __init__(self, module: str, text: str) -> None:
        self._name = "rsiccllm." + module.replace("/", ".")
        self._path, self._text = str(PACKAGE / f"{module}.py"), text

    def find_spec(self, name: str, path: object = None, target: ModuleType | None = None) -> Any:
        if name != self._name:
            return None
        loader = _MutatedLoader(name, self._path, self._text)
        return importlib.util.spec_from_file_location(name, self._path, loader=loader)


def forked(work: Callable[[], int], seconds: float, log: Path) -> int | None:
    """Exit status of `work` in a forked process of its own group, negative for a signal; None when time was up."""
    child = os.fork()
    if child == 0:
        status = 99
        try:
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            with log.open("w") as handle:
                os.dup2(handle.fileno(), 1)
                os.dup2(handle.fileno(), 2)
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limit = pages * resource.getpagesize() + MEMORY
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            status = int(work())
        finally:
            sys.stdout.flush()
            os._exit(status)
    end, status = time.monotonic() + seconds, None
    try:
        while status is None and time.monotonic() < end:
            done, code = os.waitpid(child, os.WNOHANG)
            if done:
                status = os.waitstatus_to_exitcode(code)
            else:
                time.sleep(0.02)
    finally:
        # What a test left behind goes too.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        if status is None:
            os.waitpid(child, 0)
    return status


def run_tests(tests: Sequence[str]) -> int:
    """pytest's exit status. A property that fails is not made smaller first: that it fails is enough."""
    settings.register_profile(NAME, phases=[Phase.explicit, Phase.generate], database=None)
    settings.load_profile(NAME)
    return int(pytest.main([*OPTIONS, *(f"--deselect={name}" for name in SLOW), *tests]))


def load_libraries(tests: Sequence[str], folder: Path) -> float:
    """Import here what these tests import from elsewhere, so that no mutant's process has to. Seconds the tests take.

    The tests run twice on the code as it is and must pass.
    """
    names, log = folder / "names.json", folder / "log"

    def listed() -> int:
        status = run_tests(tests)
        ours = tuple(str(ROOT / part) + os.sep for part in ("src", "tests", "bench"))
        found = [n for n, m in list(sys.modules.items()) if not str(getattr(m, "__file__", "")).startswith(ours)]
        names.write_text(json.dumps(found))
        return status

    seconds = 0.0
    for work in (listed, lambda: run_tests(tests)):
        begin = time.monotonic()
        status = forked(work, 600, log)
        seconds = time.monotonic() - begin
        if status != 0:
            sys.exit(f"{' '.join(tests)} do not pass on the code as it is:\n{log.read_text()[-3000:]}")
        for name in sorted(json.loads(names.read_text())):
            try:
                importlib.import_module(name)
            except Exception:  # made by its parent, or not meant to be imported by itself
                continue
    return seconds


def explanations() -> dict[tuple[str, str, str, str], str]:
    """Reasons by module, function, was and now."""
    listed = yaml.safe_load(EXPLAINED.read_text(encoding="utf-8")) or {} if EXPLAINED.exists() else {}
    return {
        (module, one.get("function", ""), was, now): one["why"]
        for module, entries in listed.items()
        for one in entries
        for was, now in ((one["was"], now) for now in ([one["now"]] if isinstance(one["now"], str) else one["now"]))
    }


def drawn(module: str, sample: int, seed: int) -> tuple[list[Mutation], int]:
    """The sample of a module's mutants, and how many there are. A change elsewhere in the module leaves it as it is."""
    every = mutations((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))
    every = [one for one in every if module not in PARTS or one.function in PARTS[module]]
    return sorted(every, key=lambda one: digest([seed, module, *one.name]))[:sample], len(every)


def measure(module: str, sample: int, seed: int, fresh: bool) -> list[dict[str, Any]]:
    """The rows of a module's sample, run where there is none yet."""
    chosen, total = drawn(module, sample, seed)
    code = code_digest([f"{module}.py"])
    tests = digest([(ROOT / name.partition("::")[0]).read_text(encoding="utf-8") for name in TESTS[module]])
    known = {} if fresh else read_rows(NAME)
    rows, seconds = [], None
    with tempfile.TemporaryDirectory() as name:
        for at, one in enumerate(chosen):
            key = digest([module, code, *one.name])
            row = known.get(key)
            if row is None or (row["result"] == "survived" and row["tests"] != tests):
                seconds = load_libraries(TESTS[module], Path(name)) if seconds is None else seconds
                row = {"key": key, "module": module, "function": one.function, "was": one.was, "now": one.now}
                row |= {"tests": tests, **_try(module, one, 5 * seconds + 20, Path(name) / "log")}
                add_row(NAME, row)
            rows.append({**row, "of": total})
            print(f"\r{module} {at + 1}/{len(chosen)}", end="", file=sys.stderr, flush=True)
    print("\r", end="", file=sys.stderr)
    return rows


def _try(module: str, one: Mutation, seconds: float, log: Path) -> dict[str, Any]:
    def work() -> int:
        sys.meta_path.insert(0, _Finder(module, one.text))
        return run_tests(TESTS[module])

    begin = time.monotonic()
    status = forked(work, seconds, log)
    result = "timed out" if status is None else "survived" if status == 0 else "killed"
    return {"result": result, "seconds": round(time.monotonic() - begin, 1)}


def main() -> None:
    """Measure and print; exits 1 where a survivor is not explained."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modules", nargs="*", metavar="MODULE", default=list(TESTS), help=f"of {', '.join(TESTS)}")
    parser.add_argument("--sample", type=int, default=40, help="mutants of each module (default 40)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fresh", action="store_true", help="try all again")
    args = parser.parse_args()
    if unknown := [module for module in args.modules if module not in TESTS]:
        parser.error(f"no tests are named for {', '.join(unknown)}; expected some of {', '.join(TESTS)}")
    os.chdir(ROOT)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    why, left, sums = explanations(), [], Counter[str]()
    print(f"{'module':<24}{'mutants':>16}{'killed':>8}{'timed out':>11}{'explained':>11}{'survived':>10}")
    for module in args.modules:
        rows = measure(module, args.sample, args.seed, args.fresh)
        for row in rows:
            if row["result"] == "survived" and (module, row["function"], row["was"], row["now"]) in why:
                row["result"] = "explained"
        count = Counter(row["result"] for row in rows)
        sums += Counter({**count, "tried": len(rows), "of": rows[0]["of"]})
        left += [row for row in rows if row["result"] == "survived"]
        print(_line(module, count, f"{len(rows)} of {rows[0]['of']}"), flush=True)
    print(_line("all", sums, f"{sums['tried']} of {sums['of']}"))
    for row in left:
        print(f"\n{row['module']}, {row['function'] or 'outside functions'}\n  - {row['was']}\n  + {row['now']}")
    sys.exit(1 if left else 0)


def _line(name: str, count: Counter[str], tried: str) -> str:
    return (
        f"{name:<24}{tried:>16}{count['killed']:>8}{count['timed out']:>11}{count['explained']:>11}"
        f"{count['survived']:>10}"
    )


if __name__ == "__main__":
    main()
