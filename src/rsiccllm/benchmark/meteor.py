"""METEOR 1.5 for English (`-l en -norm`), from the Java program that comes inside pycocoevalcap.

One Java process is started for any number of captions, because its start (it reads a paraphrase table) takes several
seconds. It gets every line at once and ends by itself, under a time limit; nothing of it can be left behind. It
returns 23 counts a caption. The score is computed from their sums here, with METEOR's published formula and English
parameters, so that a subset or a bootstrap draw costs no second process; tests hold it to the program's own EVAL.

METEOR of a corpus is computed from summed counts and is not the mean of its captions' scores: on LEVIR-CC they are
40.55 and 63.51 for one and the same output.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

COUNTS = 23
SECONDS = 900.0
NO_JAVA = (
    "METEOR is absent: it needs a Java runtime and there is no `java` on the PATH "
    "(Debian, Ubuntu: apt install default-jre-headless; conda: conda install openjdk)"
)

# English parameters of METEOR 1.5 (Denkowski and Lavie 2014, task "rank").
ALPHA, BETA, GAMMA, DELTA = 0.85, 0.20, 0.60, 0.75
MODULE_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])  # exact, stem, synonym, paraphrase


class MeteorError(Exception):
    """METEOR could not be computed; the message is one line that says why and what to do."""


def meteor_counts(captions: Sequence[str], references: Sequence[Sequence[str]], seconds: float = SECONDS) -> np.ndarray:
    """METEOR's counts for each caption against its best reference, [captions, 23], float64.

    captions: any text; empty ones score 0. references: one or more texts a caption, none empty.
    seconds: time limit for all. Raises MeteorError when Java is absent, fails, or takes longer.
    """
    lines = [
        # The space after the last ||| must stand: without it an empty caption makes the last reference the caption.
        "SCORE ||| " + " ||| ".join([*map(_clean, texts), _clean(caption)])
        for caption, texts in zip(captions, references, strict=True)
    ]
    distinct = list(dict.fromkeys(lines))  # half of LEVIR-CC shares one set of references
    if not distinct:
        return np.zeros((0, COUNTS))
    replies = _run(distinct, seconds)
    if len(replies) != len(distinct):
        raise MeteorError(f"METEOR is absent: it answered {len(replies)} of {len(distinct)} captions")
    try:
        counts = {
            line: [float(count) for count in reply.split()] for line, reply in zip(distinct, replies, strict=True)
        }
        return np.array([counts[line] for line in lines]).reshape(len(lines), COUNTS)
    except ValueError:
        raise MeteorError("METEOR is absent: its answer is not 23 numbers a caption") from None


def fold_perfect(counts: np.ndarray) -> np.ndarray:
    """`counts` [captions, 23] with no chunk for a caption that equals its reference; METEOR sums them so."""
    folded = counts.copy()
    perfect = (counts[:, 21] == counts[:, 0]) & (counts[:, 22] == counts[:, 1]) & (counts[:, 20] == 1)
    folded[perfect, 20] = 0
    return folded


def meteor_of_sums(sums: np.ndarray) -> np.ndarray:
    """METEOR, 0..1, from sums of `fold_perfect` counts over the captions of a corpus, [..., 23] -> [...].

    The order of the counts: length of caption and reference; function words of both; for each of four modules the
    matched content words of both and the matched function words of both; chunks; matched words of both.
    """
    stages = sums[..., 4:20].reshape(*sums.shape[:-1], 4, 2, 2)  # [..., module, content/function, caption/reference]
    words = np.array([DELTA, 1 - DELTA])[:, None]
    matches = np.einsum("...mwt,m,wo->...t", stages, MODULE_WEIGHTS, words)  # [..., caption/reference]
    lengths = DELTA * (sums[..., 0:2] - sums[..., 2:4]) + (1 - DELTA) * sums[..., 2:4]
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall = np.moveaxis(matches / lengths, -1, 0)
        mean = 1 / ((1 - ALPHA) / precision + ALPHA / recall)
        fragmentation = sums[..., 20] / ((sums[..., 21] + sums[..., 22]) / 2)
        return np.nan_to_num(mean * (1 - GAMMA * fragmentation**BETA), nan=0.0)


def _clean(text: str) -> str:
    """One line without the field separator."""
    return " ".join(re.sub(r"\|{3,}", " ", text).split())


def _run(lines: Sequence[str], seconds: float) -> list[str]:
    java = shutil.which("java")
    if java is None:
        raise MeteorError(NO_JAVA)
    package = find_spec("pycocoevalcap.meteor")
    folders = package.submodule_search_locations if package else None
    jar = Path(next(iter(folders), "")) / "meteor-1.5.jar" if folders else Path("meteor-1.5.jar")
    if not jar.is_file():
        raise MeteorError("METEOR is absent: pycocoevalcap is installed without its meteor-1.5.jar; install it again")
    command = [java, "-Xmx2G", "-XX:+UseSerialGC", "-jar", str(jar)]
    command += ["-", "-", "-stdio", "-l", "en", "-norm"]
    try:
        # run() kills and reaps the process on a time-out, an error or Ctrl-C
        done = subprocess.run(
            command,
            input="".join(line + "\n" for line in lines).encode("utf-8", "replace"),
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise MeteorError(f"METEOR is absent: it took longer than {seconds:g} s for {_size(lines)}") from None
    except OSError as error:
        raise MeteorError(f"METEOR is absent: {java} cannot be started ({error.strerror})") from None
    if done.returncode != 0:
        said = (done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no message"])[0]
        raise MeteorError(f"METEOR is absent: Java ended with code {done.returncode} on {_size(lines)} ({said[:200]})")
    return done.stdout.decode("utf-8", "replace").split("\n")[:-1]


def _size(lines: Sequence[str]) -> str:
    longest = max(len(line.rpartition(" ||| ")[2].split()) for line in lines)
    return f"{len(lines)} captions, the longest of {longest} words"
