"""A taxonomy as pictures: the tree of its labels, and the shares that it was found from."""

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from data.taxonomy.connections import Connections
from data.taxonomy.evidence import Pair
from data.taxonomy.forest import Forest
from data.taxonomy.hypotheses import Effect
from data.taxonomy.order import Order
from data.taxonomy.overrides import SIGNS
from data.taxonomy.taxonomy import Taxonomy

COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf")
"""Of the datasets, in turn."""

ROW, LETTER, SQUARE = 0.24, 0.072, 0.13
"""Inches: height of a line, width of a letter, side of the square of a dataset."""

EQUAL, COLUMN_IN_ROW, ROW_IN_COLUMN = "black", "#0050c8", "#008c3c"


def tree_picture(taxonomy: Taxonomy, *, title: str = "") -> Figure:
    """Labels that are equal on one line, with a square in the colour of each one's dataset; labels that are part of others to their right.

    The number at a line is the largest share, in percent, that a label on its right has of one on its left. A group that is part of
    several others is joined to all of them. Labels that are related to none are listed at the bottom.
    """
    forest = taxonomy.forest
    rows, depth = _layout(forest)
    texts = [_text(forest, group) for group in range(len(forest.groups))]
    related = [group for group in range(len(forest.groups)) if group not in forest.isolated]
    deepest = max((depth[group] for group in related), default=0)
    lengths = [max((_length(forest, texts, g) for g in related if depth[g] == level), default=1.0) for level in range(deepest + 1)]
    starts = np.concatenate([[0.1], 0.1 + np.cumsum([length + 0.9 for length in lengths])])
    columns = 4
    listed = -(-len(forest.isolated) // columns)
    widest = max((_length(forest, texts, group) for group in forest.isolated), default=0.0) + 0.25
    width = max(starts[-1], 0.1 + columns * widest if forest.isolated else 0.0, 6.0, 0.3 + LETTER * len(title))
    bottom = max((rows[group] for group in related), default=-1.0) + 1
    height = ROW * (bottom + (listed + 2 if listed else 0) + 1) + 0.9
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, (height - 0.8) / height))
    axes.set_xlim(0, width)
    axes.set_ylim(height - 0.8, 0)
    axes.set_axis_off()
    shares = _shares(taxonomy)
    for child, parent in np.argwhere(forest.parents).tolist():
        from_x = starts[depth[parent]] + _length(forest, texts, parent)
        _join(axes, (from_x, ROW * (rows[parent] + 0.5)), (starts[depth[child]], ROW * (rows[child] + 0.5)), shares.get((child, parent)))
    for group in related:
        _write(axes, taxonomy, group, texts[group], starts[depth[group]], ROW * (rows[group] + 0.5))
    if listed:
        y = ROW * (bottom + 0.8)
        axes.plot([0.1, width - 0.1], [y, y], color="0.7", linewidth=0.8)
        axes.text(0.1, y + ROW * 0.7, "related to no other:", fontsize=9, va="center", color="0.35")
    for number, group in enumerate(forest.isolated):
        across, down = divmod(number, listed)
        _write(axes, taxonomy, group, texts[group], 0.1 + across * widest, ROW * (bottom + 2.5 + down))
    handles = [Patch(color=COLOURS[number % len(COLOURS)], label=name) for number, name in enumerate(taxonomy.labels)]
    figure.legend(
        handles=handles, loc="upper left", ncols=min(len(handles), 6), frameon=False, fontsize=9, bbox_to_anchor=(0, 1 - 0.28 / height)
    )
    figure.text(0.1 / width, 1 - 0.18 / height, title or _title(taxonomy), fontsize=11, va="center")
    return figure


