"""What stands on poles: sign fronts and backs, traffic lights, street lamps; and small street furniture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import cos, pi, sin

from data.streets.draw import Item, Point, Stage, rectangle
from data.streets.labels import ATOM_IDS
from data.streets.look import Color

Shape = tuple[Sequence[Point], Color]
"""A polygon in the sign's own frame (right, up; the sign reaches from -1 to 1) and its colour."""

RED, WHITE, BLACK, BLUE, YELLOW = (196, 24, 32), (240, 240, 238), (22, 22, 24), (20, 80, 176), (248, 196, 24)


def _disc(radius: float, num: int = 18) -> list[Point]:
    return [(radius * cos(2 * pi * i / num), radius * sin(2 * pi * i / num)) for i in range(num)]


def _octagon(radius: float) -> list[Point]:
    return [(radius * cos(pi * (i + 0.5) / 4), radius * sin(pi * (i + 0.5) / 4)) for i in range(8)]


def _triangle(size: float, up: int) -> list[Point]:
    return [(0, 1.0 * up * size), (-0.98 * size, -0.72 * up * size), (0.98 * size, -0.72 * up * size)]


def _bar(x0: float, y0: float, x1: float, y1: float) -> list[Point]:
    return [(x0, y0), (x0, y1), (x1, y1), (x1, y0)]


def _diamond(size: float) -> list[Point]:
    return [(0, size), (-size, 0), (0, -size), (size, 0)]


# Segments of a digit's seven: top, upper left, upper right, middle, lower left, lower right, bottom.
_SEGMENTS = ((0, 2, 1, 2), (0, 1, 0, 2), (1, 1, 1, 2), (0, 1, 1, 1), (0, 0, 0, 1), (1, 0, 1, 1), (0, 0, 1, 0))
_DIGITS = {"0": "1110111", "3": "1011011", "5": "1101011", "6": "1101111", "7": "1010010", "8": "1111111"}


def _digit(digit: str, left: float, color: Color) -> list[Shape]:
    width, height, pen = 0.36, 0.4, 0.075
    shapes: list[Shape] = []
    for on, (x0, y0, x1, y1) in zip(_DIGITS[digit], _SEGMENTS, strict=True):
        if on == "1":
            box = _bar(left + x0 * width - pen, (y0 - 1) * height - pen, left + x1 * width + pen, (y1 - 1) * height + pen)
            shapes.append((box, color))
    return shapes


def _arrow(turn: int) -> list[Shape]:
    """Straight on (0), or to the left (-1) or right (1)."""
    straight = [(-0.13, -0.65), (-0.13, 0.1), (-0.42, 0.1), (0.0, 0.68), (0.42, 0.1), (0.13, 0.1), (0.13, -0.65)]
    return [([(x, y) if not turn else (turn * y, x) for x, y in straight], WHITE)]


def _danger(pictogram: int) -> list[Shape]:
    exclamation = [(_bar(-0.1, -0.1, 0.1, 0.42), BLACK), (_bar(-0.1, -0.42, 0.1, -0.22), BLACK)]
    bend = [([(-0.25, -0.45), (-0.05, -0.45), (-0.05, -0.1), (0.25, 0.2), (0.1, 0.35), (-0.25, 0.0)], BLACK)]
    crossing = [(_bar(-0.09, -0.45, 0.09, 0.4), BLACK), (_bar(-0.35, -0.2, 0.35, -0.05), BLACK)]
    return [(_triangle(1, 1), RED), (_triangle(0.62, 1), WHITE), *(exclamation, bend, crossing)[pictogram]]


def sign_face(kind: str, variant: int) -> list[Shape]:
    """The polygons of a sign front from back to front; the first is its outline. `variant` 0..5 chooses the pictogram."""
    if kind == "sign_speed_limit":
        digits = _digit("35678"[variant % 5], -0.48, BLACK) + _digit("0", 0.14, BLACK)
        return [(_disc(1), RED), (_disc(0.76), WHITE), *digits]
    if kind == "sign_danger":
        return _danger(variant % 3)
    if kind == "sign_give_way":
        return [(_triangle(1, -1), RED), (_triangle(0.6, -1), WHITE)]
    if kind == "sign_mandatory":
        return [(_disc(1), BLUE), *_arrow((-1, 0, 1)[variant % 3])]
    if kind == "sign_priority":
        return [(_diamond(1), WHITE), (_diamond(0.74), YELLOW)]
    if kind == "sign_no_entry":
        return [(_disc(1), RED), (_bar(-0.7, -0.17, 0.7, 0.17), WHITE)]
    if kind == "sign_stop":
        letters = [(_bar(x, -0.26, x + 0.24, 0.26), WHITE) for x in (-0.72, -0.33, 0.09, 0.48)]
        gaps = [(_bar(x + 0.08, -0.14, x + 0.16, 0.14), RED) for x in (-0.72, -0.33, 0.09, 0.48)]
        return [(_octagon(1.04), WHITE), (_octagon(0.96), RED), *letters, *gaps]
    raise ValueError(f"sign {kind!r} found, expected one of {', '.join(OUTLINES)}")


OUTLINES: Mapping[str, Sequence[Point]] = {
    kind: sign_face(kind, 0)[0][0]
    for kind in (
        "sign_speed_limit",
        "sign_danger",
        "sign_give_way",
        "sign_mandatory",
        "sign_priority",
        "sign_no_entry",
        "sign_stop",
    )
}
"""Shapes that sign backs have."""


@dataclass(frozen=True, kw_only=True)
class Plate:
    """A plate on a pole. `kind` is an atom, or None for a back with the shape of `outline`."""

    kind: str | None
    outline: Sequence[Point]
    shapes: Sequence[Shape]
    y: float
    """Height of the middle in metres."""
    radius: float
    turn: float
    """What turning to the side leaves of its width, 0..1."""


