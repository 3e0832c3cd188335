"""Buildings, walls and fences."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from data.streets.draw import NEAR, Item, Stage, rectangle
from data.streets.labels import ATOM_IDS
from data.streets.light import Vector
from data.streets.look import Color, toned

TOWARDS: Vector = (0.0, 0.0, -1.0)
"""Normal of what faces the camera."""
WINDOWS_UNTIL = 45.0
"""Metres: from here on a floor's windows are one darker band."""
BUILDING, WALL, FENCE = ATOM_IDS["building"], ATOM_IDS["wall"], ATOM_IDS["fence"]


@dataclass(frozen=True, kw_only=True)
class Facade:
    """The face of a building: a grid of windows over a ground floor. Lengths in metres."""

    color: Color
    height: float
    floor: float
    pitch: float
    """Distance from window to window."""
    window: tuple[float, float]
    """Share of pitch and floor that a window takes."""
    shop: Color | None
    trim: Color | None
    """Colour of bands between the floors."""
    lit: float
    """Chance that a window has a light on."""


@dataclass(frozen=True, kw_only=True)
class Plane:
    """An upright face from `start` to `end` (x, z) on the ground, seen from the side of `normal`."""

    start: tuple[float, float]
    end: tuple[float, float]
    normal: Vector

    @cached_property
    def length(self) -> float:
        return ((self.end[0] - self.start[0]) ** 2 + (self.end[1] - self.start[1]) ** 2) ** 0.5

    def at(self, along: float, y: float) -> Vector:
        """The place `along` metres from the start at height y."""
        dx, dz = self._step
        return self.start[0] + along * dx, y, self.start[1] + along * dz

    @cached_property
    def _step(self) -> tuple[float, float]:
        length = max(self.length, 1e-6)
        return (self.end[0] - self.start[0]) / length, (self.end[1] - self.start[1]) / length

    def rectangle(self, along: tuple[float, float], y: tuple[float, float]) -> list[Vector]:
        return [self.at(along[0], y[0]), self.at(along[0], y[1]), self.at(along[1], y[1]), self.at(along[1], y[0])]


def draw_facade(stage: Stage, height: float) -> Facade:
    chance = stage.chance
    return Facade(
        color=chance.vary(chance.pick(stage.look.facades), 16),
        height=height,
        floor=chance.uniform(2.8, 3.6),
        pitch=chance.uniform(1.8, 3.4),
        window=(chance.uniform(0.42, 0.8), chance.uniform(0.45, 0.68)),
        shop=chance.vary(chance.pick(stage.look.clothes), 20) if height > 5 and chance.yes(0.4) else None,
        trim=chance.vary((200, 196, 188), 30) if chance.yes(0.4) else None,
        lit=chance.uniform(0.15, 0.5) if stage.light.kind.lamps else 0.02,
    )


def paint_facade(stage: Stage, plane: Plane, facade: Facade) -> None:
    stage.quad(plane.rectangle((0, plane.length), (0, facade.height)), facade.color, plane.normal, BUILDING)
    if facade.trim:
        y = facade.floor
        while y < facade.height - 1 and stage.scale(min(plane.start[1], plane.end[1])) * 0.2 > 1:
            stage.quad(plane.rectangle((0, plane.length), (y - 0.12, y + 0.12)), facade.trim, plane.normal, None)
            y += facade.floor
    dark = toned(facade.color, 0.72)
    stage.quad(plane.rectangle((0, plane.length), (0, 0.5)), dark, plane.normal, None)
    stage.quad(plane.rectangle((0, plane.length), (facade.height - 0.4, facade.height)), dark, plane.normal, None)
    num_floors = int((facade.height - 0.5) / facade.floor)
    for floor in range(num_floors):
        if floor == 0 and facade.shop:
            _paint_shops(stage, plane, facade, facade.shop)
        else:
            _paint_windows(stage, plane, facade, floor)


def _paint_windows(stage: Stage, plane: Plane, facade: Facade, floor: int) -> None:
    chance = stage.chance
    y0 = floor * facade.floor + 0.5 * facade.floor * (1.1 - facade.window[1])
    y = (y0, y0 + facade.floor * facade.window[1])
    num = int(plane.length / facade.pitch)
    if plane.start[1] > WINDOWS_UNTIL:
        stage.quad(plane.rectangle((0, plane.length), y), toned(facade.color, 0.78), plane.normal, None)
        return
    margin = 0.5 * (plane.length - num * facade.pitch)
    for i in range(num):
        start = margin + (i + 0.5 - 0.5 * facade.window[0]) * facade.pitch
        corners = plane.rectangle((start, start + facade.window[0] * facade.pitch), y)
        if corners[0][2] < 2 * NEAR or corners[0][2] > 1.5 * WINDOWS_UNTIL:
            continue
        _paint_window(stage, corners, plane.normal, chance.yes(facade.lit), chance.uniform(0.6, 1.5))


