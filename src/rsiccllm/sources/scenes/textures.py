"""Noise and tree crowns that are made once and cut from ever after. Looks only: no decision hangs on these values."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from rsiccllm.sources.scenes.dice import Dice
from rsiccllm.sources.scenes.geometry import WORLD

BANK = 1024
CROWNS = 8  # shapes of tree for each radius and sun


def _spectrum(name: int, slope: float, low: float, high: float) -> np.ndarray:
    """Noise [BANK, BANK] that tiles, of mean 0 and deviation 1, with amplitude f^-slope between two frequencies."""
    white = Dice(77, name).units(BANK, BANK).astype(np.float32) - 0.5
    fy, fx = np.meshgrid(np.fft.fftfreq(BANK), np.fft.rfftfreq(BANK), indexing="ij")
    f = np.sqrt(fx**2 + fy**2)
    keep = np.where((f > low) & (f < high), np.maximum(f, 1e-6) ** -slope, 0)
    noise = np.fft.irfft2(np.fft.rfft2(white) * keep, s=(BANK, BANK))
    return (noise / noise.std()).astype(np.float32)


def _bytes(noise: np.ndarray) -> np.ndarray:
    return np.clip(128 + 42 * noise, 0, 255).astype(np.uint8)


@lru_cache(maxsize=1)
def _world_banks() -> dict[str, np.ndarray]:
    cloud = _spectrum(1, 1.7, 1 / 400, 1 / 12)
    mottle = _spectrum(2, 0.9, 1 / 60, 1 / 2.2)
    fine = _spectrum(3, 0.2, 1 / 8, 0.5)
    streak = _spectrum(4, 0.6, 1 / 40, 0.5)
    streak = cv2.blur(streak, (41, 1), borderType=cv2.BORDER_REFLECT)
    streak /= streak.std()
    tufts = np.clip(_spectrum(5, 0.5, 1 / 14, 1 / 3.0) - 1.0, 0, 3)  # scattered dark grass and stones
    rows = np.sin(np.arange(BANK) * (2 * np.pi / 6.0)).astype(np.float32)[:, None] * (0.6 + 0.3 * cloud)
    return {
        "cloud": _bytes(cloud),
        "cloud2": _bytes(_spectrum(6, 1.4, 1 / 300, 1 / 6)),
        "dry": _bytes(0.55 * cloud + 0.55 * mottle + 0.4 * fine - 0.75 * tufts),
        "grass": _bytes(0.6 * cloud + 0.4 * mottle + 0.32 * fine),
        "lawn": _bytes(0.45 * cloud + 0.3 * mottle + 0.3 * fine),
        "bare": _bytes(0.75 * cloud + 0.45 * mottle + 0.22 * fine + 0.3 * streak),
        "desert": _bytes(0.7 * cloud + 0.5 * mottle + 0.25 * fine - 0.9 * tufts),
        "field": _bytes(0.6 * cloud + 0.25 * mottle + 0.25 * fine + 0.5 * streak + 0.35 * rows),
        "crop": _bytes(0.5 * cloud + 0.25 * mottle + 0.25 * fine + 0.45 * streak + 0.5 * rows),
        "floor": _bytes(0.45 * cloud + 0.8 * mottle + 0.5 * fine - 0.6 * tufts),
        "fine": _bytes(fine),
        "mottle": _bytes(mottle),
        "ripple": _bytes(0.8 * cloud + 0.25 * mottle),
    }


@lru_cache(maxsize=4)
def banks(size: int) -> dict[str, np.ndarray]:
    """Noise banks uint8 [side, side] at the resolution of an image of `size` pixels; 128 is the mean."""
    side = max(2 * size, round(BANK * size / WORLD))
    if size == WORLD:
        return _world_banks()
    method = cv2.INTER_AREA if size < WORLD else cv2.INTER_LINEAR
    return {name: cv2.resize(bank, (side, side), interpolation=method) for name, bank in _world_banks().items()}


@lru_cache(maxsize=1)
def sensor_noise() -> np.ndarray:
    """Noise of a sensor, float32 [BANK + 512, BANK + 512, 3], deviation 1, a little coarser than pixels."""
    white = Dice(78).units(BANK + 512, BANK + 512, 3).astype(np.float32) - 0.5
    noise = cv2.GaussianBlur(white, (3, 3), 0.55)
    noise = 0.75 * noise.mean(2, keepdims=True) + 0.45 * noise
    return (noise / noise.std()).astype(np.float32)


SUNS = np.array([[0, 1], [0.7, 0.7], [1, 0], [0.7, -0.7], [0, -1], [-0.7, -0.7], [-1, 0], [-0.7, 0.7]])
"""Where the sun stands in image axes, for each number a Look may have: 0 is at the bottom (south)."""


@lru_cache(maxsize=4096)
def crown(radius: int, shape: int, sun: int) -> tuple[np.ndarray, np.ndarray]:
    """A tree crown of `radius` quarter pixels: brightness uint8 and cover uint8 (0 or 255), both [odd side, odd side].

    The cover is drawn from whole numbers and is the same everywhere; it does not depend on the sun.
    """
    dice = Dice(79, radius, shape)
    r = radius / 4
    side = 2 * int(r + 1.5) + 1
    middle = side // 2
    count = 5 + int(min(r, 10) * 0.9)
    draw = dice.units(count, 3)
    turn = 2 * np.pi * (np.arange(count) + draw[:, 0]) / count
    reach = r * (0.38 + 0.3 * draw[:, 1])
    sizes = r * (0.28 + 0.2 * draw[:, 2])
    spots = np.stack([reach * np.cos(turn), reach * np.sin(turn)], 1)
    cover = np.zeros((side, side), np.uint8)
    light = np.zeros((side, side), np.float32)
    discs = [(np.zeros(2), r * 0.62), *zip(spots, sizes, strict=True)]
    for spot, size in discs:
        x, y = (round((v + middle) * 16) for v in spot)
        cv2.circle(cover, (x, y), max(1, round(size * 16)), 255, -1, cv2.LINE_8, 4)
    grid = np.arange(side, dtype=np.float32) - middle
    gx, gy = np.meshgrid(grid, grid)
    # a dome as a whole, small domes for the boughs, and leaf noise; lit from the sun's side
    height = np.sqrt(np.clip(r * r - gx**2 - gy**2, 0, None))
    inner = [(s * 0.55 * dice.unit() + 0.25 * r * (dice.units(2) - 0.5), 0.3 * r) for s in spots]
    for spot, size in [*zip(spots, sizes, strict=True), *inner]:
        bump = np.sqrt(np.clip(size**2 - (gx - spot[0]) ** 2 - (gy - spot[1]) ** 2, 0, None))
        height = np.maximum(height * 0.98, bump * 0.9 + 0.62 * r)
    height += 0.16 * r * cv2.GaussianBlur(dice.units(side, side).astype(np.float32), (3, 3), 0.6)
    height = height.astype(np.float32)
    dx = cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=3) / 8
    dy = cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=3) / 8
    lean = -(dx * SUNS[sun][0] + dy * SUNS[sun][1])
    light = 0.42 + 0.42 * lean / (1 + np.abs(lean)) + 0.16 * (height / max(r, 1) - 0.6)
    light += 0.22 * (dice.units(side, side) - 0.5) + 0.16 * (dice.unit() - 0.5)
    return np.clip(light * 255, 1, 255).astype(np.uint8), cover
