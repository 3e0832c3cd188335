"""EDANet (Lo et al. 2018; one of the six networks of paper 002): dense connections between asymmetric, dilated convolutions.

    block                                                     channels      stride
    down: 3x3 with stride 2 beside max pooling                15            2
    down                                                      60            4
    5 EDA modules, dilated 1, 1, 1, 2, 2                      100 ... 260   4
    down, without the pooled map                              130           8
    8 EDA modules, dilated 2, 2, 4, 4, 8, 8, 16, 16           170 ... 450   8
    1x1: the classifier                                       C             8
    bilinear                                                  C             1

There is no decoder. The authors published tables and no code. What these do not say is taken from wpf535236337/pytorch_EDANet: biases,
dropout, initialisation, and that corners stay corners when the logits are enlarged. The authors show the network pictures of half the
size and enlarge the logits twice as far: that is model.input_scale=0.5.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.base import Features, FirstMap, Network, NetworkConfigBase, resize_logits
from models.networks.blocks import NORMALISATIONS, ConvBesidePool

GROWTH = 40
DROPOUT = 0.02
DILATIONS = ((1, 1, 1, 2, 2), (2, 2, 4, 4, 8, 8, 16, 16))
BN_EPS = 1e-5


@dataclass(frozen=True, kw_only=True)
class EDANetConfig(NetworkConfigBase):
    """EDANet."""

    name: Literal["edanet"]

    bias: bool = True
    """Whether convolutions have biases, the classifier included: 689,485 parameters for 19 classes with them, 686,679 without. The
    authors' tables do not say."""

    normalise: Literal["unit", "imagenet"] = "unit"
    """`unit`: RGB in 0..1, as in ERFNet's training, which the authors follow; `imagenet`: less the mean of ImageNet and divided by
    its deviation, as paper 002."""


class Down(ConvBesidePool):
    def __init__(self, in_channels: int, out_channels: int, *, bias: bool) -> None:
        super().__init__(in_channels, out_channels, eps=BN_EPS, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x))


class EDAModule(nn.Module):
    """Adds `GROWTH` channels to its map, in front: 1x1, then two 3x3 split in two, the second one dilated."""

    def __init__(self, in_channels: int, *, dilation: int, bias: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, GROWTH, 1, bias=bias),
            nn.BatchNorm2d(GROWTH),
            nn.ReLU(),
            *_asymmetric(dilation=1, bias=bias),
            *_asymmetric(dilation=dilation, bias=bias),
            nn.Dropout2d(DROPOUT),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.layers(x), x], dim=1)


def _asymmetric(*, dilation: int, bias: bool) -> tuple[nn.Module, ...]:
    """Nothing stands between the two halves of the convolution."""
    return (
        nn.Conv2d(GROWTH, GROWTH, (3, 1), padding=(dilation, 0), dilation=(dilation, 1), bias=bias),
        nn.Conv2d(GROWTH, GROWTH, (1, 3), padding=(0, dilation), dilation=(1, dilation), bias=bias),
        nn.BatchNorm2d(GROWTH),
        nn.ReLU(),
    )


def _modules(in_channels: int, dilations: tuple[int, ...], *, bias: bool) -> list[nn.Module]:
    return [EDAModule(in_channels + GROWTH * i, dilation=dilation, bias=bias) for i, dilation in enumerate(dilations)]


class EDANet(Network):
    """With one classifier of 19 classes it has 689,485 parameters; each class of a classifier has 451 of them."""

    divisor = 8

    def __init__(self, config: EDANetConfig) -> None:
        super().__init__()
        self.bias = config.bias
        self.encoder = nn.Sequential(
            Down(3, 15, bias=self.bias),
            Down(15, 60, bias=self.bias),
            *_modules(60, DILATIONS[0], bias=self.bias),
            Down(260, 130, bias=self.bias),
            *_modules(130, DILATIONS[1], bias=self.bias),
        )
        self.normalisation = NORMALISATIONS[config.normalise]
        _initialise(self)

    def forward(self, images: Tensor) -> Features:
        """(N, 450, H/8, W/8)."""
        return (self.encoder(images),)

    def make_classifier(self, decoder: nn.Module, num_classes: int) -> nn.Module:
        classifier = FirstMap(nn.Conv2d(450, num_classes, 1, bias=self.bias))
        _initialise(classifier)
        return classifier

    @staticmethod
    def upsample(logits: Tensor, decoded: Features, size: tuple[int, int]) -> Tensor:
        return resize_logits(logits, size, align_corners=True)


def _initialise(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.normal_(part.weight, std=0.02)
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.weight, mean=1.0, std=0.02)
