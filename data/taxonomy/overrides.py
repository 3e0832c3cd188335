"""What a person knows better than the evidence: relations that every taxonomy is to have, or must not have.

A file of its own, so that it outlives every rebuild:

    version: 1
    force: [voc/car < cityscapes/car, voc/bus = cityscapes/bus]
    forbid: [voc/person = cityscapes/rider, voc/horse ~ cityscapes/person]

`a < b`: a is a part of b; `a > b`: the other way round; `a = b`: the same; with forbid also `a ~ b`: any of these.
"""

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from data.errors import FieldError, InputError
from data.taxonomy.connections import Kind
from data.taxonomy.order import Order, no_relations
from data.taxonomy.problem import Wish, add, holds
from data.universe import read_file


@dataclass(frozen=True, kw_only=True)
class Overrides:
    """The content of such a file."""

    version: Literal[1] = 1
    force: tuple[str, ...] = ()
    forbid: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field, entries, signs in (("force", self.force, "<>="), ("forbid", self.forbid, "<>=~")):
            for entry in entries:
                if len(re.findall(rf"\s[{signs}]\s", entry)) != 1:
                    raise FieldError(
                        field, f"{entry!r} found, expected two labels and one of {' '.join(signs)} such as a/car < b/car; mend it"
                    )


@dataclass(frozen=True, kw_only=True)
class Resolved:
    """Overrides by label numbers, which contradict neither one another nor the rules."""

    forced: tuple[Wish, ...]
    forbidden: tuple[Wish, ...]


def read_overrides(path: Path) -> Overrides:
    """Raises InputError, which names the file."""
    return read_file(path, Overrides)


def resolve(overrides: Overrides, nodes: Sequence[str], spaces: np.ndarray) -> Resolved:
    """The overrides for labels of those full names, (labels,) numbers of datasets beside them.

    Raises InputError for labels that are unknown or of one dataset, and for overrides that contradict one another.
    """
    forced, order = [], no_relations(spaces)
    for entry in overrides.force:
        for wish in _wishes("force", entry, nodes, spaces):
            order = add(order, wish)
            forced.append(wish)
            _check_rules(order, forced, f"force: {entry!r}", nodes)
    forbidden = []
    for entry in overrides.forbid:
        for wish in _wishes("forbid", entry, nodes, spaces):
            if holds(order, wish):
                raise InputError(
                    f"forbid: {entry!r} found, but {nodes[wish.a]} {SIGNS[wish.kind]} {nodes[wish.b]} follows from force; remove one"
                )
            forbidden.append(wish)
    return Resolved(forced=tuple(forced), forbidden=tuple(forbidden))


SIGNS: dict[Kind, str] = {"equal": "=", "subset": "<"}


def shown(wish: Wish, nodes: Sequence[str]) -> str:
    """As it is written in a file."""
    return f"{nodes[wish.a]} {SIGNS[wish.kind]} {nodes[wish.b]}"


def _wishes(key: str, entry: str, nodes: Sequence[str], spaces: np.ndarray) -> Iterator[Wish]:
    left, sign, right = (part.strip() for part in re.split(r"\s([<>=~])\s", entry))
    a, b = _number(key, left, nodes), _number(key, right, nodes)
    if spaces[a] == spaces[b]:
        raise InputError(f"{key}: {entry!r} found, expected labels of two datasets: those of one are disjoint; remove it")
    if sign in "=~":
        yield Wish(a=a, b=b, kind="equal")
    if sign in "<~":
        yield Wish(a=a, b=b, kind="subset")
    if sign in ">~":
        yield Wish(a=b, b=a, kind="subset")


def _number(key: str, name: str, nodes: Sequence[str]) -> int:
    if name not in nodes:
        close = difflib.get_close_matches(name, nodes, n=3, cutoff=0.4)
        expected = f"for example {', '.join(close)}" if close else f"such as {nodes[0]}"
        raise InputError(f"{key}: label {name!r} found, expected DATASET/LABEL of the evidence, {expected}; mend the name")
    return nodes.index(name)


def _check_rules(order: Order, forced: Sequence[Wish], what: str, nodes: Sequence[str]) -> None:
    broken = order.broken()
    if broken is not None:
        raise InputError(f"{what} found, but with the entries before it {why_broken(broken, nodes)}; remove one of them")
    for wish in forced:
        if wish.kind == "subset" and order.below[wish.b, wish.a]:
            raise InputError(
                f"{what} found, but with the entries before it {nodes[wish.a]} and {nodes[wish.b]} become equal, "
                f"in a circle with {shown(wish, nodes)}; remove one of them"
            )


def why_broken(broken: tuple[int, int, int], nodes: Sequence[str]) -> str:
    """What `Order.broken` found, in words."""
    x, first, second = broken
    if first == x:
        return f"{nodes[x]} is a part of {nodes[second]}, of its own dataset"
    return f"{nodes[x]} is a part of both {nodes[first]} and {nodes[second]}, which are disjoint"
