"""What differs between two dates without being a change: light, season, colour, haze, blur, noise, a small shift."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rsiccllm.sources.scenes.dice import Dice


@dataclass(frozen=True)
class Look:
    """How one date was taken. `green`: 0 dry season to 1 lush. `sun`: 0 to 7, which way shadows fall."""

    green: float
    sun: int
    shade: float  # how dark shadows are, 0 to 1
    leaf: int  # which palette the trees have
    bare_leaf: float  # 0 in leaf to 1 leafless
    gain: float
    contrast: float
    gamma: float
    saturation: float
    cast: tuple[float, float, float]  # factors of red, green, blue
    haze: float
    blur: float  # sigma in pixels of a 256 px image
    noise: float  # sigma in grey levels
    shift: tuple[float, float]  # world units
    water: int  # which of the colours of water: mud and algae come and go, which is no change of the ground
    grain: tuple[int, int]  # where in the noise bank the sensor noise is taken


def draw_looks(dice: Dice, easy: bool) -> tuple[Look, Look]:
    """The looks of both dates. Mostly the first is the brighter and drier, as in the LEVIR sets, and not always."""
    bright, dark = _bright(dice), _dark(dice)
    choice = dice.unit()
    if choice < 0.66:
        first, second = bright, dark
    elif choice < 0.78:
        first, second = dark, bright
    elif choice < 0.9:
        first, second = dark, _dark(dice)
    else:
        first, second = bright, _bright(dice)
    if easy:
        # milder: both dates move towards the first one's season and light, and there is hardly a shift
        second = _between(first, second, 0.45)
    elif dice.chance(0.5):
        second = replace(second, water=first.water)
    reach = 0.7 if easy else 2.2
    shift = (dice.uniform(-reach, reach), dice.uniform(-reach, reach))
    return first, replace(second, shift=shift)


def _bright(dice: Dice) -> Look:
    return _look(
        dice,
        green=dice.uniform(0, 0.45),
        gain=dice.uniform(1.0, 1.2),
        contrast=dice.uniform(1.15, 1.6),
        gamma=dice.uniform(0.9, 1.1),
        saturation=dice.uniform(0.6, 1.05),
        shade=dice.uniform(0.62, 0.8),
        warm=dice.uniform(-0.06, 0.02),
    )


def _dark(dice: Dice) -> Look:
    return _look(
        dice,
        green=dice.uniform(0.35, 1),
        gain=dice.uniform(0.66, 0.86),
        contrast=dice.uniform(0.95, 1.2),
        gamma=dice.uniform(0.95, 1.15),
        saturation=dice.uniform(0.5, 0.85),
        shade=dice.uniform(0.5, 0.72),
        warm=dice.uniform(-0.05, 0.015),
    )


def _look(
    dice: Dice, green: float, gain: float, contrast: float, gamma: float, saturation: float, shade: float, warm: float
) -> Look:
    tint = dice.uniform(-0.01, 0.035)
    return Look(
        green=green,
        sun=dice.weigh([(0, 4), (1, 3), (7, 3), (2, 1), (6, 1)]),
        shade=shade,
        leaf=dice.integer(0, 2),
        bare_leaf=dice.uniform(0.3, 0.9) if dice.chance(0.2) else 0.0,
        gain=gain,
        contrast=contrast,
        gamma=gamma,
        saturation=saturation,
        cast=(1 + warm, 1 + tint, 1 - warm),
        haze=dice.uniform(0.0, 0.2) if dice.chance(0.25) else 0.0,
        blur=dice.uniform(0.6, 0.95) if dice.chance(0.2) else dice.uniform(0.2, 0.5),
        noise=dice.uniform(1.0, 3.5),
        shift=(0.0, 0.0),
        water=dice.integer(0, 5),
        grain=(dice.integer(0, 1023), dice.integer(0, 1023)),
    )


def _between(a: Look, b: Look, share: float) -> Look:
    """`a` moved towards `b` by `share` in everything that is graded; the rest is a's, the grain b's."""

    def mix(x: float, y: float) -> float:
        return x + (y - x) * share

    return Look(
        green=mix(a.green, b.green),
        sun=a.sun,
        shade=mix(a.shade, b.shade),
        leaf=a.leaf,
        bare_leaf=a.bare_leaf,
        gain=mix(a.gain, b.gain),
        contrast=mix(a.contrast, b.contrast),
        gamma=mix(a.gamma, b.gamma),
        saturation=mix(a.saturation, b.saturation),
        cast=(mix(a.cast[0], b.cast[0]), mix(a.cast[1], b.cast[1]), mix(a.cast[2], b.cast[2])),
        haze=mix(a.haze, b.haze),
        blur=mix(a.blur, b.blur),
        noise=b.noise,
        shift=b.shift,
        water=a.water,
        grain=b.grain,
    )
