"""The network of paper 001: a dilated ResNet-50, a branch of its own for each classifier, learned and bilinear upsampling.

    part                            stride   channels          repeated per
    ResNet-50, dilated              8        2048              -
    1x1, BN, ReLU                   8        256               -
    bottleneck 1x1 - 3x3 - 1x1      8        256-256-256-256   classifier
    1x1, bias                       8        C                 classifier
    transposed convolution, bias    4        C                 classifier
    bilinear                        1        C                 -

The original is TensorFlow 1. What is not carried over are its one-sided padding in the first pooling and its bilinear resizing by
corners of pixels, which shift everything by parts of a pixel.
"""

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.models.resnet import Bottleneck

from models.networks.base import IMAGENET, Features, FirstMap, Network, NetworkConfigBase, Normalisation
from models.networks.encoders import ResNetEncoder, dilate

BRANCH_CHANNELS = 256
NORMALISATIONS = {"symmetric": Normalisation(mean=(127.5, 127.5, 127.5), std=(127.5, 127.5, 127.5)), "imagenet": IMAGENET}


@dataclass(frozen=True, kw_only=True)
class DilatedResNet50Config(NetworkConfigBase):
    """Dilated ResNet-50 with adaptation branches and hybrid upsampling."""

    name: Literal["dilated_resnet50"]

    deconv_kernel: Literal[2, 4] = 4
    """Kernel of the transposed convolution with stride 2 behind the logits: 4 in the code that the published numbers are of, 2 in
    the paper's text."""

    stride_in: Literal["last", "first"] = "last"
    """Unit of a block that has the stride: the last one, as in TF-slim, of which the published numbers are, or the first one
    (of the next block), as torchvision's weights were trained. Parameters are the same."""

    normalise: Literal["symmetric", "imagenet"] = "symmetric"
    """`symmetric`: 0..255 to -1..1, as the authors' code; `imagenet`: for torchvision's weights."""


class DilatedResNet50(Network):
    """With five branches of 54, 11, 4, 3 and 44 classes, the hierarchy of paper 001, it has 27,754,888 parameters."""

    divisor = 8
    """So that the map, doubled, is exactly a quarter of the image; without that it would be stretched a little."""

    def __init__(self, config: DilatedResNet50Config) -> None:
        super().__init__()
        self.encoder = ResNetEncoder(_slim_resnet50() if config.stride_in == "last" else _torchvision_resnet50())
        self.reduce = nn.Sequential(
            nn.Conv2d(self.encoder.channels[-1], BRANCH_CHANNELS, 1, bias=False), nn.BatchNorm2d(BRANCH_CHANNELS), nn.ReLU()
        )
        self.deconv_kernel = config.deconv_kernel
        self.normalisation = NORMALISATIONS[config.normalise]
        _initialise(self)

    def forward(self, images: Tensor) -> Features:
        """(N, 256, H/8, W/8), shared by all branches."""
        return (self.reduce(F.relu(self.encoder(images)[-1])),)

    def make_classifier(self, decoder: nn.Module, num_classes: int) -> nn.Module:
        """Logits (N, C, H/4, W/4): the adaptation branch of a classifier, which is a bottleneck that does not narrow, the classifier,
        and the learned half of the upsampling, the other half being bilinear."""
        kernel = self.deconv_kernel
        classifier = nn.Sequential(
            # torchvision narrows to planes * base_width / 64 channels and gives four times its `planes`.
            Bottleneck(BRANCH_CHANNELS, BRANCH_CHANNELS // 4, base_width=BRANCH_CHANNELS),
            nn.Conv2d(BRANCH_CHANNELS, num_classes, 1),
            nn.ConvTranspose2d(num_classes, num_classes, kernel, stride=2, padding=(kernel - 2) // 2),
        )
        _initialise(classifier)
        return FirstMap(classifier)


def _slim_resnet50() -> nn.Module:
    """Output stride 8 of TF-slim: the first layer ends with the stride, the second has none, all of the others are dilated."""
    resnet = resnet50(weights=None)
    last = resnet.layer1[-1]
    last.conv2.stride, last.downsample = (2, 2), nn.MaxPool2d(1, stride=2)
    for layer, dilation in ((resnet.layer2, 1), (resnet.layer3, 2), (resnet.layer4, 4)):
        dilate(layer, dilation)
    return resnet


def _torchvision_resnet50() -> nn.Module:
    return resnet50(weights=None, replace_stride_with_dilation=[False, True, True])


def _initialise(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_in", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
