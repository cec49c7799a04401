"""How the captioner does on real pairs, beside hand-made floors that know nothing.

    python bench/real.py DATA [--model DIR] [--held-out] [--candidates N] [--page FILE]

DATA holds levir_cc, captioned_crops, levir_cd, dsifn, egy_bcd, sztaki and xbd_mexico; bench/real_split.json says which
pairs are for tuning (the default) and which are scored once a release (--held-out). Captioned pairs score the change
flag, the hallucination and the facts (a mask of buildings may be empty over a new road); pairs with a mask that marks
over 0.5 % of the image score the change map.

Floors: mean |I1 - I2|; the same after each image's own light is taken off and both are blurred; one minus the
correlation of the blurred images. The masks mark buildings, the model's map every change: it is read as it is, for
buildings, and for those that came. Intervals: 95 % of 2,000 bootstrap draws over scenes, not pairs, for crops of one
image are not independent; the difference to the best floor is drawn in the same draws. Without --model the floors
alone, and beside them a flag that is the truth itself: how far ahead of them so few pairs let anything be shown to be.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter
from scipy.stats import rankdata

from real_split import scene
from rsiccllm.benchmark.fact_scores import fact_scores
from rsiccllm.benchmark.image_baselines import look
from rsiccllm.caption.calibration import calibration_error, risk_coverage
from rsiccllm.caption.captioner import Caption, Captioner
from rsiccllm.demo.calibrate import is_right
from rsiccllm.facts import parse
from rsiccllm.page import Html, element, figure, join, overlay, write_page
from rsiccllm.pairs import OpenedPair
from rsiccllm.sources import open_source

HERE = Path(__file__).resolve().parent
SPECS = {
    "levir_cc": "levir-cc:{}/levir_cc", "captioned_crops": "folder:{}/captioned_crops",
    "levir_cd": "levir-cd:{}/levir_cd", "dsifn": "folder:{}/dsifn", "egy_bcd": "folder:{}/egy_bcd",
    "sztaki": "folder:{}/sztaki", "xbd_mexico": "xbd:{}/xbd_mexico",
}  # fmt: skip
READ: dict[str, Callable[[Caption], np.ndarray]] = {
    "model": lambda said: said.change_map,
    "model, buildings": lambda said: said.map_of("building"),
    "model, buildings that came": lambda said: said.map_of("building", "appear"),
}
"""What is read of the model's map. The sets' masks mark buildings, nearly all of them new, and no road or tree."""

MARKED = 0.005
DRAWS = 2000


class Case(NamedTuple):
    """A real pair: its id within DATA, scene, images and mask, captions by people (none where it has only a mask)."""

    id: str
    scene: str
    pair: OpenedPair
    captions: tuple[str, ...]

    @property
    def changed(self) -> bool:
        """Whether most of the people saw a change."""
        return sum(parse(caption).changed is not False for caption in self.captions) * 2 > len(self.captions)


def cases(data: Path, half: str) -> list[Case]:
    """The pairs of one half, opened."""
    wanted = set(json.loads((HERE / "real_split.json").read_text(encoding="utf-8"))[half])
    found = []
    for folder, spec in SPECS.items():
        source = open_source(spec.format(data))
        for pair in source.pairs:
            before = Path(pair.before)
            name = (data / folder / before).relative_to(data).as_posix()
            if name in wanted:
                place = scene(folder, before.name)
                captions = tuple(pair.captions) if folder in {"levir_cc", "captioned_crops"} else ()
                found.append(Case(name, place, source.open(pair), captions))
    missing = wanted - {case.id for case in found}
    assert not missing, sorted(missing)[:3]
    return found


def blurred(image: Image.Image, radius: float) -> np.ndarray:
    """Grey, by its own mean and spread, blurred: [height, width]."""
    grey = np.asarray(image.convert("L").filter(ImageFilter.GaussianBlur(radius)), np.float32)
    return (grey - grey.mean()) / (grey.std() + 1e-3)


def plain_map(pair: OpenedPair) -> np.ndarray:
    """Mean |I1 - I2| over the colours, [height, width]."""
    one, two = (np.asarray(image, np.float32) for image in pair[:2])
    return np.abs(one - two).mean(2)


def light_map(pair: OpenedPair) -> np.ndarray:
    """|I1 - I2| of the blurred images, each by its own mean and spread."""
    radius = max(pair.before.size) / 64
    return np.abs(blurred(pair.before, radius) - blurred(pair.after, radius))


FLOORS: dict[str, Callable[[OpenedPair], np.ndarray]] = {"|T|": plain_map, "light-normalised |T|": light_map}


def average_precision(score: np.ndarray, mask: np.ndarray) -> float:
    """Of pixels ranked by score, as scikit-learn defines it: sum of precision x rise in recall; ties are one step."""
    order = np.argsort(-score.ravel(), kind="stable")
    hits, ranked = mask.ravel()[order], score.ravel()[order]
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    true = np.cumsum(hits)[last]
    return float((true / (last + 1) * np.diff(true, prepend=0)).sum() / hits.sum())


def area_under(score: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve: the chance that a changed pair scores above an unchanged one, ties half."""
    ranks, n = rankdata(score), positive.sum()
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * (len(score) - n)))


