"""What a model's answer is compared with: classes that labels are of, and classes that logits are read as."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.errors import InputError
from data.hierarchy import Hierarchy
from data.labels import IGNORE_INDEX, View
from models.outputs.base import OutputSpace
from models.outputs.concat import Concat
from models.outputs.hierarchy import HierarchySpace
from models.outputs.multihead import MultiHead

Answer = Callable[[Tensor, Tensor], Tensor]
"""Logits (1, K, h, W) and native ids (h, W) uint8 of some rows to the column that is predicted, (h, W), IGNORE_INDEX for none of them.
Only the rule of a protocol looks at the ids."""

Sets = Sequence[Sequence[str]]
"""The leaves, or nodes of a tree, of each label."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Reading:
    """One way to compare labels with logits; it makes a confusion matrix."""

    head: str
    """The dataset of the run whose logits are read."""
    view: View
    """Of the labels: their classes are the rows."""
    columns: tuple[str, ...]
    """Names of what can be predicted: those of the rows, but where the labels of one dataset meet the classes of another."""
    answer: Answer

    @property
    def names(self) -> tuple[str, ...]:
        return self.view.names


def own_reading(outputs: OutputSpace, dataset: str) -> Reading:
    """A dataset of the run in its own classes."""
    view = outputs.views[dataset]
    return Reading(head=dataset, view=view, columns=view.names, answer=lambda logits, _: outputs.predict(logits, dataset)[0])


def cross_reading(outputs: OutputSpace, head: str, view: View) -> Reading:
    """Labels of any dataset against what is predicted as if the picture were of the run's dataset `head`."""
    columns = outputs.views[head].names
    return Reading(head=head, view=view, columns=columns, answer=lambda logits, _: outputs.predict_by_own_labels(logits, head)[0])


def sets_reading(outputs: OutputSpace, head: str, view: View, sets: Sets, *, foreign: bool = False, of_tree: str | None = None) -> Reading:
    """Labels that are sets of leaves of the logits of `head`; with `foreign`, leaves of none of them are misses where they win.

    `of_tree` is the dataset of a tree that they are the labels of.
    """
    if foreign and isinstance(outputs, HierarchySpace) and outputs.is_greedy:
        raise InputError(
            "foreign=true: a tree with rule=greedy found, which asks for no label's probability, expected joint; give rule=joint"
        )
    if isinstance(outputs, HierarchySpace) and not foreign:

        def answer(logits: Tensor, _: Tensor) -> Tensor:
            return outputs.predict_nodes(logits, head, sets, of_tree)[0]
    else:
        table = outputs.table(head, sets)

        def answer(logits: Tensor, _: Tensor) -> Tensor:
            return outputs.predict_through(logits, head, table, foreign=foreign)[0]

    return Reading(head=head, view=view, columns=view.names, answer=answer)


def second_choice_reading(outputs: OutputSpace, head: str, view: View, sets: Sets, generic: Sequence[str]) -> Reading:
    """The rule of paper 001, section V-B, for flat classifiers: the most probable leaf of all decides; but where that is one of
    `generic`, such as the traffic sign of a coarser dataset, and the second most probable is the true label, it counts as true."""
    if not isinstance(outputs, MultiHead | Concat):
        raise InputError("protocols: second_choice found for a run with a taxonomy, expected a flat one (multihead or concat); remove it")
    leaves = outputs.leaves(head)
    unknown = [leaf for leaf in generic if leaf not in leaves]
    if unknown:
        raise InputError(f"protocols: second_choice: leaf {unknown[0]!r} found, expected some of {', '.join(leaves)}; mend the name")
    label_of = torch.full((len(leaves),), IGNORE_INDEX)
    for label, names in enumerate(sets):
        label_of[[leaves.index(name) for name in names]] = label
    is_generic = torch.tensor([leaf in generic for leaf in leaves])
    native = torch.from_numpy(view.table).long()

    def answer(logits: Tensor, ids: Tensor) -> Tensor:
        first, second = outputs.leaf_log_probabilities(logits, head)[0].topk(2, dim=0).indices.cpu()
        truth = native[ids.cpu().long()]
        is_saved = is_generic[first] & (label_of[second] == truth) & (truth != IGNORE_INDEX)
        return torch.where(is_saved, truth, label_of[first]).to(logits.device)

    return Reading(head=head, view=view, columns=view.names, answer=answer)


def classifier_readings(outputs: OutputSpace, head: str, view: View, sets: Sets) -> dict[str, Reading]:
    """Of a tree, each classifier by itself: which of its outputs it takes for pixels that belong below its node, whatever the others say.

    Classes are the outputs that labels say something of; any other, void included, is a miss.
    """
    return dict(_classifier_readings(outputs, head, view, sets)) if isinstance(outputs, HierarchySpace) else {}