def draw_plate(stage: Stage, kind: str | None, y: float) -> Plate:
    chance = stage.chance
    shape = kind or chance.pick_weighted(stage.look.sign_kinds)
    face = sign_face(shape, chance.integer(0, 5))
    return Plate(
        kind=kind,
        outline=face[0][0],
        shapes=face if kind else (),
        y=y,
        radius=chance.uniform(0.38, 0.52),
        turn=chance.uniform(0.82, 1.0),
    )


def sign_post(stage: Stage, x: float, z: float, plates: Sequence[Plate], *, post_height: float) -> Item:
    gray = stage.chance.vary((134, 136, 138), 14)
    lean = stage.chance.uniform(-0.06, 0.06)

    def paint() -> None:
        stage.upright(x, z, 0, post_height, 0.045, gray, "pole")
        for plate in plates:
            _paint_plate(stage, x, z, plate, lean)

    return Item(z=z, paint=paint, footprint=rectangle(x - 0.06, x + 0.06, z - 0.05, z + 0.05), height=post_height)


def _paint_plate(stage: Stage, x: float, z: float, plate: Plate, lean: float) -> None:
    scale = plate.radius * stage.scale(z)
    u, v = stage.camera.project(x, plate.y, z)
    facing = (0.0, 0.1, -1.0)

    def place(points: Sequence[Point]) -> list[Point]:
        return [(u + scale * (plate.turn * a + lean * b), v - scale * (b - lean * a)) for a, b in points]

    if plate.kind is None:
        stage.canvas.polygon(place(plate.outline), stage.light.shade((126, 130, 132), facing, z), ATOM_IDS["sign_back"])
        bracket = _bar(-0.12, -0.5, 0.12, 0.5)
        stage.canvas.detail(place(bracket), stage.light.shade((96, 98, 100), facing, z))
        return
    slot = stage.canvas.own_slot(plate.kind)
    for points, color in plate.shapes:
        # Retroreflecting sheeting stays readable in the shade and at dusk.
        lit = stage.light.shade(color, facing, z)
        bright = stage.light.glow(color, z)
        mixed = (int(0.6 * lit[0] + 0.4 * bright[0]), int(0.6 * lit[1] + 0.4 * bright[1]), int(0.6 * lit[2] + 0.4 * bright[2]))
        stage.canvas.polygon(place(points), mixed, slot)


def traffic_light(stage: Stage, x: float, z: float, *, reach: float = 0.0) -> Item:
    """Three lamps on a pole; with `reach` a second head hangs that many metres over the road."""
    chance = stage.chance
    lit = chance.count((0.45, 0.1, 0.45))
    height = 5.4 if reach else chance.uniform(3.0, 3.6)
    y = chance.uniform(2.5, 2.8)
    gray = chance.vary((90, 94, 92), 16)

    def paint() -> None:
        stage.upright(x, z, 0, height, 0.07, gray, "pole")
        if reach:
            color = stage.light.shade(gray, (0.0, -0.5, -0.8), z)
            points = [stage.camera.project(x + dx, y1, z) for dx, y1 in ((0, 5.4), (reach, 5.4), (reach, 5.2), (0, 5.2))]
            stage.canvas.polygon(points, color, ATOM_IDS["pole"])
            _paint_head(stage, x + reach, z, 5.0, lit)
        _paint_head(stage, x, z, y, lit)

    return Item(z=z, paint=paint, footprint=rectangle(x - 0.1, x + 0.1, z - 0.1, z + 0.1), height=height)


def _paint_head(stage: Stage, x: float, z: float, y: float, lit: int) -> None:
    scale, slot = stage.scale(z), ATOM_IDS["traffic_light"]
    u, v = stage.camera.project(x, y, z)
    half, tall = 0.24 * scale, 0.58 * scale
    box = stage.light.shade((36, 40, 38), (0.0, 0.0, -1.0), z)
    stage.canvas.polygon([(u - half, v - tall), (u + half, v - tall), (u + half, v + tall), (u - half, v + tall)], box, slot)
    lamps: tuple[Color, Color, Color] = ((255, 50, 40), (255, 190, 50), (70, 250, 130))
    for i, color in enumerate(lamps):
        dim = stage.light.shade((color[0] * 0.28, color[1] * 0.28, color[2] * 0.28), (0.0, 0.0, -1.0), z)
        radius = 0.14 * scale
        stage.canvas.ellipse((u, v + (i - 1) * 0.36 * scale), radius, radius, stage.light.glow(color, z) if i == lit else dim, slot)


def street_lamp(stage: Stage, x: float, z: float, inwards: int) -> Item:
    chance = stage.chance
    height, arm = chance.uniform(5.5, 8.5), chance.uniform(0.8, 2.0)
    gray = chance.vary((112, 116, 116), 22)

    def paint() -> None:
        stage.upright(x, z, 0, height, 0.08, gray, "pole")
        shade = stage.light.shade(gray, (0.0, -0.3, -0.9), z)
        top, tip = stage.camera.project(x, height - 0.1, z), stage.camera.project(x + inwards * arm, height + 0.15, z)
        radius = 0.05 * stage.scale(z)
        stage.canvas.capsule(top, tip, radius, radius, shade, ATOM_IDS["pole"])
        head = stage.light.glow((255, 226, 170), z) if stage.light.kind.lamps else shade
        stage.canvas.ellipse(tip, 4 * radius, 1.6 * radius, head, ATOM_IDS["pole"])

    return Item(z=z, paint=paint, footprint=rectangle(x - 0.1, x + 0.1, z - 0.1, z + 0.1), height=height)
