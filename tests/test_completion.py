"""Completion of the command line, asked of the real shells. zsh and fish skip where they are not installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = {
    "bash": """
eval "$(_RSICCLLM_COMPLETE=source_bash rsiccllm)"
complete -p rsiccllm >/dev/null || exit 9
COMP_WORDS=({line}); COMP_CWORD={last}
_rsiccllm_completion rsiccllm
printf '%s\\n' "${{COMPREPLY[@]}}"
""",
    "fish": """
_RSICCLLM_COMPLETE=source_fish rsiccllm | source
complete --do-complete '{text}' | string split -f1 \\t
""",
}


def complete(shell: str, text: str, folder: Path) -> list[str]:
    """What the shell offers at the end of `text`."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    program = folder / "rsiccllm"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m rsiccllm.cli "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    words = text.split(" ")
    line = " ".join(f"'{word}'" for word in words)
    script = SCRIPTS[shell].format(text=text, line=line, last=len(words) - 1)
    done = subprocess.run(
        [shell, "-c", script], capture_output=True, text=True, check=True, timeout=60,
        env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "HOME": str(folder)},
    )  # fmt: skip
    return done.stdout.split()


@pytest.mark.parametrize("shell", SCRIPTS)
@pytest.mark.parametrize(
    ("text", "offered"),
    [("rsiccllm ca", ["caption"]), ("rsiccllm rsici b", ["build"]), ("rsiccllm train sft --fi", ["--fields"])],
)
def test_commands_and_options(shell: str, text: str, offered: list[str], tmp_path: Path) -> None:
    assert complete(shell, text, tmp_path) == offered


def test_zsh_reads_its_script(tmp_path: Path) -> None:
    if shutil.which("zsh") is None:
        pytest.skip("zsh is not installed")
    command = [sys.executable, "-m", "rsiccllm.cli"]
    given = {**os.environ, "_RSICCLLM_COMPLETE": "source_zsh"}
    script = subprocess.run(command, env=given, capture_output=True, text=True, check=True).stdout
    assert "compdef _rsiccllm_completion rsiccllm" in script
    ask = "autoload -U compinit; compinit -u\n" + script + "\nprint ${_comps[rsiccllm]}"
    done = subprocess.run(["zsh", "-c", ask], capture_output=True, text=True, check=True, env={"HOME": str(tmp_path)})
    assert done.stdout.strip() == "_rsiccllm_completion"
