"""Pictures of a search: how it went, what each parameter does, and the Pareto front of several goals."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tune.folder import TrialRecord
from tune.space import Choice, Parameter

COMPLETE, STOPPED, BEST, GREY = "#1f5fa8", "#9dbfe3", "#c8321e", "0.55"

COLUMNS = 3


def history_figure(records: Sequence[TrialRecord], best: TrialRecord | None) -> Figure:
    """The goal of each trial in the order in which they began, and of each over its steps."""
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    scored = [record for record in records if record.value("goal") is not None]
    _scatter(left, [(record.number, record) for record in scored], best)
    whole = [record for record in scored if record.state == "complete"]
    if whole:
        left.step(
            [record.number for record in whole],
            100 * np.maximum.accumulate([record.value("goal") or 0.0 for record in whole]),
            where="post",
            color=GREY,
            linewidth=1,
            label="best until then",
        )
    failed = [record.number for record in records if record.state == "failed"]
    if failed:
        low = left.get_ylim()[0]
        left.scatter(failed, [low] * len(failed), marker="x", color="black", label="failed")
    left.set_xlabel("trial")
    left.set_ylabel("goal, %")
    left.legend(fontsize=8, frameon=False)
    for record in records:
        points = [(report["step"], 100 * report["goal"]) for report in record.reports]
        color = BEST if best is not None and record.id == best.id else COMPLETE if record.state == "complete" else STOPPED
        marker = "o" if len(points) == 1 else None
        right.plot(*np.array(points or [(math.nan, math.nan)]).T, color=color, linewidth=1.2, marker=marker, markersize=3)
    right.set_xlabel("step")
    right.set_ylabel("goal, %")
    for axis in (left, right):
        axis.grid(color="0.9")
        axis.set_axisbelow(True)
    left.xaxis.get_major_locator().set_params(integer=True)
    return figure


def parameters_figure(
    records: Sequence[TrialRecord],
    parameters: Sequence[Parameter],
    importance: Mapping[str, float],
    best: TrialRecord | None,
    *,
    label: str = "goal, %",
    scale: float = 100,
) -> Figure:
    """The goal, times `scale`, against the value of each parameter, the most important first."""
    ordered = sorted(parameters, key=lambda one: -importance.get(one.name, 0.0))
    columns = min(COLUMNS, len(ordered))
    rows = -(-len(ordered) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.4 * rows), layout="constrained")
    grid = np.atleast_1d(figure.subplots(rows, columns, sharey=True)).ravel()
    for axis, parameter in zip(grid, ordered, strict=False):
        name, of = parameter.name, parameter.range
        scored = [record for record in records if name in record.setting and record.value("goal") is not None]
        if isinstance(of, Choice):
            places = {repr(value): place for place, value in enumerate(of.values)}
            points = [(float(places[repr(record.setting[name])]), record) for record in scored]
            axis.set_xticks(range(len(of.values)), [str(value) for value in of.values])
            axis.set_xlim(-0.5, len(of.values) - 0.5)
        else:
            points = [(float(record.setting[name]), record) for record in scored]
            if of.log:
                axis.set_xscale("log")
        _scatter(axis, points, best, scale)
        share = f"  (importance {100 * importance[name]:.0f} %)" if name in importance else ""
        axis.set_title(f"{name}{share}", fontsize=10)
        axis.grid(color="0.9")
        axis.set_axisbelow(True)
    for axis in grid[len(ordered) :]:
        axis.set_visible(False)
    for axis in grid[:: max(1, columns)]:
        axis.set_ylabel(label)
    return figure


def pareto_figure(records: Sequence[TrialRecord], metrics: Sequence[str]) -> Figure:
    """The first two metrics against each other; those that none is better than in both are joined."""
    figure = Figure(figsize=(5.6, 4.8), layout="constrained")
    axis = figure.subplots()
    points = [record for record in records if record.state == "complete" and record.value("goal") is not None]
    values = np.array([[100 * (record.value(name) or 0.0) for name in metrics[:2]] for record in points]).reshape(-1, 2)
    front = pareto(values)
    axis.scatter(*values.T, color=STOPPED, label="trials that went to the end")
    order = np.argsort(values[front, 0])
    axis.plot(*values[front][order].T, color=BEST, marker="o", linewidth=1.2, label="none is better in all")
    for place in np.flatnonzero(front).tolist():
        axis.annotate(str(points[place].number), values[place], textcoords="offset points", xytext=(5, 4), fontsize=8)
    axis.set_xlabel(f"{metrics[0]}, %")
    axis.set_ylabel(f"{metrics[1]}, %")
    axis.grid(color="0.9")
    axis.set_axisbelow(True)
    axis.legend(fontsize=8, frameon=False)
    return figure


def pareto(values: np.ndarray) -> np.ndarray:
    """(points,) bool: whether no other of (points, goals) is as good in all and better in one."""
    better = (values[:, None] >= values[None]).all(axis=2) & (values[:, None] > values[None]).any(axis=2)
    return np.logical_not(better.any(axis=0))


def _scatter(axis: Axes, points: Sequence[tuple[float, TrialRecord]], best: TrialRecord | None, scale: float = 100) -> None:
    size = 22 if len(points) < 200 else 6
    for state, label, color in (("stopped", "stopped early", STOPPED), ("complete", "went to the end", COMPLETE)):
        xs = [x for x, record in points if record.state == state]
        if xs:
            axis.scatter(xs, _goals([record for _, record in points if record.state == state], scale), s=size, color=color, label=label)
    around = [(x, record) for x, record in points if best is not None and record.id == best.id]
    if around:
        xs, ys = [x for x, _ in around], _goals([record for _, record in around], scale)
        axis.scatter(xs, ys, s=70, facecolors="none", edgecolors=BEST, linewidths=1.6, label="best")


def _goals(records: Sequence[TrialRecord], scale: float) -> list[float]:
    return [scale * (record.value("goal") or 0.0) for record in records]
