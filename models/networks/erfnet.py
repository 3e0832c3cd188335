"""ERFNet (Romera et al. 2017; one of the six networks of paper 002), as the authors' PyTorch code has it.

    layers   block                                                       channels  stride  dropout
    1        down                                                        16        2
    2        down                                                        64        4
    3-7      5 non-bottleneck-1D                                         64        4       0.03
    8        down                                                        128       8
    9-16     8 non-bottleneck-1D, dilated 2, 4, 8, 16, 2, 4, 8, 16       128       8       0.3
    17       up                                                          64        4
    18-19    2 non-bottleneck-1D                                         64        4
    20       up                                                          16        2
    21-22    2 non-bottleneck-1D                                         16        2
    23       transposed 2x2 with stride 2: the classifier                C         1

There are no skips. The official encoder has a 1x1 classifier of its own, for a first stage of training on labels of an eighth of the
size; afterwards it is not used, and it is not here.
"""

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.base import Features, FirstMap, Network, NetworkConfigBase
from models.networks.blocks import NORMALISATIONS, ConvBesidePool

BN_EPS = 1e-3
DILATIONS = (2, 4, 8, 16, 2, 4, 8, 16)


@dataclass(frozen=True, kw_only=True)
class ERFNetConfig(NetworkConfigBase):
    """ERFNet."""

    name: Literal["erfnet"]

    normalise: Literal["unit", "imagenet"] = "unit"
    """`unit`: RGB in 0..1, as the authors and their weights; `imagenet`: less the mean of ImageNet and divided by its deviation, as
    paper 002."""


class Down(ConvBesidePool):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, eps=BN_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x))


class NonBottleneck1D(nn.Module):
    """Two 3x3 convolutions, each split in two, with a shortcut. Of a pair alone the second one is dilated."""

    def __init__(self, channels: int, *, dilation: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        # The official names, so that the official weights need few changes.
        self.conv3x1_1 = nn.Conv2d(channels, channels, (3, 1), padding=(1, 0))
        self.conv1x3_1 = nn.Conv2d(channels, channels, (1, 3), padding=(0, 1))
        self.bn1 = nn.BatchNorm2d(channels, eps=BN_EPS)
        self.conv3x1_2 = nn.Conv2d(channels, channels, (3, 1), padding=(dilation, 0), dilation=(dilation, 1))
        self.conv1x3_2 = nn.Conv2d(channels, channels, (1, 3), padding=(0, dilation), dilation=(1, dilation))
        self.bn2 = nn.BatchNorm2d(channels, eps=BN_EPS)
        self.dropout = nn.Dropout2d(dropout) if dropout else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1x3_1(F.relu(self.conv3x1_1(x)))))
        out = self.bn2(self.conv1x3_2(F.relu(self.conv3x1_2(out))))
        return F.relu(self.dropout(out) + x)


class Up(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(in_channels, out_channels, 3, stride=2, padding=1, output_padding=1)
        self.bn = nn.BatchNorm2d(out_channels, eps=BN_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Encoder(nn.Module):
    """Layers 1 to 16: (N, 3, H, W) to (N, 128, H/8, W/8)."""

    def __init__(self) -> None:
        super().__init__()
        self.initial_block = Down(3, 16)
        self.layers = nn.Sequential(
            Down(16, 64),
            *(NonBottleneck1D(64, dropout=0.03) for _ in range(5)),
            Down(64, 128),
            *(NonBottleneck1D(128, dilation=dilation, dropout=0.3) for dilation in DILATIONS),
        )

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.layers(self.initial_block(images))
        return out


class Decoder(nn.Module):
    """Layers 17 to 22: (N, 16, H/2, W/2)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            Up(128, 64), NonBottleneck1D(64), NonBottleneck1D(64), Up(64, 16), NonBottleneck1D(16), NonBottleneck1D(16)
        )

    def forward(self, features: Features) -> Features:
        return (self.layers(features[0]),)


class ERFNet(Network):
    """With one classifier of 19 classes it has 2,064,191 parameters, 190,147 of them in decoder and classifier."""

    divisor = 8

    def __init__(self, config: ERFNetConfig) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.normalisation = NORMALISATIONS[config.normalise]

    def forward(self, images: Tensor) -> Features:
        return (self.encoder(images),)

    def make_decoder(self, num_classes: int) -> nn.Module:
        return Decoder()

    def make_classifier(self, decoder: nn.Module, num_classes: int) -> nn.Module:
        return FirstMap(nn.ConvTranspose2d(16, num_classes, 2, stride=2))


def official_erfnet_key(key: str) -> str | None:
    """A key of the official state dicts to ours: `encoder....` of the network, `decoder....` of what `make_decoder` gives and
    `classifier....` of what `make_classifier` gives. None for what has no place here: the classifiers of the encoder alone.

    Takes those of the whole network (Eromera/erfnet_pytorch, trained_models) and of the encoder trained on ImageNet, with the
    `module.` in front that saving from DataParallel leaves.
    """
    key = key.removeprefix("module.").removeprefix("features.")
    if key.startswith(("encoder.output_conv.", "classifier.")):
        return None
    if key.startswith("decoder.output_conv."):
        return key.replace("decoder.output_conv.", "classifier.module.")
    return key
