"""xBD: buildings before and after a disaster, by grade of damage."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rsiccllm.facts import Known
from rsiccllm.files import inside
from rsiccllm.pairs import open_classes
from rsiccllm.records import ImagePair
from rsiccllm.sources.base import ChangeMask, Fault, Source, images_in, listing, make_pair, refuse

CHANGED_FROM = 2
"""The least grade of damage that counts as a change: 2 minor, 3 major, 4 destroyed."""

UNCLASSIFIED = 5
"""Some releases grade buildings that nobody could judge as 5; they are not a change."""

MEANING = {
    2: (Known("building", "disappear", "reduce"),),
    3: (Known("building", "disappear", "reduce"),),
    4: (Known("building", "disappear", "remove"),),
}


class XBD(Source):
    """xBD: pairs around disasters, with the damage of every building.

    Format: `images/<name>_{pre,post}_disaster.png` and `targets/<name>_post_disaster_target.png`, 1024 x 1024 pixels,
    directly under the root or under the folders `train, tier1, tier3, test, hold`; or crops as `A/, B/` and
    `label_post/` with equal names. A pair without a target has no mask.
    Classes: 0 background, 1 no damage, 2 minor, 3 major, 4 destroyed. A change is damage of 2 or more.
    Licence: CC BY-NC-SA 4.0.
    Paper: Gupta et al., "xBD: A Dataset for Assessing Building Damage from Satellite Imagery", CVPR Workshops 2019.
    """

    name = "xbd"
    layout = (
        "images/*_{pre,post}_disaster.png and targets/*_post_disaster_target.png, perhaps under train/, tier1/, "
        "tier3/, test/ or hold/; or A/, B/ and label_post/"
    )
    home = "xview2.org"
    licence = "CC BY-NC-SA 4.0"
    plain_mask = False
    scope = "building"

    def __init__(self, root: Path, fault: Fault = refuse) -> None:
        super().__init__(root, self._read(root, fault), fault)

    def _read(self, root: Path, fault: Fault) -> Iterator[ImagePair]:
        if not root.is_dir():
            raise self.absent(root, "no such folder")
        if (root / "A").is_dir() and (root / "B").is_dir():
            yield from self._crops(root, fault)
            return
        folders = [name for name in ("", *listing(root)) if (root / name / "images").is_dir()]
        if not folders:
            raise self.absent(root, "has neither images/ nor A/ and B/")
        found = False
        for folder in folders:
            base, prefix = root / folder, f"{folder}/" if folder else ""
            images = images_in(base / "images", fault, self.notes)
            targets = images_in(base / "targets", fault, self.notes)
            names = dict.fromkeys(
                stem.removesuffix("_pre_disaster").removesuffix("_post_disaster")
                for stem in images
                if stem.endswith(("_pre_disaster", "_post_disaster"))
            )
            for name in names:
                found = True
                pre, post = f"{name}_pre_disaster", f"{name}_post_disaster"
                for stem in (pre, post):
                    if stem not in images:
                        fault(f"{base / 'images' / stem}.png: no such file, expected beside the other date")
                target = targets.get(f"{post}_target")
                yield from make_pair(
                    root, fault, id=name, split=SPLITS.get(folder, "train"),
                    before=f"{prefix}images/{images.get(pre, pre + '.png')}",
                    after=f"{prefix}images/{images.get(post, post + '.png')}",
                    mask=f"{prefix}targets/{target}" if target else None,
                )  # fmt: skip
        if not found:
            fault(str(self.absent(root, "holds no image named *_pre_disaster or *_post_disaster")))

    def _crops(self, root: Path, fault: Fault) -> Iterator[ImagePair]:
        before, after, grades = (images_in(root / side, fault, self.notes) for side in ("A", "B", "label_post"))
        for stem in sorted(before.keys() | after.keys()):
            file = before.get(stem) or after[stem]
            for side, names in (("A", before), ("B", after)):
                if stem not in names:
                    fault(f"{root / side / file}: no such file, expected beside the other date")
            mask = f"label_post/{grades[stem]}" if stem in grades else None
            yield from make_pair(
                root,
                fault,
                id=stem,
                before=f"A/{before.get(stem, file)}",
                after=f"B/{after.get(stem, file)}",
                mask=mask,
            )

    def classes(self, pair: ImagePair) -> ChangeMask | None:
        """The grade of damage, 0 where it is no change."""
        if pair.mask is None:
            return None
        grades = open_classes(inside(self.root, pair.mask))
        changed = (grades >= CHANGED_FROM) & (grades < UNCLASSIFIED)
        return ChangeMask(np.where(changed, grades, 0).astype(np.uint8), MEANING)


SPLITS = {"train": "train", "tier1": "train", "tier3": "train", "test": "test", "hold": "val"}