def _paint_window(stage: Stage, corners: list[Vector], normal: Vector, lit: bool, tone: float) -> None:
    camera, canvas = stage.camera, stage.canvas
    points = [camera.project(*corner) for corner in corners]
    u = [point[0] for point in points]
    if max(u) < 0 or min(u) > canvas.width or max(u) - min(u) < 1.6:
        return
    z = corners[0][2]
    if lit:
        canvas.detail(points, stage.light.glow((250, 206, 130), z))
        return
    canvas.detail(points, stage.light.shade((52 * tone, 60 * tone, 70 * tone), normal, z))
    if max(u) - min(u) > 7:  # the upper part mirrors the sky
        (u0, low0), (_, high0), (_, high1), (u1, low1) = points
        upper = [(u0, 0.55 * high0 + 0.45 * low0), points[1], points[2], (u1, 0.75 * high1 + 0.25 * low1)]
        canvas.detail(upper, stage.light.shade((88 * tone, 100 * tone, 114 * tone), normal, z))


def _paint_shops(stage: Stage, plane: Plane, facade: Facade, color: Color) -> None:
    glass = (66, 70, 76) if not stage.light.kind.lamps else (236, 206, 150)
    stage.quad(plane.rectangle((0, plane.length), (0.5, facade.floor - 0.7)), (90, 86, 82), plane.normal, None)
    stage.quad(plane.rectangle((0, plane.length), (facade.floor - 0.75, facade.floor - 0.1)), color, plane.normal, None)
    start = 0.3
    while start < plane.length - 1.5:
        end = min(start + stage.chance.uniform(1.5, 4), plane.length - 0.3)
        tone = stage.chance.uniform(0.7, 1.3)
        shade = (glass[0] * tone, glass[1] * tone, glass[2] * tone)
        corners = plane.rectangle((start, end), (0.45 if stage.chance.yes(0.6) else 0.05, facade.floor - 0.9))
        points = [stage.camera.project(*corner) for corner in corners]
        stage.canvas.detail(points, stage.light.shade(shade, plane.normal, corners[0][2]))
        start = end + 0.35


def house(stage: Stage, x: tuple[float, float], z: tuple[float, float], height: float, *, pitched: bool) -> Item:
    """A building between the facade's x[0] and x[1] further out, from z[0] to z[1]."""
    facade = draw_facade(stage, height)
    roof = stage.chance.vary(stage.chance.pick(stage.look.roofs))
    ridge = stage.chance.uniform(1.6, 3.2)

    def paint() -> None:
        away = 1.0 if x[1] > x[0] else -1.0
        front = Plane(start=(x[0], max(z[0], NEAR)), end=(x[0], z[1]), normal=(-away, 0.0, 0.0))
        if pitched:
            _paint_roof(stage, x, (max(z[0], NEAR), z[1]), (height, height + ridge), roof)
        paint_facade(stage, front, facade)
        if z[0] > 2:
            end = Plane(start=(x[0], z[0]), end=(x[1], z[0]), normal=TOWARDS)
            if pitched:
                gable = [end.at(0, height), end.at(0.5 * end.length, height + ridge), end.at(end.length, height)]
                stage.quad(gable, facade.color, TOWARDS, BUILDING)
            paint_facade(stage, end, facade)

    shadow = rectangle(x[0], x[1], max(z[0], 1), z[1])
    return Item(z=z[1], paint=paint, footprint=shadow, height=height)


def _paint_roof(stage: Stage, x: tuple[float, float], z: tuple[float, float], y: tuple[float, float], color: Color) -> None:
    away = 1.0 if x[1] > x[0] else -1.0
    middle = 0.5 * (x[0] + x[1])
    corners = [(x[0], y[0] - 0.1, z[0]), (middle, y[1], z[0]), (middle, y[1], z[1]), (x[0], y[0] - 0.1, z[1])]
    stage.quad(corners, color, (-0.5 * away, 0.8, 0.0), BUILDING)


