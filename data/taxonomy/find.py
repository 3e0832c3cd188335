"""From evidence to a taxonomy."""

from collections.abc import Iterator
from typing import Any

from data.errors import InputError
from data.taxonomy.connections import Candidate, Connections, connect
from data.taxonomy.evidence import Evidence
from data.taxonomy.greedy import greedy
from data.taxonomy.order import Order
from data.taxonomy.overrides import Overrides, resolve, shown, why_broken
from data.taxonomy.problem import Found, Problem, add, holds
from data.taxonomy.restarts import restarts
from data.taxonomy.taxonomy import Chosen, Outcome, Rejected, SearchConfig, Taxonomy, TaxonomyConfig, mode_of


def find_taxonomy(evidence: Evidence, config: TaxonomyConfig, overrides: Overrides | None = None) -> Taxonomy:
    """The best set of relations by `config`, with all forced ones and none that is forbidden.

    Raises InputError where nothing is left that could be a relation, and for overrides that do not fit.
    """
    overrides = overrides or Overrides()
    wishes = resolve(overrides, evidence.nodes, evidence.spaces)
    connections = connect(evidence, config.rules)
    if not connections.candidates and not wishes.forced:
        raise InputError(
            f"rules: no two labels of {', '.join(evidence.labels)} found that would be related (largest share "
            f"{connections.shares.max():.3f}), expected some; lower the thresholds, or train and evaluate the models longer"
        )
    problem = Problem(connections=connections, forced=wishes.forced, forbidden=wishes.forbidden)
    found = search(problem, config.search)
    return Taxonomy(
        version=1,
        mode=mode_of(config),
        config=config,
        outcome=Outcome(status=found.status, worth=found.worth, bound=found.bound, gap=found.gap),
        labels=dict(evidence.labels),
        relations=tuple(_chosen(problem, found.order)),
        rejected=tuple(_rejected(problem, found.order)),
        overrides=overrides,
    )


def search(problem: Problem, config: SearchConfig) -> Found:
    if config.method == "exact":
        from data.taxonomy.exact import exact  # late: scipy takes half a second, and whoever only reads taxonomies needs none

        return exact(problem, seconds=config.seconds)
    return greedy(problem) if config.method == "greedy" else restarts(problem, num=config.num, seed=config.seed)


def _chosen(problem: Problem, order: Order) -> Iterator[Chosen]:
    connections = problem.connections
    for a, row in enumerate(order.below):
        for b in row.nonzero()[0].tolist():
            equal = bool(order.below[b, a])
            if a == b or (equal and b < a):
                continue
            score = float((connections.equal if equal else connections.subset)[a, b])
            relation = Candidate(a=a, b=b, kind="equal" if equal else "subset", score=score)
            is_forced = any(holds(order, wish) and {wish.a, wish.b} == {a, b} for wish in problem.forced)
            yield Chosen(**_entries(connections, relation), origin="forced" if is_forced else "evidence" if score > 0 else "implied")


def _rejected(problem: Problem, order: Order) -> Iterator[Rejected]:
    """The best candidate of each pair that has no relation, or one that is worth less."""
    connections, seen = problem.connections, set[frozenset[int]]()
    for candidate in connections.candidates:
        pair = frozenset((candidate.a, candidate.b))
        if pair in seen:
            continue
        seen.add(pair)
        if not holds(order, candidate):
            yield Rejected(**_entries(connections, candidate), reason=_reason(problem, order, candidate))


def _reason(problem: Problem, order: Order, candidate: Candidate) -> str:
    nodes, more = problem.connections.evidence.nodes, add(order, candidate)
    breach = problem.breach(more)
    if breach is not None:
        return f"override: {shown(breach, nodes)} is {'forbidden' if breach in problem.forbidden else 'forced'}"
    broken = more.broken()
    if broken is not None:
        return f"with it {why_broken(broken, nodes)}"
    if order.below[candidate.a, candidate.b] or order.below[candidate.b, candidate.a]:
        return "another kind for the two is worth more with all that follows"
    return f"what follows from it makes the whole worth less by {problem.worth(order) - problem.worth(more):.3g}"


def _entries(connections: Connections, relation: Candidate) -> dict[str, Any]:
    a, b = relation.a, relation.b
    shares = [round(float(connections.shares[pair]), 6) if connections.known[pair] else None for pair in ((a, b), (b, a))]
    return {
        "a": connections.evidence.nodes[a],
        "kind": relation.kind,
        "b": connections.evidence.nodes[b],
        "score": round(relation.score, 6),
        "share_a": shares[0],
        "share_b": shares[1],
        "pixels_a": int(connections.cells[a, b]),
        "pixels_b": int(connections.cells[b, a]),
    }
