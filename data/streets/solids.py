"""Solids with flat faces: vehicles and street furniture are profiles swept across their width."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

from data.streets.draw import Point, Stage
from data.streets.light import Vector
from data.streets.look import Color

Local = tuple[float, float, float]
"""A place in an object's own frame: metres to its right, up, and forwards from its rear end."""
Sight = Callable[[Local, Vector], bool]
DETAIL_SCALE = 12.0
"""Canvas pixels per metre below which windows and lamps are too small to draw."""


@dataclass(frozen=True, kw_only=True)
class Pose:
    """Where an object's rear end stands, and where its front points: "away", "towards", "right" or "left"."""

    x: float
    z: float
    heading: str

    def turn(self, a: float, b: float) -> Point:
        """The direction (x, z) of `a` to the right and `b` forwards."""
        if self.heading == "away":
            return a, b
        if self.heading == "towards":
            return -a, -b
        return (b, -a) if self.heading == "right" else (-b, a)

    def place(self, at: Local) -> Vector:
        dx, dz = self.turn(at[0], at[2])
        return self.x + dx, at[1], self.z + dz

    def footprint(self, half_width: float, length: float) -> list[Point]:
        corners = ((-half_width, 0.0), (half_width, 0.0), (half_width, length), (-half_width, length))
        turned = [self.turn(a, b) for a, b in corners]
        return [(self.x + dx, self.z + dz) for dx, dz in turned]


@dataclass(frozen=True, kw_only=True)
class Face:
    """A flat face and what is painted on it: polygons with a colour; `glows` are lamps, which shine by themselves."""

    corners: Sequence[Local]
    color: Color
    normal: Vector
    details: Sequence[tuple[Sequence[Local], Color]] = ()
    glows: Sequence[tuple[Sequence[Local], Color]] = ()


@dataclass(frozen=True, kw_only=True)
class Solid:
    """A profile (forwards, up), from the lower rear end over the roof to the lower front, swept across `width` metres.

    Above `belt` metres the sides lean in, by `lean` of the width at the top.
    """

    profile: Sequence[Point]
    width: float
    color: Color
    belt: float = 99.0
    lean: float = 0.0
    edges: Mapping[int, "EdgePaint"] = field(default_factory=dict)
    """Paint on the face over profile points i and i + 1."""
    sides: Sequence[tuple[Sequence[Point], Color]] = ()
    """Polygons (forwards, up) on both sides."""

    def half(self, y: float) -> float:
        if y <= self.belt:
            return 0.5 * self.width
        return 0.5 * self.width * (1 - self.lean * (y - self.belt) / (self.height - self.belt))

    @cached_property
    def height(self) -> float:
        return max(y for _, y in self.profile)

    def faces(self, sees: Sight) -> list[Face]:
        swept = [self._swept(i, sees) for i in range(len(self.profile) - 1)]
        return [face for face in (*swept, self._side(-1, sees), self._side(1, sees)) if face]

    def _side(self, side: int, sees: Sight) -> Face | None:
        def lift(points: Sequence[Point]) -> list[Local]:
            return [(side * self.half(y), y, b) for b, y in points]

        corners, normal = lift(self.profile), (float(side), 0.0, 0.0)
        if not sees(corners[0], normal):
            return None
        return Face(corners=corners, color=self.color, normal=normal, details=[(lift(points), color) for points, color in self.sides])

    def _swept(self, i: int, sees: Sight) -> Face | None:
        (b0, y0), (b1, y1) = self.profile[i : i + 2]
        length = max(((b1 - b0) ** 2 + (y1 - y0) ** 2) ** 0.5, 1e-6)
        normal = (0.0, (b1 - b0) / length, -(y1 - y0) / length)
        if not sees((self.half(y0), y0, b0), normal):
            return None

        def on(across: float, along: float) -> Local:
            y = y0 + along * (y1 - y0)
            return across * self.half(y), y, b0 + along * (b1 - b0)

        def box(edges: tuple[float, float, float, float]) -> list[Local]:
            a0, t0, a1, t1 = edges
            return [on(a0, t0), on(a0, t1), on(a1, t1), on(a1, t0)]

        paint = self.edges.get(i, EdgePaint())
        return Face(
            corners=box((-1, 0, 1, 1)),
            color=paint.color or self.color,
            normal=normal,
            details=[(box(edges), color) for edges, color in paint.details],
            glows=[(box(edges), color) for edges, color in paint.glows],
        )


@dataclass(frozen=True, kw_only=True)
class EdgePaint:
    """Colour of a swept face, and boxes on it: (from, low, to, high), across from -1 to 1 and along the edge from 0 to 1."""

    color: Color | None = None
    details: Sequence[tuple[tuple[float, float, float, float], Color]] = ()
    glows: Sequence[tuple[tuple[float, float, float, float], Color]] = ()


class Part(Protocol):
    """Something made of flat faces."""

    def faces(self, sees: Sight) -> list[Face]:
        """The faces of which `sees` (a corner and the normal, in the object's frame) tells that they show their front."""
        ...


def paint_parts(stage: Stage, pose: Pose, parts: Sequence[Part], slot: int) -> None:
    """Paint the faces that show their front, the farthest first."""

    def turned(normal: Vector) -> Vector:
        nx, nz = pose.turn(normal[0], normal[2])
        return nx, normal[1], nz

    def sees(corner: Local, normal: Vector) -> bool:
        return stage.sees(pose.place(corner), turned(normal))

    placed = []
    for face in (face for part in parts for face in part.faces(sees)):
        corners = [pose.place(corner) for corner in face.corners]
        depths = [corner[2] for corner in corners]
        if min(depths) > 0.8:
            placed.append((sum(depths) / len(depths), face, corners))
    for z, face, corners in sorted(placed, key=lambda entry: -entry[0]):
        normal = turned(face.normal)
        stage.quad(corners, face.color, normal, slot)
        if stage.scale(z) > DETAIL_SCALE:
            _paint_details(stage, pose, face, normal)


def _paint_details(stage: Stage, pose: Pose, face: Face, normal: Vector) -> None:
    for points, color in face.details:
        stage.quad([pose.place(point) for point in points], color, normal, None)
    for points, color in face.glows:
        placed = [pose.place(point) for point in points]
        stage.canvas.detail([stage.camera.project(*point) for point in placed], stage.light.glow(color, placed[0][2]))


def box(width: float, height: float, length: float, color: Color, *, low: float = 0.0, start: float = 0.0) -> Solid:
    """A plain box from `low` to `height`, `start` metres in front of the object's rear."""
    end = start + length
    return Solid(profile=((start, low), (start, height), (end, height), (end, low)), width=width, color=color)
