"""The random search of paper 000 (5.3), for two datasets."""

from collections.abc import Sequence

import numpy as np

from data.errors import InputError
from data.taxonomy.connections import Candidate
from data.taxonomy.problem import Found, Problem, add

AT_ONCE = 1024
"""Simulations that are advanced together."""


def restarts(problem: Problem, *, num: int = 5000, seed: int = 0) -> Found:
    """The best of `num` simulations, each of which goes through the candidates in an order of its own, drawn uniformly, and adds each
    that is feasible. Of equally good ones the first is kept.

    What is feasible between two datasets never becomes so later: one pass leaves nothing that could be added.
    """
    evidence = problem.connections.evidence
    if len(evidence.labels) != 2:
        raise InputError(f"search: restarts of {len(evidence.labels)} datasets found, expected two; take exact or greedy")
    start = problem.start
    candidates = [c for c in problem.connections.candidates if problem.allows(add(start, c)) and not start.below[c.a, c.b]]
    scores = np.array([candidate.score for candidate in candidates])
    generator = np.random.default_rng(seed)
    best, kept, history = -1.0, np.zeros(len(candidates), bool), []
    for first in range(0, num, AT_ONCE):
        chosen = _simulate(candidates, start.below, min(AT_ONCE, num - first), generator)
        totals = chosen @ scores
        history.append(totals)
        if len(totals) and totals.max() > best:
            best, kept = float(totals.max()), chosen[totals.argmax()]
    order = start
    for number in np.flatnonzero(kept).tolist():
        order = add(order, candidates[number])
    before = problem.worth(start)
    trace = np.maximum.accumulate(np.concatenate(history)) + before if history else np.empty(0)
    return Found(order=order, worth=problem.worth(order), bound=None, status="heuristic", history=tuple(trace.tolist()))


def _simulate(candidates: Sequence[Candidate], start: np.ndarray, num: int, generator: np.random.Generator) -> np.ndarray:
    """(num, candidates) bool: which ones each simulation adds to `start` (labels, labels) bool."""
    related = start & ~np.eye(len(start), dtype=bool)
    has_above = np.tile(np.any(related, axis=1), (num, 1))
    has_below = np.tile(np.any(related, axis=0), (num, 1))
    a = np.array([candidate.a for candidate in candidates], int)
    b = np.array([candidate.b for candidate in candidates], int)
    equal = np.array([candidate.kind == "equal" for candidate in candidates], bool)
    orders = generator.permuted(np.tile(np.arange(len(candidates)), (num, 1)), axis=1)
    chosen, rows = np.zeros((num, len(candidates)), bool), np.arange(num)
    for drawn in orders.T:
        of_a, of_b, is_equal = a[drawn], b[drawn], equal[drawn]
        feasible = ~has_above[rows, of_a] & ~has_below[rows, of_a] & ~has_above[rows, of_b] & ~(is_equal & has_below[rows, of_b])
        chosen[rows, drawn] = feasible
        has_above[rows, of_a] |= feasible
        has_below[rows, of_b] |= feasible
        has_above[rows, of_b] |= feasible & is_equal
        has_below[rows, of_a] |= feasible & is_equal
    return chosen
