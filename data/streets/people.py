"""People on foot, and riders with their bicycles and motorcycles: limbs are capsules between joints in the world."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, pi, sin

from data.streets.draw import Item, Stage
from data.streets.labels import ATOM_IDS
from data.streets.light import Vector
from data.streets.look import Color, toned
from data.streets.solids import Local


@dataclass(frozen=True, kw_only=True)
class Limb:
    """A capsule from `start` to `end` (right, up, forwards; metres) of `atom`, with a radius in metres at both ends."""

    start: Local
    end: Local
    radius: tuple[float, float]
    color: Color
    atom: str


@dataclass(frozen=True, kw_only=True)
class Wheel:
    """A disc in the plane forwards-up; spokes are seen through where `solid` is False."""

    forwards: float
    radius: float
    solid: bool
    atom: str


@dataclass(frozen=True, kw_only=True)
class Dress:
    """Colours of one person."""

    skin: Color
    hair: Color
    top: Color
    legs: Color
    shoes: Color


def draw_dress(stage: Stage) -> Dress:
    chance, look = stage.chance, stage.look
    return Dress(
        skin=chance.pick(look.skins),
        hair=chance.pick(((28, 22, 20), (70, 48, 32), (140, 108, 66), (150, 146, 142))),
        top=chance.vary(chance.pick(look.clothes)),
        legs=chance.vary(chance.pick(((40, 44, 60), (30, 30, 34), (70, 84, 116), (96, 88, 76), (140, 130, 110)))),
        shoes=chance.vary((52, 48, 46)),
    )


def person(stage: Stage, x: float, z: float, angle: float) -> Item:
    """Someone who stands or walks; `angle` 0 looks away from the camera, pi / 2 to the right."""
    chance = stage.chance
    height = chance.uniform(1.5, 1.92) if chance.yes(0.88) else chance.uniform(1.05, 1.3)
    limbs = _walker(stage, height, draw_dress(stage), chance.uniform(0.2, 1.0) * chance.sign())
    return _item(stage, x, z, angle, limbs, (), 0.25, height)


def _walker(stage: Stage, h: float, dress: Dress, stride: float) -> list[Limb]:
    limbs = []
    for side in (-1, 1):
        step = side * stride * 0.14 * h
        hip, knee, foot = (
            (side * 0.05 * h, 0.5 * h, 0.0),
            (side * 0.055 * h, 0.27 * h, 0.7 * step),
            (side * 0.055 * h, 0.03 * h, step),
        )
        shoulder, hand = (side * 0.115 * h, 0.8 * h, 0.0), (side * 0.15 * h, 0.46 * h, -0.9 * step)
        limbs += [
            Limb(start=hip, end=knee, radius=(0.055 * h, 0.042 * h), color=dress.legs, atom="person"),
            Limb(start=knee, end=foot, radius=(0.042 * h, 0.03 * h), color=dress.legs, atom="person"),
            Limb(
                start=foot,
                end=(foot[0], 0.02 * h, foot[2] + 0.07 * h),
                radius=(0.03 * h, 0.025 * h),
                color=dress.shoes,
                atom="person",
            ),
            Limb(start=shoulder, end=hand, radius=(0.036 * h, 0.028 * h), color=toned(dress.top, 0.82), atom="person"),
        ]
    coat = 0.36 if stage.chance.yes(0.25) else 0.52
    limbs.append(Limb(start=(0, 0.77 * h, 0), end=(0, coat * h, 0), radius=(0.105 * h, 0.09 * h), color=dress.top, atom="person"))
    if stage.chance.yes(0.3):
        bag = stage.chance.vary(stage.chance.pick(stage.look.clothes))
        limbs.append(Limb(start=(0, 0.75 * h, -0.1 * h), end=(0, 0.6 * h, -0.1 * h), radius=(0.07 * h,) * 2, color=bag, atom="person"))
    return limbs + _head((0, 0.92 * h, 0.01 * h), 0.062 * h, dress, "person", helmet=None)


def _head(at: Local, radius: float, dress: Dress, atom: str, *, helmet: Color | None) -> list[Limb]:
    x, y, z = at
    crown = (x, y + 0.35 * radius, z - 0.25 * radius)
    cover, size = (helmet, 1.2) if helmet else (dress.hair, 1.0)
    return [
        Limb(start=at, end=(x, y - radius, z), radius=(radius, 0.6 * radius), color=dress.skin, atom=atom),
        Limb(start=crown, end=(x, y + 0.45 * radius, z), radius=(size * radius,) * 2, color=cover, atom=atom),
    ]


def _rider(dress: Dress, atom: str, hip: Local, hands: Local, feet: Sequence[Local], helmet: Color | None) -> list[Limb]:
    """Someone seated at `hip` who leans to `hands`, a foot on either side."""
    _, hip_y, hip_b = hip
    neck = (0.0, hip_y + 0.5, hip_b + 0.45 * (hands[2] - hip_b))
    limbs = []
    for side, foot in zip((-1, 1), feet, strict=True):
        knee = (side * 0.14, 0.5 * (hip_y + foot[1]) + 0.12, max(hip_b, foot[2]) + 0.2)
        limbs += [
            Limb(start=(side * 0.09, hip_y, hip_b), end=knee, radius=(0.095, 0.07), color=dress.legs, atom=atom),
            Limb(start=knee, end=foot, radius=(0.07, 0.05), color=dress.legs, atom=atom),
            Limb(start=(side * 0.2, neck[1] - 0.04, neck[2]), end=(side * hands[0], *hands[1:]), radius=(0.06, 0.05),
                 color=toned(dress.top, 0.82), atom=atom),
        ]  # fmt: skip
    limbs.append(Limb(start=neck, end=(0.0, hip_y + 0.05, hip_b), radius=(0.18, 0.16), color=dress.top, atom=atom))
    return limbs + _head((0.0, neck[1] + 0.26, neck[2] + 0.06), 0.115, dress, atom, helmet=helmet)


# Sides of a bicycle's frame, (forwards, up) from joint to joint: seat tube, chain and seat stays, top and down tube, fork.
BICYCLE_TUBES = (
    ((-0.1, 0.3), (-0.2, 0.92)), ((-0.52, 0.34), (-0.1, 0.3)), ((-0.52, 0.34), (-0.17, 0.8)),
    ((-0.17, 0.8), (0.4, 0.82)), ((-0.1, 0.3), (0.4, 0.78)), ((0.52, 0.34), (0.38, 1.0)),
)  # fmt: skip
DARK, METAL = (30, 30, 32), (110, 112, 116)


def bicycle(stage: Stage, x: float, z: float, angle: float, *, ridden: bool) -> Item:
    """A bicycle with its middle at (x, z), with or without a rider; `angle` as for `person`."""
    chance = stage.chance
    color = chance.vary(chance.pick((DARK, (150, 30, 30), (40, 80, 140), (190, 190, 190), (50, 100, 60), (200, 160, 40))))
    limbs = [_part((0, y0, b0), (0, y1, b1), 0.035, color, "bicycle") for (b0, y0), (b1, y1) in BICYCLE_TUBES]
    limbs.append(_part((-0.28, 1.02, 0.36), (0.28, 1.02, 0.36), 0.03, DARK, "bicycle"))
    limbs.append(_part((0, 0.95, -0.32), (0, 0.95, -0.08), 0.06, DARK, "bicycle"))
    wheels = [Wheel(forwards=b, radius=0.35, solid=False, atom="bicycle") for b in (-0.52, 0.52)]
    if ridden:
        turn = chance.uniform(0, 2 * pi)
        feet = [(0.12 * side, 0.3 + 0.16 * side * cos(turn), -0.1 + 0.16 * side * sin(turn)) for side in (-1, 1)]
        helmet = chance.vary(chance.pick(stage.look.clothes)) if chance.yes(0.45) else None
        limbs += _rider(draw_dress(stage), "bicyclist", (0, 1.0, -0.2), (0.26, 1.04, 0.36), feet, helmet)
    return _item(stage, x, z, angle, limbs, wheels, 0.55, 1.75 if ridden else 1.0)


def motorcycle(stage: Stage, x: float, z: float, angle: float, *, ridden: bool) -> Item:
    """A motorcycle with its middle at (x, z), with or without a rider; `angle` as for `person`."""
    chance = stage.chance
    color = chance.vary(chance.pick(((170, 26, 26), DARK, (30, 70, 150), (220, 220, 216), (40, 120, 70), (220, 120, 30))))
    limbs = _motorcycle_body(color, from_behind=cos(angle) > 0)
    wheels = [Wheel(forwards=b, radius=0.33, solid=True, atom="motorcycle") for b in (-0.68, 0.72)]
    if ridden:
        helmet = chance.vary(chance.pick(stage.look.cars))
        feet = [(0.2 * side, 0.32, -0.1) for side in (-1, 1)]
        limbs += _rider(draw_dress(stage), "motorcyclist", (0, 0.88, -0.3), (0.32, 1.04, 0.32), feet, helmet)
    return _item(stage, x, z, angle, limbs, wheels, 0.7, 1.6 if ridden else 1.0)


def _motorcycle_body(color: Color, *, from_behind: bool) -> list[Limb]:
    """Engine, exhaust, fork, seat, tank, tail, handlebar, cowl; and of the two lights the one that shows."""
    parts: list[tuple[Local, Local, float, Color]] = [
        ((0, 0.45, -0.15), (0, 0.5, 0.2), 0.2, METAL),
        ((0.08, 0.36, -0.75), (0.08, 0.45, -0.1), 0.08, METAL),
        ((0, 0.34, 0.66), (0, 0.95, 0.42), 0.06, METAL),
        ((0, 0.78, -0.75), (0, 0.76, -0.1), 0.13, DARK),
        ((0, 0.82, 0.0), (0, 0.86, 0.36), 0.17, color),
        ((0, 0.72, -0.85), (0, 0.66, -0.5), 0.1, color),
        ((-0.34, 1.02, 0.36), (0.34, 1.02, 0.36), 0.04, DARK),
        ((0, 0.9, 0.5), (0, 0.9, 0.56), 0.13, color),
    ]
    tail, head = (
        ((-0.06, 0.74, -0.9), (0.06, 0.74, -0.9), 0.05, (220, 30, 26)),
        ((0, 0.9, 0.6), (0, 0.9, 0.61), 0.08, (250, 245, 215)),
    )
    return [_part(start, end, radius, tint, "motorcycle") for start, end, radius, tint in (*parts, tail if from_behind else head)]


def _part(start: Local, end: Local, radius: float, color: Color, atom: str) -> Limb:
    return Limb(start=start, end=end, radius=(radius, radius), color=color, atom=atom)


def _item(
    stage: Stage, x: float, z: float, angle: float, limbs: Sequence[Limb], wheels: Sequence[Wheel], reach: float, height: float
) -> Item:
    right, ahead = (cos(angle), -sin(angle)), (sin(angle), cos(angle))

    def place(at: Local) -> Vector:
        return x + at[0] * right[0] + at[2] * ahead[0], at[1], z + at[0] * right[1] + at[2] * ahead[1]

    def paint() -> None:
        for wheel in wheels:
            _paint_wheel(stage, place((0, wheel.radius, wheel.forwards)), ahead, wheel)
        for limb in limbs:  # the machine first, then who sits on it
            _paint_limb(stage, place(limb.start), place(limb.end), limb)

    foot = [place((a, 0.0, b)) for a, b in ((-0.16, -reach), (0.16, -reach), (0.16, reach), (-0.16, reach))]
    return Item(z=z + 0.1, paint=paint, footprint=[(at[0], at[2]) for at in foot], height=0.9 * height)


def _paint_limb(stage: Stage, start: Vector, end: Vector, limb: Limb) -> None:
    scale = stage.scale(start[2])
    a, b = stage.camera.project(*start), stage.camera.project(*end)
    shade = stage.light.shade(limb.color, (0.35, 0.25, -0.9), start[2])
    stage.canvas.capsule(a, b, limb.radius[0] * scale, limb.radius[1] * scale, shade, ATOM_IDS[limb.atom])


def _paint_wheel(stage: Stage, hub: Vector, ahead: tuple[float, float], wheel: Wheel) -> None:
    scale = stage.scale(hub[2])
    u, v = stage.camera.project(*hub)
    slot = ATOM_IDS[wheel.atom]
    # Seen from behind a wheel is as wide as its tyre.
    radius_u = max(abs(ahead[0]) * wheel.radius, 0.035 if not wheel.solid else 0.08) * scale
    radius_v = wheel.radius * scale
    tyre = stage.light.shade((30, 30, 32), (0.0, 0.0, -1.0), hub[2])

    def ring(share: float) -> list[tuple[float, float]]:
        return [(u + share * radius_u * cos(pi * i / 8), v + share * radius_v * sin(pi * i / 8)) for i in range(16)]

    if wheel.solid:
        stage.canvas.polygon(ring(1), tyre, slot)
        stage.canvas.detail(ring(0.5), stage.light.shade((120, 122, 126), (0.0, 0.0, -1.0), hub[2]))
        return
    stage.canvas.glaze(ring(1), (*tyre, 90), slot)
    for share in (1.0, 0.9):
        points = ring(share)
        for p, q in zip(points, [*points[1:], points[0]], strict=True):
            stage.canvas.capsule(p, q, 0.02 * scale, 0.02 * scale, tyre, slot)
