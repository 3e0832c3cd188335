"""One softmax over the labels of all datasets side by side (paper 000)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from data.labels import IGNORE_INDEX, View
from models.networks.base import Network
from models.outputs.base import (
    EQUAL,
    NO_LIMIT,
    LossTerm,
    OutputsConfigBase,
    SharedDecoder,
    Weights,
    Where,
    at_least_float32,
    cross_entropy_term,
    limited,
)


@dataclass(frozen=True, kw_only=True)
class ConcatConfig(OutputsConfigBase):
    """One softmax over every (dataset, label) (paper 000): the network learns the label and whose label it is."""

    name: Literal["concat"]
    predict: Literal["own", "all"] = "own"
    """For an image of a dataset, own: the most probable of its labels; all: as paper 000 scores, the most probable label of any
    dataset, and one of another dataset is a miss."""

    def classifiers(self, views: Mapping[str, View]) -> dict[str, tuple[str, ...]]:
        return {"all labels": tuple(f"{name}/{label}" for name, view in views.items() for label in view.names)}


class Concat(SharedDecoder):
    """One softmax over all labels. A leaf is DATASET/LABEL, whichever dataset the image is of."""

    def __init__(self, config: ConcatConfig, views: Mapping[str, View], network: Network) -> None:
        (self._leaves,) = config.classifiers(views).values()
        super().__init__(views, network, [len(self._leaves)])
        self._takes_all = config.predict == "all"
        self._channels: dict[str, slice] = {}
        end = 0
        for name, view in views.items():
            self._channels[name] = slice(end, end + view.num_classes)
            end += view.num_classes

    def losses(
        self, logits: Mapping[str, Tensor], labels: Mapping[str, Tensor], where: Where = NO_LIMIT, weights: Weights = EQUAL
    ) -> dict[str, LossTerm]:
        first = {name: channels.start for name, channels in self._channels.items()}
        wanted = {name: limited(labels[name], where, name, name) for name in logits}
        return {name: cross_entropy_term(logits[name], wanted[name], first[name], weights.get(name)) for name in logits}

    def leaves(self, dataset: str) -> tuple[str, ...]:
        return self._leaves

    def leaf_log_probabilities(self, logits: Tensor, dataset: str) -> Tensor:
        return torch.log_softmax(at_least_float32(logits), dim=1)

    def class_log_probabilities(self, logits: Tensor, dataset: str) -> Tensor:
        """`own`: the probability is that among the dataset's own labels, since it is known whose image it is."""
        own = self._channels[dataset]
        if self._takes_all:
            return self.leaf_log_probabilities(logits, dataset)[:, own]
        return torch.log_softmax(at_least_float32(logits[:, own]), dim=1)

    def answer(self, logits: Tensor, dataset: str) -> Tensor:
        return logits[:, self._channels[dataset]].argmax(dim=1)

    def classify(self, logits: Tensor, dataset: str) -> tuple[Tensor, Tensor]:
        if not self._takes_all:
            return super().classify(logits, dataset)
        own = self._channels[dataset]
        log_probability, classes = self.leaf_log_probabilities(logits, dataset).max(dim=1)
        is_own = (classes >= own.start) & (classes < own.stop)
        return (classes - own.start).masked_fill(~is_own, IGNORE_INDEX), log_probability.masked_fill(~is_own, -torch.inf)
