"""Output spaces: what a network's logits mean, and the only place that knows how datasets share them.

An output space turns features into logits for each dataset, gives the loss of those logits against that dataset's labels,
and says what they predict. Trainers speak to this interface alone.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from data.labels import View
from models.networks.base import Features


class OutputSpace(nn.Module, ABC):
    """The interface. `views` says which classes each dataset of the job has."""

    def __init__(self, views: Mapping[str, View]) -> None:
        super().__init__()
        self.views = dict(views)

    @abstractmethod
    def forward(self, features: Features, rows: Mapping[str, Tensor], size: tuple[int, int]) -> dict[str, Tensor]:
        """The encoder's features of N images and, per dataset, the rows (N_d,) of its samples, to its logits (N_d, K, *size).

        Every dataset of `rows` is in the result, N_d = 0 included: its parameters then get zero gradients, so that a rank
        without a sample of some dataset takes part in every collective.
        """

    @abstractmethod
    def loss(self, logits: Tensor, labels: Tensor, dataset: str) -> tuple[Tensor, Tensor]:
        """Logits (N_d, K, H, W) and class indices (N_d, H, W) int64, IGNORE_INDEX where unknown, to the sum of the
        pixels' losses and the number of pixels in it, both scalars on the device. No valid pixel gives (0, 0)."""

    @abstractmethod
    def predict(self, logits: Tensor, dataset: str) -> Tensor:
        """Logits (N_d, K, H, W) to class indices of the dataset's view, (N_d, H, W) int64."""

    @abstractmethod
    def pseudo_labels(self, logits: Tensor, dataset: str) -> tuple[Tensor, Tensor]:
        """Logits (N_d, K, H, W) to the predicted classes (N_d, H, W) int64 and their probabilities (N_d, H, W) float32."""


def select(features: Features, index: Tensor) -> Features:
    """The rows `index` (N_d,) of each map."""
    return tuple(feature[index] for feature in features)


def at_least_float32(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
