"""Cars, trucks and buses."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, pi, sin

from data.streets.draw import Item, Point, Stage
from data.streets.labels import ATOM_IDS
from data.streets.look import Color, toned
from data.streets.solids import EdgePaint, Face, Part, Pose, Sight, Solid, paint_parts

GLASS, TYRE, HUB = (46, 54, 62), (22, 22, 24), (120, 122, 126)

CIRCLE: tuple[Point, ...] = tuple((cos(pi * i / 6), sin(pi * i / 6)) for i in range(12))

CAR_PROFILES: tuple[tuple[Point, ...], ...] = (
    # hatchback, saloon, off-roader, van: (forwards, up) in shares of length and height, rear bumper to front bumper
    ((0.0, 0.14), (0.01, 0.56), (0.1, 0.97), (0.52, 1.0), (0.73, 0.64), (0.97, 0.52), (1.0, 0.14)),
    ((0.0, 0.14), (0.0, 0.64), (0.14, 0.68), (0.3, 0.98), (0.56, 1.0), (0.75, 0.66), (0.98, 0.54), (1.0, 0.14)),
    ((0.0, 0.17), (0.0, 0.6), (0.06, 0.98), (0.58, 1.0), (0.74, 0.66), (0.98, 0.58), (1.0, 0.17)),
    ((0.0, 0.13), (0.0, 0.5), (0.02, 0.99), (0.7, 1.0), (0.86, 0.6), (0.99, 0.48), (1.0, 0.13)),
)
CAR_SIZES: tuple[tuple[float, float, float], ...] = ((3.9, 1.72, 1.48), (4.6, 1.8, 1.44), (4.5, 1.86, 1.72), (4.9, 1.92, 1.98))
"""Length, width and height in metres."""


def vehicle(stage: Stage, kind: str, pose: Pose) -> Item:
    """A "car", "truck" or "bus"."""
    makers = {"car": _car, "truck": _truck, "bus": _bus}
    parts, (length, width, height) = makers[kind](stage)
    slot = ATOM_IDS[kind]
    footprint = pose.footprint(0.5 * width, length)
    return Item(
        z=max(z for _, z in footprint) - 0.3,
        paint=lambda: paint_parts(stage, pose, parts, slot),
        footprint=footprint,
        height=0.85 * height,
    )


def vehicle_length(kind: str) -> float:
    """Metres of road to reserve."""
    return {"car": 5.0, "truck": 9.5, "bus": 12.0}[kind]


@dataclass(frozen=True, kw_only=True)
class Wheels:
    """Two wheels on each axle (metres forwards), as seen from the side and, as blocks, from behind and in front."""

    axles: Sequence[float]
    radius: float
    width: float

    def faces(self, sees: Sight) -> list[Face]:
        faces = []
        for b in self.axles:
            for side in (-1, 1):
                at = (0.5 * side * self.width, self.radius, b)
                if sees(at, (float(side), 0.0, 0.0)):
                    faces.append(self._disc(b, side))
                faces += [self._block(b, side, end) for end in (-1, 1) if sees(at, (0.0, 0.0, float(end)))]
        return faces

    def _disc(self, b: float, side: int) -> Face:
        outside, radius = side * (0.5 * self.width + 0.01), self.radius
        rim = [(outside, radius + radius * sine, b + radius * cosine) for cosine, sine in CIRCLE]
        hub = [(outside, radius + 0.55 * radius * sine, b + 0.55 * radius * cosine) for cosine, sine in CIRCLE]
        return Face(corners=rim, color=TYRE, normal=(float(side), 0.0, 0.0), details=[(hub, HUB)])

    def _block(self, b: float, side: int, end: int) -> Face:
        outside, inside = side * (0.5 * self.width + 0.01), side * (0.5 * self.width - 0.24)
        top, at = 1.2 * self.radius, b + 0.7 * end * self.radius
        corners = [(outside, 0.0, at), (outside, top, at), (inside, top, at), (inside, 0.0, at)]
        return Face(corners=corners, color=TYRE, normal=(0.0, 0.0, float(end)))


def _rear_paint(stage: Stage, color: Color, low: float, high: float) -> EdgePaint:
    """Tail lights and a number plate between two shares of the rear's height."""
    red = (255, 40, 30) if stage.light.kind.lamps or stage.chance.yes(0.25) else (150, 22, 22)
    bumper = toned(color, 0.55)
    return EdgePaint(
        details=[((-1, 0, 1, 0.3), bumper), ((-0.28, 0.4, 0.28, 0.56), (226, 226, 220))],
        glows=[((-0.98, low, -0.68, high), red), ((0.68, low, 0.98, high), red)],
    )