def shares_picture(connections: Connections, pair: Pair, order: Order | None = None) -> Figure:
    """The shares that the model of `pair[0]` gives on images of `pair[1]`: of the pixels predicted as each column, the percentage that is
    truly of each row. Frames are relations of `order`. Columns that are predicted too rarely are grey."""
    evidence = connections.evidence
    model, images = (evidence.places[dataset] for dataset in pair)
    values = np.where(connections.known[model, images], connections.shares[model, images], np.nan).T
    rows, columns = evidence.labels[pair[1]], evidence.labels[pair[0]]
    cell = 0.27
    left, top = (0.3 + LETTER * max(len(name) for name in names) for names in (rows, columns))
    head, foot = 0.55, 0.45 if order is not None else 0.1
    width = max(left + cell * len(columns) + 0.2, 7.0)
    height = head + top + cell * len(rows) + foot
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((left / width, foot / height, cell * len(columns) / width, cell * len(rows) / height))
    colours = _colours(values)
    axes.imshow(colours, aspect="auto", interpolation="nearest")
    axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=9)
    axes.set_yticks(range(len(rows)), rows, fontsize=9)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_xticks(np.arange(len(columns) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(rows) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="0.88", linewidth=0.5)
    axes.tick_params(which="minor", length=0)
    for row, column in np.argwhere(np.nan_to_num(values) >= 0.005).tolist():
        share = values[row, column]
        colour = "white" if share > 0.45 else "black"
        axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=7, color=colour)
    figure.text(0.1 / width, 1 - 0.2 / height, f"model of {pair[0]} on images of {pair[1]}", fontsize=11, va="center")
    words = f"% of what is predicted as each column ({pair[0]}) that is truly of each row ({pair[1]})"
    figure.text(0.1 / width, 1 - 0.42 / height, words, fontsize=9, va="center", color="0.35")
    if order is not None:
        _frame(axes, order.below[model, images].T, order.below[images, model])
        kinds = ((EQUAL, "equal"), (COLUMN_IN_ROW, "column is part of row"), (ROW_IN_COLUMN, "row is part of column"))
        handles = [Patch(facecolor="none", edgecolor=colour, linewidth=2, label=words) for colour, words in kinds]
        figure.legend(handles=handles, loc="lower left", ncols=3, frameon=False, fontsize=9)
    return figure


def effects_picture(effects: Sequence[Effect]) -> Figure:
    """What each relation changes in mIoU, in points, with the interval of 95 %: the best at the top, in the colour of the dataset."""
    shown = sorted(effects, key=lambda effect: -effect.change)
    datasets = list(dict.fromkeys(effect.dataset for effect in effects))
    texts = [f"{effect.a} {SIGNS[effect.kind]} {effect.b}" for effect in shown]
    left = 0.3 + LETTER * max(map(len, texts))
    width, height = left + 5.0, 0.5 + ROW * len(shown) + 0.6
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((left / width, 0.5 / height, 4.8 / width, ROW * len(shown) / height))
    for row, effect in enumerate(shown):
        colour = COLOURS[datasets.index(effect.dataset) % len(COLOURS)]
        axes.plot([100 * effect.low, 100 * effect.high], [row, row], color=colour, linewidth=1.5)
        axes.plot(
            [100 * effect.change], [row], marker="o", color=colour, markersize=5, fillstyle="none" if effect.verdict == "open" else "full"
        )
    axes.axvline(0, color="0.5", linewidth=0.8)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_yticks(range(len(shown)), texts, fontsize=8)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("change of mIoU, points", fontsize=9)
    handles = [Patch(color=COLOURS[number % len(COLOURS)], label=f"on images of {name}") for number, name in enumerate(datasets)]
    figure.legend(handles=handles, loc="upper left", ncols=min(len(handles), 6), frameon=False, fontsize=9)
    return figure


def _frame(axes: Axes, column_below: np.ndarray, row_below: np.ndarray) -> None:
    """Frames around cells of (rows, columns) bool."""
    for row, column in np.argwhere(column_below | row_below).tolist():
        is_equal = column_below[row, column] and row_below[row, column]
        colour = EQUAL if is_equal else COLUMN_IN_ROW if column_below[row, column] else ROW_IN_COLUMN
        axes.add_patch(Rectangle((column - 0.44, row - 0.44), 0.88, 0.88, fill=False, edgecolor=colour, linewidth=1.8))


