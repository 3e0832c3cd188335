"""Drawing: a canvas that holds picture and atom ids in step, a camera, and solids seen through it.

World coordinates are metres: x to the right of the road's middle, y up from the road, z away along the road. The
camera bends x with z (a curved road), so that scenes are laid out as if every road were straight.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from data.streets.chance import Chance
from data.streets.labels import ATOM_IDS, ATOMS
from data.streets.light import Light, Vector
from data.streets.look import Color, Look

Point = tuple[float, float]
SUPERSAMPLING = 2
"""Pictures are drawn this many times larger and averaged down; atom ids take the commonest of each block."""
NEAR = 0.6
"""Metres: nothing nearer is drawn."""


class Canvas:
    """Picture and id map, SUPERSAMPLING times larger than the scene. Whatever changes the one at a place owns the other.

    A slot is what the id map holds while drawing: an atom's id, or a number of its own for each sign front, so that
    the visible pixels of one sign can be told from those of its neighbour. `slot_atoms` (256,) uint8 leads back to atoms.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        height, width = (SUPERSAMPLING * side for side in size)
        self.height, self.width = height, width
        self.picture = Image.new("RGB", (width, height))
        self.slots = Image.new("L", (width, height))
        self._picture = ImageDraw.Draw(self.picture)
        self._glass = ImageDraw.Draw(self.picture, "RGBA")
        self._slots = ImageDraw.Draw(self.slots)
        self.slot_atoms = np.arange(256, dtype=np.uint8)
        self.num_slots = len(ATOMS)

    def own_slot(self, atom: str) -> int:
        """A slot for one instance of `atom`."""
        slot = self.num_slots
        self.slot_atoms[slot] = ATOM_IDS[atom]
        self.num_slots += 1
        return slot

    def polygon(self, points: Sequence[Point], color: Color, slot: int) -> None:
        self._picture.polygon(points, fill=color)
        self._slots.polygon(points, fill=slot)

    def detail(self, points: Sequence[Point], color: Color) -> None:
        """A polygon inside something that is drawn already and keeps its id."""
        self._picture.polygon(points, fill=color)

    def glaze(self, points: Sequence[Point], color: tuple[int, int, int, int], slot: int) -> None:
        """A polygon that one can see through in the picture (RGBA), and that counts as `slot`."""
        self._glass.polygon(points, fill=color)
        self._slots.polygon(points, fill=slot)

    def ellipse(self, center: Point, radius_u: float, radius_v: float, color: Color, slot: int) -> None:
        u, v = center
        box = (u - radius_u, v - radius_v, u + radius_u, v + radius_v)
        self._picture.ellipse(box, fill=color)
        self._slots.ellipse(box, fill=slot)

    def capsule(self, start: Point, end: Point, radius_start: float, radius_end: float, color: Color, slot: int) -> None:
        """A thick line with round ends."""
        du, dv = end[0] - start[0], end[1] - start[1]
        length = max((du * du + dv * dv) ** 0.5, 1e-6)
        nu, nv = -dv / length, du / length
        a, b = max(radius_start, 0.5), max(radius_end, 0.5)
        (u0, v0), (u1, v1) = start, end
        corners = [(u0 + a * nu, v0 + a * nv), (u1 + b * nu, v1 + b * nv), (u1 - b * nu, v1 - b * nv), (u0 - a * nu, v0 - a * nv)]
        self.polygon(corners, color, slot)
        for center, radius in ((start, a), (end, b)):
            if radius > 1.5:
                self.ellipse(center, radius, radius, color, slot)

    def reduce(self) -> tuple[Image.Image, np.ndarray]:
        """The picture averaged down, and (H, W) uint8 slots: of each block of four the commonest."""
        fine = np.asarray(self.slots)
        a, b, c, d = fine[::2, ::2], fine[::2, 1::2], fine[1::2, ::2], fine[1::2, 1::2]
        # Two of b, c, d that agree are at least as many as a with its like; if none agree, a is as common as any.
        slots = np.where((b == c) | (b == d), b, np.where(c == d, c, a))
        return self.picture.reduce(SUPERSAMPLING), slots


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A pinhole. `focal`, `center_u` and `horizon_v` are in canvas pixels; `x` and `height` in metres.

    bend: the road's middle lies at x = bend * z**2 / 2.
    """

    focal: float
    center_u: float
    horizon_v: float
    x: float
    height: float
    bend: float

    def project(self, x: float, y: float, z: float) -> Point:
        if z < NEAR:
            z = NEAR
        scale = self.focal / z
        return self.center_u + scale * (x - self.x + 0.5 * self.bend * z * z), self.horizon_v + scale * (self.height - y)

    def ground_z(self, v: float) -> float:
        """Distance of the road seen in row `v`."""
        return self.focal * self.height / max(v - self.horizon_v, 1e-6)


@dataclass
class Stage:
    """All that is needed to draw one scene."""

    canvas: Canvas
    camera: Camera
    light: Light
    look: Look
    chance: Chance

    def scale(self, z: float) -> float:
        """Canvas pixels per metre at distance z."""
        return self.camera.focal / (z if z > NEAR else NEAR)

    def quad(self, corners: Sequence[Vector], color: Color, normal: Vector, slot: int | None) -> None:
        """A flat polygon in the world; without a slot a detail of what it lies on."""
        points = [self.camera.project(*corner) for corner in corners]
        shade = self.light.shade(color, normal, sum(corner[2] for corner in corners) / len(corners))
        if slot is None:
            self.canvas.detail(points, shade)
        else:
            self.canvas.polygon(points, shade, slot)

    def upright(self, x: float, z: float, y0: float, y1: float, radius: float, color: Color, atom: str) -> None:
        """A round post."""
        half = max(radius * self.scale(z), 0.9)
        (u, v0), (_, v1) = self.camera.project(x, y0, z), self.camera.project(x, y1, z)
        slot = ATOM_IDS[atom]
        self.canvas.polygon([(u - half, v0), (u - half, v1), (u + half, v1), (u + half, v0)], self._post(color, z, -1), slot)
        if half > 1.5:  # the right half apart, so that the post looks round
            self.canvas.polygon([(u, v0), (u, v1), (u + half, v1), (u + half, v0)], self._post(color, z, 1), slot)

    def _post(self, color: Color, z: float, side: int) -> Color:
        return self.light.shade(color, (0.8 * side, 0.0, -0.6), z)

    def sees(self, point: Vector, normal: Vector) -> bool:
        """Whether a surface shows its front to the camera."""
        x, y, z = point
        camera = self.camera
        to_camera_x = camera.x - x - 0.5 * camera.bend * z * z
        return normal[0] * to_camera_x + normal[1] * (camera.height - y) > normal[2] * z


@dataclass(frozen=True, kw_only=True)
class Item:
    """Something that stands on the ground; `z` is the distance of its far end in metres.

    footprint: corners (x, z) of where it touches the ground, for its shadow; `height` in metres.
    """

    z: float
    paint: Callable[[], None]
    footprint: Sequence[Point] = ()
    height: float = 0.0
    shadow_from: float = 0.0
    """Metres above the ground where what throws a shadow begins (a tree's crown)."""


def rectangle(x0: float, x1: float, z0: float, z1: float) -> list[Point]:
    return [(x0, z0), (x1, z0), (x1, z1), (x0, z1)]


def convex_hull(points: Sequence[Point]) -> list[Point]:
    """Corners of the hull, counter-clockwise (Andrew's monotone chain)."""
    ordered = sorted(set(points))
    if len(ordered) < 3:
        return ordered
    return _half_hull(ordered) + _half_hull(ordered[::-1])


def _half_hull(ordered: Sequence[Point]) -> list[Point]:
    hull: list[Point] = []
    for p in ordered:
        while len(hull) > 1 and _turn(hull[-2], hull[-1], p) <= 0:
            hull.pop()
        hull.append(p)
    return hull[:-1]


def _turn(o: Point, a: Point, b: Point) -> float:
    return (a[0] - o[0]) * (b[1] - o[1]) - (a[1] - o[1]) * (b[0] - o[0])
