"""The whole model: normalising, a network, an output space."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.labels import View
from models.networks import NetworkConfig, build_network
from models.networks.base import Network
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
        height, width = images.shape[2:]
        down, right = -height % self.network.divisor, -width % self.network.divisor
        x = self.normalise(images)
        if down or right:
            x = F.pad(x, (0, right, 0, down))
        size = size or (height, width)
        # The padding is cut off again at the end, where `size` may be another than that of the images.
        padded = (round(size[0] * (height + down) / height), round(size[1] * (width + right) / width))
        logits: dict[str, Tensor] = self.outputs(self.network(x), rows, padded)
        return {name: values[:, :, : size[0], : size[1]] for name, values in logits.items()} if padded != size else logits

    def normalise(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) uint8 RGB to what the network takes, float; the mean colour is 0."""
        normalised = (images - self.mean) / self.std
        return normalised.flip(1) if self.network.normalisation.bgr else normalised


def build_model(network: NetworkConfig, outputs: OutputsConfig, views: Mapping[str, View]) -> SegmentationModel:
    """The model of a job, initialised from torch's global generator; seed that first."""
    built = build_network(network)
    return SegmentationModel(built, build_outputs(outputs, views, built), input_scale=network.input_scale)
