"""ENet (Paszke et al. 2016; one of the six networks of paper 002), as the authors' Torch7 code has it.

    stage     blocks                                                          channels  stride  dropout
    initial   3x3 with stride 2 beside max pooling                            16        2
    1.0       down                                                            64        4       0.01
    1.1-1.4   4 regular                                                       64        4       0.01
    2.0       down                                                            128       8       0.1
    2.1-2.8   regular, dilated 2, 5x5 split, dilated 4, regular, dilated 8,
              5x5 split, dilated 16                                           128       8       0.1
    3.1-3.8   the same again                                                  128       8       0.1
    4.0       up, to where 2.0 found its maxima                               64        4
    4.1-4.2   2 regular                                                       64        4
    5.0       up, to where 1.0 found its maxima                               16        2
    5.1       regular                                                         16        2
    full      transposed 2x2 with stride 2: the classifier                    C         1

A block narrows to a quarter of its *output* channels between two 1x1 convolutions. The encoder activates with PReLU, one slope a
channel, the decoder with ReLU and without dropout.

The popular PyTorch port (davidtvs/PyTorch-ENet) is another network, of 351,660 parameters in place of 364,311: it narrows to a
quarter of the input (4 channels in block 1.0, not 16), has one slope a layer, drops out in the decoder too, and differs in several
kernels, biases and normalisations. Its weights do not fit here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.base import Features, FirstMap, Network, NetworkConfigBase
from models.networks.blocks import NORMALISATIONS, ConvBesidePool

BN_EPS = 1e-3
SECTION: tuple[int | Literal["split"], ...] = (1, 2, "split", 4, 1, 8, "split", 16)
"""Blocks 2.1 to 2.8: the dilation of the 3x3 in the middle of each, or `split` for a 5x5 split in two."""


@dataclass(frozen=True, kw_only=True)
class ENetConfig(NetworkConfigBase):
    """ENet."""

    name: Literal["enet"]

    normalise: Literal["unit", "imagenet"] = "unit"
    """`unit`: RGB in 0..1, as the authors; `imagenet`: less the mean of ImageNet and divided by its deviation, as paper 002."""


def _bottleneck(
    in_channels: int, out_channels: int, middle: Callable[[int], nn.Module], activation: Callable[[int], nn.Module], *, stride: int = 1
) -> nn.Sequential:
    """The main branch: narrow (by pixels, or by 2x2 where it goes down), `middle`, widen. No activation after the last."""
    inner = out_channels // 4
    return nn.Sequential(
        nn.Conv2d(in_channels, inner, stride, stride=stride, bias=False),
        nn.BatchNorm2d(inner, eps=BN_EPS),
        activation(inner),
        middle(inner),
        nn.BatchNorm2d(inner, eps=BN_EPS),
        activation(inner),
        nn.Conv2d(inner, out_channels, 1, bias=False),
        nn.BatchNorm2d(out_channels, eps=BN_EPS),
    )


def _conv3(channels: int, dilation: int = 1) -> nn.Module:
    return nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation)


def _split5(channels: int) -> nn.Module:
    """Along the rows, then along the columns; the text says the other way round, the code has it so. A bias at the end alone."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, (1, 5), padding=(0, 2), bias=False), nn.Conv2d(channels, channels, (5, 1), padding=(2, 0))
    )


def _up3(channels: int) -> nn.Module:
    return nn.ConvTranspose2d(channels, channels, 3, stride=2, padding=1, output_padding=1)


def _relu(channels: int) -> nn.Module:
    return nn.ReLU()


class Regular(nn.Module):
    """A block that keeps the shape of its map."""

    def __init__(
        self, channels: int, middle: Callable[[int], nn.Module], activation: Callable[[int], nn.Module], *, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.main = _bottleneck(channels, channels, middle, activation)
        self.dropout = nn.Dropout2d(dropout) if dropout else nn.Identity()
        self.activation = activation(channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.activation(self.dropout(self.main(x)) + x)
        return out


class Down(nn.Module):
    """Halves the map; gives also which pixels were the largest of their four, for `Up`."""

    def __init__(self, in_channels: int, out_channels: int, *, dropout: float) -> None:
        super().__init__()
        self.main = _bottleneck(in_channels, out_channels, _conv3, nn.PReLU, stride=2)
        self.dropout = nn.Dropout2d(dropout)
        self.activation = nn.PReLU(out_channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, 2h, 2w) to (N, out, h, w) and (N, C, h, w) uint8."""
        out: Tensor = self.dropout(self.main(x))
        # The channels that the pooled map does not have are zeros.
        pooled = F.pad(F.max_pool2d(x, 2), (0, 0, 0, 0, 0, out.shape[1] - x.shape[1]))
        return self.activation(out + pooled), largest_of_four(x)


class Up(nn.Module):
    """Doubles the map; on the side branch values go to where `Down` found the largest, and the pixels between are zeros."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.main = _bottleneck(in_channels, out_channels, _up3, _relu)
        self.side = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels, eps=BN_EPS))

    def forward(self, x: Tensor, largest: Tensor) -> Tensor:
        return F.relu(self.main(x) + max_unpool(self.side(x), largest))


