"""The best set of relations over any number of datasets, with the proof of it: a mixed-integer program, solved by HiGHS.

One binary variable L[x, y] for each pair of labels that the evidence may relate: x is below y or equal to it. A second one for the pair
where being equal is worth another sum than both directions. The rules (`order`):

    at most one above      sum over y of dataset e:  L[x, y] <= 1
    disjoint               L[x, y] + sum over z != x of x's own dataset: L[y, z] <= 1
    transitive             L[x, y] + sum over z in S: (L[y, z] - L[x, z]) <= 1       for each set S of labels of one dataset

The first two are all there is to two datasets. Those of the third are far too many, and relations that only follow from others are no
variables at first: both are added where a solution breaks them, first to the linear relaxation until it breaks none, then to the integer
program. Leaving some out only makes the bound higher, so a solution that breaks none is proven best. Labels between which no chain of
possible relations leads are solved apart.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from data.taxonomy.greedy import greedy, improve
from data.taxonomy.order import Order, close
from data.taxonomy.problem import Found, Problem, Wish, add, holds

TOLERANCE = 1e-6

Row = tuple[list[int], list[float], float]
"""Of the constraints: columns, factors, and what their sum may be at most."""


def exact(problem: Problem, *, seconds: float = 60.0) -> Found:
    """The best relations; where `seconds` do not suffice for the proof, good ones and a bound."""
    deadline = time.monotonic() + seconds
    supported = _supported(problem)
    num, of = connected_components(supported, directed=False)
    members = sorted((np.flatnonzero(of == number) for number in range(num)), key=len)
    below, bound, proven = np.eye(len(supported), dtype=bool), 0.0, True
    for labels in members:
        if len(labels) > 1:
            is_free = not any(wish.a in labels or wish.b in labels for wish in (*problem.forced, *problem.forbidden))
            if len(labels) == 2 and is_free:
                part = _pair(problem, *labels.tolist())
            else:
                part = _solve(_Program(problem=problem, labels=labels, supported=supported), deadline)
            below[np.ix_(labels, labels)] |= part.below
            bound, proven = bound + part.bound, proven and part.proven
    order = _cleaned(problem, Order(below=below, spaces=problem.connections.evidence.spaces), supported)
    if not proven:
        order = max((order, greedy(problem).order), key=problem.worth)
    worth = problem.worth(order)
    return Found(order=order, worth=worth, bound=max(bound, worth), status="optimal" if proven else "time limit")


def _supported(problem: Problem) -> np.ndarray:
    """(labels, labels) bool: the directions that are worth something by themselves or with their opposite, or that overrides name."""
    equal = problem.connections.equal > 0
    supported = (problem.connections.subset > 0) | equal
    for wish in (*problem.forced, *problem.forbidden):
        supported[wish.a, wish.b] = supported[wish.b, wish.a] = True
    return supported


def _cleaned(problem: Problem, order: Order, supported: np.ndarray) -> Order:
    """Only what is supported, and what follows from it: a relation that is worth nothing may be on in a solution without need. Where the
    time was over, a solution that breaks rules is taken up as far as it keeps them."""
    closed = Order(below=close(order.below & supported), spaces=order.spaces)
    if problem.allows(closed):
        return closed
    kept = problem.start
    for candidate in problem.connections.candidates:
        more = add(kept, candidate)
        if holds(order, candidate) and problem.allows(more):
            kept = more
    return improve(problem, kept)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Part:
    """The solution of one program; with `proven` it keeps all rules and is worth `bound`."""

    below: np.ndarray
    bound: float
    proven: bool


@dataclass(kw_only=True, eq=False)
class _Program:
    """The program of some labels, which are numbered anew, as it grows."""

    problem: Problem
    labels: np.ndarray
    supported: np.ndarray
    cuts: dict[tuple[int, int, tuple[int, ...]], None] = field(default_factory=dict)
    """x, y and S of the third kind of constraint; a dict for its order."""

    def __post_init__(self) -> None:
        block = np.ix_(self.labels, self.labels)
        self.present = self.supported[block]
        """Which L[x, y] are variables."""
        self.subset, self.equal = self.problem.connections.subset[block], self.problem.connections.equal[block]
        self.spaces = self.problem.connections.evidence.spaces[self.labels]

    @cached_property
    def one_hot(self) -> np.ndarray:
        return (self.spaces[:, None] == np.unique(self.spaces)).astype(float)

    def solve(self, *, integer: bool, seconds: float) -> tuple[np.ndarray | None, float | None, bool]:
        """Values (labels, labels) of L, an upper bound, and whether the program as it is was solved to the end."""
        columns = {(x, y): number for number, (x, y) in enumerate(np.argwhere(self.present).tolist())}
        bonus = self.equal - self.subset - self.subset.T
        both = np.argwhere(np.triu(self.present & self.present.T & (np.abs(bonus) > TOLERANCE / 1000))).tolist()
        equals = {(x, y): len(columns) + number for number, (x, y) in enumerate(both)}
        worth = np.array([self.subset[pair] for pair in columns] + [bonus[pair] for pair in equals])
        rows = [*self._rules(columns), *self._links(columns, equals, bonus), *self._wishes(columns)]
        lengths = [len(row[0]) for row in rows]
        matrix = coo_array(
            ([f for row in rows for f in row[1]], (np.repeat(np.arange(len(rows)), lengths), [c for row in rows for c in row[0]])),
            shape=(len(rows), len(worth)),
        ).tocsr()
        result = milp(
            -worth,
            integrality=np.full(len(worth), int(integer)),
            bounds=self._bounds(columns, len(worth)),
            constraints=LinearConstraint(matrix, ub=[row[2] for row in rows]) if rows else None,
            options={"time_limit": max(0.01, seconds), "mip_rel_gap": 0.0},
        )
        values = None
        if result.x is not None:
            values = np.eye(len(self.labels))
            values[self.present] = result.x[: len(columns)]
        bound = getattr(result, "mip_dual_bound", None) if integer else (result.fun if result.success else None)
        return values, None if bound is None else -bound, bool(result.success)

    def separate(self, values: np.ndarray) -> bool:
        """Add constraints of transitivity that `values` breaks, and the variables in them; whether there are any."""
        found = False
        for x, y in np.argwhere(np.triu(values > TOLERANCE, 1) | np.tril(values > TOLERANCE, -1)).tolist():
            missing = np.maximum(values[y] - values[x], 0.0)
            broken = np.flatnonzero(values[x, y] + missing @ self.one_hot > 1 + 10 * TOLERANCE)
            for space in broken.tolist():
                of = tuple(np.flatnonzero((missing > TOLERANCE) & (self.one_hot[:, space] > 0)).tolist())
                self.present[x, list(of)] |= self.spaces[list(of)] != self.spaces[x]
                found = found or (x, y, of) not in self.cuts
                self.cuts[x, y, of] = None
        return found

    def _rules(self, columns: dict[tuple[int, int], int]) -> Iterator[Row]:
        by_space: dict[tuple[int, int], list[int]] = {}
        for (x, y), column in columns.items():
            by_space.setdefault((x, int(self.spaces[y])), []).append(column)
        for above in by_space.values():
            if len(above) > 1:
                yield above, [1.0] * len(above), 1.0
        for (x, y), column in columns.items():
            own = [c for c in by_space.get((y, int(self.spaces[x])), []) if c != columns.get((y, x))]
            if own:
                yield [column, *own], [1.0] * (1 + len(own)), 1.0
        for x, y, of in self.cuts:
            more = [columns[y, z] for z in of]
            less = [columns[x, z] for z in of if (x, z) in columns]
            yield [columns[x, y], *more, *less], [1.0] * (1 + len(more)) + [-1.0] * len(less), 1.0

    def _links(self, columns: dict[tuple[int, int], int], equals: dict[tuple[int, int], int], bonus: np.ndarray) -> Iterator[Row]:
        """The second variable of a pair is 1 exactly where both directions are; what a solution would do anyway is left out."""
        for (x, y), column in equals.items():
            if bonus[x, y] > 0:
                yield [column, columns[x, y]], [1.0, -1.0], 0.0
                yield [column, columns[y, x]], [1.0, -1.0], 0.0
            else:
                yield [columns[x, y], columns[y, x], column], [1.0, 1.0, -1.0], 1.0

    def _wishes(self, columns: dict[tuple[int, int], int]) -> Iterator[Row]:
        for a, b, kind in self._local(self.problem.forbidden):
            if kind == "subset":
                yield [columns[a, b], columns[b, a]], [1.0, -1.0], 0.0
            else:
                yield [columns[a, b], columns[b, a]], [1.0, 1.0], 1.0

    def _bounds(self, columns: dict[tuple[int, int], int], size: int) -> Bounds:
        least, most = np.zeros(size), np.ones(size)
        for a, b, kind in self._local(self.problem.forced):
            least[columns[a, b]] = 1.0
            if kind == "equal":
                least[columns[b, a]] = 1.0
            else:
                most[columns[b, a]] = 0.0
        return Bounds(least, most)

    def _local(self, wishes: tuple[Wish, ...]) -> Iterator[tuple[int, int, str]]:
        places = {label: place for place, label in enumerate(self.labels.tolist())}
        for wish in wishes:
            if wish.a in places:
                yield places[wish.a], places[wish.b], wish.kind


def _pair(problem: Problem, a: int, b: int) -> _Part:
    """The best of the three relations that two labels of two datasets may have, where no other label has to do with them."""
    subset, equal = problem.connections.subset, problem.connections.equal
    worth, first, second = max((equal[a, b], True, True), (subset[a, b], True, False), (subset[b, a], False, True), key=lambda it: it[0])
    below = np.array([[True, first and worth > 0], [second and worth > 0, True]])
    return _Part(below=below, bound=max(0.0, float(worth)), proven=True)


def _solve(program: _Program, deadline: float) -> _Part:
    bound = float(np.maximum(program.subset, 0).sum() + np.triu(np.maximum(program.equal, 0)).sum())
    below = np.eye(len(program.labels), dtype=bool)
    integer = False
    while True:
        left = deadline - time.monotonic()
        values, value, solved = program.solve(integer=integer, seconds=left) if left > 0 else (None, None, False)
        bound = bound if value is None else min(bound, value)
        if integer and values is not None:
            below = values > 0.5
        if not solved or values is None:
            return _Part(below=below, bound=bound, proven=False)
        if not program.separate(below.astype(float) if integer else values):
            if integer:
                return _Part(below=below, bound=bound, proven=True)
            integer = True
