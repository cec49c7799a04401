"""What stands in a scene, and at which of the two dates it stands there. Coordinates are world units."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from rsiccllm.sources.scenes.geometry import circle, ribbon

When = Literal["both", "before", "after"]
Cover = Literal["dry", "grass", "bare", "desert", "field", "crop", "floor"]


@dataclass(frozen=True)
class Patch:
    """Ground of another cover. Only static patches have soft edges; a patch that changes is cut at its outline."""

    outline: np.ndarray  # [N, 2]
    cover: Cover
    when: When = "both"
    angle: float = 0.0


@dataclass(frozen=True)
class Road:
    """A street, or a bare trail. `ends`: radius of a turning circle at its first and last point, 0 for none."""

    line: np.ndarray  # [N, 2]
    half_width: float
    tone: float = 0.5  # 0 dark asphalt, 1 light concrete
    ends: tuple[float, float] = (0.0, 0.0)
    trail: bool = False
    walk: bool = False
    marked: bool = False
    when: When = "both"

    def outlines(self, grow: float = 0.0) -> list[np.ndarray]:
        """Outlines of the surface, or with `grow` of the surface and a curb of that width."""
        parts = [ribbon(self.line, self.half_width + grow)]
        parts += [circle(self.line[-i], r + grow) for i, r in enumerate(self.ends) if r > 0]
        return parts


@dataclass(frozen=True)
class Wing:
    """A rectangle of a building: centre, unit vector along, half length, half width."""

    center: np.ndarray
    along: np.ndarray
    length: float
    width: float
    gable: bool = False


@dataclass(frozen=True)
class Building:
    """A house with pitched roofs, or a flat hall. `parts` with their own date make an extended building."""

    wings: tuple[Wing, ...]
    height: float
    roof: int
    flat: bool = False
    drive: np.ndarray | None = None  # [4, 2]
    when: When = "both"


@dataclass(frozen=True)
class Lot:
    """A paved parking lot. `along`: direction of its rows. `cars` [N, 3]: centre and a colour number in [0, 1)."""

    outline: np.ndarray  # [4, 2]
    along: np.ndarray
    cars: np.ndarray
    tone: float
    when: When = "both"


@dataclass(frozen=True)
class Water:
    """A pond, or a swimming pool."""

    outline: np.ndarray
    pool: bool = False
    when: When = "both"


@dataclass(frozen=True)
class Trees:
    """Trees: centres [N, 2], radii [N], and a number in [0, 1) for each that chooses its shape [N]."""

    centers: np.ndarray
    radii: np.ndarray
    shapes: np.ndarray
    when: When = "both"


@dataclass(frozen=True)
class Car:
    """A car on a road or a drive."""

    center: np.ndarray
    along: np.ndarray
    color: float
    when: When = "both"


@dataclass(frozen=True)
class Lawn:
    """The watered ground of one house's lot. `strength`: 0 like the ground around it, 1 all lawn."""

    outline: np.ndarray  # [4, 2]
    strength: float
    when: When = "both"


@dataclass(frozen=True)
class Fence:
    """A thin dark line: between two lots, or a furrow in bare ground."""

    line: np.ndarray
    furrow: bool = False
    when: When = "both"


Item = Patch | Road | Building | Lot | Water | Trees | Car | Lawn | Fence


def stands(item: Item, date: Literal["before", "after"]) -> bool:
    """Whether the item is there at that date."""
    return item.when in {"both", date}
