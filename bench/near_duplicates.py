"""How much of what is one image in another form is found, and what else is taken for it.

    python bench/near_duplicates.py [--data DIR] [--scenes N] [--limit N]

Every image is compared with all images in another form at once, as two sets would be: N rendered scenes, and the real
images under DIR (RSICCLLM_SHARED_DATA, else ../shared/data) where it is there. "other" counts pairs of different images
that were taken for one; two dates of one place are left out of that count.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from rsiccllm.near_duplicates.images import candidates, grey, overlap, sign
from rsiccllm.pairs import open_image
from rsiccllm.sources import open_source

Image = np.ndarray
NOISE = np.random.default_rng(0)


def jpeg(image: Image, quality: int) -> Image:
    data = cv2.imencode(".jpg", np.ascontiguousarray(image), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)


def cut(image: Image, share: float) -> Image:
    """A part of the area `share`, off the middle."""
    height, width = (round(side * share**0.5) for side in image.shape)
    top, left = (image.shape[0] - height) * 2 // 3, (image.shape[1] - width) // 4
    return image[top : top + height, left : left + width]


def turned(image: Image, degrees: float) -> Image:
    height, width = image.shape
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.3)
    return cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR)


FORMS: dict[str, Callable[[Image], Image]] = {
    "the same": lambda image: image,
    "JPEG, quality 70": lambda image: jpeg(image, 70),
    "JPEG, quality 30": lambda image: jpeg(image, 30),
    "half size": lambda image: cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    "one and a half size": lambda image: cv2.resize(image, None, fx=1.5, fy=1.5, interpolation=cv2.INTER_CUBIC),
    "brighter, more contrast": lambda image: np.clip(image * 1.3 + 20.0, 0, 255).astype(np.uint8),
    "noise of 8 grey levels": lambda image: np.clip(image + NOISE.normal(0, 8, image.shape), 0, 255).astype(np.uint8),
    "mirrored": lambda image: image[:, ::-1],
    "quarter turn": lambda image: np.rot90(image),
    "turned by 10 degrees": lambda image: turned(image, 10),
    "cut to 80 % of the area": lambda image: cut(image, 0.8),
    "cut to 50 %": lambda image: cut(image, 0.5),
    "cut to 25 %": lambda image: cut(image, 0.25),
    "cut to 10 %": lambda image: cut(image, 0.1),
    "cut to 50 %, mirrored, JPEG 60": lambda image: jpeg(cut(image, 0.5)[:, ::-1], 60),
}


def measure(title: str, images: list[Image], places: list[str]) -> None:
    signatures = [sign(image) for image in images]
    shown = sum(not signature.flat for signature in signatures)
    print(f"{title}: {len(images)} images, {len(images) - shown} of them blank and left out")
    print(f"  {'form':32s} {'recall':>7s} {'precision':>9s}  {'other':>5s}  ms an image")
    everything = [0, 0, 0]
    for name, form in FORMS.items():
        others = [np.ascontiguousarray(form(image)) for image in images]
        begin = time.perf_counter()
        changed = [sign(image) for image in others]
        count = len(images)
        right = wrong = 0
        for i, j in candidates([*signatures, *changed], [0] * count + [1] * count):
            if overlap(images[i], others[j - count], signatures[i], changed[j - count]) is None:
                continue
            if i == j - count:
                right += 1
            elif places[i] != places[j - count]:
                wrong += 1
        spent = 1000 * (time.perf_counter() - begin) / count
        for place, number in enumerate((right, wrong, shown)):
            everything[place] += number
        print(f"  {name:32s} {right / shown:7.3f} {right / max(1, right + wrong):9.3f}  {wrong:5d}  {spent:.1f}")
    right, wrong, total = everything
    print(f"  {'all':32s} {right / total:7.3f} {right / max(1, right + wrong):9.3f}  {wrong:5d}")


def main() -> None:
    parser = argparse.ArgumentParser()
    default = os.environ.get("RSICCLLM_SHARED_DATA", Path(__file__).resolve().parent.parent.parent / "shared" / "data")
    parser.add_argument("--data", type=Path, default=Path(default))
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--limit", type=int, default=10_000)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    source = open_source(f"scenes:{arguments.scenes},seed=11")
    rendered = [grey(np.asarray(source.open(pair).before)) for pair in source.pairs]
    measure("rendered scenes", rendered, [pair.id for pair in source.pairs])
    paths = sorted(path for side in "AB" for path in arguments.data.glob(f"**/{side}/*.*"))[::1][: arguments.limit]
    if not paths:
        print(f"real images: {arguments.data} holds none, left out")
        return
    measure("real images", [grey(np.asarray(open_image(path))) for path in paths], [path.name for path in paths])


if __name__ == "__main__":
    main()
