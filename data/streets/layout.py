"""The plan of a street: lanes, what lies along both sides, a junction; and the camera in it."""

from dataclasses import dataclass

from data.streets.chance import Chance
from data.streets.draw import SUPERSAMPLING, Camera
from data.streets.look import Look

CURB = 0.22
"""Width of the curb in metres."""
FAR = 130.0
"""Metres: the end of what is laid out along the road."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """One side of the road. `sign` is 1 on the right and -1 on the left; widths in metres, outwards from the asphalt."""

    sign: int
    edge: float
    """Distance of the asphalt's edge from the road's middle."""
    parking: float
    """Width of the parking lane, the outermost part of the asphalt; 0 without one."""
    verge: float
    """Width of grass between curb and sidewalk; 0 without."""
    sidewalk: float
    frontage: str

    def x(self, outwards: float) -> float:
        """The x of a place `outwards` metres off the asphalt."""
        return self.sign * (self.edge + outwards)

    @property
    def walk_from(self) -> float:
        return CURB + self.verge

    @property
    def back(self) -> float:
        """Where the sidewalk ends and gardens or buildings begin."""
        return self.walk_from + self.sidewalk


@dataclass(frozen=True, kw_only=True)
class Layout:
    lanes_left: int
    """Oncoming lanes; 0 on a one-way street."""
    lanes_right: int
    lane_width: float
    left: Side
    right: Side
    junction: tuple[float, float] | None
    """z of the near and far edge of the crossing street."""
    ends: bool
    """Whether the road ends at the junction (a T)."""
    crosswalks: tuple[float, ...]
    """z of the near edges of crosswalks, CROSSWALK_DEPTH deep."""
    base_x: float
    """x of the line between the two directions, which is not the middle where the lanes are not even."""

    @property
    def sides(self) -> tuple[Side, Side]:
        return self.left, self.right

    @property
    def z_end(self) -> float:
        """Where the road and all along it ends."""
        return self.junction[1] if self.junction and self.ends else FAR

    def lane_x(self, lane: int) -> float:
        """Middle of a lane: 0, 1 ... to the right of the dividing line, -1, -2 ... to its left."""
        return self.base_x + (lane + 0.5) * self.lane_width

    def clear_of_junction(self, z: float, margin: float = 0.0) -> bool:
        if z > self.z_end - margin:
            return False
        return not self.junction or not self.junction[0] - margin < z < self.junction[1] + margin


CROSSWALK_DEPTH = 3.0


def draw_layout(chance: Chance, look: Look) -> Layout:
    lane_width = chance.uniform(2.9, 3.6)
    right = chance.count((0.0, 0.74, 0.20, 0.06))
    left = chance.count((0.16, 0.60, 0.18, 0.06))
    half = 0.5 * (right + left) * lane_width
    frontages = [chance.pick_weighted(look.frontage) for _ in range(2)]
    if chance.yes(0.5):
        frontages[1] = frontages[0]
    sides = [_draw_side(chance, look, sign, half, frontage) for sign, frontage in zip((-1, 1), frontages, strict=True)]
    junction = _draw_junction(chance) if chance.yes(look.junction) else None
    return Layout(
        lanes_left=left,
        lanes_right=right,
        lane_width=lane_width,
        left=sides[0],
        right=sides[1],
        junction=junction,
        ends=chance.yes(look.t_junction),
        crosswalks=_draw_crosswalks(chance, look, junction),
        base_x=half - right * lane_width,
    )


def _draw_side(chance: Chance, look: Look, sign: int, half: float, frontage: str) -> Side:
    parking = chance.uniform(2.0, 2.3) if chance.yes(look.parked) else 0.0
    verge = chance.uniform(0.8, 2.4) if chance.yes(0.12 if frontage == "urban" else 0.45) else 0.0
    return Side(
        sign=sign,
        edge=half + (parking or chance.uniform(0.2, 0.6)),
        parking=parking,
        verge=verge,
        sidewalk=chance.uniform(1.6, 4.2 if frontage == "urban" else 2.6),
        frontage=frontage,
    )


def _draw_junction(chance: Chance) -> tuple[float, float]:
    near = chance.uniform(13, 45)
    return near, near + chance.uniform(6, 11)


def _draw_crosswalks(chance: Chance, look: Look, junction: tuple[float, float] | None) -> tuple[float, ...]:
    if not chance.yes(look.crosswalk):
        return ()
    if junction and chance.yes(0.8):
        return (junction[0] - CROSSWALK_DEPTH - 0.8, junction[1] + 0.8)[: chance.integer(1, 2)]
    return (chance.uniform(7, 26),)


def draw_camera(chance: Chance, look: Look, layout: Layout, size: tuple[int, int]) -> Camera:
    """A camera in one of the lanes to the right."""
    height, width = (SUPERSAMPLING * side for side in size)
    bend = chance.sign() * chance.uniform(0.001, 0.007) if chance.yes(look.curved) else 0.0
    lane = chance.integer(0, layout.lanes_right - 1)
    return Camera(
        focal=chance.uniform(*look.focal) * width,
        center_u=chance.uniform(0.42, 0.58) * width,
        horizon_v=chance.uniform(*look.horizon) * height,
        x=layout.lane_x(lane) + chance.uniform(-0.4, 0.4),
        height=chance.uniform(*look.camera_height),
        bend=bend,
    )