def _front_paint(stage: Stage, low: float, high: float) -> EdgePaint:
    lamp = (255, 248, 220) if stage.light.kind.lamps or stage.chance.yes(0.3) else (196, 200, 204)
    details = [
        ((-0.6, low, 0.6, high), (30, 30, 32)),
        ((-1.0, 0.85, 1.0, 1.0), (40, 40, 42)),
        ((-0.26, 0.6, 0.26, 0.74), (226, 226, 220)),
    ]
    return EdgePaint(details=details, glows=[((-0.95, low, -0.62, high), lamp), ((0.62, low, 0.95, high), lamp)])


def _car(stage: Stage) -> tuple[list[Part], tuple[float, float, float]]:
    shape = stage.chance.count((0.34, 0.32, 0.24, 0.10))
    length, width, height = CAR_SIZES[shape]
    length *= stage.chance.uniform(0.94, 1.06)
    profile = [(b * length, y * height) for b, y in CAR_PROFILES[shape]]
    color = stage.chance.vary(stage.chance.pick(stage.look.cars), 8)
    num = len(profile)
    window = EdgePaint(details=[((-0.86, 0.1, 0.86, 0.86), GLASS)])
    rear_glass = 2 if shape == 1 else 1
    edges = {
        0: _rear_paint(stage, color, 0.62, 0.92),
        rear_glass: window,
        num - 4: window,
        num - 2: _front_paint(stage, 0.15, 0.45),
    }
    solid = Solid(
        profile=profile,
        width=width,
        color=color,
        belt=0.6 * height,
        lean=0.16,
        edges=edges,
        sides=_car_sides(profile, shape, color),
    )
    wheels = Wheels(axles=(0.19 * length, 0.8 * length), radius=0.32, width=width)
    return [wheels, solid], (length, width, height)


def _car_sides(profile: Sequence[Point], shape: int, color: Color) -> list[tuple[list[Point], Color]]:
    """Side windows between the pillars, and the dark sill."""
    first = 2 if shape == 1 else 1
    (b0, y0), (b1, y1), (b2, y2), (b3, y3) = profile[first : first + 4]
    base = max(y0, y3) + 0.03
    middle = 0.5 * (b1 + b2)
    top = min(y1, y2) - 0.1
    rear = [(b0 + 0.45 * (b1 - b0) + 0.12, base), (b1 + 0.06, top), (middle - 0.05, top), (middle - 0.05, base)]
    front = [(middle + 0.05, base), (middle + 0.05, top), (b2 - 0.02, top), (b3 - 0.22, base)]
    sill = [
        (profile[0][0], profile[0][1]),
        (profile[0][0], profile[0][1] + 0.1),
        (profile[-1][0], profile[-1][1] + 0.1),
        profile[-1],
    ]
    dark = toned(color, 0.5)
    return [(sill, dark), (rear, GLASS), (front, GLASS)]


