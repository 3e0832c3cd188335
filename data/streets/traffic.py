"""What is on the road: parked and driving vehicles, riders, crossing traffic."""

from math import pi

from data.streets.draw import Item, Stage
from data.streets.layout import FAR, Layout, Side
from data.streets.people import bicycle, motorcycle
from data.streets.roadside import first_visible_z
from data.streets.solids import Pose
from data.streets.vehicles import vehicle, vehicle_length


def place_traffic(stage: Stage, layout: Layout) -> list[Item]:
    taken = stage.chance.uniform(*stage.look.traffic)
    items = []
    for lane in range(-layout.lanes_left, layout.lanes_right):
        items += _fill_lane(stage, layout, lane, taken)
    for side in layout.sides:
        if side.parking:
            items += _fill_parking(stage, layout, side)
    if layout.junction and stage.chance.yes(0.6):
        items += _crossing_traffic(stage, layout.junction)
    return items + _place_riders(stage, layout)


def _fill_lane(stage: Stage, layout: Layout, lane: int, taken: float) -> list[Item]:
    """Vehicles one behind the other; in the camera's own lane the first keeps its distance."""
    chance = stage.chance
    x = layout.lane_x(lane)
    own = abs(x - stage.camera.x) < 0.6 * layout.lane_width
    z = chance.uniform(9, 30) if own else chance.uniform(5, 20)
    items = []
    while z < 60:
        kind = chance.pick_weighted(stage.look.vehicles)
        length = vehicle_length(kind)
        wide = own and kind != "car"
        start = z + 6 if wide else z
        if chance.yes(taken) and layout.clear_of_junction(start, 0.5) and layout.clear_of_junction(start + length, 0.5):
            off = chance.uniform(-0.25, 0.25)
            pose = Pose(x=x + off, z=start, heading="away") if lane >= 0 else Pose(x=x + off, z=start + length, heading="towards")
            items.append(vehicle(stage, kind, pose))
        z = start + length + chance.uniform(4, 22)
    return items


def _fill_parking(stage: Stage, layout: Layout, side: Side) -> list[Item]:
    chance = stage.chance
    x = side.x(-0.5 * side.parking)
    density = chance.uniform(0.25, 0.9)
    z = chance.uniform(1.5, 6)
    items = []
    while z < 60:
        kind = "car" if chance.yes(0.94) else "truck"
        length = vehicle_length(kind)
        if chance.yes(density) and layout.clear_of_junction(z, 4) and layout.clear_of_junction(z + length, 4):
            away = side.sign > 0 or layout.lanes_left == 0
            pose = Pose(x=x, z=z, heading="away") if away else Pose(x=x, z=z + length, heading="towards")
            items.append(vehicle(stage, kind, pose))
        z += length + chance.uniform(0.5, 1.5)
    return items


def _crossing_traffic(stage: Stage, junction: tuple[float, float]) -> list[Item]:
    chance = stage.chance
    near, far = junction
    items = []
    for heading, z in (("right", near + 0.28 * (far - near)), ("left", near + 0.75 * (far - near))):
        for x in range(-30, 31, 15):
            if chance.yes(0.3):
                kind = chance.pick_weighted(stage.look.vehicles)
                items.append(vehicle(stage, kind, Pose(x=x + chance.uniform(-5, 5), z=z, heading=heading)))
    return items


def _place_riders(stage: Stage, layout: Layout) -> list[Item]:
    chance, look = stage.chance, stage.look
    items = []
    for make, num in ((bicycle, chance.count(look.bicycles)), (motorcycle, chance.count(look.motorcycles))):
        for _ in range(num):
            away = chance.yes(0.6) or layout.lanes_left == 0
            side = layout.right if away else layout.left
            inset = side.parking + (0.6 if make is bicycle else chance.uniform(0.8, 2.0))
            x = side.x(-inset - chance.uniform(0, 0.5))
            z = first_visible_z(stage, x) + chance.uniform(1.5, 13)
            angle = (0.0 if away else pi) + chance.uniform(-0.45, 0.45)
            if chance.yes(0.25):
                angle = chance.sign() * pi / 2 + chance.uniform(-0.4, 0.4)
            if z < min(layout.z_end, FAR):
                items.append(make(stage, x, z, angle, ridden=True))
    return items
