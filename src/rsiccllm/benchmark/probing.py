"""`rsiccllm bench probe`: what a captioner says of disturbed pairs, scored against the strength of each probe."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from PIL import Image

from rsiccllm.benchmark.models import Checkpoint, open_model
from rsiccllm.benchmark.predict import PREDICTIONS, SETTINGS, data_digest, read_predictions
from rsiccllm.benchmark.predictions import load_predictions
from rsiccllm.benchmark.probe_scores import Probed, score_point
from rsiccllm.benchmark.probe_views import draw_probes
from rsiccllm.benchmark.probes import PROBES, Case, Probe, case_of
from rsiccllm.benchmark.provenance import check_unseen
from rsiccllm.caption.captioner import LONGEST
from rsiccllm.errors import InputError
from rsiccllm.files import atomic_write, read_json, write_json
from rsiccllm.pairs import OpenedPair
from rsiccllm.progress import track
from rsiccllm.records import ImagePair
from rsiccllm.sources import open_source
from rsiccllm.sources.base import Source

Captioner = Callable[[list[OpenedPair]], list[str]]
"""Anything that captions pairs, one caption each, in order."""

AS_IS = "as_it_is"


def run_probes(
    caption: Captioner,
    source: Source,
    pairs: Sequence[ImagePair],
    out: Path,
    identity: Mapping[str, Any],
    names: Sequence[str] | None = None,
    batch_size: int = 16,
) -> Probed:
    """Caption `pairs` as they are and under every probe, score each, and write `out`/probes.json and probes.png.

    caption: the captioner. identity: what decides its captions, kept with them; a folder with another one is refused
    with InputError. names: of PROBES; None takes all. Captions are kept in `out`/probes/ as they come, so a second call
    goes on where the first one stopped.
    """
    chosen = _chosen(names)
    if len(pairs) < 2:
        raise InputError(f"bench probe: {len(pairs)} pairs; expected two or more")
    if not source.has_images:
        raise InputError(f"bench probe: {source.name} holds annotations alone, no images to caption")
    _same_run(out, identity, pairs)
    _claim(out, {"identity": dict(identity), "pairs": [pair.id for pair in pairs], "data": data_digest(source, pairs)})
    jobs: list[tuple[Probe | None, float]] = [(None, 0.0)]
    jobs += [(probe, strength) for probe in chosen for strength in probe.strengths]
    starts = range(0, len(pairs), batch_size)
    said: dict[tuple[str, float], list[str]] = {}
    truth: dict[tuple[str, float], list[Case]] = {}
    for (probe, strength), start in track(product(jobs, starts), "probing", len(jobs) * len(starts)):
        key = (probe.name if probe else AS_IS, strength)
        path = out / "probes" / f"{key[0]}_{strength:g}.jsonl"
        if start == 0:
            known = load_predictions(path) if path.exists() else {}
            said[key], truth[key] = list(known.values()), []
        rows = range(start, min(start + batch_size, len(pairs)))
        disturbed = [_disturbed(source, pairs, row, probe, strength) for row in rows]
        truth[key] += map(_without_images, disturbed)
        if (done := len(said[key])) < rows.stop:
            said[key] += caption([case.pair for case in disturbed[max(0, done - start) :]])
            _keep(path, pairs, said[key])
    plain = said[AS_IS, 0.0]
    points = {key: score_point(key[1], said[key], truth[key], plain) for key in said}
    found = Probed(
        len(pairs),
        {
            probe.name: [points[AS_IS, 0.0], *(points[probe.name, strength] for strength in probe.strengths)]
            for probe in chosen
        },
    )
    write_json(out / "probes.json", found.to_dict())
    draw_probes(found, out / "probes.png")
    return found


def probe_model(
    model: str,
    spec: str,
    out: Path,
    split: str,
    limit: int,
    names: Sequence[str] | None = None,
    batch_size: int = 16,
    base_url: str | None = None,
) -> Probed:
    """`run_probes` of any model of `open_model` on at most `limit` evenly spaced pairs of a split of a source.

    Raises InputError for a file of captions, whose maker cannot be asked again.
    """
    source = open_source(spec)
    pairs = source.select(split)
    _chosen(names)
    opened = open_model(model, out / "probes" / "answers.jsonl", base_url)
    if opened.identity["kind"] == "file":
        raise InputError(
            f"{model}: a file of captions cannot be probed; expected a model that captions disturbed pairs"
        )
    if isinstance(opened, Checkpoint):
        check_unseen(model, opened.provenance, source, pairs)

    def caption(disturbed: list[OpenedPair]) -> list[str]:
        held = _Held(disturbed)
        said = opened.caption_all(held, held.pairs, "caption", LONGEST["caption"], batch_size)
        captions = {pair.id: answer.caption for pair, answer in said}  # not always in order
        return [captions[pair.id] for pair in held.pairs]

    count = min(limit, len(pairs))
    spaced = [pairs[number * len(pairs) // count] for number in range(count)]
    return run_probes(caption, source, spaced, out, opened.identity, names, batch_size)


class _Held(Source):
    """Pairs that are in memory, for models that open what they caption."""

    name = "probe"

    def __init__(self, pairs: Sequence[OpenedPair]) -> None:
        records = [ImagePair(id=str(number), before="before", after="after") for number in range(len(pairs))]
        super().__init__(Path(), records)
        self.held = pairs

    def open(self, pair: ImagePair) -> OpenedPair:
        """The pair as it was given."""
        return self.held[int(pair.id)]


def _disturbed(source: Source, pairs: Sequence[ImagePair], row: int, probe: Probe | None, strength: float) -> Case:
    case = case_of(pairs[row], source.open(pairs[row]))
    if probe is None:
        return case
    # half the set away, so that neighbours cut from one image do not meet
    other = pairs[(row + len(pairs) // 2) % len(pairs)] if probe.name == "unrelated" else None
    return probe.turn(case, strength, case if other is None else case_of(other, source.open(other)))


def _without_images(case: Case) -> Case:
    """The case with one black pixel for each image: what is true is kept, and the pictures would fill the memory."""
    pixel = Image.new("RGB", (1, 1))
    return replace(case, pair=OpenedPair(pixel, pixel, None))


def _keep(path: Path, pairs: Sequence[ImagePair], captions: Sequence[str]) -> None:
    """Write the captions of the first pairs, as many as there are."""
    with atomic_write(path) as handle:
        for pair, text in zip(pairs, captions, strict=False):
            handle.write(json.dumps({"id": pair.id, "caption": text}, ensure_ascii=False) + "\n")


def _chosen(names: Sequence[str] | None) -> list[Probe]:
    known = {probe.name: probe for probe in PROBES}
    for name in names or ():
        if name not in known:
            raise InputError(f"--probe '{name}': expected one of {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(names or known)]


def _same_run(out: Path, identity: Mapping[str, Any], pairs: Sequence[ImagePair]) -> None:
    """Refuse the folder of a `bench run` of another model or other pairs: a report would show the two as one."""
    if not (out / SETTINGS).exists():
        return
    model = read_json(out / SETTINGS).get("model", {})
    other = [name for name, value in json.loads(json.dumps(dict(identity))).items() if model.get(name) != value]
    said = read_predictions(out / PREDICTIONS) if (out / PREDICTIONS).exists() else {}
    if other or (said and any(pair.id not in said for pair in pairs)):
        raise InputError(f"{out}: holds a run of another {'model' if other else 'set of pairs'}; choose another --out")


def _claim(out: Path, wanted: dict[str, Any]) -> None:
    """Refuse a folder whose captions are of another model or of other pairs; remember ours before any work."""
    note = out / "probes" / "settings.json"
    if not note.exists():
        write_json(note, wanted)
    elif (held := read_json(note)) != json.loads(json.dumps(wanted)):
        differs = next(name for name in wanted if held.get(name) != json.loads(json.dumps(wanted))[name])
        raise InputError(f"{out}: holds probes with another {differs}; choose another --out")
