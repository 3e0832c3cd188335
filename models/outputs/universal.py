"""One softmax over the leaves of a taxonomy; a label is a set of leaves."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from data.labels import View
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
        self.set_losses = nn.ModuleList(SetLoss([Softmax(channels=slice(0, len(names)), sets=one)]) for one in numbers)

    def losses(
        self, logits: Mapping[str, Tensor], labels: Mapping[str, Tensor], where: Where = NO_LIMIT, weights: Weights = EQUAL
    ) -> dict[str, LossTerm]:
        terms = {}
        for name in logits:
            wanted = limited(labels[name], where, name, name)
            totals, counts = self.set_losses[self._number[name]](logits[name], wanted, weights.get(name))
            terms[name] = LossTerm(totals[0], counts[0])
        return terms

    def leaves(self, dataset: str) -> tuple[str, ...]:
        return self._names

    def label_leaves(self, dataset: str) -> tuple[tuple[str, ...], ...]:
        return self._label_leaves[dataset]

    def leaf_log_probabilities(self, logits: Tensor, dataset: str) -> Tensor:
        return torch.log_softmax(at_least_float32(logits), dim=1)

    def class_log_probabilities(self, logits: Tensor, dataset: str) -> Tensor:
        log_p: Tensor = self.tables[self._number[dataset]](self.leaf_log_probabilities(logits, dataset))
        return log_p
