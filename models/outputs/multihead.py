"""One softmax per dataset (paper 002)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.labels import IGNORE_INDEX, View
from models.networks.base import Features, Network
from models.outputs.base import OutputSpace, at_least_float32, select


@dataclass(frozen=True, kw_only=True)
class MultiHeadConfig:
    """One softmax per dataset over shared features (paper 002): only the last convolution is repeated."""

    name: Literal["multihead"]


class MultiHead(OutputSpace):
    """One softmax per dataset: a classifier each on the features of one shared decoder."""

    def __init__(self, views: Mapping[str, View], network: Network) -> None:
        super().__init__(views)
        self.decoder = network.make_decoder(max(view.num_classes for view in views.values()))
        # A module's name may hold no dot, a dataset's may; the order of the views is the order of the classifiers.
        self.classifiers = nn.ModuleList(network.make_classifier(view.num_classes) for view in self.views.values())
        self._number = {name: number for number, name in enumerate(self.views)}
        self._upsample = network.upsample

    def forward(self, features: Features, rows: Mapping[str, Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
        decoded = self.decoder(features)
        logits = {}
        for name, index in rows.items():
            part = select(decoded, index)
            logits[name] = self._upsample(self.classifiers[self._number[name]](part), part, size)
        return logits

    def loss(self, logits: Tensor, labels: Tensor, dataset: str) -> tuple[Tensor, Tensor]:
        total = F.cross_entropy(at_least_float32(logits), labels, ignore_index=IGNORE_INDEX, reduction="sum")
        return total, (labels != IGNORE_INDEX).sum()

    def predict(self, logits: Tensor, dataset: str) -> Tensor:
        return logits.argmax(dim=1)

    def pseudo_labels(self, logits: Tensor, dataset: str) -> tuple[Tensor, Tensor]:
        confidence, classes = torch.softmax(at_least_float32(logits), dim=1).max(dim=1)
        return classes, confidence
