"""DRN-D-22 (Yu, Koltun and Funkhouser 2017), a dilated residual network, as in the authors' code (fyu/drn).

    layer   what                     channels  stride  dilation
    0       7x7                      16        1       1
    1       3x3                      16        1       1
    2       3x3                      32        2       1
    3       2 basic blocks           64        4       1
    4       2 basic blocks           128       8       1
    5       2 basic blocks           256       8       2
    6       2 basic blocks           512       8       4
    7       3x3                      512       8       2
    8       3x3                      512       8       1

Parameters keep the official names, so that the official weights load as they are, less those of the classifier of 1000 classes.
"""

import torch.nn.functional as F
from torch import Tensor, nn


def _conv(in_channels: int, out_channels: int, *, kernel: int = 3, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Convolution, BN, ReLU."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


class BasicBlock(nn.Module):
    """ResNet's, but dilated, from the first convolution of a layer on."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=dilation, dilation=dilation, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            shortcut = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + shortcut)


def _blocks(in_channels: int, out_channels: int, *, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    return nn.Sequential(
        BasicBlock(in_channels, out_channels, stride=stride, dilation=dilation),
        BasicBlock(out_channels, out_channels, stride=1, dilation=dilation),
    )


class DRND22(nn.Module):
    """The trunk, in two parts that may be called alone; 15,880,752 parameters."""

    shallow_channels = 128
    deep_channels = 512

    def __init__(self) -> None:
        super().__init__()
        self.layer0 = _conv(3, 16, kernel=7)
        self.layer1 = _conv(16, 16)
        self.layer2 = _conv(16, 32, stride=2)
        self.layer3 = _blocks(32, 64, stride=2)
        self.layer4 = _blocks(64, 128, stride=2)
        self.layer5 = _blocks(128, 256, dilation=2)
        self.layer6 = _blocks(256, 512, dilation=4)
        self.layer7 = _conv(512, 512, dilation=2)
        self.layer8 = _conv(512, 512)
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) to (N, 512, H/8, W/8)."""
        return self.deep(self.shallow(images))

    def shallow(self, images: Tensor) -> Tensor:
        """Layers 0 to 4: (N, 3, H, W) to (N, 128, H/8, W/8)."""
        x = images
        for layer in (self.layer0, self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
        return x

    def deep(self, x: Tensor) -> Tensor:
        """Layers 5 to 8: (N, 128, h, w) to (N, 512, h, w)."""
        for layer in (self.layer5, self.layer6, self.layer7, self.layer8):
            x = layer(x)
        return x
