"""GUNet (Mazzini, BMVC 2018; one of the six networks of paper 002): two resolutions through one encoder, guided upsampling.

    part         input                                        layers                                  channels  stride
    low branch   the image at half its size                   DRN-D-22, all of it                     512       16
    high branch  the image                                    its layers 0 to 4, the same weights     128       8
    fusion       low, enlarged: 3x3 dilated 2; high: 1x1      BN each, sum, ReLU                      128       8
    guidance     fusion                                       two times 3x3 BN ReLU, doubling; 3x3    2         2
    classifier   fusion                                       1x1                                     C         8
    upsampling   logits and offsets                           guided (`models.networks.gum`)          C         1

This is a reconstruction: no code of the authors is published. The papers say: two branches that share their weights, a module that
fuses them, the Guided Upsampling Module, and a decoder that is one convolution, so that it makes no difference whether decoders or
last layers are repeated for each dataset. Not said there, and chosen here: the encoder, the depth of the high branch, the layers of
fusion and guidance, that offsets are predicted from features enlarged to half the size. Numbers of paper 002 are no target to the point.
"""

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.base import Features, NetworkConfigBase, resize
from models.networks.blocks import NORMALISATIONS
from models.networks.drn import DRND22
from models.networks.gum import GuidedNetwork, guidance

CHANNELS = 128


@dataclass(frozen=True, kw_only=True)
class GUNetConfig(NetworkConfigBase):
    """GUNet, reconstructed."""

    name: Literal["gunet"]

    normalise: Literal["imagenet", "unit"] = "imagenet"
    """`imagenet`: as paper 002, and for DRN's weights; `unit`: RGB in 0..1."""


class Fusion(nn.Module):
    """Deep features of the small image and shallow ones of the whole image to one map, of the larger of their sizes."""

    def __init__(self, deep_channels: int, shallow_channels: int) -> None:
        super().__init__()
        deep = nn.Conv2d(deep_channels, CHANNELS, 3, padding=2, dilation=2, bias=False)
        self.deep = nn.Sequential(deep, nn.BatchNorm2d(CHANNELS))
        self.shallow = nn.Sequential(nn.Conv2d(shallow_channels, CHANNELS, 1, bias=False), nn.BatchNorm2d(CHANNELS))

    def forward(self, deep: Tensor, shallow: Tensor) -> Tensor:
        return F.relu(self.deep(resize(deep, (shallow.shape[2], shallow.shape[3]))) + self.shallow(shallow))


class GUNet(GuidedNetwork):
    """With one classifier of 19 classes it has 16,582,853 parameters."""

    feature_channels = CHANNELS

    divisor = 16

    def __init__(self, config: GUNetConfig) -> None:
        super().__init__()
        self.encoder = DRND22()
        self.fusion = Fusion(DRND22.deep_channels, DRND22.shallow_channels)
        self.guidance = guidance(CHANNELS, doublings=2)
        self.normalisation = NORMALISATIONS[config.normalise]

    def forward(self, images: Tensor) -> Features:
        """(N, 128, H/8, W/8), and the offsets (N, 2, H/2, W/2) for the upsampling."""
        deep = self.encoder(F.avg_pool2d(images, 2))
        fused = self.fusion(deep, self.encoder.shallow(images))
        return fused, self.guidance(fused)