def draws(scenes: Sequence[str], statistic: Callable[[np.ndarray], float], seed: int = 0) -> np.ndarray:
    """`statistic` of the indices of DRAWS samples of scenes with replacement; nan where it is not defined."""
    names = sorted(set(scenes))
    rows = [np.flatnonzero(np.array(scenes) == name) for name in names]
    random = np.random.default_rng(seed)
    picked = (np.concatenate([rows[i] for i in random.integers(0, len(rows), len(rows))]) for _ in range(DRAWS))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.array([statistic(chosen) for chosen in picked])


def told(name: str, value: float, drawn: np.ndarray) -> None:
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    print(f"  {name:44} {value:7.3f}   {low:.3f} to {high:.3f}")


def compare(
    title: str,
    rows: Mapping[str, np.ndarray],
    scenes: Sequence[str],
    statistic: Callable[[np.ndarray, np.ndarray], float],
) -> None:
    """Print each row's statistic (of values, and of their indices) with its interval, and the model's lead."""
    print(title)
    every = np.arange(len(scenes))
    value = {name: statistic(values, every) for name, values in rows.items()}
    drawn = {
        name: draws(scenes, lambda chosen, values=values: statistic(values[chosen], chosen))
        for name, values in rows.items()
    }
    for name in rows:
        told(name, value[name], drawn[name])
    best = max((name for name in rows if not name.startswith("model")), key=lambda name: value[name])
    for name in rows:
        if name.startswith("model"):
            told(f"{name}, minus {best}", value[name] - value[best], drawn[name] - drawn[best])


def loudest(change_map: np.ndarray) -> float:
    """How sure the map is that anything changed: its mean."""
    return float(change_map.mean())


