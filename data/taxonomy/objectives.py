"""How good a taxonomy is, by what was stored, without a model: what searches for the parameters of its rules go by (paper 000, 5.3, leaves
the goal function open)."""

from collections.abc import Sequence

import numpy as np

from data.taxonomy.evidence import Evidence
from data.taxonomy.hypotheses import Among, Winners, parts_of, score
from data.taxonomy.taxonomy import Taxonomy

ERROR = 0.01
"""Of what a model says, the part that is taken to be wrong whatever the taxonomy: no label is impossible."""


def merged_miou(taxonomy: Taxonomy, winners: Sequence[Winners], among: Among = "all") -> float:
    """The mean over datasets of the validation mIoU, in 0..1, of a concatenation that predicts by the taxonomy (`merge=winner`)."""
    return float(np.mean(list(score(winners, parts_of(taxonomy), among).values())))


def likelihood(taxonomy: Taxonomy, evidence: Evidence) -> float:
    """The mean log-likelihood, in nats, of the true labels of all pixels, given what the other datasets' models call them.

    A pixel that is called x is of any universal class of x, all alike; it has label y with the part of these that y has. Where x says
    nothing of the dataset's labels, or for the part ERROR, any label is as likely as any other. Every pair of datasets counts the same.
    """
    leaves = taxonomy.universe().labels
    values = []
    for (model, images), counts in evidence.counts.items():
        sets = [[frozenset(leaves[dataset][name]) for name in evidence.labels[dataset]] for dataset in (images, model)]
        shared = np.array([[len(y & x) for x in sets[1]] for y in sets[0]], float)  # (labels of the images, labels of the model)
        known = shared.sum(axis=0)
        any_label = 1 / len(sets[0])
        p = np.divide(shared, known, out=np.full(shared.shape, any_label), where=known > 0)
        total = counts.sum()
        if total:
            values.append(float((counts * np.log((1 - ERROR) * p + ERROR * any_label)).sum() / total))
    return float(np.mean(values))


def agreement(found: np.ndarray, true: np.ndarray) -> float:
    """F1 of pairs of labels, each direction by itself; (labels, labels) bool both: whether the first is a part of the second or the same.
    1 where there are none, and none is found."""
    apart = ~np.eye(len(found), dtype=bool)
    total = int((found & apart).sum() + (true & apart).sum())
    return 2 * int((found & true & apart).sum()) / total if total else 1.0
