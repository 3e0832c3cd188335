"""Trees, hedges and bushes: clouds of leaf clumps, lit from the sun's side."""

from math import pi

from data.streets.draw import Item, Stage, rectangle
from data.streets.labels import ATOM_IDS
from data.streets.light import Vector
from data.streets.look import Color

TREE = ATOM_IDS["tree"]


def tree(stage: Stage, x: float, z: float) -> Item:
    chance = stage.chance
    height = chance.uniform(4.0, 9.5)
    clear = chance.uniform(0.28, 0.42) * height
    radius = chance.uniform(0.26, 0.4) * height
    foliage = chance.vary(chance.pick(stage.look.foliage), 10)
    bark = chance.vary((86, 72, 58), 10)
    conifer = chance.yes(0.18)

    def paint() -> None:
        foot, fork = stage.camera.project(x, 0, z), stage.camera.project(x + 0.1, clear + 0.3 * radius, z)
        girth = 0.024 * height * stage.scale(z)
        stage.canvas.capsule(foot, fork, girth, 0.7 * girth, stage.light.shade(bark, (0.3, 0.0, -0.9), z), TREE)
        if conifer:
            _paint_conifer(stage, (x, z), (0.6, height), 0.55 * radius, foliage)
        else:
            middle = 0.5 * (clear + height)
            paint_clumps(stage, (x, middle, z), (radius, 0.5 * (height - clear)), foliage)

    crown = 0.7 * radius
    footprint = rectangle(x - crown, x + crown, z - crown, z + crown)
    return Item(z=z, paint=paint, footprint=footprint, height=height, shadow_from=clear)


def bush(stage: Stage, x: float, z: float, radius: float) -> Item:
    foliage = stage.chance.vary(stage.chance.pick(stage.look.foliage), 12)
    footprint = rectangle(x - radius, x + radius, z - 0.5 * radius, z + 0.5 * radius)
    return Item(
        z=z,
        paint=lambda: paint_clumps(stage, (x, 0.55 * radius, z), (radius, 0.65 * radius), foliage),
        footprint=footprint,
        height=radius,
    )


def paint_clumps(stage: Stage, middle: Vector, radii: tuple[float, float], color: Color) -> None:
    """Ellipses spread over an ellipsoid, back and low ones first; the light on a clump is that on the ellipsoid there."""
    x, y, z = middle
    scale = stage.scale(z)
    size = radii[0] * scale
    if size < 1:
        return
    num = int(min(48, 5 + 0.75 * size))
    clump = 0.42 if num < 24 else 0.3
    noise = stage.chance.generator.random((num, 5)).tolist()
    # Spiral points cover the ellipsoid's near half evenly; the noise takes the pattern away.
    for i, (a, b, c, d, e) in enumerate(noise):
        up = -0.95 + 1.85 * (i + a) / num
        around = 2.399963 * i + b
        ring = (1 - up * up) ** 0.5
        right = ring * _triangle(around)
        near = ring * 0.6
        center = stage.camera.project(x + radii[0] * right * (0.8 + 0.25 * c), y + radii[1] * up * 0.9, z)
        tone = (0.66 + 0.28 * up) * (0.82 + 0.36 * d)
        shade = stage.light.shade((color[0] * tone, color[1] * tone, color[2] * tone), (right, 0.75 * up, -near), z)
        spread = size * clump * (0.7 + 0.6 * e)
        stage.canvas.ellipse(center, spread, 0.8 * spread * radii[1] / radii[0] if radii[1] < radii[0] else spread, shade, TREE)


def _triangle(angle: float) -> float:
    """A wave between -1 and 1 with the period of a sine, that stays longer near its ends than in the middle."""
    share = (angle / (2 * pi)) % 1.0
    return 4 * abs(share - 0.5) - 1


def _paint_conifer(stage: Stage, foot: tuple[float, float], y: tuple[float, float], radius: float, color: Color) -> None:
    x, z = foot
    num_tiers = 7
    for tier in range(num_tiers):
        low = y[0] + (y[1] - y[0]) * tier / (num_tiers + 1)
        high = min(y[1], low + 2.2 * (y[1] - y[0]) / num_tiers)
        half = radius * (1 - tier / (num_tiers + 0.5)) * stage.chance.uniform(0.85, 1.15)
        for side, tone in ((-1, 0.62), (1, 0.78)):
            points = [stage.camera.project(x + dx, dy, z) for dx, dy in ((0, high), (side * half, low), (0, low - 0.1))]
            shade = stage.light.shade([c * tone * (0.8 + 0.05 * tier) for c in color], (0.8 * side, 0.3, -0.5), z)
            stage.canvas.polygon(points, shade, TREE)


def hedge(stage: Stage, x: float, z: tuple[float, float]) -> Item:
    """A row of clumps along the sidewalk."""
    chance = stage.chance
    height = chance.uniform(0.9, 1.8)
    foliage = chance.vary(chance.pick(stage.look.foliage), 10)

    def paint() -> None:
        place = z[1]
        while place > max(z[0], 2.5):
            paint_clumps(stage, (x, 0.5 * height, place), (0.8, 0.55 * height), foliage)
            place -= 0.08 * place + 0.5

    return Item(z=z[1] - 0.1, paint=paint, footprint=rectangle(x - 0.5, x + 0.5, *z), height=height)
