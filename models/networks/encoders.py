"""Torchvision's ResNets and ConvNeXts as encoders, by the names that torchvision gives them.

Parameters keep torchvision's names, so that its weights, and those of the many codes that use its names, load as they are.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models import ConvNeXt, ResNet, get_model, list_models
from torchvision.models.resnet import BasicBlock, Bottleneck

from data.errors import FieldError
from models.networks.base import Features

ENCODERS: tuple[str, ...] = tuple(list_models(torchvision.models, include=["resnet*", "resnext*", "wide_resnet*", "convnext*"]))


class Encoder(nn.Module, ABC):
    """Images to four maps, of 1/4, 1/8, 1/16 and 1/32 of their size where nothing is dilated."""

    channels: tuple[int, ...]
    """Of the four maps."""

    divisor: int
    """Height and width of the images have to be multiples of this for the maps to cover them whole."""

    @abstractmethod
    def forward(self, images: Tensor) -> Features:
        """(N, 3, H, W) float, normalised, to the sums that end the four stages, before any activation."""


class ResNetEncoder(Encoder):
    """The trunk of any torchvision ResNet; gives the sums of the last block of each layer *before* their ReLU."""

    divisor = 1

    def __init__(self, resnet: ResNet) -> None:
        super().__init__()
        self.conv1, self.bn1, self.maxpool = resnet.conv1, resnet.bn1, resnet.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4
        self.channels = tuple(_units(layer[-1])[-1][1].num_features for layer in self.layers())

    def layers(self) -> tuple[nn.Sequential, ...]:
        return self.layer1, self.layer2, self.layer3, self.layer4

    def forward(self, images: Tensor) -> Features:
        x: Tensor = self.maxpool(F.relu(self.bn1(self.conv1(images))))
        features = []
        for layer in self.layers():
            for block in layer[:-1]:
                x = block(x)
            before_relu = _without_last_relu(layer[-1], x)
            features.append(before_relu)
            x = F.relu(before_relu)
        return tuple(features)


def _units(block: BasicBlock | Bottleneck) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """The convolutions of a residual block with the normalisation behind each."""
    units = [(block.conv1, block.bn1), (block.conv2, block.bn2)]
    return [*units, (block.conv3, block.bn3)] if isinstance(block, Bottleneck) else units


def _without_last_relu(block: BasicBlock | Bottleneck, x: Tensor) -> Tensor:
    shortcut = x if block.downsample is None else block.downsample(x)
    *inner, (last_conv, last_norm) = _units(block)
    for conv, norm in inner:
        x = F.relu(norm(conv(x)))
    return last_norm(last_conv(x)) + shortcut


class ConvNeXtEncoder(Encoder):
    """The trunk of a torchvision ConvNeXt; gives the output of each stage.

    A ConvNeXt block ends with its residual sum and nothing behind it, so stage outputs are what the sums before the ReLU are of
    a ResNet: signed, not normalised, the input of the next stage. (The LayerNorm in front of torchvision's classifier is left
    out, as the decoder normalises what it takes.) Its convolutions with stride have no padding: sizes have to divide.
    """

    divisor = 32

    def __init__(self, convnext: ConvNeXt) -> None:
        super().__init__()
        self.features = convnext.features
        self.channels = tuple(self.features[i][j].out_channels for i, j in ((0, 0), (2, 1), (4, 1), (6, 1)))

    def forward(self, images: Tensor) -> Features:
        x, maps = images, []
        for shrink, stage in zip(self.features[::2], self.features[1::2], strict=True):
            x = stage(shrink(x))
            maps.append(x)
        return tuple(maps)


def check_encoder(name: str) -> None:
    if name not in ENCODERS:
        raise FieldError("encoder", f"{name!r} found, expected one of {', '.join(ENCODERS)}; choose one of these")


def build_encoder(name: str) -> Encoder:
    """The encoder of torchvision's name, initialised as torchvision does, from torch's global generator."""
    model = get_model(name, weights=None)
    return ResNetEncoder(model) if isinstance(model, ResNet) else ConvNeXtEncoder(model)


def dilate(layer: Sequence[Bottleneck], dilation: int) -> None:
    """Let every bottleneck of a ResNet's layer have this dilation and no stride, the first one too.

    (torchvision's `replace_stride_with_dilation` gives the first block the dilation of the layer before.)
    """
    for block in layer:
        block.conv2.stride, block.conv2.dilation, block.conv2.padding = (1, 1), (dilation, dilation), (dilation, dilation)
    layer[0].conv1.stride = layer[0].downsample[0].stride = (1, 1)
