"""Building RSICI: pairs from any sources become one folder of images, pairs.jsonl and instructions.jsonl."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from rsiccllm.errors import InputError
from rsiccllm.files import inside, link_or_copy, read_json, write_json, write_jsonl
from rsiccllm.pairs import probe_image
from rsiccllm.progress import track
from rsiccllm.records import INSTRUCTIONS, PAIRS, ImagePair, Instruction
from rsiccllm.rsici.prompts import PROMPTS
from rsiccllm.sources import open_source
from rsiccllm.sources.base import Source
from rsiccllm.sources.scenes.parallel import write_scenes
from rsiccllm.sources.scenes.source import ScenesSource

CARD = "card.json"


def build_rsici(specs: Sequence[str], out: Path, tasks: Sequence[str] = ("caption",)) -> dict[str, int]:
    """Build a data set in `out` from the captions and descriptions that the sources carry.

    specs: sources, as `open_source` reads them. tasks: keys of PROMPTS; "caption" takes a pair's captions as answers,
    "describe" its description. Images of sources on disk are linked, rendered ones written. A second call goes on where
    the first one stopped; the lists are written last, so their presence means that everything is there.
    Returns counts: pairs, instructions, and pairs left out because they carry no text for any task.
    Raises InputError for an unknown task, a missing or odd image, one id in two sources, or nothing to build from.
    """
    for task in tasks:
        if task not in PROMPTS:
            raise InputError(f"--tasks: unknown task '{task}', expected one of {', '.join(PROMPTS)}")
    if not specs:
        raise InputError("--source: expected at least one source")
    wanted = {"sources": list(specs), "tasks": list(tasks)}
    sources = [open_source(spec) for spec in specs]
    chosen = [(source, pair) for source in sources for pair in source.pairs if _has_text(pair, tasks)]
    left_out = sum(len(source.pairs) for source in sources) - len(chosen)
    if not chosen:
        raise InputError(
            f"{', '.join(specs)}: no pair carries a caption or description for the tasks {', '.join(tasks)}"
        )
    _check(chosen)
    _claim(out, wanted)  # not before: a mistake in the sources must not bind the folder to them
    _render(chosen, out)
    pairs: list[ImagePair] = []
    for source, pair in track(chosen, "building", len(chosen)):
        pairs.append(_place(source, pair, out))
    instructions = [record for pair in pairs for record in _instructions(pair, tasks)]
    write_jsonl(out / PAIRS, pairs)
    write_jsonl(out / INSTRUCTIONS, instructions)
    counts = {"pairs": len(pairs), "instructions": len(instructions), "left_out": left_out}
    splits = Counter(pair.split for pair in pairs)
    write_json(out / CARD, {**wanted, **counts, "splits": dict(splits), "prompts": {t: PROMPTS[t] for t in tasks}})
    return counts


def _claim(out: Path, wanted: dict[str, list[str]]) -> None:
    """Refuse a folder that was built from other sources; remember ours before any work."""
    note = out / "build.json"
    if note.exists():
        held = read_json(note)
        if held != wanted:
            raise InputError(f"{out}: was built from {held}, now asked for {wanted}; choose another --out or remove it")
    else:
        try:
            write_json(note, wanted)
        except OSError as error:
            raise InputError(f"{out}: cannot be written ({error.strerror})") from None


def _has_text(pair: ImagePair, tasks: Sequence[str]) -> bool:
    return bool(("caption" in tasks and pair.captions) or ("describe" in tasks and pair.description))


def _check(chosen: Sequence[tuple[Source, ImagePair]]) -> None:
    """Everything that can be told without decoding, before the long work."""
    seen: dict[str, str] = {}
    for source, pair in chosen:
        if pair.id in seen:
            raise InputError(f"id '{pair.id}' is in {seen[pair.id]} and in {source.name}; build them apart")
        seen[pair.id] = source.name
        if not _on_disk(source):
            continue
        first, second = (probe_image(inside(source.root, path)) for path in (pair.before, pair.after))
        if first != second:
            raise InputError(f"{source.root / pair.after}: {second[0]}x{second[1]}, but its first image is "
                             f"{first[0]}x{first[1]}")  # fmt: skip


def _on_disk(source: Source) -> bool:
    return not isinstance(source, ScenesSource)


def _render(chosen: Sequence[tuple[Source, ImagePair]], out: Path) -> None:
    """Paint the pairs of rendered sources that are not under `out` yet."""
    every = [(source, pair, _placed(source, pair)) for source, pair in chosen if isinstance(source, ScenesSource)]
    left = [
        source.files(pair, **{role: out / path for role, path in placed.items()})
        for source, pair, placed in every
        if not all((out / path).exists() for path in placed.values())
    ]
    if left:
        for _ in track(write_scenes(left), "rendering", len(every), len(every) - len(left)):
            pass


def _place(source: Source, pair: ImagePair, out: Path) -> ImagePair:
    """Link a pair's images under `out`, where they are not rendered, and return the record that points there."""
    placed = _placed(source, pair)
    if _on_disk(source):
        for role, path in placed.items():
            link_or_copy(inside(source.root, getattr(pair, role)), out / path)
    changed = pair.changed if pair.changed is not None else source.changed(pair)
    return pair.model_copy(update={**placed, "changed": changed})


def _placed(source: Source, pair: ImagePair) -> dict[str, str]:
    """Where each image that a pair has (before, after, mask) goes, relative to the data set's folder."""
    stem = f"images/{source.name}/{safe_name(pair.id)}"
    names = {"before": pair.before, "after": pair.after, "mask": pair.mask}
    return {role: f"{stem}.{role}{Path(name).suffix.lower() or '.png'}" for role, name in names.items() if name}


def safe_name(identifier: str) -> str:
    """A file name for an id: itself where it is plain, else its plain characters and a digest, so no two meet."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", identifier)[:100]
    if plain == identifier and not plain.startswith("."):
        return plain
    return f"{plain.lstrip('.')}_{hashlib.sha256(identifier.encode()).hexdigest()[:8]}"


def _instructions(pair: ImagePair, tasks: Sequence[str]) -> Iterator[Instruction]:
    answers = {"caption": pair.captions, "describe": [pair.description] if pair.description else []}
    for task in tasks:
        if answers[task]:
            yield Instruction(
                id=f"{pair.id}/{task}",
                pair=pair.id,
                split=pair.split,
                source=pair.before.split("/")[1],
                task=task,
                before=pair.before,
                after=pair.after,
                mask=pair.mask,
                changed=pair.changed,
                prompt=PROMPTS[task],
                answers=answers[task],
                facts=pair.facts,
            )
