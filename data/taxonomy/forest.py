"""From relations to universal classes: the leaves, and which of them each label consists of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from data.errors import InputError
from data.taxonomy.order import Order
from data.universe import Color, Leaf, Universe


@dataclass(frozen=True, kw_only=True)
class LeavesConfig:
    """Which universal classes there are besides the labels, and groups of equal labels, that have none below them."""

    singletons: bool = True
    """Labels that are related to none are leaves; else they are left out, as in paper 000, and say nothing."""
    remainders: bool = False
    """A label that has others below it has a leaf of its own besides, for pixels that are of none of these. Without it, such pixels have
    to be of one of the labels below, and a label with only one below it is told from that by nothing."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Forest:
    """Groups of equal labels, and which of them lie below which."""

    order: Order
    nodes: Sequence[str]
    """Full names of the labels, DATASET/LABEL."""

    @cached_property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """Label numbers, each once, by the first of each group."""
        members: dict[int, list[int]] = {}
        for node, first in enumerate(self.order.equal.argmax(axis=1).tolist()):
            members.setdefault(first, []).append(node)
        return tuple(map(tuple, members.values()))

    @cached_property
    def inside(self) -> np.ndarray:
        """(groups, groups) bool: the first is a part of the second, and not the same."""
        firsts = [group[0] for group in self.groups]
        return self.order.strictly_below[np.ix_(firsts, firsts)]

    @cached_property
    def parents(self) -> np.ndarray:
        """(groups, groups) bool: `inside` without what lies further up."""
        inside = self.inside.astype(np.int64)
        return np.logical_and(self.inside, inside @ inside == 0)

    @cached_property
    def isolated(self) -> tuple[int, ...]:
        """Groups of one label that is related to none."""
        related = np.any(self.inside | self.inside.T, axis=1)
        return tuple(number for number, group in enumerate(self.groups) if len(group) == 1 and not related[number])

    @cached_property
    def names(self) -> tuple[str, ...]:
        """A name for each group: what its labels are called in their datasets; with the datasets where that is not unique."""
        short = ["/".join(dict.fromkeys(self._label(node) for node in group)) for group in self.groups]
        long = ["+".join(self.nodes[node] for node in group) for group in self.groups]
        return tuple(own if short.count(own) == 1 else full for own, full in zip(short, long, strict=True))

    def _label(self, node: int) -> str:
        return self.nodes[node].split("/", 1)[1]

    def leaves(self, config: LeavesConfig) -> dict[str, int]:
        """Name of each leaf -> the group that it is, or that it is the remainder of."""
        left_out = () if config.singletons else self.isolated
        leaves: dict[str, int] = {}
        for number, name in enumerate(self.names):
            has_parts = bool(self.inside[:, number].any())
            if number in left_out or (has_parts and not config.remainders):
                continue
            leaf = f"{name} (other)" if has_parts else name
            if leaf in leaves:
                raise InputError(f"leaves: two of the name {leaf!r} found, of {self.names[leaves[leaf]]} and {name}; rename a label")
            leaves[leaf] = number
        return leaves

    def universe(self, config: LeavesConfig, *, colors: Mapping[str, Color] | None = None) -> Universe:
        """What `outputs=universal` reads. `colors`: full name of a label -> RGB; a leaf has that of its first label that has one.

        Raises InputError for fewer than two leaves.
        """
        leaves = self.leaves(config)
        of_group = [
            tuple(name for name, leaf in leaves.items() if leaf == number or self.inside[leaf, number])
            for number in range(len(self.groups))
        ]
        group_of = {node: number for number, group in enumerate(self.groups) for node in group}
        labels: dict[str, dict[str, tuple[str, ...]]] = {}
        for node, name in enumerate(self.nodes):
            dataset, label = name.split("/", 1)
            labels.setdefault(dataset, {})[label] = of_group[group_of[node]]
        return Universe(
            version=1,
            leaves=tuple(Leaf(name=name, color=self._color(group, colors or {})) for name, group in leaves.items()),
            labels=labels,
        )

    def _color(self, group: int, colors: Mapping[str, Color]) -> Color | None:
        return next((colors[self.nodes[node]] for node in self.groups[group] if self.nodes[node] in colors), None)
