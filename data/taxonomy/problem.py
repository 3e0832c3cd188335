"""What a search is given, what it gives back, and what a set of relations is worth.

A set of relations is worth the sum over all its pairs of labels, those that only follow from others included, of what the evidence says
of them (`connections`). With typing `shares` that is the sum of p(x, y) - share over all pairs where x is below y or equal to it: a
relation is chosen where more than `share` of the pixels speak for it, and one that follows against the evidence costs what it lacks.

Why this finds the truth: let models be right, every label space cover all that is drawn, and no two labels overlap in part. Then a true
x below y gains 1 - share. A false one, of an x that truly contains y, gains less, as p(x, y) < 1; and since x cannot be below y while
another label z of y's dataset is below x, it costs all z in x their gains of 1 - share each. There is such a z, and none is lost to
two false relations. So the truth is the only optimum, whatever `share` < 1 is and whatever sizes the labels have. Sums of scores of
typed pairs (paper 000) have no such property: a label that is most of another is typed equal to it, and excludes the others in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from data.taxonomy.connections import Candidate, Connections, Kind
from data.taxonomy.order import Order, no_relations


@dataclass(frozen=True, kw_only=True)
class Wish:
    """An override by label numbers: in every result, or in none, `a` is `kind` of `b`."""

    a: int
    b: int
    kind: Kind


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """`forced` must be feasible together and with `forbidden`: `overrides.resolve` tells where they are not."""

    connections: Connections
    forced: tuple[Wish, ...] = ()
    forbidden: tuple[Wish, ...] = ()

    @property
    def start(self) -> Order:
        """The forced relations and what follows from them."""
        order = no_relations(self.connections.evidence.spaces)
        for wish in self.forced:
            order = add(order, wish)
        return order

    def worth(self, order: Order) -> float:
        equal, subset = np.triu(order.equal, 1), order.strictly_below
        return float(self.connections.equal[equal].sum() + self.connections.subset[subset].sum())

    def allows(self, order: Order) -> bool:
        """Whether it keeps the rules and the overrides. Forced relations may still be missing."""
        return order.broken() is None and self.breach(order) is None

    def breach(self, order: Order) -> Wish | None:
        """The first override that it breaks: a forbidden relation, or a forced subset that has become equality."""
        for wish in self.forbidden:
            if holds(order, wish):
                return wish
        for wish in self.forced:
            if wish.kind == "subset" and order.below[wish.b, wish.a]:
                return wish
        return None


def add(order: Order, relation: Candidate | Wish) -> Order:
    order = order.with_pair(relation.a, relation.b)
    return order.with_pair(relation.b, relation.a) if relation.kind == "equal" else order


def holds(order: Order, relation: Candidate | Wish) -> bool:
    return bool(order.below[relation.a, relation.b] and order.below[relation.b, relation.a] == (relation.kind == "equal"))


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """The result of a search."""

    order: Order
    worth: float
    bound: float | None
    """No set of relations is worth more; None where the search cannot tell."""
    status: Literal["optimal", "time limit", "heuristic"]
    history: Sequence[float] = ()
    """Of restarts: the best worth after 1, 2, ... of them."""

    @property
    def gap(self) -> float | None:
        """By how much the bound lies above what was found; 0: proven to be the best."""
        return None if self.bound is None else max(0.0, self.bound - self.worth)
