"""A tree of softmaxes, each over the children of one node (paper 001)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from data.errors import InputError
from data.hierarchy import Hierarchy, read_hierarchy
from data.labels import IGNORE_INDEX, View
from data.universe import check_aliases
from models.networks.base import Network
from models.outputs.base import (
    EQUAL,
    NO_LIMIT,
    LeafTable,
    LevelRule,
    LossTerm,
    OutputsConfigBase,
    SharedDecoder,
    Weights,
    Where,
    at_least_float32,
    by_bands,
    limited,
    never_predicted,
)
from models.outputs.set_loss import SetLoss, Softmax


@dataclass(frozen=True, kw_only=True)
class HierarchyConfig(OutputsConfigBase):
    """A tree of softmaxes over one decoder, each with a classifier of its own (paper 001)."""

    shares_labels: ClassVar[bool] = True
    has_levels: ClassVar[bool] = True

    name: Literal["hierarchy"]
    tree: str | Hierarchy
    """A tree that comes with the package (data/hierarchies), or a file (data/hierarchy.py). A run keeps its content."""
    rule: Literal["joint", "greedy"] = "joint"
    """What is predicted. joint: the label whose nodes are most probable, along all branches. greedy: as paper 001, the most probable
    child at each node from the root on, and nothing where that is a void."""
    aliases: dict[str, str] = field(default_factory=dict)
    """Dataset -> the dataset of the tree whose labels it has; its own name where not given."""

    def __post_init__(self) -> None:
        if isinstance(self.tree, str):  # read where the job is started: its workers may not see the file
            object.__setattr__(self, "tree", read_hierarchy(self.tree))

    @property
    def content(self) -> Hierarchy:
        assert isinstance(self.tree, Hierarchy)
        return self.tree

    def terms(self, views: Mapping[str, View]) -> tuple[str, ...]:
        """The classifiers that any of the datasets teaches; one there has to be."""
        check_aliases(self.aliases, views, self.content.labels)
        taught = {name for dataset, view in views.items() for name in self.content.targets(self.of_tree(dataset), view)}
        if not taught:
            raise InputError(
                f"outputs.tree: no classifier taught by {', '.join(views)} found, expected one; mend the `datasets` or `labels` of the tree"
            )
        return tuple(name for name in self.content.classifiers if name in taught)

    def classifiers(self, views: Mapping[str, View]) -> dict[str, tuple[str, ...]]:
        return self.content.outputs

    def silent(self, dataset: str, view: View) -> tuple[str, ...]:
        leaves = self.content.leaves_of(self.of_tree(dataset), view)
        return tuple(name for name, of_label in zip(view.names, leaves, strict=True) if not of_label)

    def notes(self, views: Mapping[str, View]) -> Iterator[str]:
        for name, view in views.items():
            if not self.content.targets(self.of_tree(name), view):
                yield f"{name}: its labels teach no classifier, it is only predicted"
            if self.rule == "joint":
                yield from (f"{name}: {text}" for text in never_predicted(view, self.content.leaves_of(self.of_tree(name), view)))

    def of_tree(self, dataset: str) -> str:
        return self.aliases.get(dataset, dataset)


class HierarchySpace(SharedDecoder):
    """The logits are those of all classifiers of the tree, side by side in its order, whichever dataset the image is of.

    There is a term of the loss for each classifier, pooled over the datasets that teach it. Leaves are those of the tree, the voids
    included.
    """

    def __init__(self, config: HierarchyConfig, views: Mapping[str, View], network: Network) -> None:
        tree = config.content
        super().__init__(views, network, [len(outputs) for outputs in config.classifiers(views).values()], config.terms(views))
        self.tree = tree
        self.is_greedy = config.rule == "greedy"
        self.of_tree = {name: config.of_tree(name) for name in views}
        """Dataset -> the dataset of the tree whose labels it has."""
        self._number = {name: number for number, name in enumerate(views)}
        self._channels: dict[str, slice] = {}
        end = 0
        for name, classifier in tree.classifiers.items():
            self._channels[name] = slice(end, end + classifier.num_outputs)
            end += classifier.num_outputs
        self._labels = {name: tree.leaves_of(self.of_tree[name], view) for name, view in views.items()}
        self.tables = nn.ModuleList(LeafTable(tree.leaves, self._labels[name]) for name in views)
        self._there = {name: self._labels_below(self._labels[name]) for name in views} if self.is_greedy else {}
        self._taught = {name: tree.targets(self.of_tree[name], view) for name, view in views.items()}
        self.set_losses = nn.ModuleList(SetLoss(self._softmaxes(self._taught[name])) for name in views)
        """By dataset; that of one which teaches no classifier, and is only predicted, is never asked."""

    def _softmaxes(self, targets: Mapping[str, tuple[frozenset[int], ...]]) -> list[Softmax]:
        return [Softmax(channels=self._channels[name], sets=sets) for name, sets in targets.items()]

    def losses(
        self, logits: Mapping[str, Tensor], labels: Mapping[str, Tensor], where: Where = NO_LIMIT, weights: Weights = EQUAL
    ) -> dict[str, LossTerm]:
        found: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in self.terms}
        for dataset in logits:
            if not self._taught[dataset]:
                continue
            each = [limited(labels[dataset], where, dataset, name) for name in self._taught[dataset]]
            totals, counts = self.set_losses[self._number[dataset]](logits[dataset], each, weights.get(dataset))
            for name, total, count in zip(self._taught[dataset], totals, counts, strict=True):
                found[name].append((total, count))
        return {name: self._pooled(name, parts) for name, parts in found.items() if parts}

    def _pooled(self, classifier: str, parts: Sequence[tuple[Tensor, Tensor]]) -> LossTerm:
        total, count = torch.stack([part[0] for part in parts]).sum(), torch.stack([part[1] for part in parts]).sum()
        return LossTerm(total, count, self.tree.classifiers[classifier].weight)

    def taught(self, labels: Tensor, dataset: str) -> dict[str, Tensor]:
        if not self._taught[dataset]:
            return {}
        set_loss = self.set_losses[self._number[dataset]]
        assert isinstance(set_loss, SetLoss)
        return dict(zip(self._taught[dataset], set_loss.counted(labels), strict=True))

    def decided(self, logits: Tensor, dataset: str, rule: LevelRule) -> dict[str, Tensor]:
        found = {name: self._reached(name, logits, rule) for name in self._taught[dataset]}
        return {name: mask for name, mask in found.items() if mask is not None}

    def _reached(self, classifier: str, logits: Tensor, rule: LevelRule) -> Tensor | None:
        """Where the node that `classifier` splits is decided for; None of the root, which is always asked."""
        parent = self.tree.parent(classifier)
        if parent is None:
            return None
        above, number = parent
        here = self.decide(logits, above) == number
        further = self._reached(above, logits, rule) if rule == "path" else None
        return here if further is None else here & further

    def leaves(self, dataset: str) -> tuple[str, ...]:
        return self.tree.leaves

    def label_leaves(self, dataset: str) -> tuple[tuple[str, ...], ...]:
        return self._labels[dataset]

    def table(self, dataset: str, sets: Sequence[Sequence[str]]) -> LeafTable:
        """Nodes may be named, too: they are all leaves below."""
        known = self.tree.leaves_below
        return super().table(dataset, [_all_of(known.get(node, [node]) for node in nodes) for nodes in sets])

    def leaf_log_probabilities(self, logits: Tensor, dataset: str) -> Tensor:
        """Those of a node's classifier are added to the node's own, from the root down."""
        reached: dict[str, Tensor] = {}
        leaves = []
        for name, classifier in self.tree.classifiers.items():
            log_p = torch.log_softmax(at_least_float32(logits[:, self._channels[name]]), dim=1)
            if classifier.of is not None:
                log_p = log_p + reached[classifier.of]
            for number, node in enumerate(self.tree.outputs[name]):
                if node in self.tree.splitting:
                    reached[node] = log_p[:, number : number + 1]
                else:
                    leaves.append(log_p[:, number : number + 1])
        return torch.cat(leaves, dim=1)

    def as_logits(self, log_p: Tensor, dataset: str) -> Tensor:
        """The logit of a node is the log-probability of all leaves below."""
        number = {leaf: i for i, leaf in enumerate(self.tree.leaves)}
        nodes: dict[str, Tensor] = {}
        logits: dict[str, Tensor] = {}
        for name in reversed(self.tree.classifiers):
            outputs = [nodes[node] if node in nodes else log_p[:, number[node]][:, None] for node in self.tree.outputs[name]]
            logits[name] = torch.cat(outputs, dim=1)
            of = self.tree.classifiers[name].of
            if of is not None:
                nodes[of] = logits[name].logsumexp(dim=1, keepdim=True)
        return torch.cat([logits[name] for name in self.tree.classifiers], dim=1)

    def predict_nodes(self, logits: Tensor, dataset: str, sets: Sequence[Sequence[str]], of_tree: str | None = None) -> Tensor:
        """`predict`, by the same rule, of the number of one of `sets` of nodes in place of the dataset's labels: (N_d, H, W) int64.

        `of_tree` is the dataset of the tree that the sets are labels of, which the greedy rule may let pass over classifiers.
        """
        if not self.is_greedy:
            return self.predict_through(logits, dataset, self.table(dataset, sets))
        there = self._labels_below([sorted(self.tree.expand(tuple(nodes))) for nodes in sets])
        return by_bands(lambda band: self._descend(self.tree.root, band, of_tree, there), logits)

    def class_log_probabilities(self, logits: Tensor, dataset: str) -> Tensor:
        log_p: Tensor = self.tables[self._number[dataset]](self.leaf_log_probabilities(logits, dataset))
        return log_p

    def predict_band(self, logits: Tensor, dataset: str) -> Tensor:
        if not self.is_greedy:
            return super().predict_band(logits, dataset)
        return self._descend(self.tree.root, logits, self.of_tree[dataset], self._there[dataset])

    def classify(self, logits: Tensor, dataset: str) -> tuple[Tensor, Tensor]:
        if not self.is_greedy:
            return super().classify(logits, dataset)
        log_p, classes = self.class_log_probabilities(logits, dataset), self.predict_band(logits, dataset)
        found = log_p.gather(1, classes.clamp(max=log_p.shape[1] - 1)[:, None])[:, 0]
        return classes, found.masked_fill(classes == IGNORE_INDEX, -torch.inf)

    def decide(self, logits: Tensor, classifier: str) -> Tensor:
        """The number of the output of `classifier` that is most probable, (N, H, W) int64, whatever the others say."""
        return logits[:, self._channels[classifier]].argmax(dim=1)

    def _descend(self, classifier: str, logits: Tensor, of_tree: str | None, labels_below: Mapping[str, Mapping[int, bool]]) -> Tensor:
        """The labels that the greedy rule ends at below `classifier`, (N, H, W) int64.

        It ends as soon as all below is one label; void, and leaves of no label, are IGNORE_INDEX.
        """
        nodes = self.tree.outputs[classifier]
        there = [labels_below[node] for node in nodes]
        if of_tree in self.tree.classifiers[classifier].passed_over:
            way = next((number for number, labels in enumerate(there) if labels), 0)
            decided = torch.full_like(logits[:, 0], way, dtype=torch.int64)
        else:
            decided = self.decide(logits, classifier)
        answer = torch.full_like(decided, IGNORE_INDEX)
        for number, (node, labels) in enumerate(zip(nodes, there, strict=True)):
            end = _only(labels)
            if end != IGNORE_INDEX:
                answer = answer.masked_fill(decided == number, end)
            elif labels and node in self.tree.splitting:
                answer = torch.where(decided == number, self._descend(self.tree.splitting[node], logits, of_tree, labels_below), answer)
        return answer

    def _labels_below(self, labels: Sequence[Sequence[str]]) -> dict[str, dict[int, bool]]:
        """Node -> the labels, given by their leaves, that have leaves below it, and whether all leaves below it are of the label."""
        sets = [frozenset(leaves) for leaves in labels]
        below = self.tree.leaves_below
        return {node: {i: there <= mine for i, mine in enumerate(sets) if there & mine} for node, there in below.items()}


def _only(labels: Mapping[int, bool]) -> int:
    """The first label that has all; IGNORE_INDEX where none has."""
    return next((label for label, has_all in labels.items() if has_all), IGNORE_INDEX)


def _all_of(groups: Iterable[Iterable[str]]) -> list[str]:
    return [leaf for group in groups for leaf in group]
