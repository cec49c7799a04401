"""Captioning a list of pairs: one, or thousands with a journal of what is done."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rsiccllm.caption.listing import Item, list_pairs
from rsiccllm.caption.question import check_question
from rsiccllm.errors import InputError
from rsiccllm.journal import Journal
from rsiccllm.pairs import OpenedPair, open_pair
from rsiccllm.progress import track

if TYPE_CHECKING:
    from rsiccllm.caption.captioner import Captioner
    from rsiccllm.caption.result import Caption


@dataclass(frozen=True)
class Wanted:
    """What is asked of each pair. question: in place of a caption. long: a paragraph. overlay: a PNG to write, or for
    several pairs a folder of them. jsonl: the journal to write and go on from. The rest as for `Captioner.caption`."""

    long: bool = False
    question: str | None = None
    candidates: int | None = None
    resize: bool = False
    batch_size: int = 16
    overlay: Path | None = None
    jsonl: Path | None = None


class Outcome(NamedTuple):
    """One pair's result: a line as in the journal, or the fault for which there is none."""

    item: Item
    line: dict[str, Any] | None
    fault: str = ""


@contextmanager
def uncollected() -> Iterator[None]:
    """Without looking for garbage, nor later in what is there by then: what is imported stays, and to search it again
    and again takes a tenth of a start and a second of the end."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


class Job:
    """The pairs of one command. Listing them, and opening the image files of a single pair, comes before any model.

    notes: what was passed over in listing them. note: what is to be known of the model once `run` has loaded it; often
    empty.
    """

    def __init__(self, before: Path, after: Path | None, wanted: Wanted) -> None:
        self.wanted = wanted
        self.note = ""
        self.notes: list[str] = []
        self.items = list_pairs(before, after, self.notes)
        self.single = after is not None and not before.is_dir()
        self._spare_inputs()
        if wanted.question is not None:
            check_question(wanted.question, "--ask")
        if self.single:  # a mistake in the one pair is a mistake in the command
            open_pair(self.items[0].before, self.items[0].after, resize=wanted.resize)

    def run(self, model: str | None) -> Iterator[Outcome]:
        """Load the model and answer every pair, in order. Those that a journal holds already come from it."""
        with uncollected():
            from rsiccllm.caption.captioner import Captioner, model_name

        name = model_name(model)
        known: dict[str, dict[str, Any]] = {}
        journal = None
        if self.wanted.jsonl is not None:
            journal = Journal(self.wanted.jsonl, sync_every=1.0)
        try:
            stamp: dict[str, Any] = {}
            if journal is not None:
                stamp = self._stamp(name)
                known = self._known(journal, stamp)
            if any(item.id not in known for item in self.items):
                with uncollected():
                    captioner = Captioner.load(name)
                if captioner.calibration is None and not (self.wanted.long or self.wanted.question):
                    self.note = f"{name}: not calibrated: its captions come without a confidence"
                work = self._answered(captioner, known, journal, stamp)
            else:
                work = (Outcome(item, known[item.id]) for item in self.items)
            yield from work if self.single else track(work, "captioning", len(self.items))
        finally:
            if journal is not None:
                journal.close()

    def _answered(self, captioner: Captioner, known: dict[str, dict[str, Any]], journal: Journal | None,
                  stamp: dict[str, Any]) -> Iterator[Outcome]:  # fmt: skip
        source = iter(self.items)
        while chunk := list(islice(source, self.wanted.batch_size)):
            opened: dict[str, OpenedPair] = {}
            faults: dict[str, str] = {}
            for item in chunk:
                if item.id in known:
                    continue
                try:
                    if item.fault:
                        raise InputError(item.fault)
                    opened[item.id] = open_pair(item.before, item.after, resize=self.wanted.resize)
                except InputError as error:
                    faults[item.id] = str(error)
            said = dict(zip(opened, self._ask(captioner, list(opened.values())), strict=True))
            for item in chunk:
                if item.id in faults:
                    yield Outcome(item, None, faults[item.id])
                    continue
                if item.id in said:
                    result = said[item.id]
                    if self.wanted.overlay is not None:
                        self._draw(item, opened[item.id], result)
                    line = {"id": item.id, "before": str(item.before), "after": str(item.after), **result.to_dict()}
                    if self.wanted.candidates is None:
                        line.pop("candidates", None)  # shown where they were asked for
                    if journal is not None:
                        journal.append({**line, **stamp, "written": _written(item)})
                    yield Outcome(item, line)
                else:
                    yield Outcome(item, known[item.id])

    def _ask(self, captioner: Captioner, pairs: Sequence[OpenedPair]) -> Iterator[Caption]:
        from rsiccllm.caption.captioner import LONGEST, LONGEST_REPLY
        from rsiccllm.rsici.prompts import PROMPTS

        task = "describe" if self.wanted.long else "caption"
        prompt = self.wanted.question or PROMPTS[task]
        count = self.wanted.candidates or (1 if self.wanted.question else captioner.usual(task))
        longest = LONGEST_REPLY if self.wanted.question and not self.wanted.long else LONGEST[task]
        return captioner.answer_all(pairs, prompt, longest, self.wanted.batch_size, count)

    def _draw(self, item: Item, pair: OpenedPair, result: Caption) -> None:
        from rsiccllm.caption.overlay import draw_overlay

        draw_overlay(pair, result.change_map, self._picture(item))

    def _spare_inputs(self) -> None:
        """Raise InputError where an overlay would be written over an image that is to be read."""
        if self.wanted.overlay is None:
            return
        read = {path.resolve() for item in self.items for path in (item.before, item.after)}
        for item in self.items:
            if (picture := self._picture(item)).resolve() in read:
                raise InputError(
                    f"--overlay {self.wanted.overlay}: would write over the image {picture}; choose another"
                )

    def _picture(self, item: Item) -> Path:
        from rsiccllm.rsici.place import safe_name

        assert self.wanted.overlay is not None
        return self.wanted.overlay if self.single else self.wanted.overlay / f"{safe_name(item.id)}.png"

    def _stamp(self, name: str) -> dict[str, Any]:
        """What every line of the journal says of how it was made; lines of another making are not mixed with ours."""
        from rsiccllm.model.checkpoint import weights_digest

        asked = "describe" if self.wanted.long else "caption"
        if self.wanted.question:
            asked = f"{asked}: {self.wanted.question}"
        answers = self.wanted.candidates or "usual"
        return {"asked": asked, "model": weights_digest(name), "answers": answers, "resize": self.wanted.resize}

    def _known(self, journal: Journal, stamp: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """The finished lines by id. Raises InputError where another model, question or pair of images made them."""
        items = {item.id: item for item in self.items}
        known = {}
        for line in journal.read():
            if not isinstance(line.get("id"), str) or not isinstance(line.get("caption"), str):
                raise InputError(f"{journal.path}: a line without id and caption; choose another --jsonl")
            for field, value in stamp.items():
                if line.get(field) != value:
                    raise InputError(
                        f"{journal.path}: '{line['id']}' was made with {field} {line.get(field)!r}, "
                        f"this command has {value!r}; choose another --jsonl"
                    )
            item = items.get(line["id"])
            if item is not None and (line.get("before"), line.get("after")) != (str(item.before), str(item.after)):
                raise InputError(f"{journal.path}: '{item.id}' stands for other images there; choose another --jsonl")
            if item is not None and line.get("written") != _written(item):
                raise InputError(
                    f"{journal.path}: the images of '{item.id}' were written anew since; choose another --jsonl"
                )
            if item is not None and self.wanted.overlay is not None and not self._picture(item).exists():
                raise InputError(
                    f"{journal.path}: holds '{item.id}', whose picture was not drawn; choose another --jsonl to draw it"
                )
            known[line["id"]] = {key: value for key, value in line.items() if key not in {*stamp, "written"}}
        return known


def _written(item: Item) -> list[int]:
    """When each image of a pair was written, nanoseconds; 0 for one that is not there."""
    return [path.stat().st_mtime_ns if path.is_file() else 0 for path in (item.before, item.after)]


def shown(line: dict[str, Any], single: bool) -> str:
    """A result as a line of text: the caption, after its id where there are several; doubts are said behind it."""
    text = " ".join(str(line["caption"]).split()) if not single else str(line["caption"])
    doubt = f"  [uncertain: confidence {line['confidence']:.2f}]" if line.get("uncertain") else ""
    if line.get("strange"):
        doubt += "  [images unlike those of the model's training]"
    others = "".join(f"\n  or: {other}" for other in line.get("candidates", [])[1:])
    return (text if single else f"{line['id']}\t{text}") + doubt + others
