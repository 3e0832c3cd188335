"""The order of painting: what hides another thing is painted after it."""

from collections.abc import Sequence

import numpy as np

from data.streets.draw import Item, Stage


def painting_order(stage: Stage, items: Sequence[Item]) -> list[Item]:
    """The items that may reach into the picture, so that each comes after all that it may hide.

    Sorting by distance alone fails for long things: a tree behind a wall may be nearer than the wall's far end. Where
    rules form a circle the farthest item goes first.
    """
    columns = np.array([_columns(stage, item) for item in items]).reshape(-1, 2)
    shown = np.flatnonzero((columns[:, 1] > 0) & (columns[:, 0] < stage.canvas.width))
    kept = [items[i] for i in shown.tolist()]
    waits = _waits(stage, kept, columns[shown])
    num_hidden = waits.sum(1)
    far = np.array([item.z for item in kept])
    order = []
    for _ in kept:
        # Items that wait for others come only when nothing else is left.
        i = int(np.argmax(far - 1e6 * (num_hidden > 0)))
        order.append(kept[i])
        far[i] = -np.inf
        num_hidden -= waits[:, i]
    return order


def _columns(stage: Stage, item: Item) -> tuple[float, float]:
    """First and last canvas column of an item; 2.5 m are for what overhangs its footprint (a crown, a lamp)."""
    if not item.footprint:
        return -np.inf, np.inf
    columns = [stage.camera.project(x, 0, z)[0] for x, z in item.footprint]
    margin = 2.5 * stage.scale(item.z)
    return min(columns) - margin, max(columns) + margin


def _waits(stage: Stage, items: Sequence[Item], columns: np.ndarray) -> np.ndarray:
    """(N, N) bool: [i, j] tells that i may hide j, so that it waits for j to be painted."""
    boxes = np.array([_box(stage, item) for item in items]).reshape(-1, 4)
    near_i, far_i, inner_i, outer_i = (side[:, None] for side in boxes.T)
    near_j, far_j, inner_j, outer_j = (side[None, :] for side in boxes.T)
    (first_i, last_i), (first_j, last_j) = columns.T[:, :, None], columns.T[:, None, :]
    meet = (first_i < last_j) & (first_j < last_i)
    # Side by side along the road: what is nearer to the camera's line of travel hides the other.
    aside = (outer_i <= inner_j) | ((inner_i < outer_j) & (far_i < far_j))
    hides = (far_i <= near_j) | ((near_i < far_j) & aside)
    return np.asarray(meet & hides & ~np.eye(len(items), dtype=bool))


def _box(stage: Stage, item: Item) -> tuple[float, float, float, float]:
    """Nearest and farthest z, least and largest distance to the side of the camera's line of travel."""
    if not item.footprint:
        return item.z, item.z, 0.0, np.inf
    depths = [z for _, z in item.footprint]
    sides = [x - stage.camera.x for x, _ in item.footprint]
    low, high = min(sides), max(sides)
    return min(depths), max(depths), max(low, -high, 0.0), max(high, -low)
