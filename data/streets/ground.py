"""Sky and ground: asphalt, markings, crosswalks, curbs, sidewalks, grass."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from data.streets.draw import SUPERSAMPLING, Item, Stage, convex_hull
from data.streets.labels import ATOM_IDS
from data.streets.layout import CROSSWALK_DEPTH, CURB, FAR, Layout, Side
from data.streets.light import Vector
from data.streets.look import Color, toned

UP: Vector = (0.0, 1.0, 0.0)
SHADOWS_UNTIL = 60.0
"""Metres: the shadows of what is farther away are a pixel high."""
WIDE = 160.0
"""Metres to either side that the ground reaches."""


@dataclass(frozen=True, kw_only=True)
class GroundColors:
    asphalt: Color
    pavement: Color
    grass: Color
    curb: Color
    paint: Color


def draw_colors(stage: Stage) -> GroundColors:
    chance, look = stage.chance, stage.look
    pavement = chance.vary(chance.pick(look.pavements))
    curb = chance.uniform(0.78, 1.25)
    return GroundColors(
        asphalt=chance.vary(chance.pick(look.asphalts)),
        pavement=pavement,
        grass=chance.vary(chance.pick(look.grasses)),
        curb=toned(pavement, curb),
        paint=chance.vary((236, 236, 230)),
    )


def paint_sky(stage: Stage) -> None:
    """A gradient with clouds, down to the horizon and over the whole canvas."""
    canvas, kind = stage.canvas, stage.light.kind
    rows = max(2, int(stage.camera.horizon_v) // 4)
    columns = max(2, canvas.width // 8)
    height = np.linspace(1, 0, rows, dtype=np.float32)[:, None, None] ** 0.8
    sky = np.asarray(kind.zenith) * height + np.asarray(kind.horizon) * (1 - height) + np.zeros((1, columns, 1))
    cover = _clouds(stage, rows, columns)[..., None]
    sky += cover * (np.asarray(kind.cloud) - sky) + 10 * (cover - 0.5) * (cover > 0)
    small = Image.fromarray(np.clip(sky, 0, 255).astype(np.uint8))
    visible = small.resize((canvas.width, int(stage.camera.horizon_v) + 2), Image.Resampling.BILINEAR)
    canvas.picture.paste(kind.horizon, (0, 0, canvas.width, canvas.height))
    canvas.picture.paste(visible, (0, 0))
    canvas.slots.paste(ATOM_IDS["sky"], (0, 0, canvas.width, canvas.height))


def _clouds(stage: Stage, rows: int, columns: int) -> np.ndarray:
    """(rows, columns) float32 in 0..1: noise of three sizes, the larger the stronger, above a threshold."""
    noise = np.zeros((rows, columns), np.float32)
    for cells, weight in ((3, 0.5), (6, 0.3), (14, 0.2)):
        grid = Image.fromarray(stage.chance.bytes(cells, 2 * cells).copy())
        noise += weight / 255 * np.asarray(grid.resize((columns, rows), Image.Resampling.BICUBIC), np.float32)
    return np.clip((noise - (0.78 - 0.62 * stage.light.clouds)) * 4.5, 0, 1)


def strip(stage: Stage, x: tuple[float, float], z: tuple[float, float], color: Color, atom: str) -> None:
    """A band of ground between two x, from the nearest visible place in `z` on; it follows the bend of the road."""
    z0 = max(z[0], 0.85 * stage.camera.ground_z(stage.canvas.height))
    if z0 >= z[1]:
        return
    num_steps = 12 if stage.camera.bend and z[1] > 1.5 * z0 else 1
    steps = [z0 * (z[1] / z0) ** (i / num_steps) for i in range(num_steps + 1)]
    near, far = (stage.camera.project(x[0], 0, step) for step in (z0, z[1]))
    points = [near, *(stage.camera.project(x[0], 0, step) for step in steps[1:-1]), far]
    points += [stage.camera.project(x[1], 0, step) for step in reversed(steps)]
    # One shade for a band: its colour at the distance of the middle row.
    shade = stage.light.shade(color, UP, min(2 * z0, 0.5 * (z0 + z[1])))
    stage.canvas.polygon(points, shade, ATOM_IDS[atom])


def paint_ground(stage: Stage, layout: Layout, colors: GroundColors) -> None:
    for side in layout.sides:
        _paint_side(stage, layout, side, colors)
    strip(stage, (layout.left.x(0), layout.right.x(0)), (0, layout.z_end), colors.asphalt, "asphalt")
    if layout.junction:
        _paint_crossing_street(stage, layout, layout.junction, colors)
    _paint_patches(stage, layout, colors)
    _paint_markings(stage, layout, colors)
    for z in layout.crosswalks:
        _paint_crosswalk(stage, layout, z, colors)


def _paint_side(stage: Stage, layout: Layout, side: Side, colors: GroundColors) -> None:
    z = (0.0, FAR)
    if side.frontage == "urban":
        strip(stage, (0, side.sign * WIDE), z, colors.pavement, "sidewalk")
    else:
        strip(stage, (0, side.sign * WIDE), (0, 3 * FAR), colors.grass, "grass")
    z = (0.0, layout.z_end)
    strip(stage, (side.x(side.walk_from), side.x(side.back)), z, colors.pavement, "sidewalk")
    if side.verge:
        strip(stage, (side.x(CURB), side.x(side.walk_from)), z, colors.grass, "grass")
    strip(stage, (side.x(0), side.x(CURB)), z, colors.curb, "curb")


def _paint_crossing_street(stage: Stage, layout: Layout, junction: tuple[float, float], colors: GroundColors) -> None:
    near, far = junction
    for side in layout.sides:
        strip(stage, (side.x(CURB), side.sign * WIDE), (near - 2, near), colors.pavement, "sidewalk")
        strip(stage, (side.x(0), side.sign * WIDE), (near - CURB, near), colors.curb, "curb")
        if not layout.ends:
            strip(stage, (side.x(CURB), side.sign * WIDE), (far, far + 2), colors.pavement, "sidewalk")
            strip(stage, (side.x(0), side.sign * WIDE), (far, far + CURB), colors.curb, "curb")
    strip(stage, (-WIDE, WIDE), junction, colors.asphalt, "asphalt")
    if layout.ends:
        strip(stage, (-WIDE, WIDE), (far, far + 3), colors.pavement, "sidewalk")
        strip(stage, (-WIDE, WIDE), (far, far + CURB), colors.curb, "curb")
    middle = 0.5 * (near + far)
    for start in range(-60, 60, 6):
        if not layout.left.x(0) < start < layout.right.x(0):
            strip(stage, (start, start + 2.5), (middle - 0.07, middle + 0.07), colors.paint, "lane_marking")


def _paint_patches(stage: Stage, layout: Layout, colors: GroundColors) -> None:
    """Mended asphalt and manhole covers, which are asphalt by name."""
    chance = stage.chance
    for _ in range(chance.integer(0, 5)):
        x, z = chance.uniform(layout.left.x(0), layout.right.x(0) - 1), chance.uniform(3, 25)
        tone = chance.uniform(0.72, 1.12)
        color = toned(colors.asphalt, tone)
        strip(stage, (x, min(x + chance.uniform(0.3, 1.6), layout.right.x(0))), (z, z + chance.uniform(0.5, 8)), color, "asphalt")
    for _ in range(chance.integer(0, 2)):
        x, z = chance.uniform(layout.left.x(0) + 1, layout.right.x(0) - 1), chance.uniform(4, 18)
        scale = stage.scale(z)
        shade = stage.light.shade((58, 58, 60), UP, z)
        squash = 0.35 * scale * stage.camera.height / z
        stage.canvas.ellipse(stage.camera.project(x, 0, z), 0.35 * scale, squash, shade, ATOM_IDS["asphalt"])


def _paint_markings(stage: Stage, layout: Layout, colors: GroundColors) -> None:
    chance = stage.chance
    end = layout.junction[0] - 1.0 if layout.junction else layout.z_end
    width = chance.uniform(0.12, 0.2)
    paint = (230, 196, 70) if chance.yes(0.12) else colors.paint
    solid_middle = chance.yes(0.3)
    for lane in range(1 - layout.lanes_left, layout.lanes_right):
        x = layout.lane_x(lane) - 0.5 * layout.lane_width
        if lane == 0 and solid_middle:
            for shift in (-0.14, 0.14):
                strip(stage, (x + shift - width / 2, x + shift + width / 2), (0, end), paint, "lane_marking")
        else:
            _paint_dashes(stage, x, width, layout, paint if lane == 0 else colors.paint)
    _paint_edge_lines(stage, layout, end, width, colors)
    if layout.junction and chance.yes(0.75):
        right = layout.right.x(0) - layout.right.parking
        z = min((layout.junction[0], *layout.crosswalks)) - 1.2
        strip(stage, (layout.base_x, right), (z, z + 0.45), colors.paint, "lane_marking")


def _paint_dashes(stage: Stage, x: float, width: float, layout: Layout, paint: Color) -> None:
    dash, gap = stage.chance.uniform(2.4, 4.5), stage.chance.uniform(3, 7)
    z = -stage.chance.uniform(0, dash + gap)
    while z < min(70, layout.z_end):
        if layout.clear_of_junction(z, 1.0) and layout.clear_of_junction(z + dash, 1.0):
            strip(stage, (x - width / 2, x + width / 2), (z, z + dash), paint, "lane_marking")
        z += dash + gap


def _paint_edge_lines(stage: Stage, layout: Layout, end: float, width: float, colors: GroundColors) -> None:
    for side in layout.sides:
        x = side.x(-side.parking - 0.12)
        if side.parking and stage.chance.yes(0.6):
            strip(stage, (x, x + side.sign * width), (0, end), colors.paint, "lane_marking")
            for z in np.arange(stage.chance.uniform(0, 5), min(end, 40), 5.5).tolist():
                strip(stage, (x, side.x(-0.1)), (z, z + 0.12), colors.paint, "lane_marking")
        elif stage.chance.yes(0.35):
            strip(stage, (x, x - side.sign * width), (0, end), colors.paint, "lane_marking")


def _paint_crosswalk(stage: Stage, layout: Layout, z: float, colors: GroundColors) -> None:
    """The area of a crosswalk, stripes and what is between them, is crosswalk."""
    left, right = layout.left.x(-0.15), layout.right.x(-0.15)
    depth = (z, z + CROSSWALK_DEPTH)
    strip(stage, (left, right), depth, colors.asphalt, "crosswalk")
    stripe = stage.chance.uniform(0.4, 0.6)
    for x in np.arange(left, right - stripe, 2 * stripe).tolist():
        strip(stage, (x, x + stripe), depth, colors.paint, "crosswalk")


def paint_shadows(stage: Stage, items: Sequence[Item]) -> None:
    """Darken the ground under and behind everything that stands on it: the sun's shadow and, softer, what hides the sky."""
    canvas = stage.canvas
    mask = Image.new("L", (canvas.width // SUPERSAMPLING, canvas.height // SUPERSAMPLING))
    draw = ImageDraw.Draw(mask)
    strength = int(255 * stage.light.kind.shadow)
    step = stage.light.shadow_step
    for item in items if strength > 40 else ():
        if not item.footprint or item.z > SHADOWS_UNTIL:
            continue
        low, high = ([(x + step[0] * h, z + step[1] * h) for x, z in item.footprint] for h in (item.shadow_from, item.height))
        draw.polygon(_on_mask(stage, convex_hull(low + high)), fill=strength)
    for item in items:
        if item.footprint and not item.shadow_from and item.z < SHADOWS_UNTIL:
            draw.polygon(_on_mask(stage, item.footprint), fill=max(strength, 120))
    top = max(int(stage.camera.horizon_v) // SUPERSAMPLING + 1, 0)
    ground = mask.crop((0, top, mask.width, mask.height))
    soft = ground.resize((canvas.width, SUPERSAMPLING * ground.height), Image.Resampling.BILINEAR)
    canvas.picture.paste((14, 18, 34), (0, SUPERSAMPLING * top), mask=soft)


def _on_mask(stage: Stage, ground: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    near = 0.85 * stage.camera.ground_z(stage.canvas.height)
    points = (stage.camera.project(x, 0, max(z, near)) for x, z in ground)
    return [(u / SUPERSAMPLING, v / SUPERSAMPLING) for u, v in points]
