"""The whole model: normalising, a network, an output space."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.labels import View
from models.networks import NetworkConfig, build_network
from models.networks.base import Features, Network
from models.outputs import OutputsConfig, build_outputs
from models.outputs.base import OutputSpace


class SegmentationModel(nn.Module):
    """From uint8 images to each dataset's logits at the size of the images."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: Network, outputs: OutputSpace, *, input_scale: float = 1.0) -> None:
        super().__init__()
        self.network = network
        self.outputs = outputs
        self.input_scale = input_scale
        """What whole pictures are resized by before they are given to `forward`; training crops come resized."""
        self.register_buffer("mean", torch.tensor(network.normalisation.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(network.normalisation.std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor, rows: Mapping[str, Tensor], size: tuple[int, int] | None = None) -> dict[str, Tensor]:
        """Images (N, 3, H, W) uint8 RGB and the rows of each dataset's samples, to its logits (N_d, K, *size).

        `size` is that of the images by default. The input is never changed in place.
        """
        shown = (images.shape[2], images.shape[3])
        return self.decode(self.encode(images), rows, shown, size)

    def encode(self, images: Tensor) -> Features:
        """The first half of `forward`: images to what the datasets share, for as many questions as there are."""
        x = self.normalise(images)
        down, right = self._missing((images.shape[2], images.shape[3]))
        if down or right:
            x = F.pad(x, (0, right, 0, down))
        return self.outputs.decode(self.network(x))

    def decode(
        self, decoded: Features, rows: Mapping[str, Tensor], shown: tuple[int, int], size: tuple[int, int] | None = None
    ) -> dict[str, Tensor]:
        """The second half of `forward`; `shown` is the size of the images."""
        size = size or shown
        logits = self.outputs.logits_of(decoded, rows, self._padded(shown, size))
        return {name: _cut(values, size) for name, values in logits.items()}

    @torch.no_grad()
    def answer(self, decoded: Features, index: Tensor, shown: tuple[int, int], dataset: str, own: Tensor) -> Tensor:
        """What images `index` (N_d,) of another dataset, whose own logits are `own` (N_d, K, *shown), show in the view of `dataset`:
        class indices (N_d, *shown) int64, IGNORE_INDEX where none is predicted. It is a decision: no gradient, no statistic."""
        logits = self.outputs.foreign_logits(decoded, index, self._padded(shown, shown), dataset, own)
        return self.outputs.answer(_cut(logits, shown), dataset)

    def _missing(self, shown: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns that images of that size lack for the network."""
        return -shown[0] % self.network.divisor, -shown[1] % self.network.divisor

    def _padded(self, shown: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
        """The size of logits whose part for the images, without the padding, is `size`, which may be another than theirs."""
        down, right = self._missing(shown)
        return round(size[0] * (shown[0] + down) / shown[0]), round(size[1] * (shown[1] + right) / shown[1])

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """In place, as every module; and the network by itself too, for `encode`."""
        super().compile(*args, **kwargs)
        self.network.compile(*args, **kwargs)

    def normalise(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) uint8 RGB to what the network takes, float; the mean colour is 0."""
        normalised = (images - self.mean) / self.std
        return normalised.flip(1) if self.network.normalisation.bgr else normalised


def _cut(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Without the padding, which lies at the bottom and on the right."""
    return logits if logits.shape[2:] == size else logits[:, :, : size[0], : size[1]]


def build_model(network: NetworkConfig, outputs: OutputsConfig, views: Mapping[str, View]) -> SegmentationModel:
    """The model of a job, initialised from torch's global generator; seed that first."""
    built = build_network(network)
    return SegmentationModel(built, build_outputs(outputs, views, built), input_scale=network.input_scale)