def closing_row(stage: Stage, z: float) -> list[Item]:
    """Buildings that face the camera: the far side of a T junction."""
    items = []
    x = -70.0
    while x < 70:
        width = stage.chance.uniform(8, 18)
        if stage.chance.yes(0.85):
            items.append(_facing(stage, (x, x + width), z, stage.chance.uniform(4, 16)))
        x += width + (stage.chance.uniform(0, 6) if stage.chance.yes(0.35) else 0)
    return items


def _facing(stage: Stage, x: tuple[float, float], z: float, height: float) -> Item:
    facade = draw_facade(stage, height)
    plane = Plane(start=(x[0], z), end=(x[1], z), normal=TOWARDS)
    return Item(z=z + 8, paint=lambda: paint_facade(stage, plane, facade), footprint=rectangle(*x, z, z + 8), height=height)


def skyline(stage: Stage, z: float) -> list[Item]:
    """Distant blocks without detail."""
    return [_block(stage, z) for _ in range(stage.chance.integer(3, 12))]


def _block(stage: Stage, z: float) -> Item:
    chance = stage.chance
    x, width, height = chance.uniform(-90, 90), chance.uniform(8, 25), chance.uniform(5, 24)
    color = chance.vary(chance.pick(stage.look.facades))
    corners = Plane(start=(x, z), end=(x + width, z), normal=TOWARDS).rectangle((0, width), (0, height))
    return Item(z=z, paint=lambda: stage.quad(corners, color, TOWARDS, BUILDING))


def wall(stage: Stage, plane: Plane) -> Item:
    """A garden wall of plaster, brick or concrete with a lighter top."""
    chance = stage.chance
    color = chance.vary(chance.pick(((176, 172, 164), (150, 92, 74), (156, 150, 138), (206, 200, 186), (120, 112, 102))), 14)
    height = chance.uniform(1.1, 2.6)
    joints = chance.uniform(0.25, 0.5) if chance.yes(0.6) else 3.0

    def paint() -> None:
        stage.quad(plane.rectangle((0, plane.length), (0, height)), color, plane.normal, WALL)
        dark, top = toned(color, 0.82), toned(color, 1.15)
        y = joints
        while y < height - 0.2 and stage.scale(plane.start[1]) * joints > 4:
            stage.quad(plane.rectangle((0, plane.length), (y - 0.02, y + 0.02)), dark, plane.normal, None)
            y += joints
        stage.quad(plane.rectangle((0, plane.length), (height - 0.14, height)), top, plane.normal, None)

    return _thin(plane, height, paint)


def fence(stage: Stage, plane: Plane) -> Item:
    """Boards, or wire mesh and bars that one can see through; all of it counts as fence."""
    chance = stage.chance
    height = chance.uniform(0.9, 2.0)
    boards = chance.yes(0.5)
    wood = chance.vary(chance.pick(((132, 98, 64), (108, 84, 62), (222, 218, 206), (90, 74, 60))), 12)
    metal = chance.vary(chance.pick(((60, 66, 64), (128, 132, 132), (44, 74, 56))), 10)
    color, pitch = (wood, chance.uniform(0.22, 0.4)) if boards else (metal, chance.uniform(0.3, 0.8))

    def paint() -> None:
        outline = [stage.camera.project(*corner) for corner in plane.rectangle((0, plane.length), (0, height))]
        shade = stage.light.shade(color, plane.normal, 0.5 * (plane.start[1] + plane.end[1]))
        stage.canvas.glaze(outline, (*shade, 255 if boards else 90), FENCE)
        _paint_slats(stage, plane, height, color if not boards else toned(color, 0.72), pitch, 0.03 if boards else 0.035)

    return _thin(plane, height, paint)


def _paint_slats(stage: Stage, plane: Plane, height: float, color: Color, pitch: float, width: float) -> None:
    for y in (0.15, height - 0.12):
        stage.quad(plane.rectangle((0, plane.length), (y - 0.04, y + 0.04)), color, plane.normal, None)
    for i in range(int(plane.length / pitch) + 1):
        along = min(i * pitch, plane.length)
        z = plane.at(along, 0)[2]
        if z > NEAR and stage.scale(z) * pitch > 3.5:
            end = min(along + width, plane.length)
            stage.quad(plane.rectangle((along, end), (0, height)), color, plane.normal, None)


def _thin(plane: Plane, height: float, paint: Callable[[], None]) -> Item:
    (x0, z0), (x1, z1) = plane.start, plane.end
    return Item(
        z=max(z0, z1) - 0.05,
        paint=paint,
        footprint=rectangle(min(x0, x1) - 0.05, max(x0, x1) + 0.05, min(z0, z1), max(z0, z1) + 0.05),
        height=height,
    )