def _classifier_readings(space: HierarchySpace, head: str, view: View, sets: Sets) -> Iterator[tuple[str, Reading]]:
    tree = space.tree
    for name, nodes in tree.outputs.items():
        output_of = [_only_node(tree, nodes, frozenset(leaves)) for leaves in sets]
        seen = [node for node in nodes if node in output_of]
        if not seen:
            continue
        column = torch.full((len(nodes),), IGNORE_INDEX)
        column[[nodes.index(node) for node in seen]] = torch.arange(len(seen))
        rows = [None if node is None else seen.index(node) for node in output_of]
        yield name, Reading(head=head, view=_regrouped(view, rows, seen), columns=tuple(seen), answer=_decision(space, name, column))


def _decision(space: HierarchySpace, classifier: str, column: Tensor) -> Answer:
    return lambda logits, _: column.to(logits.device)[space.decide(logits, classifier)[0]]


def _only_node(tree: Hierarchy, nodes: Sequence[str], leaves: frozenset[str]) -> str | None:
    """The one of `nodes` below which all of `leaves` lie."""
    return next((node for node in nodes if leaves and leaves <= tree.leaves_below[node]), None)


def depth_readings(
    outputs: OutputSpace, head: str, view: View, sets: Sets, of_tree: str | None = None, *, foreign: bool = False
) -> dict[str, Reading]:
    """Of a tree, the labels cut off at each depth, 1 being the root's children: labels that are then the same nodes are one class.
    They are predicted as in `sets_reading`.

    Left out is a depth at which nothing is cut off, which is the dataset itself, and one at which a single class is left to choose.
    """
    if not isinstance(outputs, HierarchySpace):
        return {}
    readings = {}
    for depth in range(1, max(_depths(outputs.tree).values())):
        names, rows, nodes = cut_off(outputs.tree, view.names, sets, depth)
        if 1 < len(names) < sum(bool(leaves) for leaves in sets):
            cut = _regrouped(view, rows, names)
            readings[f"depth {depth}"] = sets_reading(outputs, head, cut, nodes, foreign=foreign, of_tree=of_tree)
    return readings


def cut_off(tree: Hierarchy, labels: Sequence[str], sets: Sets, depth: int) -> tuple[list[str], list[int | None], list[tuple[str, ...]]]:
    """Labels, given by their leaves, cut off at `depth`: names of the classes, the class of each label, and the nodes of each class."""
    classes: dict[tuple[str, ...], list[int]] = {}
    above = _above(tree, depth)
    for label, leaves in enumerate(sets):
        if leaves:
            classes.setdefault(tuple(sorted({above[leaf] for leaf in leaves})), []).append(label)
    rows: list[int | None] = [None] * len(sets)
    for number, members in enumerate(classes.values()):
        for label in members:
            rows[label] = number
    names = [nodes[0] if len(nodes) == 1 else "+".join(labels[i] for i in members) for nodes, members in classes.items()]
    return _distinct(names), rows, list(classes)


def _distinct(names: Sequence[str]) -> list[str]:
    return [name if names.count(name) == 1 else f"{name} ({names[:i].count(name) + 1})" for i, name in enumerate(names)]


def _depths(tree: Hierarchy) -> dict[str, int]:
    """Classifier -> the depth of its outputs."""
    depths: dict[str, int] = {}
    node_depth: dict[str, int] = {}
    for name, classifier in tree.classifiers.items():
        depths[name] = 1 if classifier.of is None else node_depth[classifier.of] + 1
        node_depth.update(dict.fromkeys(tree.outputs[name], depths[name]))
    return depths


def _above(tree: Hierarchy, depth: int) -> dict[str, str]:
    """Leaf -> the node of `depth` that it lies below, or itself where it is no deeper."""
    above = {leaf: leaf for leaf in tree.leaves}
    for name, of_depth in _depths(tree).items():
        if of_depth == depth:
            above.update({leaf: node for node in tree.outputs[name] for leaf in tree.leaves_below[node]})
    return above


def _regrouped(view: View, rows: Sequence[int | None], names: Sequence[str]) -> View:
    """`view` with the class `rows[i]` of `names` in place of its class i, None for none."""
    table = np.full(256, IGNORE_INDEX, np.uint8)
    table[: len(rows)] = [IGNORE_INDEX if row is None else row for row in rows]
    first = [next(i for i, row in enumerate(rows) if row == number) for number in range(len(names))]
    return View(
        name=view.name,
        names=tuple(names),
        colors=tuple(view.colors[i] for i in first),
        native_ids=tuple(view.native_ids[i] for i in first),
        table=table[view.table],
    )


def level_readings(outputs: OutputSpace, dataset: str) -> Mapping[str, Mapping[str, Reading]]:
    """For a dataset of a run with a tree: its depths and its classifiers; nothing for other runs."""
    if not isinstance(outputs, HierarchySpace):
        return {}
    return tree_readings(outputs, dataset, outputs.views[dataset], outputs.label_leaves(dataset), outputs.of_tree[dataset])


def tree_readings(
    outputs: OutputSpace, head: str, view: View, sets: Sets, of_tree: str | None = None, *, foreign: bool = False
) -> Mapping[str, Mapping[str, Reading]]:
    depths = depth_readings(outputs, head, view, sets, of_tree, foreign=foreign)
    return {"depths": depths, "classifiers": classifier_readings(outputs, head, view, sets)}