def _colours(values: np.ndarray) -> np.ndarray:
    """(rows, columns, 3) float: white to red with the square root of the share, so that small ones are seen; grey for NaN."""
    strength = np.sqrt(np.nan_to_num(values))[..., None]
    colours = (1 - strength) * np.ones(3) + strength * np.array([0.70, 0.09, 0.17])
    colours[np.isnan(values)] = 0.9
    return colours


def _layout(forest: Forest) -> tuple[dict[int, float], dict[int, int]]:
    """Row and depth of each group. Leaves have rows one after another; what has others below it is in the middle of them."""
    rows: dict[int, float] = {}
    depth = {group: int(_depth(forest, group)) for group in range(len(forest.groups))}
    free = iter(range(len(forest.groups)))

    def place(group: int) -> float:
        if group not in rows:
            children = [child for child in np.flatnonzero(forest.parents[:, group]).tolist() if child not in rows]
            rows[group] = float(np.mean([place(child) for child in children])) if children else float(next(free))
        return rows[group]

    roots = [group for group in range(len(forest.groups)) if not forest.inside[group].any() and group not in forest.isolated]
    # Stars first, the largest at the top: pairs of equal labels would tear them apart.
    for group in sorted(roots, key=lambda g: -int(forest.inside[:, g].sum())):
        place(group)
    return rows, depth


def _depth(forest: Forest, group: int) -> int:
    parents = np.flatnonzero(forest.parents[group]).tolist()
    return 1 + max(_depth(forest, parent) for parent in parents) if parents else 0


def _text(forest: Forest, group: int) -> str:
    """What the labels of the group are called, each once."""
    return " / ".join(dict.fromkeys(forest.nodes[node].split("/", 1)[1] for node in forest.groups[group]))


def _length(forest: Forest, texts: Sequence[str], group: int) -> float:
    """Inches that a group takes with its squares."""
    return (SQUARE + 0.04) * len(forest.groups[group]) + 0.08 + LETTER * len(texts[group])


def _write(axes: Axes, taxonomy: Taxonomy, group: int, text: str, x: float, y: float) -> None:
    datasets = list(taxonomy.labels)
    for node in taxonomy.forest.groups[group]:
        colour = COLOURS[datasets.index(taxonomy.nodes[node].split("/", 1)[0]) % len(COLOURS)]
        axes.add_patch(Rectangle((x, y - SQUARE / 2), SQUARE, SQUARE, facecolor=colour, edgecolor="none"))
        x += SQUARE + 0.04
    axes.text(x + 0.02, y, text, fontsize=9, va="center")


def _join(axes: Axes, start: tuple[float, float], end: tuple[float, float], share: float | None) -> None:
    middle = start[0] + 0.3
    axes.plot([start[0], middle, middle, end[0] - 0.06], [start[1], start[1], end[1], end[1]], color="0.6", linewidth=0.9, zorder=0)
    if share is not None:
        axes.text(end[0] - 0.09, end[1] - 0.01, f"{100 * share:.0f}", fontsize=7, ha="right", va="bottom", color="0.35")


def _shares(taxonomy: Taxonomy) -> dict[tuple[int, int], float]:
    """(group, group above it) -> the largest share of the former's labels that is of the latter's."""
    group_of = {taxonomy.nodes[node]: number for number, group in enumerate(taxonomy.forest.groups) for node in group}
    shares: dict[tuple[int, int], float] = {}
    for pair, share in _subset_shares(taxonomy):
        groups = group_of[pair[0]], group_of[pair[1]]
        shares[groups] = max(share, shares.get(groups, 0.0))
    return shares


def _subset_shares(taxonomy: Taxonomy) -> Iterator[tuple[tuple[str, str], float]]:
    for relation in taxonomy.relations:
        if relation.kind == "subset" and relation.share_a is not None:
            yield (relation.a, relation.b), relation.share_a


def _title(taxonomy: Taxonomy) -> str:
    groups, of = taxonomy.forest.leaves(taxonomy.config.leaves), sum(map(len, taxonomy.labels.values()))
    return f"{of} labels of {len(taxonomy.labels)} datasets in {len(groups)} universal classes"
