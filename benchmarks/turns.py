"""Contestants that take turns, so that whatever else the machine does falls on all of them."""

from collections.abc import Callable, Mapping
from statistics import median
from typing import Any


def seconds_in_turn(contestants: Mapping[str, Callable[[], Any]], rounds: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Seconds of each in each round, which all go through in alternating order."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds):
        for name in list(contestants)[:: 1 if number % 2 else -1]:
            begin = clock()
            contestants[name]()
            seconds[name].append(clock() - begin)
    return seconds


def times_as_fast(base: list[float], own: list[float]) -> str:
    """Median, lowest and highest of the ratios within a round."""
    ratios = [other / mine for other, mine in zip(base, own, strict=True)]
    return f"{median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})"
