"""What stands on the sidewalks: signs, lights, lamps, street trees, furniture, people, parked two-wheelers."""

from math import pi

from data.streets.draw import SUPERSAMPLING, Item, Stage
from data.streets.furniture import furniture
from data.streets.layout import CROSSWALK_DEPTH, Layout, Side
from data.streets.people import bicycle, motorcycle, person
from data.streets.plants import tree
from data.streets.signs import draw_plate, sign_post, street_lamp, traffic_light

SIGN_SIZE = (9.0, 26.0)
"""Sides of most sign fronts, in pixels of a picture 384 wide."""


def place_roadside(stage: Stage, layout: Layout) -> list[Item]:
    return [
        *_place_signs(stage, layout),
        *_place_sign_backs(stage, layout),
        *_place_traffic_lights(stage, layout),
        *_place_lamps_and_trees(stage, layout),
        *_place_furniture(stage, layout),
        *_place_people(stage, layout),
    ]


def first_visible_z(stage: Stage, x: float) -> float:
    """The least distance at which something at x is inside the picture, some pixels from its edge."""
    camera, width = stage.camera, stage.canvas.width
    for z in range(5, 60):
        u, _ = camera.project(x, 0, z)
        if 0.06 * width < u < 0.94 * width:
            return float(z)
    return 60.0


def _place_signs(stage: Stage, layout: Layout) -> list[Item]:
    chance = stage.chance
    items = []
    for _ in range(chance.count(stage.look.signs)):
        side = layout.right if chance.yes(0.66) else layout.left
        x = side.x(chance.uniform(0.35, 0.8))
        y = chance.uniform(2.1, 2.8)
        kinds = [chance.pick_weighted(stage.look.sign_kinds) for _ in range(2 if chance.yes(0.15) else 1)]
        plates = [draw_plate(stage, kind, y - 1.0 * i) for i, kind in enumerate(kinds)]
        # 0.9 m over the wanted side in pixels gives the distance.
        pixels = chance.uniform(*SIGN_SIZE) * stage.canvas.width / (384 * SUPERSAMPLING)
        z = max(0.9 * stage.camera.focal / (SUPERSAMPLING * pixels), first_visible_z(stage, x) + chance.uniform(0, 2))
        items.append(sign_post(stage, x, min(z, 40.0), plates, post_height=y + 0.35))
    return items


def _place_sign_backs(stage: Stage, layout: Layout) -> list[Item]:
    """Signs for who comes the other way, mostly on the left."""
    chance = stage.chance
    items = []
    for _ in range(chance.count(stage.look.sign_backs)):
        side = layout.left if chance.yes(0.75) else layout.right
        x, y = side.x(chance.uniform(0.35, 0.9)), chance.uniform(2.1, 2.7)
        z = first_visible_z(stage, x) + chance.uniform(0, 10)
        items.append(sign_post(stage, x, z, [draw_plate(stage, None, y)], post_height=y + 0.3))
    return items


def _place_traffic_lights(stage: Stage, layout: Layout) -> list[Item]:
    chance = stage.chance
    if not chance.yes(stage.look.traffic_lights):
        return []
    z = min(layout.junction[0] - 1.2, 26) if layout.junction else chance.uniform(10, 24)
    items = []
    for side, probability in ((layout.right, 0.9), (layout.left, 0.6)):
        if chance.yes(probability):
            reach = -side.sign * chance.uniform(2, 3.5) if chance.yes(0.3) else 0.0
            x = side.x(0.5)
            items.append(traffic_light(stage, x, max(z, first_visible_z(stage, x)), reach=reach))
    return items


def _place_lamps_and_trees(stage: Stage, layout: Layout) -> list[Item]:
    chance = stage.chance
    items = []
    for side in layout.sides:
        if chance.yes(stage.look.lamps):
            items += _row_of_lamps(stage, layout, side)
        if chance.yes(stage.look.trees):
            z, pitch = chance.uniform(9, 22), chance.uniform(7, 15)
            while z < min(80, layout.z_end):
                if layout.clear_of_junction(z, 3) and chance.yes(0.85):
                    items.append(tree(stage, side.x(0.9 + chance.uniform(0, 0.3)), z + chance.uniform(-1, 1)))
                z += pitch
    return items


def _row_of_lamps(stage: Stage, layout: Layout, side: Side) -> list[Item]:
    chance = stage.chance
    items = []
    z, pitch = chance.uniform(7, 24), chance.uniform(16, 30)
    while z < min(90, layout.z_end):
        if layout.clear_of_junction(z, 1):
            items.append(street_lamp(stage, side.x(0.5), z, -side.sign))
        z += pitch
    return items


def _place_furniture(stage: Stage, layout: Layout) -> list[Item]:
    chance = stage.chance
    items = []
    for _ in range(chance.integer(*stage.look.furniture)):
        side = chance.pick(layout.sides)
        x = side.x(side.back - chance.uniform(0.3, 0.6) if chance.yes(0.6) else side.walk_from + 0.4)
        z = first_visible_z(stage, x) + chance.uniform(0, 16)
        if layout.clear_of_junction(z, 2.5):
            items.append(furniture(stage, x, z, -side.sign))
    return items


def _place_people(stage: Stage, layout: Layout) -> list[Item]:
    chance = stage.chance
    items = []
    for _ in range(chance.integer(*stage.look.people)):
        side = chance.pick(layout.sides)
        x = side.x(chance.uniform(side.walk_from + 0.3, side.back - 0.2))
        angle = chance.pick((0.0, pi)) + chance.uniform(-0.5, 0.5)
        z = first_visible_z(stage, x) + 1 + 28 * chance.uniform(0, 1) ** 1.6
        if chance.yes(0.16) or (layout.crosswalks and chance.yes(0.5)):
            z = layout.crosswalks[0] + chance.uniform(0.4, CROSSWALK_DEPTH - 0.4) if layout.crosswalks else max(z, 14)
            x = chance.uniform(layout.left.x(-0.5), layout.right.x(-0.5))
            angle = chance.sign() * pi / 2 + chance.uniform(-0.2, 0.2)
        if 4 < z < layout.z_end + 2:
            items.append(person(stage, x, z, angle))
    if chance.yes(stage.look.parked_two_wheelers):
        items += _parked_two_wheelers(stage, chance.pick(layout.sides))
    return items


def _parked_two_wheelers(stage: Stage, side: Side) -> list[Item]:
    chance = stage.chance
    kind = chance.pick((bicycle, motorcycle))
    x = side.x(side.back - 0.8)
    z = first_visible_z(stage, x) + chance.uniform(1, 12)
    angle = chance.uniform(0.9, 2.2) * chance.sign()
    return [kind(stage, x, z + 0.7 * i, angle + chance.uniform(-0.1, 0.1), ridden=False) for i in range(chance.integer(1, 3))]
