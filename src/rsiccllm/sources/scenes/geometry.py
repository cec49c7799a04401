"""Shapes in world units (256 to a side, half a metre each) and their fixed-point form in pixels."""

from __future__ import annotations

import math

import numpy as np

from rsiccllm.facts import Place

WORLD = 256
SHIFT = 4  # fractional bits of the fixed-point coordinates that cv2 draws from

PLACES: tuple[Place, ...] = (
    "top_left",
    "top",
    "top_right",
    "left",
    "center",
    "right",
    "bottom_left",
    "bottom",
    "bottom_right",
)


def fixed(points: np.ndarray, size: int, margin: int = 0) -> np.ndarray:
    """World points [N, 2] as fixed-point pixel coordinates, int32 [N, 2], of an image of `size` with a margin.

    The points are first rounded to 1/64 of a world unit and go on in whole numbers, so that every machine draws the
    same pixels. cv2 has pixel centres at whole numbers, hence the half pixel that is taken off.
    """
    quantised = np.rint(np.asarray(points) * 64).astype(np.int64)
    half = 1 << (SHIFT - 1)
    return ((quantised * (size << SHIFT)) // (WORLD * 64) + (margin << SHIFT) - half).astype(np.int32)


def unit(angle: float) -> np.ndarray:
    """The unit vector [2] at an angle in radians."""
    return np.array([math.cos(angle), math.sin(angle)])


def normal(direction: np.ndarray) -> np.ndarray:
    """The vector [2] a quarter turn from `direction`."""
    return np.array((-float(direction[1]), float(direction[0])))


def rectangle(center: np.ndarray, along: np.ndarray, length: float, width: float) -> np.ndarray:
    """Corners [4, 2] of a rectangle with half `length` along the unit vector `along` and half `width` across."""
    x, y, ux, uy = float(center[0]), float(center[1]), float(along[0]), float(along[1])
    ax, ay, bx, by = ux * length, uy * length, -uy * width, ux * width
    return np.array(
        [(x - ax - bx, y - ay - by), (x + ax - bx, y + ay - by), (x + ax + bx, y + ay + by), (x - ax + bx, y - ay + by)]
    )


def tangents(line: np.ndarray) -> np.ndarray:
    """Unit tangents [N, 2] of a line [N, 2]."""
    step = np.empty_like(line)
    step[1:-1] = line[2:] - line[:-2]
    step[0], step[-1] = line[1] - line[0], line[-1] - line[-2]
    return step / np.sqrt((step * step).sum(1, keepdims=True))


def ribbon(line: np.ndarray, half_width: float) -> np.ndarray:
    """The outline [2N, 2] of a band around a line [N, 2]."""
    side = tangents(line)[:, ::-1] * np.array([-half_width, half_width])
    return np.concatenate([line + side, (line - side)[::-1]])


def circle(center: np.ndarray, radius: float, corners: int = 24) -> np.ndarray:
    """A polygon [corners, 2] for a circle."""
    turn = np.arange(corners) * (2 * math.pi / corners)
    return center + radius * np.stack([np.cos(turn), np.sin(turn)], 1)


def blob(center: np.ndarray, radius: float, rough: np.ndarray, stretch: float = 1.0, angle: float = 0.0) -> np.ndarray:
    """A wobbly closed outline [48, 2] of about the given radius. `rough`: six numbers in [0, 1) that shape it.

    `stretch` lengthens it along `angle` and narrows it across by the same factor.
    """
    turn = np.arange(48) * (2 * math.pi / 48)
    reach = np.full(48, radius)
    for wave in range(3):
        reach += (
            radius * 0.30 / (wave + 1.2) * (rough[wave] - 0.2) * np.sin((wave + 2) * turn + 6.283 * rough[wave + 3])
        )
    local = np.stack([reach * np.cos(turn) * stretch, reach * np.sin(turn) / stretch], 1)
    along = unit(angle)
    return center + local @ np.stack([along, normal(along)])


def discs_along(line: np.ndarray, radius: float) -> np.ndarray:
    """Discs [M, 3] (x, y, radius) that cover a band around a line."""
    return np.concatenate([line, np.full((len(line), 1), radius)], 1)


def discs_of(polygon: np.ndarray) -> np.ndarray:
    """Discs [M, 3] that cover a rectangle [4, 2], a little short of its corners."""
    (x, y), (x1, y1), _, (x3, y3) = polygon.tolist()
    ax, ay, bx, by = x1 - x, y1 - y, x3 - x, y3 - y
    long, short = math.sqrt(ax * ax + ay * ay), math.sqrt(bx * bx + by * by)
    if long < short:
        ax, ay, bx, by, long, short = bx, by, ax, ay, short, long
    count = max(1, math.ceil(long / max(short, 1e-6)))
    x, y, radius = x + bx / 2, y + by / 2, 0.62 * short
    return np.array([(x + ax * (k + 0.5) / count, y + ay * (k + 0.5) / count, radius) for k in range(count)])


def place_of(cells: np.ndarray, least: float = 0.55) -> Place | None:
    """The place that holds at least the share `least` of the area in `cells` [3, 3], None where it is spread."""
    total = float(cells.sum())
    if total <= 0:
        return None
    best = int(cells.argmax())
    return PLACES[best] if float(cells.flat[best]) >= least * total else None
