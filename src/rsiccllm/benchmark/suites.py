"""Named test sets: which data, which split, what is asked. `bench run --suite NAME` instead of `--data`."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from rsiccllm.errors import InputError
from rsiccllm.records import PAIRS


class Suite(NamedTuple):
    """spec: a source, {root} standing for the folder that holds the data sets. task: a key of PROMPTS.

    about: what it is, for `bench run --help` and reports. build: how it is made where it is not published as it is.
    """

    spec: str
    split: str
    task: str
    about: str
    build: str = ""


def _preset(name: str, *sets: str) -> str:
    sources = " ".join(f"--source {kind}:{{root}}/{folder}" for kind, folder in (each.split("/") for each in sets))
    return f"rsiccllm rsici build --preset {name} {sources} --out {{root}}/{name}"


SUITES = {
    "paper-test-in": Suite(
        "rsici:{root}/paper-test-in",
        "test",
        "describe",
        "RSICI, in domain: LEVIR-CD and SYSU-CD",
        _preset("paper-test-in", "levir-cd/LEVIR-CD", "sysu-cd/SYSU-CD"),
    ),
    "paper-test-out": Suite(
        "rsici:{root}/paper-test-out",
        "test",
        "describe",
        "RSICI, out of domain: S2Looking and CDD",
        _preset("paper-test-out", "s2looking/S2Looking", "cdd/CDD"),
    ),
    "levir-cc": Suite("levir-cc:{root}/LEVIR-CC", "test", "caption", "LEVIR-CC, 1,929 pairs"),
    "second-cc": Suite("second-cc:{root}/SECOND-CC", "test", "caption", "SECOND-CC"),
    "whu-cdc": Suite("whu-cdc:{root}/WHU-CDC", "test", "caption", "WHU-CDC"),
    "dubai-cc": Suite("dubai-cc:{root}/DUBAI-CC", "test", "caption", "DUBAI-CC"),
    "rscc": Suite("rscc:{root}/RSCC", "test", "describe", "RSCC, disasters"),
    "scenes": Suite("scenes:2000,seed=90210,size=256", "test", "caption", "rendered scenes, works anywhere"),
}
"""By name. The seed of `scenes` is one that no recipe trains on."""


def open_suite(name: str, root: Path) -> Suite:
    """The suite with `root` put in its spec. Raises InputError for an unknown name, and where its data is not there."""
    if name not in SUITES:
        raise InputError(f"--suite '{name}': expected one of {', '.join(SUITES)}")
    suite = SUITES[name]
    found = suite._replace(spec=suite.spec.format(root=root), build=suite.build.format(root=root))
    if found.build and not Path(found.spec.partition(":")[2], PAIRS).is_file():
        raise InputError(f"{found.spec}: not built yet; `{found.build}` builds it")
    return found
