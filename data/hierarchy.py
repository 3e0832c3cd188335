"""Trees of classifiers (paper 001): each decides between the children of one node, and labels of datasets are nodes, or sets of them.

A pixel of a label teaches the classifiers from the root down to the node that is its label, and none below. Trees are YAML files; those
in data/hierarchies come with the package.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from math import inf
from pathlib import Path
from typing import Literal

from data.errors import InputError
from data.labels import View
from data.universe import Color, check_colors, check_known, check_unique, labels_of, leaf_view, read_named

FOLDER = Path(__file__).with_name("hierarchies")


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """One softmax of a tree: over `classes`, and over void where it has that."""

    classes: tuple[str, ...]
    """Names of nodes, unlike those of every other classifier."""
    of: str | None = None
    """The node whose children the classes are, a class of a classifier before this one; null for the root, which is the first."""
    void: bool = False
    """Whether there is one more output, the last: no label's target, it takes what is none of the classes."""
    weight: float = 1.0
    """Of its loss, which is the mean over the pixels of all datasets that teach it."""
    datasets: tuple[str, ...] | None = None
    """Datasets whose labels teach it; null: all whose labels lie below the node."""
    passed_over: tuple[str, ...] = ()
    """Datasets for which `rule: greedy` does not ask it, but goes on to the one child under which their labels lie."""

    def __post_init__(self) -> None:
        if len(self.classes) + self.void < 2:
            raise InputError(f"classes: {', '.join(self.classes) or 'none'} found, expected two outputs or more, void included; add one")
        if not 0 <= self.weight < inf:
            raise InputError(f"weight: {self.weight:g} found, expected a number of 0 or more; mend it")

    @property
    def num_outputs(self) -> int:
        return len(self.classes) + self.void


