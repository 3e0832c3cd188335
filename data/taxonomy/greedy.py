"""Best first, as in paper 000, 4.3.3: of any number of datasets."""

from data.taxonomy.order import Order
from data.taxonomy.problem import Found, Problem, add, holds

ROUNDING = 1e-9


def greedy(problem: Problem) -> Found:
    """Add the relation of the highest score as long as one is left that is feasible."""
    order = improve(problem, problem.start)
    return Found(order=order, worth=problem.worth(order), bound=None, status="heuristic")


def improve(problem: Problem, order: Order) -> Order:
    """Add candidates, best first, wherever that is feasible and what follows from it does not cost more than it is worth."""
    worth = problem.worth(order)
    for candidate in problem.connections.candidates:
        if holds(order, candidate):
            continue
        more = add(order, candidate)
        if problem.allows(more) and problem.worth(more) > worth + ROUNDING:
            order, worth = more, problem.worth(more)
    return order
