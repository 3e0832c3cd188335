"""iGUM-Net (Mazzini and Schettini, CVPRW 2019; one of the six networks of paper 002): an encoder alone, and guided upsampling.

    part         layers                                       channels  stride
    encoder      ERFNet's, layers 1 to 16                     128       8
    guidance     two times 3x3 BN ReLU; 3x3                   2         8
    classifier   1x1                                          C         8
    upsampling   guided (`models.networks.gum`)               C         1

This is a reconstruction: no code of the authors is published. The papers say that the improved module replaces the whole decoder, and
that the encoder is inspired by ERFNet, with early downsampling and a modified non-bottleneck-1D. How that is modified they do not say:
ERFNet's own is used, and its weights fit. That offsets are predicted at the size of the logits and enlarged bilinearly, which is what
makes the module cheap, is chosen here, as are its layers. Numbers of paper 002 are no target to the point.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from models.networks.base import Features, NetworkConfigBase
from models.networks.blocks import NORMALISATIONS
from models.networks.erfnet import Encoder
from models.networks.gum import GuidedNetwork, guidance

CHANNELS = 128


@dataclass(frozen=True, kw_only=True)
class IGUMNetConfig(NetworkConfigBase):
    """iGUM-Net, reconstructed."""

    name: Literal["igumnet"]

    normalise: Literal["imagenet", "unit"] = "imagenet"
    """`imagenet`: as paper 002; `unit`: RGB in 0..1, for weights of ERFNet's encoder."""


class IGUMNet(GuidedNetwork):
    """With one classifier of 19 classes it has 1,969,425 parameters."""

    feature_channels = CHANNELS

    divisor = 8

    def __init__(self, config: IGUMNetConfig) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.guidance = guidance(CHANNELS, doublings=0)
        self.normalisation = NORMALISATIONS[config.normalise]

    def forward(self, images: Tensor) -> Features:
        """(N, 128, H/8, W/8), and the offsets (N, 2, H/8, W/8) for the upsampling."""
        features = self.encoder(images)
        return features, self.guidance(features)