@dataclass(frozen=True, kw_only=True)
class Hierarchy:
    """A tree with the labels of datasets.

    Its leaves are the nodes that no classifier splits, and the void of every classifier, which is named NODE/void after the node that
    it splits, and void at the root: so that the leaves below a node are all that a pixel of it can be.
    """

    version: Literal[1]
    classifiers: dict[str, Classifier]
    """By name, parents before children."""
    labels: dict[str, dict[str, tuple[str, ...] | str | None]]
    """Dataset -> label, as the view that is trained names it -> its node, or nodes; null: void, which teaches nothing."""
    colors: dict[str, Color] = field(default_factory=dict)
    """Leaf -> RGB; a colour of its own where not given."""

    def __post_init__(self) -> None:
        self._check_tree()
        for dataset, labels in self.labels.items():
            for label, nodes in labels.items():
                key, names = f"labels.{dataset}.{label}", _as_tuple(nodes)
                check_known(names, list(self.leaves_below), key)
                if sum(len(self.leaves_below[name]) for name in names) > len(self.expand(names)):
                    raise InputError(f"{key}: {', '.join(names)} found, expected nodes of which none is below another; remove one")
        check_known(list(self.colors), self.leaves, "colors")
        check_colors(self.colors, "colors")
        for name, classifier in self.classifiers.items():
            for dataset in classifier.passed_over:
                self._check_passed_over(name, dataset)

    def _check_tree(self) -> None:
        nodes: list[str] = []
        for name, classifier in self.classifiers.items():
            key = f"classifiers.{name}"
            if (classifier.of is None) != (not nodes):
                raise InputError(f"{key}.of: {classifier.of} found, expected the node it splits, and null for the first alone; mend it")
            if classifier.of is not None and classifier.of not in nodes:
                raise InputError(f"{key}.of: {classifier.of} found, expected a class of a classifier before it; mend the name or the order")
            nodes += classifier.classes
            check_unique(nodes, f"{key}.classes")
            check_known(classifier.datasets or (), list(self.labels), f"{key}.datasets")
            check_known(classifier.passed_over, list(self.labels), f"{key}.passed_over")
        if not nodes:
            raise InputError("classifiers: none found, expected one or more; add the root")
        split = [classifier.of for classifier in self.classifiers.values() if classifier.of is not None]
        check_unique(split, "classifiers: of")
        check_unique(self.leaves, "classifiers (a void is named NODE/void)")

    def _check_passed_over(self, name: str, dataset: str) -> None:
        labelled = self.expand(tuple(node for nodes in self.labels[dataset].values() for node in _as_tuple(nodes)))
        ways = [node for node in self.classifiers[name].classes if self.leaves_below[node] & labelled]
        if len(ways) != 1:
            raise InputError(
                f"classifiers.{name}.passed_over: {dataset} found, whose labels lie below {', '.join(ways) or 'no class'} of it, expected "
                "one of its classes; remove it"
            )

    @property
    def root(self) -> str:
        return next(iter(self.classifiers))

    @cached_property
    def splitting(self) -> dict[str, str]:
        """Node -> the classifier of its children."""
        return {classifier.of: name for name, classifier in self.classifiers.items() if classifier.of is not None}

    def parent(self, classifier: str) -> tuple[str, int] | None:
        """The classifier that decides for the node which `classifier` splits, and the number of its output for it; None of the root."""
        node = self.classifiers[classifier].of
        return next(((name, nodes.index(node)) for name, nodes in self.outputs.items() if node in nodes), None)

    @cached_property
    def outputs(self) -> dict[str, tuple[str, ...]]:
        """Classifier -> the node of each of its outputs, void included."""
        voids = {name: ("void" if c.of is None else f"{c.of}/void",) if c.void else () for name, c in self.classifiers.items()}
        return {name: (*classifier.classes, *voids[name]) for name, classifier in self.classifiers.items()}

    @cached_property
    def leaves(self) -> tuple[str, ...]:
        """Classifier by classifier."""
        return tuple(node for nodes in self.outputs.values() for node in nodes if node not in self.splitting)

    @cached_property
    def leaves_below(self) -> dict[str, frozenset[str]]:
        """Node, leaves included, -> the leaves below it, or itself."""
        below: dict[str, frozenset[str]] = {}
        for nodes in reversed(self.outputs.values()):  # children before parents
            for node in nodes:
                child = self.splitting.get(node)
                below[node] = frozenset([node]) if child is None else self._union(self.outputs[child], below)
        return below

    @staticmethod
    def _union(nodes: tuple[str, ...], below: dict[str, frozenset[str]]) -> frozenset[str]:
        return frozenset[str]().union(*(below[node] for node in nodes))

    def expand(self, nodes: tuple[str, ...]) -> frozenset[str]:
        """The leaves below any of `nodes`."""
        return self._union(nodes, self.leaves_below)

    def leaves_of(self, dataset: str, view: View) -> tuple[tuple[str, ...], ...]:
        """The leaves of each class of a dataset's view. Raises InputError where the file lacks the dataset or one of the classes."""
        return tuple(tuple(sorted(self.expand(_as_tuple(nodes)))) for nodes in labels_of(self.labels, dataset, view))

    def targets(self, dataset: str, view: View) -> dict[str, tuple[frozenset[int], ...]]:
        """For each classifier that a dataset teaches, the outputs that each class of its view leaves open, none where it says nothing."""
        found: dict[str, list[frozenset[int]]] = {name: [frozenset()] * view.num_classes for name in self.classifiers}
        for index, leaves in enumerate(self.leaves_of(dataset, view)):
            for name, outputs in self._taught_by(frozenset(leaves)):
                if self.classifiers[name].datasets is None or dataset in (self.classifiers[name].datasets or ()):
                    found[name][index] = outputs
        return {name: tuple(sets) for name, sets in found.items() if any(sets)}

    def _taught_by(self, leaves: frozenset[str]) -> Iterator[tuple[str, frozenset[int]]]:
        """From the root down, each classifier that a pixel which is one of `leaves` says something about, and its possible outputs."""
        name: str | None = self.root
        while name is not None:
            below = [self.leaves_below[node] for node in self.outputs[name]]
            possible = frozenset(i for i, there in enumerate(below) if there & leaves)
            if not possible or all(there <= leaves for there in below):
                return
            yield name, possible
            name = self.splitting.get(self.outputs[name][min(possible)]) if len(possible) == 1 else None

    def view(self) -> View:
        """The leaves themselves as classes, for predictions and pictures that are of no dataset."""
        return leaf_view(self.leaves, [self.colors.get(name) for name in self.leaves])


def read_hierarchy(tree: str) -> Hierarchy:
    """The tree of that name that comes with the package, or of a YAML file. Raises InputError, which names the file."""
    return read_named(tree, FOLDER, Hierarchy)


def _as_tuple(nodes: tuple[str, ...] | str | None) -> tuple[str, ...]:
    return (nodes,) if isinstance(nodes, str) else nodes or ()