@torch.no_grad()
def largest_of_four(x: Tensor) -> Tensor:
    """(N, C, 2h, 2w) to (N, C, h, w) uint8: which pixel of each 2x2 is the largest, in reading order from 0; the first of equals.

    With `max_unpool` it does what the indices of a pooling do, but keeps the memory format and exports to any runtime.
    """
    a, b, c, d = x[:, :, ::2, ::2], x[:, :, ::2, 1::2], x[:, :, 1::2, ::2], x[:, :, 1::2, 1::2]
    below = torch.maximum(c, d) > torch.maximum(a, b)
    return torch.where(below, (d > c).to(torch.uint8) + 2, (b > a).to(torch.uint8))


def max_unpool(x: Tensor, largest: Tensor) -> Tensor:
    """(N, C, h, w) to (N, C, 2h, 2w): each value where `largest`, from `largest_of_four`, says, and zeros elsewhere."""
    height, width = x.shape[2:]
    rows, columns = torch.arange(2 * height, device=x.device), torch.arange(2 * width, device=x.device)
    pixel = 2 * (rows % 2)[:, None] + columns % 2
    here = F.interpolate(largest, scale_factor=2, mode="nearest") == pixel
    return torch.where(here, F.interpolate(x, scale_factor=2, mode="nearest"), 0.0)


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.initial = nn.Sequential(ConvBesidePool(3, 16, eps=BN_EPS), nn.PReLU(16))
        self.down1 = Down(16, 64, dropout=0.01)
        self.stage1 = nn.Sequential(*(Regular(64, _conv3, nn.PReLU, dropout=0.01) for _ in range(4)))
        self.down2 = Down(64, 128, dropout=0.1)
        self.stage2, self.stage3 = self._section(), self._section()

    @staticmethod
    def _section() -> nn.Sequential:
        middles = (_split5 if kind == "split" else _dilated(kind) for kind in SECTION)
        return nn.Sequential(*(Regular(128, middle, nn.PReLU, dropout=0.1) for middle in middles))

    def forward(self, images: Tensor) -> Features:
        x, largest1 = self.down1(self.initial(images))
        x, largest2 = self.down2(self.stage1(x))
        return self.stage3(self.stage2(x)), largest2, largest1


def _dilated(dilation: int) -> Callable[[int], nn.Module]:
    return lambda channels: _conv3(channels, dilation)


class Decoder(nn.Module):
    """Up to the last map before the logits: (N, 16, H/2, W/2)."""

    def __init__(self) -> None:
        super().__init__()
        self.up4 = Up(128, 64)
        self.stage4 = nn.Sequential(*(Regular(64, _conv3, _relu) for _ in range(2)))
        self.up5 = Up(64, 16)
        self.stage5 = Regular(16, _conv3, _relu)

    def forward(self, features: Features) -> Features:
        x, largest2, largest1 = features
        x = self.stage4(self.up4(x, largest2))
        return (self.stage5(self.up5(x, largest1)),)


class ENet(Network):
    """With one classifier of 19 classes it has 364,311 parameters, 338,156 of them in the encoder."""

    divisor = 8

    def __init__(self, config: ENetConfig) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.normalisation = NORMALISATIONS[config.normalise]

    def forward(self, images: Tensor) -> Features:
        """(N, 128, H/8, W/8), and for the decoder (N, 64, H/8, W/8) and (N, 16, H/4, W/4) of `largest_of_four`."""
        features: Features = self.encoder(images)
        return features

    def make_decoder(self, num_classes: int) -> nn.Module:
        return Decoder()

    def make_classifier(self, decoder: nn.Module, num_classes: int) -> nn.Module:
        return FirstMap(nn.ConvTranspose2d(16, num_classes, 2, stride=2))