def _truck(stage: Stage) -> tuple[list[Part], tuple[float, float, float]]:
    chance = stage.chance
    length, width, height = chance.uniform(6.5, 9.0), 2.45, chance.uniform(3.0, 3.8)
    cargo, cabin = chance.vary(chance.pick(stage.look.lorries)), chance.vary(chance.pick(stage.look.lorries))
    split = length - 2.1
    low = 0.95
    seam = toned(cargo, 0.7)
    doors = EdgePaint(details=[((-0.02, 0, 0.02, 1), seam), ((-0.98, 0, -0.93, 1), seam), ((0.93, 0, 0.98, 1), seam)])
    stripe = [([(0.4, 0.5 * height), (0.4, 0.62 * height), (split - 0.5, 0.62 * height), (split - 0.5, 0.5 * height)], cabin)]
    load = ((0.0, low), (0.0, height), (split - 0.15, height), (split - 0.15, low))
    body = Solid(profile=load, width=width, color=cargo, edges={0: doors}, sides=stripe if chance.yes(0.5) else ())
    tall = min(height - 0.3, 2.8)
    nose = ((split, 0.5), (split, tall), (length - 0.35, tall), (length, 0.5 * tall), (length, 0.5))
    pane = [([(split + 0.9, 1.5), (split + 0.9, tall - 0.35), (length - 0.5, tall - 0.35), (length - 0.25, 1.5)], GLASS)]
    screen = EdgePaint(details=[((-0.88, 0.12, 0.88, 0.95), GLASS)])
    cab = Solid(profile=nose, width=width - 0.1, color=cabin, edges={2: screen, 3: _front_paint(stage, 0.5, 0.75)}, sides=pane)
    frame = Solid(
        profile=((0.1, 0.45), (0.1, low), (length - 0.2, low), (length - 0.2, 0.45)),
        width=width - 0.3,
        color=(44, 44, 46),
        edges={0: _rear_paint(stage, (60, 60, 60), 0.4, 0.8)},
    )
    wheels = Wheels(axles=(0.16 * length, 0.3 * length, length - 1.1), radius=0.48, width=width)
    return [frame, wheels, body, cab], (length, width, height)


def _bus(stage: Stage) -> tuple[list[Part], tuple[float, float, float]]:
    chance = stage.chance
    length, width, height = chance.uniform(9.5, 11.5), 2.5, chance.uniform(2.9, 3.2)
    color = chance.vary(chance.pick(stage.look.buses))
    second = chance.vary(chance.pick(stage.look.lorries)) if chance.yes(0.5) else color
    sides: list[tuple[list[Point], Color]] = [([(0, 0.3), (0, 0.95), (length, 0.95), (length, 0.3)], second)]
    at = 0.35
    while at < length - 1.3:
        sides.append(([(at, 1.3), (at, height - 0.45), (at + 1.25, height - 0.45), (at + 1.25, 1.3)], GLASS))
        at += 1.4
    sides.append(([(length - 1.2, 0.4), (length - 1.2, height - 0.5), (length - 0.2, height - 0.5), (length - 0.2, 0.4)], (34, 40, 46)))
    amber = (255, 170, 40) if chance.yes(0.8) else (60, 60, 60)
    rear = _rear_paint(stage, second, 0.18, 0.34)
    rear = EdgePaint(details=[*rear.details[1:], ((-0.8, 0.5, 0.8, 0.82), GLASS)], glows=rear.glows)
    front = EdgePaint(
        details=[((-0.92, 0.18, 0.92, 0.66), GLASS), ((-0.7, 0.04, 0.7, 0.14), (20, 20, 20)), ((-1, 0.84, 1, 1), (50, 50, 52))],
        glows=[
            ((-0.45, 0.06, 0.45, 0.12), amber),
            ((-0.9, 0.74, -0.6, 0.82), (240, 240, 226)),
            ((0.6, 0.74, 0.9, 0.82), (240, 240, 226)),
        ],
    )
    profile = ((0.0, 0.3), (0.0, height), (length, height), (length, 0.3))
    solid = Solid(profile=profile, width=width, color=color, edges={0: rear, 2: front}, sides=sides)
    wheels = Wheels(axles=(0.24 * length, 0.8 * length), radius=0.48, width=width)
    return [solid, wheels], (length, width, height)
