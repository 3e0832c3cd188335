"""One softmax over the leaves of a taxonomy; a label is a set of leaves."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate, chain
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from data.labels import IGNORE_INDEX, View
from data.universe import Universe, check_aliases, read_universe
from models.networks.base import Network
from models.outputs.base import (
    EQUAL,
    NO_LIMIT,
    LeafTable,
    LossTerm,
    OutputsConfigBase,
    SharedDecoder,
    Weights,
    Where,
    at_least_float32,
    limited,
    never_predicted,
)
from models.outputs.set_loss import SetLoss, Softmax


@dataclass(frozen=True, kw_only=True)
class UniversalConfig(OutputsConfigBase):
    """One softmax over leaves; the loss of a pixel is -log of the summed probability of its label's leaves."""

    shares_labels: ClassVar[bool] = True

    name: Literal["universal"]
    universe: str | Universe
    """Says which leaves each label of each dataset is: one that comes with the package (data/universes), or a file (data/universe.py).
    A run keeps its content."""
    aliases: dict[str, str] = field(default_factory=dict)
    """Dataset -> the dataset of the file whose labels it has; its own name where not given."""

    def __post_init__(self) -> None:
        if isinstance(self.universe, str):  # read where the job is started: its workers may not see the file
            object.__setattr__(self, "universe", read_universe(self.universe))

    @property
    def content(self) -> Universe:
        assert isinstance(self.universe, Universe)
        return self.universe

    def terms(self, views: Mapping[str, View]) -> tuple[str, ...]:
        check_aliases(self.aliases, views, self.content.labels)
        for name, view in views.items():
            self.leaves_of(name, view)
        return super().terms(views)

    def classifiers(self, views: Mapping[str, View]) -> dict[str, tuple[str, ...]]:
        return {"leaves": self.content.names}

    def silent(self, dataset: str, view: View) -> tuple[str, ...]:
        return tuple(name for name, leaves in zip(view.names, self.leaves_of(dataset, view), strict=True) if not leaves)

    def notes(self, views: Mapping[str, View]) -> Iterator[str]:
        for name, view in views.items():
            yield from (f"{name}: {text}" for text in never_predicted(view, self.leaves_of(name, view)))

    def leaves_of(self, dataset: str, view: View) -> tuple[tuple[str, ...], ...]:
        return self.content.leaves_of(self.aliases.get(dataset, dataset), view)


class Universal(SharedDecoder):
    """One softmax over leaves, whichever dataset the image is of. Of a dataset's labels the one whose leaves are most probable together
    is predicted."""

    def __init__(self, config: UniversalConfig, views: Mapping[str, View], network: Network) -> None:
        names = config.content.names
        super().__init__(views, network, [len(names)])
        self._names = names
        self._number = {name: number for number, name in enumerate(views)}
        sets = [config.leaves_of(name, view) for name, view in views.items()]
        self._label_leaves = dict(zip(views, sets, strict=True))
        self.tables = nn.ModuleList(LeafTable(names, leaves) for leaves in sets)
        number = {leaf: i for i, leaf in enumerate(names)}
        numbers = [tuple(frozenset(number[leaf] for leaf in label) for label in leaves) for leaves in sets]
        leaves = slice(0, len(names))
        self.set_losses = nn.ModuleList(SetLoss([Softmax(channels=leaves, sets=one)]) for one in numbers)
        kinds = [kind for kind, one in enumerate(numbers) for _ in one]
        every = Softmax(channels=leaves, sets=tuple(chain.from_iterable(numbers)))
        self.joint_loss = SetLoss([every], kinds) if len(kinds) <= IGNORE_INDEX else None
        """Of the labels of all datasets, one after the other."""
        self._first = dict(zip(views, accumulate((len(one) for one in numbers), initial=0), strict=False))

    def losses(
        self, logits: Mapping[str, Tensor], labels: Mapping[str, Tensor], where: Where = NO_LIMIT, weights: Weights = EQUAL
    ) -> dict[str, LossTerm]:
        terms = {}
        for name in logits:
            wanted = limited(labels[name], where, name, name)
            totals, counts = self.set_losses[self._number[name]](logits[name], wanted, weights.get(name))
            terms[name] = LossTerm(totals[0], counts[0])
        return terms

    def mixed_losses(self, logits: Mapping[str, Tensor], labels: Mapping[str, Tensor], weights: Weights = EQUAL) -> dict[str, LossTerm]:
        shared = next((values for values in logits.values() if len(values)), None)
        joint = [name for name, values in logits.items() if values is shared]
        if self.joint_loss is None or len(joint) < 2 or shared is None:
            return self.losses(logits, labels, weights=weights)
        every = torch.full_like(labels[joint[0]], IGNORE_INDEX)
        for name in joint:
            every = torch.where(labels[name] == IGNORE_INDEX, every, labels[name] + self._first[name])
        totals, counts = self.joint_loss(shared, every, weights.get(joint[0]))
        others = self.losses({name: values for name, values in logits.items() if name not in joint}, labels, weights=weights)
        ours = {name: LossTerm(totals[self._number[name]], counts[self._number[name]]) for name in joint}
        return {name: ours.get(name) or others[name] for name in logits}

    def leaves(self, dataset: str) -> tuple[str, ...]:
        return self._names

    def label_leaves(self, dataset: str) -> tuple[tuple[str, ...], ...]:
        return self._label_leaves[dataset]

    def leaf_log_probabilities(self, logits: Tensor, dataset: str) -> Tensor:
        return torch.log_softmax(at_least_float32(logits), dim=1)

    def class_log_probabilities(self, logits: Tensor, dataset: str) -> Tensor:
        log_p: Tensor = self.tables[self._number[dataset]](self.leaf_log_probabilities(logits, dataset))
        return log_p
