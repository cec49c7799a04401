"""Building RSICI: pairs of any sources, what their masks say, a teacher's answers, three gates, and one folder.

The build can be killed at any moment and called again: images are written whole or not at all, every answer received
is in a journal, and the lists are written last, in the order of the sources whatever order the answers came in.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rsiccllm.errors import InputError
from rsiccllm.files import inside, read_json, sweep, write_json, write_jsonl
from rsiccllm.pairs import probe_image
from rsiccllm.progress import track
from rsiccllm.records import PAIRS, ImagePair, Instruction
from rsiccllm.rsici.card import CARD, Tally, write_card
from rsiccllm.rsici.gates import check
from rsiccllm.rsici.journal import NAME as JOURNAL
from rsiccllm.rsici.journal import AnswerJournal
from rsiccllm.rsici.leaks import Handling, find_leaks, repeated_texts
from rsiccllm.rsici.output import CHECKSUMS, refuse_strangers, write_checksums, write_shards
from rsiccllm.rsici.place import place, placed_paths, safe_name
from rsiccllm.rsici.prior import SPECK_PIXELS, Prior, prior_of
from rsiccllm.rsici.prompts import VERSION, hint_for, prompt_name
from rsiccllm.rsici.review.decisions import REVIEWS
from rsiccllm.rsici.tasks import PAPER_TASKS, TAUGHT, Accepted, TaskSettings, instructions
from rsiccllm.rsici.teachers.base import MAX_ATTEMPTS, Ask, Failure, Teacher
from rsiccllm.rsici.teachers.openai import DRY_RUN
from rsiccllm.rsici.teachers.openai import JOURNAL as TEACHER_JOURNAL
from rsiccllm.rsici.teachers.rules import RulesTeacher, answer
from rsiccllm.sources import open_source
from rsiccllm.sources.base import Source
from rsiccllm.sources.scenes.parallel import write_scenes
from rsiccllm.sources.scenes.source import ScenesSource
from rsiccllm.sources.tiles import Tiles

CLAIM = "build.json"
DIGEST = "digest"
"""Its field that tells whether the sources are still what they were."""

REJECTED = "rejected.jsonl"
TILE = 256
"""Pixels. The paper's sets are 256 x 256, LEVIR-CD and S2Looking cut to it."""

PRESETS: dict[str, tuple[tuple[str, ...], str]] = {
    "paper-train": (("levir-cd", "sysu-cd"), "train"),
    "paper-test-in": (("levir-cd", "sysu-cd"), "test"),
    "paper-test-out": (("s2looking", "cdd"), "test"),
}
"""The paper's own mixes: kinds of source, and the split taken from each. Their task is the long description."""


@dataclass(frozen=True)
class BuildSettings:
    """How a set is built.

    tasks: what is asked, see TaskSettings. tile: pairs without text that are larger are cut into tiles of that many
    pixels, 0 keeps them whole. speck: components of a mask with fewer pixels are dropped. split: only this split, None
    for all. shard: instructions a file. duplicates: what becomes of training pairs that share an image, or a long text
    of their source, with another split or set: "drop" leaves them out, "report" only writes them down.
    """

    tasks: TaskSettings = field(default_factory=TaskSettings)
    tile: int = TILE
    speck: int = SPECK_PIXELS
    split: str | None = None
    shard: int = 10_000
    duplicates: Handling = "drop"


