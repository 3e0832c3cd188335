"""Composing and rendering a street scene.

A picture is a pure function of (seed, split, index, size, look): each can be drawn alone, in any order and process.
"""

from dataclasses import dataclass

import numpy as np

from data.errors import InputError
from data.streets.chance import Chance
from data.streets.draw import Canvas, Stage
from data.streets.finish import finish
from data.streets.frontage import place_frontage
from data.streets.ground import draw_colors, paint_ground, paint_shadows, paint_sky
from data.streets.labels import ATOM_IDS, SIGN_FRONTS
from data.streets.layout import Layout, draw_camera, draw_layout
from data.streets.light import draw_light
from data.streets.look import DEFAULT_LOOK, Look
from data.streets.order import painting_order
from data.streets.roadside import place_roadside
from data.streets.traffic import place_traffic

SMALLEST_BOX = 4
"""Pixels: sign fronts of which less is visible in width or height get no box."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One picture with its truth.

    image: (H, W, 3) uint8 RGB.
    atoms: (H, W) uint8 atom ids.
    boxes: (N, 5) int32 rows x1, y1, x2, y2, atom id: the visible pixels of each sign front, both ends included.
    """

    image: np.ndarray
    atoms: np.ndarray
    boxes: np.ndarray


def render(seed: int, index: int, split: str, *, size: tuple[int, int] = (192, 384), look: Look = DEFAULT_LOOK) -> Scene:
    """Draw picture `index` of `split` (any text, e.g. "streets_fine/train") at `size` (height, width) in pixels.

    Raises InputError for a size below 32 pixels and for a negative seed or index.
    """
    if min(size) < 32:
        raise InputError(f"size {size[0]}x{size[1]} of a street scene: expected at least 32x32; enlarge it")
    if seed < 0 or index < 0:
        raise InputError(f"seed {seed} and index {index} of a street scene: expected 0 or more; choose others")
    chance = Chance(seed, split, index)
    layout = draw_layout(chance, look)
    camera = draw_camera(chance, look, layout, size)
    stage = Stage(canvas=Canvas(size), camera=camera, light=draw_light(chance, look), look=look, chance=chance)
    _paint(stage, layout)
    picture, slots = stage.canvas.reduce()
    atoms = stage.canvas.slot_atoms[slots]
    return Scene(image=finish(stage, picture, atoms), atoms=atoms, boxes=_sign_boxes(slots, stage.canvas))


def _paint(stage: Stage, layout: Layout) -> None:
    """Sky, ground, shadows, and then all that stands on the ground."""
    items = [*place_frontage(stage, layout), *place_roadside(stage, layout), *place_traffic(stage, layout)]
    colors = draw_colors(stage)
    paint_sky(stage)
    paint_ground(stage, layout, colors)
    paint_shadows(stage, items)
    for item in painting_order(stage, items):
        item.paint()
    if stage.chance.yes(stage.look.ego_vehicle):
        _paint_ego_vehicle(stage)


def _paint_ego_vehicle(stage: Stage) -> None:
    """The bonnet of the car with the camera along the lower edge."""
    canvas, chance = stage.canvas, stage.chance
    width, height = canvas.width, canvas.height
    top, skew = height * (1 - chance.uniform(0.05, 0.13)), chance.uniform(-0.06, 0.06)
    color = chance.vary(chance.pick(stage.look.cars))
    for share, tone, slot in ((0.0, 0.55, ATOM_IDS["ego_vehicle"]), (0.12, 0.9, None), (0.4, 0.75, None), (0.7, 0.6, None)):
        points = []
        for i in range(17):
            across = i / 16
            arch = 4 * (across - 0.5) ** 2
            points.append((width * (across * 1.06 - 0.03), top + (height - top) * (share + 0.75 * arch**2 + skew * (across - 0.5))))
        points += [(width * 1.03, 1.5 * height), (-0.03 * width, 1.5 * height)]
        shade = stage.light.shade([c * tone + 12 for c in color], (0.0, 0.9, -0.4), 1.0)
        if slot is None:
            canvas.detail(points, shade)
        else:
            canvas.polygon(points, shade, slot)


def _sign_boxes(slots: np.ndarray, canvas: Canvas) -> np.ndarray:
    """(N, 5) int32: boxes of the slots that belong to one sign front each."""
    fronts = {ATOM_IDS[name] for name in SIGN_FRONTS}
    boxes = []
    for slot in range(canvas.num_slots):
        atom = int(canvas.slot_atoms[slot])
        if atom not in fronts:
            continue
        visible = slots == slot
        rows, columns = np.flatnonzero(visible.any(1)), np.flatnonzero(visible.any(0))
        if len(rows) and min(np.ptp(rows), np.ptp(columns)) + 1 >= SMALLEST_BOX:
            boxes.append((columns[0], rows[0], columns[-1], rows[-1], atom))
    return np.array(boxes, np.int32).reshape(-1, 5)
