"""Painting one date of a plan: ground, water, roads, shadows, roofs, trees."""

from __future__ import annotations

import cv2
import numpy as np

from rsiccllm.sources.scenes.dice import Dice
from rsiccllm.sources.scenes.geometry import SHIFT, fixed, normal, rectangle
from rsiccllm.sources.scenes.items import Building, Car, Fence, Item, Lawn, Lot, Patch, Road, Trees, Water, Wing, stands
from rsiccllm.sources.scenes.looks import Look
from rsiccllm.sources.scenes.plan import PAINT, Plan
from rsiccllm.sources.scenes.raster import CURB, Date, in_order, polygon, stamp, stamps
from rsiccllm.sources.scenes.textures import SUNS, banks, crown, sensor_noise

MARGIN = 6  # pixels painted beyond each side, so that a shifted image has something to show there

# each cover from its darkest to its brightest colour, dry season and green season (red, green, blue)
COVERS: dict[str, tuple[tuple[tuple[int, int, int], ...], tuple[tuple[int, int, int], ...]]] = {
    "dry": (((86, 75, 55), (153, 131, 98), (193, 172, 136)), ((52, 56, 40), (97, 94, 70), (140, 132, 102))),
    "grass": (((74, 73, 47), (122, 112, 78), (156, 145, 106)), ((44, 55, 36), (78, 88, 60), (112, 120, 86))),
    "bare": (((138, 119, 88), (190, 171, 135), (224, 208, 174)), ((126, 111, 86), (176, 160, 128), (212, 198, 166))),
    "desert": (((128, 103, 76), (180, 155, 118), (212, 192, 156)), ((120, 99, 75), (170, 148, 115), (202, 184, 150))),
    "field": (((98, 78, 66), (142, 118, 102), (170, 148, 130)), ((76, 68, 52), (108, 100, 78), (138, 130, 106))),
    "crop": (((94, 87, 62), (136, 125, 95), (166, 154, 122)), ((44, 56, 37), (70, 84, 56), (98, 111, 78))),
    "floor": (((62, 55, 42), (116, 100, 77), (158, 140, 109)), ((44, 46, 34), (78, 75, 56), (114, 108, 84))),
    "lawn": (((84, 74, 50), (134, 118, 86), (160, 146, 112)), ((36, 50, 34), (62, 76, 52), (94, 106, 78))),
}
LEAVES = (
    ((8, 20, 16), (40, 58, 40), (92, 108, 74)),
    ((14, 22, 12), (50, 60, 36), (106, 108, 68)),
    ((16, 26, 22), (54, 66, 50), (110, 118, 90)),
)
TWIGS = ((40, 36, 34), (92, 84, 78), (150, 138, 128))  # leafless trees
ROOFS = (
    (118, 114, 108), (132, 122, 110), (104, 103, 102), (128, 112, 100),
    (146, 140, 130), (112, 107, 99), (94, 92, 90), (140, 116, 102),
)  # fmt: skip
HALLS = (
    (206, 206, 200), (186, 188, 188), (214, 208, 192), (160, 166, 170),
    (222, 222, 220), (150, 144, 136), (176, 182, 178), (194, 184, 166),
)  # fmt: skip
WATERS = ((24, 46, 42), (30, 40, 36), (58, 60, 48), (40, 56, 50), (20, 62, 52), (26, 36, 44))
PAINTS = (
    (232, 232, 230), (28, 30, 34), (120, 124, 130), (128, 40, 40), (50, 60, 88),
    (190, 190, 186), (70, 72, 76), (214, 214, 210), (40, 42, 44), (150, 146, 136),
)  # fmt: skip


def _ramp(stops: tuple[tuple[int, int, int], ...]) -> np.ndarray:
    """256 colours, float32 [256, 3], through three stops."""
    at = np.array([0.0, 128.0, 255.0])
    return np.stack([np.interp(np.arange(256), at, [s[c] for s in stops]) for c in range(3)], 1).astype(np.float32)


_COVER_RAMPS = {name: (_ramp(dry), _ramp(green)) for name, (dry, green) in COVERS.items()}
_LEAF_RAMPS = [_ramp(stops) for stops in LEAVES]
_TWIG_RAMP = _ramp(TWIGS)


