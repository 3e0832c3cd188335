"""One softmax per dataset (paper 002)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from data.labels import View
from models.batchnorm import allow_empty_batches
from models.networks.base import Features, Network
from models.outputs.base import (
    EQUAL,
    NO_LIMIT,
    LossTerm,
    OutputsConfigBase,
    OutputSpace,
    Weights,
    Where,
    at_least_float32,
    cross_entropy_term,
    limited,
    select,
)


@dataclass(frozen=True, kw_only=True)
class MultiHeadConfig(OutputsConfigBase):
    """One softmax per dataset over shared features (paper 002)."""

    name: Literal["multihead"]
    decoder: Literal["shared", "repeated"] = "shared"
    """shared: only the last convolution is repeated for each dataset; repeated: the whole decoder."""

    def classifiers(self, views: Mapping[str, View]) -> dict[str, tuple[str, ...]]:
        return {name: view.names for name, view in views.items()}


class MultiHead(OutputSpace):
    """One softmax per dataset. A leaf is DATASET/LABEL; the logits of a dataset know those of that dataset alone."""

    def __init__(self, config: MultiHeadConfig, views: Mapping[str, View], network: Network) -> None:
        super().__init__(views)
        num_classes = [view.num_classes for view in views.values()]
        # A module's name may hold no dot, a dataset's may; the order of the views is the order of decoders and classifiers.
        self._is_repeated = config.decoder == "repeated"
        if self._is_repeated:
            self.decoders = nn.ModuleList(network.make_decoder(number) for number in num_classes)
            allow_empty_batches(self.decoders)
        else:
            self.decoder = network.make_decoder(max(num_classes))
        decoders = self.decoders if self._is_repeated else [self.decoder] * len(num_classes)
        self.classifiers = nn.ModuleList(map(network.make_classifier, decoders, num_classes))
        allow_empty_batches(self.classifiers)
        self._number = {name: number for number, name in enumerate(self.views)}
        self._upsample = network.upsample

    def decode(self, features: Features) -> Features:
        decoded: Features = features if self._is_repeated else self.decoder(features)
        return decoded

    def logits_of(self, decoded: Features, rows: Mapping[str, Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
        logits = {}
        for name, index in rows.items():
            number, part = self._number[name], select(decoded, index)
            if self._is_repeated:
                part = self.decoders[number](part)
            logits[name] = self._upsample(self.classifiers[number](part), part, size)
        return logits

    def losses(
        self, logits: Mapping[str, Tensor], labels: Mapping[str, Tensor], where: Where = NO_LIMIT, weights: Weights = EQUAL
    ) -> dict[str, LossTerm]:
        wanted = {name: limited(labels[name], where, name, name) for name in logits}
        return {name: cross_entropy_term(logits[name], wanted[name], weights=weights.get(name)) for name in logits}

    def leaves(self, dataset: str) -> tuple[str, ...]:
        return tuple(f"{dataset}/{name}" for name in self.views[dataset].names)

    def leaf_log_probabilities(self, logits: Tensor, dataset: str) -> Tensor:
        return torch.log_softmax(at_least_float32(logits), dim=1)

    def class_log_probabilities(self, logits: Tensor, dataset: str) -> Tensor:
        return self.leaf_log_probabilities(logits, dataset)

    def predict_band(self, logits: Tensor, dataset: str) -> Tensor:
        return logits.argmax(dim=1)
