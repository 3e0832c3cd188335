"""Plots of how frequent each class is and of where it lies in the picture."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from data.files import atomic_write
from data.inspect.collect import SplitFacts
from data.inspect.observe import GRID
from data.inspect.report import number
from data.labels import Label, LabelSpace

DPI = 100


def write_figure(path: Path, figure: Figure) -> None:
    """Write a figure as PNG, atomically."""
    FigureCanvasAgg(figure)
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=DPI)


def frequency_figure(content: Mapping[str, Any], space: LabelSpace) -> Figure:
    """Share of the pixels and of the images of each class, a bar for each split, most frequent first; the axes are logarithmic.

    `content` is what report.describe gives. A class without a bar never occurs in that split.
    """
    rows = [row for row in content["classes"] if row["state"] == "class"]
    rows.sort(key=lambda row: -max((of["pixel_percent"] for of in row["splits"].values()), default=0.0))
    splits = list(content["splits"])
    colours = {label.id: np.array(label.color) / 255 for label in space.labels}
    figure = Figure(figsize=(max(7.0, 1.6 + 0.28 * len(rows)), 7.5), layout="constrained")
    axes = figure.subplots(2, 1, sharex=True)
    width = 0.84 / max(1, len(splits))
    unit = "box area" if space.supervision == "boxes" else "labelled pixels"
    for axis, key, what in zip(axes, ("pixel_percent", "image_percent"), (f"% of {unit}", "% of images"), strict=True):
        for place, split in enumerate(splits):
            heights = [row["splits"][split][key] for row in rows]
            places = np.arange(len(rows)) - 0.42 + width * (place + 0.5)
            bars = [colours[row["id"]] for row in rows]
            # train in full colour, the others hatched: also told apart in grey.
            hatch = ("", "////", "....", "xxxx")[place % 4]
            axis.bar(places, heights, width, color=bars, edgecolor="black", linewidth=0.6, hatch=hatch)
        values = [of[key] for row in rows for of in row["splits"].values() if of[key] > 0]
        axis.set_yscale("log")
        most = max(values, default=1.0)
        axis.set_ylim(min(0.5 * min(values, default=0.1), most / 20), 130 if most > 50 else 2 * most)
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.set_ylabel(what)
        axis.grid(axis="y", which="major", color="0.85")
        axis.set_axisbelow(True)
    axes[1].set_xticks(range(len(rows)), [f"{row['id']} {row['name']}" for row in rows], rotation=90)
    axes[1].set_xlim(-0.7, len(rows) - 0.3)
    key = ", ".join(f"{split}{('', ' (hatched)', ' (dotted)', ' (crossed)')[place % 4]}" for place, split in enumerate(splits))
    figure.suptitle(f"{content['dataset']}: how frequent each class is ({key})")
    return figure


def positions_figure(name: str, space: LabelSpace, facts: Mapping[str, SplitFacts]) -> Figure:
    """A map per class of the part of the images in which it covers each place, all splits together; dark is frequent.

    Each map has a scale of its own, whose end its title gives. Pictures of all sizes are stretched onto one grid.
    """
    labels = space.classes
    across = min(len(labels), 11 if len(labels) > 48 else 8 if len(labels) > 24 else 6)
    down = -(-len(labels) // across)
    ratio = _aspect(facts)
    figure = Figure(figsize=(1.75 * across + 0.3, (1.7 * ratio + 0.55) * down + 0.5), layout="constrained")
    figure.suptitle(f"{name}: where each class lies in the picture (darkest: in so many % of the images)")
    samples = sum(len(of) for of in facts.values())
    for place, axis in enumerate(figure.subplots(down, across, squeeze=False).flat):
        if place >= len(labels):
            axis.set_axis_off()
            continue
        cells = _mean_cells(facts, labels[place], samples)
        axis.imshow(cells, cmap="Greys", vmin=0, vmax=max(float(cells.max()), 1e-9), aspect=ratio * GRID[1] / GRID[0])
        axis.set_xticks([])
        axis.set_yticks([])
        most = f"{number(100 * float(cells.max()))} %" if cells.any() else "never"
        axis.set_title(f"{labels[place].id} {_short(labels[place].name)}\n{most}", fontsize=8, pad=3)
        for spine in axis.spines.values():
            spine.set_color(np.array(labels[place].color) / 255)
            spine.set_linewidth(2.5)
    return figure


def _mean_cells(facts: Mapping[str, SplitFacts], label: Label, samples: int) -> np.ndarray:
    cells = sum((of.positions[label.id] for of in facts.values() if label.id in of.positions), np.zeros(GRID))
    return np.asarray(cells / max(1, samples))


def _aspect(facts: Mapping[str, SplitFacts]) -> float:
    """Height over width of the median picture, within what a plot can show."""
    ratios = [size[0] / size[1] for of in facts.values() for size in of.sizes if size is not None]
    return float(np.clip(np.median(ratios), 0.4, 1.5)) if ratios else 0.75


def _short(name: str) -> str:
    return name if len(name) <= 22 else name[:20] + "..."
