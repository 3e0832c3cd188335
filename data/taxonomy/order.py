"""Relations between labels as one matrix: `below[x, y]` says that all pixels of label x are of label y.

It is reflexive and transitive; x and y are equal where it holds both ways. Labels of one dataset are disjoint, and from that all rules
follow: no two of them are related, and no label is below two of them. (So a label is equal to one label of a dataset at most, and none
that is below another has labels below it in that one's dataset.) A label may be below labels of several datasets that are not related:
these overlap, then. Between two datasets the rules leave the stars and pairs of paper 000 (4.3.3), and nothing else.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True, eq=False)
class Order:
    """A matrix that may break the rules, with the dataset of each label."""

    below: np.ndarray
    """(labels, labels) bool, reflexive and transitive."""
    spaces: np.ndarray
    """(labels,) int64: the number of each label's dataset."""

    def broken(self) -> tuple[int, int, int] | None:
        """The first label x that is below two labels y and z of one dataset, where y may be x itself; None: the rules hold."""
        of_space = (self.spaces[:, None] == np.unique(self.spaces)).astype(np.float32)
        crowded = np.argwhere(self.below.astype(np.float32) @ of_space > 1)
        if not len(crowded):
            return None
        x, space = crowded[0].tolist()
        above = np.flatnonzero(self.below[x] & (of_space[:, space] > 0)).tolist()
        first, second = sorted(above, key=lambda y: (y != x, y))[:2]
        return x, first, second

    def with_pair(self, x: int, y: int) -> "Order":
        """With x below y, and all that follows."""
        return Order(below=self.below | np.outer(self.below[:, x], self.below[y]), spaces=self.spaces)

    @property
    def equal(self) -> np.ndarray:
        """(labels, labels) bool, symmetric, each label with itself included."""
        return self.below & self.below.T

    @property
    def strictly_below(self) -> np.ndarray:
        return self.below & ~self.below.T


def no_relations(spaces: np.ndarray) -> Order:
    return Order(below=np.eye(len(spaces), dtype=bool), spaces=spaces)


def close(below: np.ndarray) -> np.ndarray:
    """The reflexive, transitive closure of (labels, labels) bool."""
    closed = below | np.eye(len(below), dtype=bool)
    for middle in range(len(below)):
        closed |= np.outer(closed[:, middle], closed[middle])
    return closed
