"""What `rsici build` does: the settings its options stand for, and the teacher they name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from rsiccllm.endpoint import Budget, Endpoint
from rsiccllm.errors import InputError
from rsiccllm.rsici.build import BuildSettings, build_rsici, first_asks, preset_of
from rsiccllm.rsici.tasks import Boxes, TaskSettings, read_shares, read_tasks
from rsiccllm.rsici.teachers.openai import Look, OpenAITeacher, dry_run


def task_settings(
    specs: Sequence[str],
    tasks: str,
    shares: str,
    preset: str | None,
    split: str | None,
    phrasings: int,
    boxes: Boxes,
    seed: int,
) -> tuple[TaskSettings, str | None]:
    """(what is asked, of which split). A preset names both; InputError where a split is named beside one."""
    if preset is None:
        return TaskSettings(read_tasks(tasks), read_shares(shares), phrasings, boxes, seed), split
    wanted, of_preset = preset_of(preset, specs)
    if split not in {None, of_preset}:
        raise InputError(f"--split {split}: --preset {preset} takes the split '{of_preset}'; leave --split out")
    return TaskSettings(wanted, read_shares(shares), phrasings, boxes, seed), of_preset


def build(
    specs: Sequence[str],
    out: Path,
    settings: BuildSettings,
    teacher: Literal["rules", "openai"],
    endpoint: Callable[[], Endpoint],
    budget: Budget,
    look: Look,
    dry: bool,
    say: Callable[[str], None],
) -> dict[str, int] | None:
    """Build with the teacher of that name. endpoint: checked as it is made, so made for "openai" alone."""
    if teacher == "rules":
        return build_by_rules(specs, out, settings, dry)
    return build_by_endpoint(specs, out, settings, endpoint(), budget, look, dry, say)


def build_by_rules(specs: Sequence[str], out: Path, settings: BuildSettings, dry: bool) -> dict[str, int]:
    """Build with the rules alone; the counts of `build_rsici`. InputError for a dry run: there is nothing to ask."""
    if dry:
        raise InputError("--dry-run: the rules ask nobody; expected it with --teacher openai")
    return build_rsici(specs, out, settings=settings)


def build_by_endpoint(
    specs: Sequence[str],
    out: Path,
    settings: BuildSettings,
    endpoint: Endpoint,
    budget: Budget,
    look: Look,
    dry: bool,
    say: Callable[[str], None],
) -> dict[str, int] | None:
    """Build with a model behind an endpoint; the counts of `build_rsici`.

    dry: ask nothing, say what would be asked and what it would cost, and return None. say: takes lines for the user;
    what was used is said whatever ends the build.
    """
    with OpenAITeacher(out, endpoint, budget, look) as teacher:
        if dry:
            for line in dry_run(teacher, *first_asks(specs, out, teacher, settings)):
                say(line)
            return None
        try:
            return build_rsici(specs, out, teacher=teacher, settings=settings)
        finally:
            if teacher.usage.sent:  # a set that is complete asks nothing
                say(f"teacher: {teacher.usage}")
