"""The whole model: normalising, a network, an output space."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.labels import View
from models.outputs import OUTPUT_SPACES, OutputsConfig, OutputSpace
from models.swiftnet import SwiftNet, SwiftNetConfig

NetworkConfig = SwiftNetConfig
NETWORKS = {"swiftnet_rn18": SwiftNet}

# ImageNet's statistics on the 0..255 scale, what torchvision's weights were trained with.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


class SegmentationModel(nn.Module):
    """From uint8 images to each dataset's logits at the size of the images."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, outputs: OutputSpace, *, input_scale: float = 1.0) -> None:
        super().__init__()
        self.network = network
        self.outputs = outputs
        self.input_scale = input_scale
        """What whole pictures are resized by before they are given to `forward`; training crops come resized."""
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor, rows: Mapping[str, Tensor], size: tuple[int, int] | None = None) -> dict[str, Tensor]:
        """Images (N, 3, H, W) uint8 RGB and the rows of each dataset's samples, to its logits (N_d, K, *size).

        `size` is that of the images by default.

        The input is never changed in place.
        """
        features = self.network((images - self.mean) / self.std)
        logits = self.outputs(features, rows)
        return {name: F.interpolate(low, size or images.shape[2:], mode="bilinear", align_corners=False) for name, low in logits.items()}


def build_model(network: NetworkConfig, outputs: OutputsConfig, views: Mapping[str, View]) -> SegmentationModel:
    """The model of a job, initialised from torch's global generator; seed that first."""
    trunk = NETWORKS[network.name]()
    return SegmentationModel(trunk, OUTPUT_SPACES[outputs.name](views, trunk.out_channels), input_scale=network.input_scale)
