"""What ENet, ERFNet, EDANet and their relatives share."""

import torch
from torch import Tensor, nn

from models.networks.base import IMAGENET, Normalisation

NORMALISATIONS = {"unit": Normalisation(mean=(0.0, 0.0, 0.0), std=(255.0, 255.0, 255.0)), "imagenet": IMAGENET}
"""`unit`: RGB in 0..1, as the official codes of these networks; `imagenet`: as paper 002 trained all of them."""


class ConvBesidePool(nn.Module):
    """Halves the map: a strided 3x3 convolution beside the max-pooled map itself, concatenated and normalised; no activation.

    Where the map is not to grow, there is no room for itself, and the convolution is alone.
    """

    def __init__(self, in_channels: int, out_channels: int, *, eps: float, bias: bool = True) -> None:
        super().__init__()
        self.pools = out_channels > in_channels
        conv_channels = out_channels - in_channels if self.pools else out_channels
        self.conv = nn.Conv2d(in_channels, conv_channels, 3, stride=2, padding=1, bias=bias)
        self.pool = nn.MaxPool2d(2)
        self.bn = nn.BatchNorm2d(out_channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.conv(x), self.pool(x)] if self.pools else [self.conv(x)]
        out: Tensor = self.bn(torch.cat(maps, dim=1))
        return out
