"""Output spaces: what a network's logits mean, and the only place that knows how datasets share them.

An output space turns features into logits for each dataset, gives the loss of those logits against that dataset's labels,
and says what they predict. Trainers speak to this interface alone.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.labels import IGNORE_INDEX, View


@dataclass(frozen=True, kw_only=True)
class MultiHeadConfig:
    """One softmax per dataset over shared features (paper 002): only the last convolution is repeated."""

    name: Literal["multihead"]


OutputsConfig = MultiHeadConfig


class OutputSpace(nn.Module, ABC):
    """The interface. `views` says which classes each dataset of the job has."""

    def __init__(self, views: Mapping[str, View]) -> None:
        super().__init__()
        self.views = dict(views)

    @abstractmethod
    def forward(self, features: Tensor, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Features (N, C, h, w) and, per dataset, the rows (N_d,) of its samples, to its logits (N_d, K, h, w).

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


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


class MultiHead(OutputSpace):
    """One softmax per dataset: a 1x1 convolution each over the shared features."""

    def __init__(self, views: Mapping[str, View], in_channels: int) -> None:
        super().__init__(views)
        # A module's name may hold no dot, a dataset's may; the order of the views is the order of the heads.
        self.heads = nn.ModuleList(nn.Conv2d(in_channels, view.num_classes, 1) for view in self.views.values())
        self._number = {name: number for number, name in enumerate(self.views)}

    def forward(self, features: Tensor, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: self.heads[self._number[name]](features[index]) for name, index in rows.items()}

    def loss(self, logits: Tensor, labels: Tensor, dataset: str) -> tuple[Tensor, Tensor]:
        total = F.cross_entropy(_at_least_float32(logits), labels, ignore_index=IGNORE_INDEX, reduction="sum")
        return total, (labels != IGNORE_INDEX).sum()

    def predict(self, logits: Tensor, dataset: str) -> Tensor:
        return logits.argmax(dim=1)

    def pseudo_labels(self, logits: Tensor, dataset: str) -> tuple[Tensor, Tensor]:
        confidence, classes = torch.softmax(_at_least_float32(logits), dim=1).max(dim=1)
        return classes, confidence


OUTPUT_SPACES = {"multihead": MultiHead}
