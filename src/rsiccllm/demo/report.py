"""The demonstration's page: pairs with what every stage said, the scores, the curves, and what was not learnt."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from rsiccllm.benchmark.bootstrap import paired_difference
from rsiccllm.benchmark.fact_scores import f1_of_sums
from rsiccllm.benchmark.rows import Row
from rsiccllm.benchmark.run import Result
from rsiccllm.files import write_json
from rsiccllm.page import Html, element, figure, join, overlay, table, write_page
from rsiccllm.records import ImagePair
from rsiccllm.sources import open_source
from rsiccllm.sources.base import Source

SHOWN = 12
# Below this F1 a field counts as not learnt, and the report says so.
LEARNT = 50.0
SHADES = ("#0b6bcb", "#c2410c", "#15803d")


def write_report(out: Path, stages: Sequence[str], result: Result, seconds: dict[str, float]) -> Path:
    """Write `out/report.html`, one self-contained page. Returns its path."""
    source = open_source(f"rsici:{out / 'rsici'}")
    said = {
        stage: {
            line["id"]: line["caption"]
            for line in map(json.loads, (out / "bench" / stage / "predictions.jsonl").read_text("utf-8").splitlines())
        }
        for stage in stages
    }
    test = [pair for pair in source.pairs if pair.split == "test"]
    changed = [pair for pair in test if pair.changed]
    unchanged = [pair for pair in test if not pair.changed]
    shown = [*changed[: SHOWN * 3 // 4], *unchanged[: SHOWN - SHOWN * 3 // 4]]
    rows = dict(zip(stages, (row for row in result.rows if not row.baseline), strict=True))
    comparison = compare(rows["sft"], rows["dnpo"])
    write_json(out / "bench" / "dnpo_minus_sft.json", comparison)
    body = [
        element("p", "A small Qwen2.5-VL, from random weights, on rendered scenes it has not seen in training."),
        element("h2", f"{len(shown)} held-out pairs"),
        *(_card(source, pair, said) for pair in shown),
        element("h2", "Scores on the test split"),
        Html(result.html()),
        element("h2", "DNPO minus SFT"),
        table(
            ["score", "difference", "95 % interval"],
            [[name, f"{v['value']:.1f}", f"{v['low']:.1f} to {v['high']:.1f}"] for name, v in comparison.items()],
        ),
        element("h2", "What it has not learnt"),
        element("ul", *(element("li", line) for line in not_learnt(rows))),
        element("h2", "Losses"),
        *_curves(out, ("base", "difference", "sft", "dnpo")),
        element("h2", "Time"),
        table(["step", "seconds"], list(seconds.items())),
    ]
    return write_page(out / "report.html", "RSICCLLM demo", join(body))


def compare(first: Row, second: Row) -> dict[str, dict[str, float]]:
    """`second` minus `first`, pair by pair, with bootstrap intervals."""
    found = {}
    if first.scores.changed_segments is not None and second.scores.changed_segments is not None:
        found["CIDEr-D, changed pairs"] = paired_difference(
            100 * second.scores.changed_segments.cider_d, 100 * first.scores.changed_segments.cider_d
        )
    if first.facts and second.facts and first.facts.planted and second.facts.planted:
        for kind in ("object", "direction", "place"):
            found[f"{kind} F1"] = paired_difference(
                second.facts.planted[kind].counts, first.facts.planted[kind].counts, f1_of_sums
            )
    return {name: {"value": i.value, "low": i.low, "high": i.high} for name, i in found.items()}


def not_learnt(rows: dict[str, Row]) -> Iterator[str]:
    """A line for every fact on which a trained stage stays under LEARNT, or that all is above it."""
    nothing = True
    for stage in ("sft", "dnpo"):
        facts = rows[stage].facts
        for kind, score in (facts.planted or {}).items() if facts else ():
            if score.f1 is not None and score.f1 < LEARNT:
                nothing = False
                yield f"{stage}: {kind} F1 is {score.f1:.1f}, under {LEARNT:.0f}."
        if facts and (facts.flag.hallucination or 0) > 10:
            nothing = False
            yield f"{stage}: a change is invented on {facts.flag.hallucination:.1f} % of the unchanged pairs."
    if nothing:
        yield f"Every fact field has an F1 of at least {LEARNT:.0f} in both trained stages."


def _card(source: Source, pair: ImagePair, said: dict[str, dict[str, str]]) -> Html:
    opened = source.open(pair)
    figures = [figure(opened.before, "before"), figure(opened.after, "after")]
    if opened.mask is not None and opened.mask.any():
        figures.append(figure(overlay(opened.after, opened.mask), "what changed, in truth"))
    answers = [[stage, texts[pair.id].strip() or "(nothing)"] for stage, texts in said.items()]
    lines = [["truth", pair.captions[0]], *answers]
    return element("section", element("div", *figures, css="figures"), table(["", "caption"], lines), css="card")


def _curves(out: Path, stages: Sequence[str]) -> Iterator[Html]:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    for stage in stages:
        path = out / stage / "log.jsonl"
        if not path.exists():
            continue
        entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        skip = {"loss", "step", "epoch", "grad_norm", "learning_rate"}
        names = [name for name in entries[0] if name not in skip] if entries else []
        drawn, axes = pyplot.subplots(figsize=(7, 2.6), layout="constrained")
        for number, name in enumerate(names):
            points = [(entry["step"], entry[name]) for entry in entries if name in entry]
            axes.plot(*zip(*points, strict=True), label=name.replace("_", " "), color=SHADES[number % 3],
                      linestyle=("-", "--")[number // 3 % 2])  # fmt: skip
        axes.set_xlabel("update")
        axes.legend(frameon=False, fontsize=8)
        axes.set_title(stage, loc="left", fontsize=10)
        buffer = io.BytesIO()
        drawn.savefig(buffer, format="png", dpi=130)
        pyplot.close(drawn)
        encoded = base64.b64encode(buffer.getvalue()).decode()
        yield Html(f'<figure class="wide"><img src="data:image/png;base64,{encoded}" alt="losses of {stage}"></figure>')
