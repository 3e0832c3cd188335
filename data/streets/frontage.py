"""What stands behind the sidewalks: rows of houses, gardens, parks, and the far end of the street."""

from collections.abc import Callable, Mapping

from data.streets.buildings import Plane, closing_row, fence, house, skyline, wall
from data.streets.draw import NEAR, Item, Stage
from data.streets.layout import FAR, Layout, Side
from data.streets.plants import bush, hedge, tree


def place_frontage(stage: Stage, layout: Layout) -> list[Item]:
    items = _place_far_end(stage, layout)
    for side in layout.sides:
        for start, end in _stretches(layout):
            items += FRONTAGES[side.frontage](stage, side, start, end)
    return items


def _stretches(layout: Layout) -> list[tuple[float, float]]:
    """Ranges of z with frontage: all of the road but the crossing street and its sidewalks."""
    if not layout.junction:
        return [(0.0, FAR)]
    near, far = layout.junction
    return [(0.0, near - 2.2)] if layout.ends else [(0.0, near - 2.2), (far + 2.2, FAR)]


def _place_far_end(stage: Stage, layout: Layout) -> list[Item]:
    chance = stage.chance
    if layout.junction and layout.ends:
        z = layout.junction[1] + 3 + (0 if chance.yes(0.5) else chance.uniform(1, 8))
        items = closing_row(stage, z) if chance.yes(0.7) else [tree(stage, x, z + 4) for x in range(-48, 49, 6)]
        if z > layout.junction[1] + 3.5 or len(items) > 16:
            barrier = chance.pick((wall, fence))
            items.append(barrier(stage, Plane(start=(-40, z - 0.5), end=(40, z - 0.5), normal=(0.0, 0.0, -1.0))))
        return items
    items = skyline(stage, FAR + 40) if chance.yes(0.75) else []
    return items + [tree(stage, chance.uniform(-80, 80), FAR + chance.uniform(0, 30)) for _ in range(chance.integer(2, 14))]


def _urban(stage: Stage, side: Side, start: float, end: float) -> list[Item]:
    """House by house, with a gap now and then."""
    chance = stage.chance
    items: list[Item] = []
    z = start - chance.uniform(0, 5)
    while z < end - 4:
        length = min(chance.uniform(6, 17), end - z)
        if chance.yes(0.86):
            x = side.x(side.back + (0.0 if chance.yes(0.8) else chance.uniform(0.5, 2.5)))
            items.append(house(stage, (x, x + 12 * side.sign), (z, z + length), chance.uniform(5.5, 21), pitched=chance.yes(0.15)))
        else:
            items += _gap(stage, side, z, z + length)
        z += length
    return items


def _gap(stage: Stage, side: Side, start: float, end: float) -> list[Item]:
    barrier = stage.chance.pick((wall, fence))
    items = [barrier(stage, _along(side, side.back + 0.1, start, end))]
    for _ in range(stage.chance.integer(0, 2)):
        items.append(tree(stage, side.x(side.back + stage.chance.uniform(2.5, 5)), stage.chance.uniform(max(start, 4), max(end, 5))))
    return items


def _along(side: Side, outwards: float, start: float, end: float) -> Plane:
    """An upright plane along the road that faces it."""
    x = side.x(outwards)
    return Plane(start=(x, max(start, 2 * NEAR)), end=(x, max(end, 3 * NEAR)), normal=(float(-side.sign), 0.0, 0.0))


def _suburb(stage: Stage, side: Side, start: float, end: float) -> list[Item]:
    """Houses behind gardens with a fence, a wall, a hedge or nothing."""
    chance = stage.chance
    items: list[Item] = []
    setback = chance.uniform(2.5, 7)
    border = chance.pick_weighted({"fence": 0.36, "wall": 0.26, "hedge": 0.2, "open": 0.18})
    z = start - chance.uniform(0, 8)
    while z < end - 6:
        length = min(chance.uniform(8, 14), end - z)
        x = side.x(side.back + setback + chance.uniform(0, 1.5))
        items.append(house(stage, (x, x + 9 * side.sign), (z, z + length), chance.uniform(3.0, 6.5), pitched=chance.yes(0.85)))
        gap = chance.uniform(2, 7)
        items += _border(stage, side, border if chance.yes(0.75) else "open", z, min(z + length + 0.6 * gap, end))
        items += _garden(stage, side, setback, z, z + length)
        z += length + gap
    return items


def _border(stage: Stage, side: Side, kind: str, start: float, end: float) -> list[Item]:
    start = max(start, 1.5)
    if kind == "open" or end < start + 2:
        return []
    if kind == "hedge":
        return [hedge(stage, side.x(side.back + 0.7), (start, end))]
    barrier = {"wall": wall, "fence": fence}[kind]
    return [barrier(stage, _along(side, side.back + 0.15, start, end))]


def _garden(stage: Stage, side: Side, depth: float, start: float, end: float) -> list[Item]:
    chance = stage.chance
    items = []
    for _ in range(chance.count((0.4, 0.4, 0.2))):
        x, z = side.x(side.back + chance.uniform(0.4, 0.8) * depth), chance.uniform(start, end)
        if z > 5:
            items.append(tree(stage, x, z) if chance.yes(0.5) else bush(stage, x, z, chance.uniform(0.6, 1.3)))
    return items


def _park(stage: Stage, side: Side, start: float, end: float) -> list[Item]:
    """Trees on grass."""
    chance = stage.chance
    items = _border(stage, side, chance.pick_weighted({"fence": 0.4, "wall": 0.2, "open": 0.4}), start, min(end, 70))
    for _ in range(int((end - start) * chance.uniform(0.05, 0.16))):
        x, z = side.x(side.back + chance.uniform(2, 26)), chance.uniform(max(start, 6), max(end, 7))
        items.append(tree(stage, x, z) if chance.yes(0.75) else bush(stage, x, z, chance.uniform(0.7, 1.6)))
    return items


FRONTAGES: Mapping[str, Callable[[Stage, Side, float, float], list[Item]]] = {"urban": _urban, "suburb": _suburb, "park": _park}
"""What makes the frontage of one side between two z."""