def main() -> None:
    """Print the table, and with --page the pairs themselves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", help="a checkpoint; without one the floors alone")
    parser.add_argument("--held-out", action="store_true")
    parser.add_argument("--candidates", type=int, help="answers to choose from; by default as suits the model")
    parser.add_argument("--page", type=Path, help="write the pairs, maps and captions to this HTML file")
    given = parser.parse_args()
    found = cases(given.data, "held_out" if given.held_out else "tuning")
    captioned = [case for case in found if case.captions]
    masked = [
        case for case in found if not case.captions and case.pair.mask is not None and case.pair.mask.mean() > MARKED
    ]
    said: dict[str, Caption] = {}
    if given.model:
        captioner = Captioner.load(given.model)
        answers = given.candidates or captioner.usual("caption")
        for case in [*captioned, *masked]:
            said[case.id] = next(iter(captioner.caption_all([case.pair], candidates=answers)))
    changed = np.array([case.changed for case in captioned])
    flags = {
        "|T|": np.array([plain_map(case.pair).mean() for case in captioned]),
        "light-normalised |T|": np.array([light_map(case.pair).mean() for case in captioned]),
        "1 - correlation of the blurred images": np.array([look(case.pair)[1] for case in captioned]),
    }
    maps = {
        name: np.array([average_precision(of(case.pair), case.pair.mask) for case in masked])
        for name, of in FLOORS.items()
    }
    if not said:
        flags["model, were it never wrong"] = changed.astype(float)  # how far ahead these pairs let anything be
    maps["prevalence"] = np.array([case.pair.mask.mean() for case in masked])
    if said:
        flags["model"] = np.array([loudest(said[case.id].change_map) for case in captioned])
        for name, of in READ.items():
            maps[name] = np.array([average_precision(of(said[case.id]), case.pair.mask) for case in masked])
    print(f"{len(captioned)} captioned pairs ({changed.sum()} changed), {len(masked)} with a mask")
    compare(
        "change flag, area under the curve", flags, [case.scene for case in captioned],
        lambda values, rows: area_under(values, changed[rows]),
    )  # fmt: skip
    compare(
        "change map, mean average precision", maps, [case.scene for case in masked],
        lambda values, rows: float(values.mean()),
    )  # fmt: skip
    if said:
        captions(captioned, said)
    if given.page and said:
        write_page(given.page, "Real pairs", join([card(case, said[case.id]) for case in [*captioned, *masked]]))


def captions(captioned: Sequence[Case], said: Mapping[str, Caption]) -> None:
    """Print what the captions themselves are worth."""
    truth = {case.id: list(case.captions) for case in captioned}
    changed = {case.id: case.changed for case in captioned}
    scores = fact_scores({name: said[name].caption for name in truth}, truth, changed)
    flag = scores.flag
    print(f"captions: balanced change accuracy {flag.balanced_accuracy:.1f}, hallucination {flag.hallucination:.1f}")
    told = ", ".join(f"{name} {score.f1:.1f}" for name, score in scores.references.items() if score.f1 is not None)
    print(f"fact F1 against the union of the people: {told}")
    sure: dict[str, list[tuple[float, bool]]] = {"raw probability": [], "confidence": []}
    for case in captioned:
        caption = said[case.id]
        stated = [fact for text in case.captions for fact in parse(text).facts]
        right = is_right(caption.caption, stated, case.changed)
        for name, value in (("raw probability", caption.probability), ("confidence", caption.confidence)):
            if value is not None:
                sure[name].append((value, right))
    for name, rows in sure.items():
        if rows:
            print(f"{name}: {100 * np.mean([value for value, _ in rows]):.0f} % on the mean, and "
                  f"{100 * np.mean([right for _, right in rows]):.0f} % are right")  # fmt: skip
            risk = ", ".join(f"{100 * share:.0f} %: {value:.2f}" for share, value in risk_coverage(rows).items())
            print(f"{name}: calibration error {calibration_error(rows):.3f}; wrong among the surest {risk}")


def card(case: Case, answer: Caption) -> Html:
    """One pair, what the model saw and said of it, and the truth as far as it is known."""
    pair = case.pair
    assert answer.change_map is not None
    figures = [figure(pair.before, "before"), figure(pair.after, "after")]
    figures.append(figure(overlay(pair.after, answer.change_map > 0.5), "model"))
    if pair.mask is not None:
        figures.append(figure(overlay(pair.after, pair.mask), "mask"))
    lines = [case.id, f"model: {answer.caption}", *case.captions[:1]]
    body = [element("div", *figures, css="figures"), *(element("p", line) for line in lines)]
    return element("section", *body, css="card")


if __name__ == "__main__":
    main()
