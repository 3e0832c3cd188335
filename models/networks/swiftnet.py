"""SwiftNet, single scale (Oršić et al. 2019; the network of paper 000, section 2.5), as in the authors' code.

Shape suffixes of the comments: N images, H x W pixels.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import ResNet, resnet18
from torchvision.models.resnet import BasicBlock

from models.networks.base import Features, FirstMap, Network, NetworkConfigBase, resize

DECODER_CHANNELS = 128
SPP_GRIDS = (8, 4, 2)
"""The code declares (8, 4, 2, 1) and uses the first three; the published 11.8 M parameters have three."""
SPP_BN_MOMENTUM = 0.005


@dataclass(frozen=True, kw_only=True)
class SwiftNetConfig(NetworkConfigBase):
    name: Literal["swiftnet_rn18"]


def _unit(in_channels: int, out_channels: int, kernel: int, *, momentum: float = 0.1) -> nn.Sequential:
    """BN, ReLU, convolution without bias: the pre-activation unit that the whole decoder is made of."""
    return nn.Sequential(
        nn.BatchNorm2d(in_channels, momentum=momentum),
        nn.ReLU(),
        nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False),
    )


class ResNetEncoder(nn.Module):
    """The trunk of a torchvision ResNet of basic blocks; gives the sums of the last block of each layer *before* their ReLU."""

    def __init__(self, resnet: ResNet) -> None:
        super().__init__()
        # torchvision's names, so that its weights load as they are.
        self.conv1, self.bn1, self.maxpool = resnet.conv1, resnet.bn1, resnet.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4

    def forward(self, images: Tensor) -> Features:
        """(N, 3, H, W) float32 to four maps: (N, 64, H/4, W/4), (N, 128, H/8, W/8), (N, 256, H/16, W/16), (N, 512, H/32, W/32)."""
        x: Tensor = self.maxpool(F.relu(self.bn1(self.conv1(images))))
        features = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer[:-1](x)
            before_relu = _without_last_relu(layer[-1], x)
            features.append(before_relu)
            x = F.relu(before_relu)
        return tuple(features)


def _without_last_relu(block: BasicBlock, x: Tensor) -> Tensor:
    shortcut = x if block.downsample is None else block.downsample(x)
    out: Tensor = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))
    return out + shortcut


class SpatialPyramidPooling(nn.Module):
    """Pools on grids of 8, 4 and 2 rows, as many columns as the shape of the map asks for, and fuses them with the map."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        level_channels = DECODER_CHANNELS // len(SPP_GRIDS)
        self.reduce = _unit(in_channels, DECODER_CHANNELS, 1, momentum=SPP_BN_MOMENTUM)
        self.levels = nn.ModuleList(_unit(DECODER_CHANNELS, level_channels, 1, momentum=SPP_BN_MOMENTUM) for _ in SPP_GRIDS)
        fused = DECODER_CHANNELS + len(SPP_GRIDS) * level_channels
        self.fuse = _unit(fused, DECODER_CHANNELS, 1, momentum=SPP_BN_MOMENTUM)

    def forward(self, x: Tensor) -> Tensor:
        x = self.reduce(x)
        height, width = x.shape[2:]
        maps = [x]
        for rows, level in zip(SPP_GRIDS, self.levels, strict=True):
            pooled = F.adaptive_avg_pool2d(x, (rows, max(1, round(width / height * rows))))
            maps.append(resize(level(pooled), (height, width)))
        return self.fuse(torch.cat(maps, dim=1))


class Upsample(nn.Module):
    """One step of the ladder: the coarse map, enlarged, plus the skip brought to the same channels, then 3x3."""

    def __init__(self, skip_channels: int) -> None:
        super().__init__()
        self.skip = _unit(skip_channels, DECODER_CHANNELS, 1)
        self.blend = _unit(DECODER_CHANNELS, DECODER_CHANNELS, 3)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        skip = self.skip(skip)
        return self.blend(resize(x, (skip.shape[2], skip.shape[3])) + skip)


class Decoder(nn.Module):
    """Pyramid and ladder, up to the last BN and ReLU before the logits: (N, 128, H/4, W/4)."""

    def __init__(self) -> None:
        super().__init__()
        self.pyramid = SpatialPyramidPooling(512)
        self.ladder = nn.ModuleList([Upsample(256), Upsample(128), Upsample(64)])
        self.last = nn.Sequential(nn.BatchNorm2d(DECODER_CHANNELS), nn.ReLU())
        _initialise(self)

    def forward(self, features: Features) -> Features:
        *skips, deepest = features
        x = self.pyramid(deepest)
        for upsample, skip in zip(self.ladder, reversed(skips), strict=True):
            x = upsample(x, skip)
        return (self.last(x),)


class SwiftNet(Network):
    """With one classifier of 19 classes the network has 11,797,071 parameters, 11,176,512 of them here in the encoder."""

    def __init__(self, config: SwiftNetConfig) -> None:
        super().__init__()
        self.encoder = ResNetEncoder(resnet18(weights=None))
        _initialise(self)

    def forward(self, images: Tensor) -> Features:
        features: Features = self.encoder(images)
        return features

    def make_decoder(self, num_classes: int) -> nn.Module:
        return Decoder()

    def make_classifier(self, num_classes: int) -> nn.Module:
        return FirstMap(nn.Conv2d(DECODER_CHANNELS, num_classes, 1))


def _initialise(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