class Painter:
    """Paints both dates of one plan at one size. What the dates share (noise, weights of covers) is made once."""

    def __init__(self, plan: Plan, size: int) -> None:
        self.plan, self.size, self.scale = plan, size, size / 256
        self.side = size + 2 * MARGIN
        self.items = in_order(plan.items)
        self.dice = plan.dice(PAINT)
        self._cuts: dict[str, np.ndarray] = {}
        self._roofs: dict[int, list[tuple[np.ndarray, float, float]]] = {}
        weight = self.cut("cloud2").astype(np.float32)
        level = 128 + 40 * self.dice.uniform(-0.9, 0.9)
        self.mix = np.clip((weight - level) * (1 / 60) + 0.5, 0, 1) * self.dice.uniform(0.35, 0.9)
        self.lawn = self._lawns()
        self.patches = [(p, self._soft(p)) for p in self.items if isinstance(p, Patch) and p.when == "both"]

    def cut(self, name: str) -> np.ndarray:
        """A part of a noise bank as large as the canvas, the same at both dates, uint8 [side, side]."""
        if name not in self._cuts:
            bank = banks(self.size)[name]
            row, column = (int(u * (bank.shape[0] - self.side)) for u in self.dice.units(2))
            self._cuts[name] = bank[row : row + self.side, column : column + self.side]
        return self._cuts[name]

    def _turned(self, name: str, angle: float) -> np.ndarray:
        """Like `cut`, turned by an angle in radians: for fields, whose rows run somewhere."""
        bank = banks(self.size)[name]
        c, s = np.cos(angle), np.sin(angle)
        middle, target = bank.shape[0] / 2, self.side / 2
        matrix = np.array([[c, -s, middle - c * target + s * target], [s, c, middle - s * target - c * target]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(bank, matrix, (self.side, self.side), flags=flags, borderMode=cv2.BORDER_REFLECT)

    def _soft(self, patch: Patch) -> np.ndarray:
        """The weight of a static patch, float32 [side, side]: its outline frayed by noise."""
        canvas = np.zeros((self.side, self.side), np.uint8)
        self.fill(canvas, patch.outline, 255)
        width = max(3, int(9 * self.scale) | 1)
        soft = cv2.blur(canvas, (width, width)).astype(np.float32)
        soft += 1.1 * (self.cut("mottle").astype(np.float32) - 128)
        return np.clip((soft - 70) * (1 / 110), 0, 1)

    def _lawns(self) -> np.ndarray | None:
        """The weight of lawn, float32 [side, side]; None where no house has one."""
        lawns = [i for i in self.items if isinstance(i, Lawn)]
        if not lawns:
            return None
        canvas = np.zeros((self.side, self.side), np.uint8)
        for lawn in lawns:
            self.fill(canvas, lawn.outline, int(255 * lawn.strength))
        soft = cv2.blur(canvas, (3, 3)).astype(np.float32)
        return soft * (0.3 / 255 + self.cut("cloud").astype(np.float32) * (0.5 / 255 / 128))

    def fill(self, canvas: np.ndarray, outline: np.ndarray, color: object) -> None:
        """Fill a polygon of world units with smooth edges."""
        polygon(canvas, outline, color, self.size, MARGIN)

    def lines(
        self, canvas: np.ndarray, line: np.ndarray, color: object, thickness: int = 1, closed: bool = False
    ) -> None:
        """Draw a thin line of world units."""
        points = fixed(line, self.size, MARGIN)
        cv2.polylines(canvas, [points], closed, color, thickness, cv2.LINE_AA, SHIFT)

    def cover(self, name: str, look: Look, angle: float | None = None) -> np.ndarray:
        """A ground cover, uint8 [side, side, 3]."""
        dry, green = _COVER_RAMPS[name]
        table = (dry + (green - dry) * look.green).astype(np.uint8)[None]
        turned = angle is not None and name in {"field", "crop"}
        noise = self._turned(name, angle or 0.0) if turned else self.cut(name)
        return cv2.LUT(cv2.merge([noise, noise, noise]), table)

    def paint(self, date: Date, look: Look) -> np.ndarray:
        """The world at one date under one look, before the camera: uint8 [side, side, 3]."""
        here = [item for item in self.items if stands(item, date)]
        dice = self.plan.dice(PAINT + 100)
        angle = dice.uniform(0, 3.14)
        image = self.cover(self.plan.base, look, angle)
        image = cv2.blendLinear(image, self.cover(self.plan.mixed, look, angle), 1 - self.mix, self.mix)
        for patch, weight in self.patches:
            image = cv2.blendLinear(image, self.cover(patch.cover, look, patch.angle), 1 - weight, weight)
        if self.lawn is not None:
            image = cv2.blendLinear(image, self.cover("lawn", look), 1 - self.lawn, self.lawn)
        for item in here:
            if isinstance(item, Patch) and item.when != "both":
                self._over(image, [item.outline], self.cover(item.cover, look, item.angle))
        self._trails(image, here, look)
        self._waters(image, here, look)
        self._paved(image, here, look)
        image = self._grain(image)
        self._shadows(image, here, look)
        for item in here:
            if isinstance(item, Car):
                self._car(image, item.center, item.along, item.color, look)
            elif isinstance(item, Lot):
                for x, y, color in item.cars:
                    self._car(image, np.array([x, y]), normal(item.along), color, look)
        for item in here:
            if isinstance(item, Building):
                self._building(image, item, look)
        return self._trees(image, here, look)

    def _over(self, image: np.ndarray, outlines: list[np.ndarray], top: np.ndarray) -> None:
        """Lay `top` over the image within outlines."""
        cover = np.zeros((self.side, self.side), np.uint8)
        for outline in outlines:
            self.fill(cover, outline, 255)
        x, y, w, h = cv2.boundingRect(cover)
        if not w:
            return
        part = cover[y : y + h, x : x + w, None].astype(np.float32) * (1 / 255)
        view = image[y : y + h, x : x + w]
        view[:] = (view + (top[y : y + h, x : x + w].astype(np.float32) - view) * part).astype(np.uint8)

    def _trails(self, image: np.ndarray, here: list[Item], look: Look) -> None:
        trails = [i for i in here if isinstance(i, Road) and i.trail]
        if not trails:
            return
        canvas = np.zeros((self.side, self.side), np.uint8)
        for trail in trails:
            self.fill(canvas, trail.outlines()[0], 210)
        weight = cv2.GaussianBlur(canvas, (3, 3), 0.8).astype(np.float32) * (1 / 255)
        weight *= self.cut("cloud").astype(np.float32) * (1 / 150)
        image[:] = cv2.blendLinear(image, self.cover("bare", look), 1 - np.clip(weight, 0, 1), np.clip(weight, 0, 1))

    def _waters(self, image: np.ndarray, here: list[Item], look: Look) -> None:
        ponds = [i for i in here if isinstance(i, Water) and not i.pool]
        for pool in (i for i in here if isinstance(i, Water) and i.pool):
            self.fill(image, pool.outline, (84, 160, 182))
            self.lines(image, pool.outline, (206, 202, 190), 1, True)
        if not ponds:
            return
        tint = self.dice_of("water")
        deep = WATERS[look.water]
        bank = "bare" if tint.chance(0.5) else "dry"
        spread = np.linspace(-12, 12, 256)[:, None]
        noise = self.cut("ripple")
        water = cv2.LUT(
            cv2.merge([noise, noise, noise]), np.clip(np.array(deep) + spread, 0, 255).astype(np.uint8)[None]
        )
        canvas = np.zeros((self.side, self.side), np.uint8)
        for pond in ponds:
            self.fill(canvas, pond.outline, 255)
        # the bank follows the outline, the water's edge is frayed by noise and lies a few metres inside
        self._over(image, [p.outline for p in ponds], self.cover(bank, look))
        width = max(3, int(15 * self.scale) | 1)
        inner = cv2.blur(canvas, (width, width)).astype(np.float32) + 0.9 * (self.cut("cloud").astype(np.float32) - 128)
        inner = np.minimum(inner, canvas)
        wet = np.clip((inner - 118) * (1 / 30), 0, 1)
        weed = np.clip((inner - 85) * (1 / 40), 0, 1) * 0.7
        image[:] = cv2.blendLinear(image, self.cover("floor", look), 1 - weed, weed)
        image[:] = cv2.blendLinear(image, water, 1 - wet, wet)

    def dice_of(self, name: str) -> Dice:
        """Random numbers that are the same at both dates for one purpose."""
        return Dice(self.plan.seed, self.plan.index, PAINT, *name.encode())

    def _paved(self, image: np.ndarray, here: list[Item], look: Look) -> None:
        wear = self.dice_of("wear")
        light = wear.uniform(-8, 8)
        for item in here:
            if isinstance(item, Lot):
                tone = 92 + 70 * item.tone
                self.fill(image, item.outline, _grey(tone, 0.97))
                self._stalls(image, item, tone)
        roads = [i for i in here if isinstance(i, Road) and not i.trail]
        for road in roads:
            if road.walk and self.scale > 0.7:
                for side in (-1.0, 1.0):
                    heads = np.gradient(road.line, axis=0)
                    heads /= np.sqrt((heads**2).sum(1, keepdims=True))
                    offset = np.stack([-heads[:, 1], heads[:, 0]], 1) * side * (road.half_width + 5)
                    self.lines(image, road.line + offset, (172, 166, 152), 1)
        for road in roads:
            for outline in road.outlines(CURB):
                self.fill(image, outline, (184, 177, 163))
        for item in here:
            if isinstance(item, Building) and item.drive is not None:
                self.fill(image, item.drive, (208, 200, 184))
        for road in roads:
            tone = 108 + 52 * road.tone + light
            for outline in road.outlines():
                self.fill(image, outline, _grey(tone, 0.955))
            if self.scale > 0.7:
                self.lines(image, road.line, _grey(tone + 10, 0.95), 2)
                if road.marked:
                    self.lines(image, road.line, (206, 196, 150), 1)
        for item in here:
            if isinstance(item, Fence):
                self.lines(image, item.line, (118, 98, 74) if item.furrow else (58, 52, 44), 1)

    def _stalls(self, image: np.ndarray, lot: Lot, tone: float) -> None:
        if self.scale <= 0.7:
            return
        a, b = lot.outline[1] - lot.outline[0], lot.outline[3] - lot.outline[0]
        length, width = float(np.sqrt((a**2).sum())), float(np.sqrt((b**2).sum()))
        for step in np.arange(4, length - 3, 5.2):
            at = lot.outline[0] + a * (step / length)
            for low, high in ((0.03, 9 / width), (1 - 9 / width, 0.97)):
                self.lines(image, np.stack([at + b * low, at + b * high]), _grey(tone + 38, 0.97))

    def _grain(self, image: np.ndarray) -> np.ndarray:
        """Fine texture over everything flat, so that no pavement is one colour."""
        noise = cv2.addWeighted(self.cut("fine"), 0.5, self.cut("mottle"), 0.5, 0)
        soft = cv2.merge([noise, noise, noise])
        # image + 0.13 (noise - 128)
        return cv2.addWeighted(image, 1.0, soft, 0.13, -0.13 * 128)

    def _shadows(self, image: np.ndarray, here: list[Item], look: Look) -> None:
        shade = np.zeros((self.side, self.side), np.uint8)
        fall = -SUNS[look.sun]
        for item in here:
            if isinstance(item, Building):
                for wing in item.wings:
                    corners = rectangle(wing.center, wing.along, wing.length, wing.width)
                    both = np.concatenate([corners, corners + fall * item.height]).astype(np.float32)
                    self.fill(shade, cv2.convexHull(both)[:, 0], 255)
            elif isinstance(item, Trees):
                for row, column, radius, shape in stamps(item, self.size, MARGIN):
                    cover = crown(radius, shape, 0)[1]
                    reach = 0.75 * radius / 4
                    stamp(
                        shade, row + round(float(fall[1]) * reach), column + round(float(fall[0]) * reach), cover, cover
                    )
            elif isinstance(item, Fence) and not item.furrow:
                self.lines(shade, item.line + fall * 1.5, 200, 1)
        shade = cv2.GaussianBlur(shade, (3, 3), 0.7)
        dark = np.array([1.0, 0.97, 0.9]) * look.shade
        for c in range(3):
            table = 255 - np.arange(256) * dark[c]
            image[..., c] = cv2.multiply(image[..., c], cv2.LUT(shade, table.astype(np.uint8)), scale=1 / 255)

    def _car(self, image: np.ndarray, center: np.ndarray, along: np.ndarray, color: float, look: Look) -> None:
        paint = PAINTS[int(color * len(PAINTS))]
        fall = -SUNS[look.sun] * 0.9
        self.fill(image, rectangle(center + fall, along, 4.3, 1.9), (48, 48, 50))
        self.fill(image, rectangle(center, along, 4.3, 1.9), paint)
        if self.scale > 0.7:
            self.fill(image, rectangle(center - along * 0.3, along, 1.6, 1.5), tuple(int(p * 0.6) for p in paint))

    def _building(self, image: np.ndarray, item: Building, look: Look) -> None:
        if item.flat:
            self._flat_roof(image, item, look)
            return
        sun = SUNS[look.sun]
        color = ROOFS[item.roof]
        contrast = 0.36 * look.shade / 0.65
        for face, x, y in self._faces(item):
            light = 0.94 + contrast * (x * float(sun[0]) + y * float(sun[1]))
            cv2.fillPoly(image, [face], [min(c * light, 255) for c in color], cv2.LINE_AA, SHIFT)
        if self.scale > 0.7:
            ridge = [min(c * 1.15, 255) for c in color]
            for wing in item.wings:
                a = max(wing.length - (0 if wing.gable else wing.width), 0.5)
                ends = np.stack([wing.center - wing.along * a, wing.center + wing.along * a])
                self.lines(image, ends, ridge)

    def _faces(self, item: Building) -> list[tuple[np.ndarray, float, float]]:
        """The roof faces of a house, main roof first: fixed-point outline and which way the face leans."""
        key = id(item)
        if key not in self._roofs:
            main = item.wings[0]
            faces = []
            for wing in item.wings:
                u = wing.along
                if wing is not main and float((wing.center - main.center) @ u) < 0:
                    u = -u  # the outer end of a wing is at +u
                for outline, lean in _roof_faces(wing, u, joined=wing is not main):
                    faces.append((fixed(outline, self.size, MARGIN), float(lean[0]), float(lean[1])))
            self._roofs[key] = faces
        return self._roofs[key]

    def _flat_roof(self, image: np.ndarray, item: Building, look: Look) -> None:
        color = np.array(HALLS[item.roof], float)
        detail = Dice(int(abs(item.wings[0].center[0]) * 64), int(abs(item.wings[0].center[1]) * 64))
        fall = -SUNS[look.sun]
        ribbed = detail.chance(0.35)
        for wing in item.wings:
            corners = rectangle(wing.center, wing.along, wing.length, wing.width)
            self.fill(image, corners, tuple((color * 1.06).clip(0, 255).tolist()))
            self.fill(image, rectangle(wing.center + fall * 0.6, wing.along, wing.length - 1.2, wing.width - 1.2),
                      tuple((color * 0.86).tolist()))  # fmt: skip
            self.fill(image, rectangle(wing.center - fall * 0.5, wing.along, wing.length - 1.6, wing.width - 1.6),
                      tuple((color * 0.97).tolist()))  # fmt: skip
            if ribbed:
                half = rectangle(
                    wing.center + normal(wing.along) * wing.width / 2, wing.along, wing.length, wing.width / 2
                )
                self.fill(image, half, tuple((color * 0.88).tolist()))
                continue
            for _ in range(int(wing.length * wing.width / 90)):
                at = wing.center + wing.along * (wing.length - 4) * detail.uniform(-1, 1)
                at = at + normal(wing.along) * (wing.width - 4) * detail.uniform(-1, 1)
                size = detail.uniform(0.9, 2.4)
                self.fill(image, rectangle(at + fall * 1.4, wing.along, size, size), tuple((color * 0.5).tolist()))
                self.fill(image, rectangle(at, wing.along, size, size), tuple((color * 0.92).tolist()))

    def _trees(self, image: np.ndarray, here: list[Item], look: Look) -> np.ndarray:
        light = np.zeros((self.side, self.side), np.uint8)
        cover = np.zeros((self.side, self.side), np.uint8)
        for item in here:
            if isinstance(item, Trees):
                for row, column, radius, shape in stamps(item, self.size, MARGIN):
                    bright, crowned = crown(radius, shape, look.sun)
                    stamp(light, row, column, bright, crowned)
                    stamp(cover, row, column, crowned, crowned)
        ramp = _LEAF_RAMPS[look.leaf]
        ramp = ramp + (_TWIG_RAMP - ramp) * look.bare_leaf
        leaves = cv2.LUT(cv2.merge([light, light, light]), ramp.astype(np.uint8)[None])
        weight = cover.astype(np.float32) * ((1 - 0.35 * look.bare_leaf) / 255)
        return cv2.blendLinear(image, leaves, 1 - weight, weight)


def _roof_faces(wing: Wing, u: np.ndarray, joined: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    """Outlines (world units) of a pitched roof's faces and the unit vector [2] that each leans towards.

    A wing that is joined to a main roof runs into it with its ridge: two roofs of one pitch meet in valleys, so that
    its inner end, at -u, is pointed.
    """
    v = normal(u)
    a, b, c = wing.length, wing.width, wing.center
    if not joined and b > a:
        u, v, a, b = v, -u, b, a
    outer, inner = c + u * (a if wing.gable else a - b), c - u * (a if wing.gable or joined else a - b)
    back = a - b if joined else a
    sides = [
        (np.stack([c - u * back + v * b, c + u * a + v * b, outer, inner]), v),
        (np.stack([c - u * back - v * b, c + u * a - v * b, outer, inner]), -v),
    ]
    if not wing.gable:
        sides.append((np.stack([c + u * a + v * b, c + u * a - v * b, outer]), u))
        if not joined:
            sides.append((np.stack([c - u * a + v * b, c - u * a - v * b, inner]), -u))
    return sides


def _grey(tone: float, warmth: float) -> tuple[float, float, float]:
    return (tone, tone * (1 + warmth) / 2 + 0.5, tone * warmth)


def photograph(image: np.ndarray, look: Look, size: int, nuisance: bool = True) -> np.ndarray:
    """What a camera makes of a painted canvas: tone, haze, blur, shift and noise, cut to uint8 [size, size, 3].

    Without `nuisance` the canvas is only cut.
    """
    if not nuisance:
        return image[MARGIN : MARGIN + size, MARGIN : MARGIN + size].copy()
    scale = size / 256
    levels = np.arange(256) / 255
    bent = np.clip((levels - 0.42) * look.contrast + 0.42, 0, 1) ** look.gamma * look.gain
    bent = bent * (1 - look.haze) + 0.62 * look.haze
    image = cv2.LUT(image, np.clip(bent * 255, 0, 255).astype(np.uint8))
    # saturation and colour cast in one 3 x 3 matrix
    grey = np.array([[0.3, 0.59, 0.11]] * 3)
    matrix = (grey + (np.eye(3) - grey) * look.saturation) * np.array(look.cast)[:, None]
    image = cv2.transform(image, matrix)
    move = np.array([[1, 0, MARGIN + look.shift[0] * scale], [0, 1, MARGIN + look.shift[1] * scale]])
    if look.shift == (0.0, 0.0):
        image = image[MARGIN : MARGIN + size, MARGIN : MARGIN + size]
    else:
        image = cv2.warpAffine(image, move, (size, size), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    sigma = look.blur * max(scale, 0.6)
    image = cv2.GaussianBlur(image, (5, 5), sigma)
    row, column = look.grain
    noise = sensor_noise()[row % 1024 : row % 1024 + size, column % 1024 : column % 1024 + size]
    return np.clip(image + noise * look.noise + 0.5, 0, 255).astype(np.uint8)
