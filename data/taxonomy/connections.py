"""From confusion matrices to what each pair of labels may be to one another, and what that is worth (paper 000, 4.3.2 and 5.3)."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from data.errors import FieldError
from data.taxonomy.evidence import Evidence
from data.taxonomy.unmix import unmix

Kind = Literal["equal", "subset"]
"""What the first label of a relation is to the second."""


ROUNDING = 1e-12
"""0.7 - 0.2 is less than 0.5 in binary, and is not to be."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How shares become relations. Written p(x, y): of the pixels that x's model predicts as x on images of y's dataset, the part that
    is truly y."""

    typing: Literal["shares", "difference", "strict"] = "shares"
    """shares: each direction by itself: x below y is worth p(x, y) - `share`, and equal is both. difference: paper 000, one kind
    for each pair: equal where the shares differ by less than `delta`, else the label of the larger share is the subset; worth the
    score of the pair. strict: equal where both shares reach `high`, subset where one does; worth the score."""
    share: float = 0.35
    """In 0..1: from which share on a direction speaks for a relation; below it, it speaks against, with any typing. Higher finds fewer
    relations; benchmarks/README.md compares."""
    high: float = 0.5
    """In 0..1; only with typing strict."""
    score: Literal["sum", "product"] = "sum"
    """Of the two shares of a pair; not with typing shares."""
    epsilon: float = 0.33
    """Pairs whose score is not above it are unrelated; not with typing shares."""
    delta: float = 0.5
    """Shares that differ by less are those of equal labels; only with typing difference."""
    min_pixels: int = 0
    """A label that is predicted for fewer pixels of a dataset than this has no share of them: these are mistakes. Paper 000: 5000."""
    min_part: float = 2e-5
    """The same as a part of the pixels evaluated, for datasets of other sizes; paper 000's 5000 pixels are about 2e-5 of its images."""
    min_found: float = 0.0
    """p(x, y) is taken for 0 where less than this part of the pixels that are truly y is predicted as x."""
    unmix: bool = True
    """Whether the mistakes that a model makes on its own images are taken out of its shares (data/taxonomy/unmix.py), where the evidence
    has them. Not in paper 000."""

    def __post_init__(self) -> None:
        for name in ("share", "high", "delta", "min_part", "min_found"):
            if not 0 <= getattr(self, name) <= 1:
                raise FieldError(name, f"{getattr(self, name):g} found, expected a part in 0..1; mend it")
        for name in ("epsilon", "min_pixels"):
            if not getattr(self, name) >= 0:
                raise FieldError(name, f"{getattr(self, name):g} found, expected 0 or more; mend it")


THESIS = Rules(typing="difference", score="sum", epsilon=0.33, delta=0.5, min_pixels=5000, min_part=0.0, unmix=False)
"""The conventions of paper 000. A relation that is not feasible is dropped, never given another kind."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Label number `a` is `kind` of label number `b`, which is worth `score` > 0."""

    a: int
    b: int
    kind: Kind
    score: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Connections:
    """Shares between all labels, and what each relation of each pair is worth."""

    evidence: Evidence
    rules: Rules
    shares: np.ndarray
    """(labels, labels) float64: p(x, y), without the models' own mistakes where the rules say so; 0 where nothing is known."""
    known: np.ndarray
    """(labels, labels) bool: whether x's model was evaluated on images of y's dataset and predicts x there often enough."""
    cells: np.ndarray
    """(labels, labels) int64: pixels predicted as x that are truly y."""
    subset: np.ndarray
    """(labels, labels) float64: what x below y, but not equal to it, is worth; negative: what it costs, where it follows from others."""
    equal: np.ndarray
    """(labels, labels) float64, symmetric: what x equal to y is worth."""

    @cached_property
    def candidates(self) -> tuple[Candidate, ...]:
        """All relations that are worth something, best first; of those worth the same in the order of the labels' names."""
        return tuple(sorted(self._candidates(), key=lambda c: (-c.score, self.evidence.nodes[c.a], self.evidence.nodes[c.b], c.kind)))

    def _candidates(self) -> Iterator[Candidate]:
        for a, b in np.argwhere(self.subset > 0).tolist():
            yield Candidate(a=a, b=b, kind="subset", score=float(self.subset[a, b]))
        for a, b in np.argwhere(np.triu(self.equal > 0)).tolist():
            yield Candidate(a=a, b=b, kind="equal", score=float(self.equal[a, b]))


def connect(evidence: Evidence, rules: Rules) -> Connections:
    """Shares of the columns of all matrices, and by `rules` what they are worth."""
    cells, predicted, true, known = _pixels(evidence, rules)
    shares = np.divide(cells, predicted, out=np.zeros(cells.shape), where=known)
    found = np.divide(cells, true, out=np.zeros(cells.shape), where=true > 0)
    for model, images in evidence.counts if rules.unmix else ():
        if model in evidence.own:
            block = evidence.places[model], evidence.places[images]
            shares[block] = unmix(shares[block], evidence.own[model])
    shares[found < rules.min_found] = 0.0
    # What asserting a direction says against the evidence; nothing where there is none.
    excess = np.where(known, shares - rules.share, 0.0)
    subset, equal = excess, excess + excess.T
    if rules.typing != "shares":
        lacking = np.minimum(excess, 0.0)
        is_subset, is_equal, score = _typed(shares, rules)
        subset, equal = np.where(is_subset, score, lacking), np.where(is_equal, score, lacking + lacking.T)
    return Connections(evidence=evidence, rules=rules, shares=shares, known=known, cells=cells, subset=subset, equal=equal)


def _typed(shares: np.ndarray, rules: Rules) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which pairs are subset, which are equal, (labels, labels) bool each, and the score of each pair."""
    score = shares + shares.T if rules.score == "sum" else shares * shares.T
    candidate = score > rules.epsilon + ROUNDING
    if rules.typing == "strict":
        high = shares >= rules.high
        return candidate & high & ~high.T, candidate & high & high.T, score
    difference = shares - shares.T
    is_equal = np.abs(difference) < rules.delta - ROUNDING
    # Two shares that are the same are equal labels' even where delta is 0.
    is_equal |= difference == 0
    return candidate & ~is_equal & (difference > 0), candidate & is_equal, score


def _pixels(evidence: Evidence, rules: Rules) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """For each x and y, (labels, labels): pixels predicted as x that are truly y; predicted as x on images of y's dataset; truly y that x's
    model saw; and whether x is predicted often enough there."""
    size = len(evidence.nodes)
    cells, predicted, true = (np.zeros((size, size), np.int64) for _ in range(3))
    known = np.zeros((size, size), bool)
    for (model, images), matrix in evidence.counts.items():
        block = evidence.places[model], evidence.places[images]
        cells[block] = matrix.T
        predicted[block] = matrix.sum(axis=0)[:, None]
        true[block] = matrix.sum(axis=1)[None, :]
        known[block] = predicted[block] >= max(1, rules.min_pixels, rules.min_part * evidence.pixels[model, images])
    return cells, predicted, true, known