def preset_of(name: str, specs: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """(tasks, split) of a preset, after its sources are found among `specs`. Raises InputError where one is missing."""
    if name not in PRESETS:
        raise InputError(f"--preset: unknown '{name}', expected one of {', '.join(PRESETS)}")
    kinds, split = PRESETS[name]
    given = [spec.partition(":")[0] for spec in specs]
    if sorted(given) != sorted(kinds):
        wanted = " ".join(f"--source {kind}:DIR" for kind in kinds)
        raise InputError(f"--preset {name}: expected {wanted}, got {', '.join(given) or 'no source'}")
    return PAPER_TASKS, split


def build_rsici(
    specs: Sequence[str],
    out: Path,
    tasks: Sequence[str] = ("caption",),
    teacher: Teacher | None = None,
    settings: BuildSettings | None = None,
) -> dict[str, int]:
    """Build a data set in `out`.

    specs: sources, as `open_source` reads them. tasks: of TASKS; ignored where `settings` is given. A pair's own
    captions, description and dialogues are taken as they are; what is missing is asked of `teacher` (the rules if
    None) and has to pass the gates, with at most two further attempts. Images of sources on disk are linked, others
    written. A second call goes on where the first one stopped, and asks for no answer that was received.

    Returns counts: pairs, instructions, pairs left out because nothing is known or said of them, answers rejected, asks
    that are still unanswered (a budget spent, a network down): call again to go on; and, where there are any, training
    pairs dropped because they share an image with another split or set (see `leaks`).
    Raises InputError for an unknown task, a missing or odd image, one id twice, or nothing to build from.
    """
    settings = settings or BuildSettings(TaskSettings(tuple(tasks)))
    teacher = teacher or RulesTeacher()
    if not specs:
        raise InputError("--source: expected at least one source")
    wanted = _wanted(specs, teacher, settings)
    held = _held(out, wanted)
    if held and (out / CHECKSUMS).exists():  # written last: everything is there
        counts: dict[str, int] = read_json(out / CARD)["counts"]
        if not counts["unanswered"]:
            (out / JOURNAL).unlink(missing_ok=True)
            return counts
        (out / CHECKSUMS).unlink()
    build, sources = _begin(specs, out, teacher, settings, None if held else wanted)
    done = False
    try:
        build.run()
        counts = build.write(wanted, dict(sources))
        done = not counts["unanswered"]
    finally:
        build.journal.close(remove=done)
    return counts


def first_asks(
    specs: Sequence[str], out: Path, teacher: Teacher, settings: BuildSettings, keep: int = 32
) -> tuple[list[Ask], int]:
    """The first `keep` asks that a build would put to its teacher now, and how many there are in the first round.

    Images are placed in `out` (a build finds them there), which is bound to these settings; nothing is asked and no
    list is written. Raises InputError like `build_rsici`.
    """
    wanted = _wanted(specs, teacher, settings)
    held = _held(out, wanted)  # what is placed and compared here must be what the build would
    build, _ = _begin(specs, out, teacher, settings, None if held else wanted)
    asks: list[Ask] = []
    number = 0
    for number, ask in enumerate(build.open_asks(), start=1):
        if number <= keep:
            asks.append(ask)
    build.journal.close()
    return asks, number


def _begin(
    specs: Sequence[str], out: Path, teacher: Teacher, settings: BuildSettings, claim: dict[str, Any] | None
) -> tuple[_Build, list[tuple[str, Source]]]:
    """All that can be told without asking anything, before the long work. claim: written to bind the folder."""
    sources = _open(specs, settings)
    items = _items(sources, settings)
    digest = _digest(items)
    if claim is not None:  # not before: a mistake in the sources must not bind the folder to them
        write_json(out / CLAIM, {**claim, DIGEST: digest})
    elif read_json(out / CLAIM).get(DIGEST, digest) != digest:
        raise InputError(f"{out}: its sources have changed since it was begun; choose another --out or remove it")
    compared = [(item.source, item.pair) for item in items]
    leaks = find_leaks(compared, [item.id for item in items], [item.label for item in items], out, settings.duplicates)
    left = [item for item in items if item.id not in leaks]
    if not left:
        raise InputError(f"{', '.join(specs)}: every pair is a near-duplicate of another split's; see {out}")
    journal = AnswerJournal(out)  # from here on the folder is ours alone
    sweep(out)
    return _Build(out, teacher, settings, journal, left, len(leaks)), sources


def _wanted(specs: Sequence[str], teacher: Teacher, settings: BuildSettings) -> dict[str, Any]:
    """What binds a folder to one build."""
    return {"sources": list(specs), "teacher": teacher.name, "prompts": VERSION, **_plain(settings)}


def _plain(settings: BuildSettings) -> dict[str, Any]:
    """The settings as JSON gives them back."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(settings)))
    return {**plain.pop("tasks"), **plain}


def _held(out: Path, wanted: dict[str, Any]) -> bool:
    """Whether the folder was begun by the same call; InputError where it was begun by another."""
    refuse_strangers(out, CLAIM)
    if not (out / CLAIM).exists():
        return False
    held = read_json(out / CLAIM)
    held.pop(DIGEST, None)
    if held != wanted:
        names = [name for name in wanted if held.get(name) != wanted[name]]
        told = "; ".join(f"{name} {held.get(name)}, now asked for {wanted[name]}" for name in names)
        raise InputError(f"{out}: was built from {told}; choose another --out or remove it")
    return True


def _open(specs: Sequence[str], settings: BuildSettings) -> list[tuple[str, Source]]:
    """(label, source) for each spec. Labels are kinds, with the folder's name where a kind is given twice."""
    sources = [open_source(spec) for spec in specs]
    kinds = Counter(source.name for source in sources)
    found = []
    for spec, source in zip(specs, sources, strict=True):
        if not source.has_images:  # before tiles are cut, which looks at the images
            raise InputError(f"source '{spec}': has annotations alone; RSICI needs the images too")
        folder = safe_name(source.root.resolve().name) if source.on_disk else ""
        label = f"{source.name}-{folder}" if kinds[source.name] > 1 and folder else source.name
        found.append((label, Tiles(source, settings.tile) if settings.tile and source.on_disk else source))
    return found


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


@dataclass(frozen=True)
class _Item:
    """One pair to build from, before its images are placed. `id`: unique in the set that is built."""

    label: str
    source: Source
    pair: ImagePair
    id: str
    size: tuple[int, int]


def _digest(items: Sequence[_Item]) -> str:
    """Of what is said of all pairs and of their masks' sizes: hexadecimal SHA-256. An image may be mended."""
    found = hashlib.sha256()
    for item in items:
        found.update(item.pair.model_dump_json().encode() + b"\n")
        if item.source.on_disk and item.pair.mask and (mask := inside(item.source.root, item.pair.mask)).is_file():
            found.update(f"{mask.stat().st_size}\n".encode())
    return found.hexdigest()


def _items(sources: Sequence[tuple[str, Source]], settings: BuildSettings) -> list[_Item]:
    """Every pair, with all that can be told of its files without decoding them, before the long work."""
    found: list[_Item] = []
    seen: dict[str, str] = {}
    for label, source in sources:
        for pair in source.select(settings.split):
            # Sets number their pairs alike ("train_1"): with several of them the set's name makes ids unique.
            name = f"{label}/{pair.id}" if len(sources) > 1 else pair.id
            if name in seen:
                raise InputError(f"id '{name}' is in {seen[name]} and in {label}; build them apart")
            seen[name] = label
            size = source.size_of(pair)
            found.append(_Item(label, source, pair, name, size))
            if source.on_disk and source.plain_mask and pair.mask:
                mask = inside(source.root, pair.mask)
                whole = source.whole_size_of(pair) if isinstance(source, Tiles) else size
                if (marked := probe_image(mask)) != whole:
                    raise InputError(f"{mask}: {_size(marked)} pixels, but its images have {_size(whole)}")
    return found


def _render(items: Sequence[_Item], out: Path) -> None:
    """Paint the pairs of rendered sources that are not under `out` yet, with a process for each core."""
    every = [
        (item.source, item.pair, placed_paths(item.source, item.pair, item.label))
        for item in items
        if isinstance(item.source, ScenesSource)
    ]
    left = [
        source.files(pair, **{role: out / str(path) for role, path in paths.items()})
        for source, pair, paths in every
        if not all((out / str(path)).exists() for path in paths.values())
    ]
    if left:
        for _ in track(write_scenes(left), "rendering", len(every), len(every) - len(left)):
            pass


@dataclass
class _Kept:
    """A pair whose images are placed, what is known of it, and the answers that passed."""

    label: str
    pair: ImagePair
    prior: Prior
    accepted: dict[str, Accepted] = field(default_factory=dict)


class _Build:
    """One run of a build: the state that its steps share."""

    def __init__(
        self,
        out: Path,
        teacher: Teacher,
        settings: BuildSettings,
        journal: AnswerJournal,
        items: list[_Item],
        leaks: int,
    ) -> None:
        self.out, self.teacher, self.settings, self.journal, self.items = out, teacher, settings, journal, items
        self.leaks = leaks
        self.kept: list[_Kept] = []
        self.by_id: dict[str, _Kept] = {}
        self.rejected: dict[str, list[dict[str, Any]]] = {}
        self.unanswered: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.given_up: Counter[str] = Counter()

    def run(self) -> None:
        """Ask everything: a first round over all pairs, then what was rejected, with another prompt."""
        again: list[Ask] = []
        self._round(self._first(), again)
        for _ in range(1, MAX_ATTEMPTS):
            asks, again = again, []
            self._round(iter(asks), again)
        self.given_up = Counter(ask.task for ask in again)

    def _first(self) -> Iterator[Ask]:
        """Place each pair, see what its mask says, and ask for what its source does not hold."""
        wanted = self.settings.tasks
        _render(self.items, self.out)
        for item in track(self.items, "building", len(self.items)):
            prior = prior_of(item.source, item.pair, self.settings.speck)
            if prior.masked and (prior.width, prior.height) != item.size:
                mask = item.source.root / str(item.pair.mask)
                marked = _size((prior.width, prior.height))
                raise InputError(f"{mask}: {marked} pixels, but its images have {_size(item.size)}")
            placed = place(item.source, item.pair, self.out, item.label)
            # An empty mask of buildings does not say that nothing changed.
            changed = item.pair.changed if prior.empty and prior.scope else prior.changed
            kept = _Kept(item.label, placed.model_copy(update={"id": item.id, "changed": changed}), prior)
            self.kept.append(kept)
            self.by_id[item.id] = kept
            if item.pair.captions:
                kept.accepted["caption"] = Accepted(tuple(item.pair.captions), "source")
            if item.pair.description:
                kept.accepted["describe"] = Accepted((item.pair.description,), "source")
            dialogue = wanted.wants("dialogue", item.id) and not item.pair.dialogues
            for task in TAUGHT:
                needed = wanted.wants(task, item.id) or (dialogue and task in {"describe", "kind"})
                if needed and task not in kept.accepted and not prior.silent:
                    ask = Ask(kept.pair, task, prior)
                    if prior.empty:  # that nothing changed is written by the rules: no model need be asked
                        self._take_rules(kept, ask)
                    else:
                        yield ask

    def open_asks(self) -> Iterator[Ask]:
        """The first round's asks that are not answered yet."""
        return (ask for ask in self._first() if ask.key not in self.journal.answers)

    def _take_rules(self, kept: _Kept, ask: Ask) -> None:
        texts = answer(ask)
        if isinstance(texts, list):
            kept.accepted[ask.task] = Accepted(tuple(texts), "rules")

    def _round(self, asks: Iterator[Ask], again: list[Ask]) -> None:
        """Answer the asks from the journal or the teacher; rejected ones go to `again` as the next attempt."""

        def unknown() -> Iterator[Ask]:
            for ask in asks:
                known = self.journal.answers.get(ask.key)
                if known is None:
                    yield ask
                else:
                    self._judge(ask, known, again)

        for ask, result in self.teacher.answer_all(unknown()):
            if isinstance(result, Failure) and not result.final:
                self.unanswered[result.kind] += 1
                continue
            self.journal.add(ask, result)
            self._judge(ask, result, again)

    def _judge(self, ask: Ask, result: list[str] | Failure, again: list[Ask]) -> None:
        """Let an answer through the gates."""
        notes: list[dict[str, Any]] = []
        passed: list[str] = []
        reasons: list[str] = []
        where = {"pair": ask.pair.id, "task": ask.task, "attempt": ask.attempt}
        if isinstance(result, Failure):
            self.failed[result.kind] += 1
            notes.append({**where, "gate": "teacher", "reason": result.kind, "detail": result.message, "text": ""})
        else:
            for text in dict.fromkeys(text.strip() for text in result):
                found = check(text, ask.task, ask.prior)
                if not found:
                    passed.append(text)
                reasons += [item.reason for item in found]
                notes += [{**where, **item._asdict(), "text": text} for item in found]
        nothing = isinstance(result, Failure) and result.kind == "nothing_to_say"
        if notes and not nothing:
            self.rejected.setdefault(ask.key, []).extend(notes)
        if passed:
            asked = None if self.teacher.name == "rules" else prompt_name(ask)
            self.by_id[ask.pair.id].accepted[ask.task] = Accepted(tuple(passed), self.teacher.name, asked)
        elif not nothing:
            again.append(Ask(ask.pair, ask.task, ask.prior, ask.attempt + 1, hint_for(reasons) if reasons else ""))

    def write(self, wanted: Mapping[str, Any], sources: Mapping[str, Source]) -> dict[str, int]:
        """Write every list, the card and last of all the checksums, and return the counts."""
        self._drop_repeated()
        used = [kept for kept in self.kept if next(self._instructions(kept), None)]
        if not used:
            raise InputError(
                f"{', '.join(wanted['sources'])}: nothing to build from; no pair carries a caption, a description, "
                f"facts or a mask for the tasks {', '.join(self.settings.tasks.tasks)}"
            )
        tally = Tally()
        records = (record for kept in used for record in self._instructions(kept))
        for record in write_shards(self.out, records, self.settings.shard):
            tally.add(record)
        rejected = [note for kept in self.kept for task in TAUGHT for note in self._notes(kept.pair.id, task)]
        write_jsonl(self.out / REJECTED, rejected)
        write_jsonl(self.out / PAIRS, (_with_texts(kept) for kept in used))
        counts = {
            "pairs": len(used),
            "instructions": tally.total,
            "left_out": len(self.items) - len(used),
            "rejected": len({(note["pair"], note["task"], note["attempt"], note["text"]) for note in rejected}),
            "unanswered": sum(self.unanswered.values()),
        }
        if self.leaks:
            counts["duplicates"] = self.leaks
        teaching = {"given_up": self.given_up, "failed": self.failed, "unanswered": self.unanswered}
        about = {"counts": counts, **{name: dict(sorted(found.items())) for name, found in teaching.items()}}
        write_card(self.out, {**wanted, **about}, sources, tally, [(kept.pair, kept.prior) for kept in used], rejected)
        write_checksums(self.out, [JOURNAL, TEACHER_JOURNAL, DRY_RUN, REVIEWS])
        return counts

    def _drop_repeated(self) -> None:
        """Take back long texts that a model wrote of a training pair and, nearly the same, of one of another split."""
        if self.settings.duplicates != "drop":
            return
        own = [kept for kept in self.kept if (one := kept.accepted.get("describe")) and one.asked]
        texts = [(kept.pair.id, kept.pair.split, text) for kept in own for text in kept.accepted["describe"].answers]
        for name, other in repeated_texts(texts).items():
            taken = self.by_id[name].accepted.pop("describe")
            attempt = int(str(taken.asked).rsplit("/", 1)[1])
            where = {"pair": name, "task": "describe", "attempt": attempt, "gate": "duplicates", "reason": "repeated"}
            notes = [{**where, "detail": f"nearly the text of {other}", "text": text} for text in taken.answers]
            self.rejected.setdefault(f"{name}/describe/{attempt}", []).extend(notes)

    def _instructions(self, kept: _Kept) -> Iterator[Instruction]:
        return instructions(kept.pair, kept.label, kept.prior, kept.accepted, self.settings.tasks)

    def _notes(self, pair: str, task: str) -> Iterator[dict[str, Any]]:
        for attempt in range(MAX_ATTEMPTS):
            yield from self.rejected.get(f"{pair}/{task}/{attempt}", [])


def _with_texts(kept: _Kept) -> ImagePair:
    """The pair with the texts that were accepted, so that the folder is a source with references."""
    caption, describe = kept.accepted.get("caption"), kept.accepted.get("describe")
    return kept.pair.model_copy(
        update={
            "captions": list(caption.answers) if caption else [],
            "description": describe.answers[0] if describe else None,
        }
    )
