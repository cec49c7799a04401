"""`rsiccllm bench score`: a file of captions against the references of a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.text import Text

from rsiccllm.benchmark.baselines import CHANGE, NO_CHANGE, commonest
from rsiccllm.benchmark.bootstrap import RULE
from rsiccllm.benchmark.compare import Comparison, compare_rows, size_note
from rsiccllm.benchmark.copied import training_captions
from rsiccllm.benchmark.grounding import ground
from rsiccllm.benchmark.image_baselines import image_baselines
from rsiccllm.benchmark.leaks import find_leaks
from rsiccllm.benchmark.predictions import load_lines, match
from rsiccllm.benchmark.rows import Row, score_rows
from rsiccllm.benchmark.table import render_html, render_table
from rsiccllm.benchmark.texts import changed_of, texts_of
from rsiccllm.benchmark.tokenise import Tokenisation
from rsiccllm.errors import InputError
from rsiccllm.facts import Fact
from rsiccllm.records import ImagePair
from rsiccllm.sources import open_source

NOT_LOOKED_FOR = "scored pairs were not looked for in training data; name it with --training to have them compared"


SCHEMA = "rsiccllm.bench_score.v2"


@dataclass(frozen=True)
class References:
    """What captions are scored against, by pair id, in the order of the data set.

    changed: None where the set does not say it of every pair. planted: None where facts are not known of every pair.
    no_change, change: sentences of the trivial rows. uncaptioned: ids of pairs without captions, which no score
    counts. notes: one line each on what is left out.
    """

    captions: dict[str, list[str]]
    changed: dict[str, bool] | None
    planted: dict[str, list[Fact]] | None
    no_change: str
    change: str
    uncaptioned: frozenset[str]
    notes: tuple[str, ...]

    def rows(self, systems: Mapping[str, Mapping[str, str]], tokenisation: Tokenisation, **given: Any) -> list[Row]:
        """`score_rows` of systems (name -> captions by pair id) against these; given: its other arguments."""
        return score_rows(
            systems,
            self.captions,
            self.changed,
            self.planted,
            self.no_change,
            self.change,
            tokenisation,
            **given,
        )


@dataclass(frozen=True)
class Result:
    """The rows of a run, the paired tests between them, and where they come from."""

    references: str
    split: str
    rows: list[Row]
    comparisons: list[Comparison]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "schema": SCHEMA,
            "references": self.references,
            "split": self.split,
            "tokenisation": self.rows[0].scores.tokenisation,
            "bootstrap": RULE,
            "notes": list(self.notes),
            "rows": [row.to_dict() for row in self.rows],
            "comparisons": [comparison.to_dict() for comparison in self.comparisons],
        }

    def __rich__(self) -> Group:
        """Tables and notes, for `rich.console.Console.print`."""
        return Group(*render_table(self.rows, self.comparisons), *map(Text, self.notes))

    def html(self) -> str:
        """Tables for a page."""
        return render_html(self.rows, self.comparisons)


def run_score(
    predictions: Path | str | Sequence[Path | str],
    references: str,
    split: str,
    tokenisation: Tokenisation = "word",
    meteor: bool | None = None,
    names: Sequence[str] | None = None,
    sbs: str | None = None,
    training: Sequence[str] = (),
    task: str = "caption",
) -> Result:
    """Score one file of captions, or several beside each other, and the trivial rows.

    references: a source spec, such as "levir-cc:DIR". split: one of its splits. names: of the rows, one a file; None
    takes the files' own. sbs: a sentence-embedding model for SBS. training: sources that the models were trained on, in
    which the scored pairs are looked for. task: "caption" scores against a pair's captions, "describe" against its
    description. Print the result with rich, or its `to_dict()` as JSON. Raises InputError for files, specs, splits or
    ids that do not fit, before anything is scored.
    """
    paths = [Path(path) for path in ([predictions] if isinstance(predictions, str | Path) else predictions)]
    source = open_source(references)
    truth = references_of(source.pairs, split, references, task)
    systems: dict[str, dict[str, str]] = {}
    maps: dict[str, tuple[Path, dict[str, str]]] = {}
    notes = list(truth.notes)
    for number, path in enumerate(paths):
        lines = load_lines(path)
        captions = {name: line.caption for name, line in lines.items()}
        ignored = truth.uncaptioned & captions.keys()
        if ignored:
            notes.append(f"{path}: {len(ignored)} captions are of pairs without references and are not scored")
        captions = {name: caption for name, caption in captions.items() if name not in ignored}
        match(captions, truth.captions, str(path))
        if empty := sum(not caption.strip() for caption in captions.values()):
            notes.append(f"{path}: {empty} of {len(captions)} captions are empty; they score 0")
        if any(path.resolve() == other.resolve() for other in paths[:number]):
            raise InputError(f"{path}: given twice")
        name = names[number] if names else path.stem if path.stem not in systems else str(path)
        if name in systems:
            raise InputError(f"{path}: given twice")
        systems[name] = captions
        maps[name] = (path.parent, {key: line.change_map for key, line in lines.items() if line.change_map})
    scored = [pair for pair in source.pairs if pair.id in truth.captions]
    grounded = {name: ground(source, scored, found, root) for name, (root, found) in maps.items() if found}
    leaked = find_leaks(source, scored, training).lines(training) if training else [NOT_LOOKED_FOR]
    looked, absent = image_baselines(source, scored, truth.no_change, truth.change, split, task)
    train = [caption for pair in source.pairs if pair.split == "train" for caption in texts_of(pair, task)]
    rows = truth.rows(
        systems,
        tokenisation,
        meteor=meteor,
        sbs=sbs,
        looked=looked,
        training=training_captions(train) if train and split != "train" else None,
        grounding={name: found for name, found in grounded.items() if found is not None},
    )
    notes += [*leaked, *absent, *_copies(rows), size_note(rows)]
    return Result(references, split, rows, compare_rows(rows), tuple(notes))


def _copies(rows: Sequence[Row]) -> list[str]:
    """A line for each system that gives training captions word for word."""
    lines = []
    for row in rows:
        found = row.copied
        if not row.baseline and found is not None and found.copied:
            of = f" ({found.changed_copied} of {found.changed} on changed pairs)" if found.changed else ""
            most = ", ".join(f'"{text}" {count}x' for text, count in found.most)
            lines.append(
                f"{row.name}: {found.copied} of {found.captions} captions{of} are COPIES of training captions"
                + (f"; most often {most}" if most else "")
                + f"; {found.distinct} different captions in all"
            )
    return lines


def references_of(every: Sequence[ImagePair], split: str, spec: str, task: str = "caption") -> References:
    """Captions, change flags and planted facts of one split of a source's pairs; `spec` names it in messages.

    Raises InputError for a split that is not there or has no captions.

    The trivial rows' sentences are LEVIR-CC's for the LEVIR family (known figures were computed with them), else the
    commonest unchanged and changed captions of the split "train", where there is one with captions. From the split that
    is scored nothing is learnt.
    """
    pairs = [pair for pair in every if pair.split == split]
    if not pairs:
        splits = ", ".join(dict.fromkeys(pair.split for pair in every))
        raise InputError(f"{spec}: no split '{split}'; expected one of {splits}")
    what = "captions" if task == "caption" else "descriptions"
    captioned = [pair for pair in pairs if texts_of(pair, task)]
    if not captioned:
        masks = any(pair.mask for pair in pairs)
        how = f"; `rsiccllm rsici build --source {spec} --tasks {task} --out DIR` writes some from its masks" * masks
        raise InputError(f"{spec}: none of the {len(pairs)} pairs of split '{split}' has {what} to score against{how}")
    notes = []
    if len(captioned) < len(pairs):
        notes.append(f"{spec}: {len(pairs) - len(captioned)} of {len(pairs)} pairs have no {what}; they are left out")
    changed = {pair.id: flag for pair in captioned if (flag := changed_of(pair, texts_of(pair, task))) is not None}
    if read := sum(pair.changed is None and pair.id in changed for pair in captioned):
        notes.append(f"{spec}: whether it changed is what most references say in {read} of {len(captioned)} pairs")
    known = len(changed) == len(captioned)
    if not known:
        notes.append(
            f"{spec}: whether it changed is known of {len(changed)} of {len(captioned)} pairs; changed-only scores, "
            "change flag and facts need it of all and are absent"
        )
    planted = {pair.id: pair.facts for pair in captioned if pair.facts is not None}
    no_change, change = NO_CHANGE, CHANGE
    if not spec.startswith("levir") and split != "train":
        train = [pair for pair in every if pair.split == "train"]
        no_change, change = _sentence(train, False, task) or NO_CHANGE, _sentence(train, True, task) or CHANGE
    return References(
        captions={pair.id: texts_of(pair, task) for pair in captioned},
        changed=changed if known else None,
        planted=planted if len(planted) == len(captioned) else None,
        no_change=no_change,
        change=change,
        uncaptioned=frozenset(pair.id for pair in pairs if not texts_of(pair, task)),
        notes=tuple(notes),
    )


def _sentence(pairs: Sequence[ImagePair], changed: bool, task: str) -> str | None:
    return commonest(
        text for pair in pairs if changed_of(pair, texts_of(pair, task)) is changed for text in texts_of(pair, task)
    )
