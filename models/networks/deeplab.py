"""DeepLabv2 on a ResNet-101, as the codes of ClassMix and DACS have it (paper 004, and the AdaptSegNet family before them).

stage        blocks  channels  stride of the input  dilation
stem, pool   -       64        4                    -          max pooling rounds up: 512 pixels become 129, in the end 65
layer1       3       256       4                    1
layer2       4       512       8                    1          stride on the first 1x1, as Caffe's ResNets; torchvision's: 3x3
layer3       23      1024      8                    2          in all blocks
layer4       3       2048      8                    4          in all blocks
classifier   -       C         8                    6 12 18 24 parallel 3x3, summed; see `branches`
"""

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet101

from models.networks.base import IMAGENET, Features, Network, NetworkConfigBase, Normalisation, resize_logits
from models.networks.encoders import ResNetEncoder, dilate

DILATIONS = (6, 12, 18, 24)
NORMALISATIONS = {
    "caffe": Normalisation(mean=(122.67891434, 116.66876762, 104.00698793), std=(1.0, 1.0, 1.0), bgr=True),
    "imagenet": IMAGENET,
}


@dataclass(frozen=True, kw_only=True)
class DeepLabV2Config(NetworkConfigBase):
    """DeepLabv2 on a ResNet-101."""

    name: Literal["deeplabv2"]

    branches: Literal[2, 4] = 2
    """How many of the four dilated convolutions are summed to logits. The paper says four. The code returns after the second
    (dilations 6 and 12), and every published number of ClassMix, DACS and AdaptSegNet was made so. All four are in the model
    either way, as in the official checkpoints; those not used are frozen."""

    normalise: Literal["caffe", "imagenet"] = "caffe"
    """`caffe`: BGR in 0..255 less its mean, for the weights that the papers start from; `imagenet`: for torchvision's weights."""


class DilatedConvolutions(nn.Module):
    """The classifier: dilated convolutions of the encoder's map, the first `used` of them summed."""

    def __init__(self, in_channels: int, num_classes: int, used: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Conv2d(in_channels, num_classes, 3, padding=dilation, dilation=dilation) for dilation in DILATIONS)
        self.used = used
        # DistributedDataParallel waits for a gradient of every parameter that asks for one. Without one, SGD leaves them as they
        # are: so does the official code, in which they have no gradient.
        self.branches[used:].requires_grad_(False)
        _initialise(self)

    def forward(self, features: Features) -> Tensor:
        first, *others = (branch(features[0]) for branch in self.branches[: self.used])
        logits: Tensor = sum(others, start=first)
        return logits


class DeepLabV2(Network):
    """With one classifier of 19 classes it has 43,901,068 parameters.

    The 105,344 scales and offsets of the batch normalisations are frozen, while statistics are of the batch as usual. With
    `branches=4` the other 43,795,724 are trained; with 2, 700,454 of these are not.
    """

    def __init__(self, config: DeepLabV2Config) -> None:
        super().__init__()
        self.encoder = ResNetEncoder(_caffe_resnet101())
        self.num_branches = config.branches
        self.normalisation = NORMALISATIONS[config.normalise]
        _initialise(self.encoder)

    def forward(self, images: Tensor) -> Features:
        """(N, 2048, h, w); 512 pixels are 65 there, 321 are 41: the map's corners lie on the corners of the image."""
        return (F.relu(self.encoder(images)[-1]),)

    def make_classifier(self, decoder: nn.Module, num_classes: int) -> nn.Module:
        return DilatedConvolutions(self.encoder.channels[-1], num_classes, self.num_branches)

    @staticmethod
    def upsample(logits: Tensor, decoded: Features, size: tuple[int, int]) -> Tensor:
        return resize_logits(logits, size, align_corners=True)


def _caffe_resnet101() -> nn.Module:
    resnet = resnet101(weights=None)
    resnet.maxpool.ceil_mode = True
    resnet.layer2[0].conv1.stride, resnet.layer2[0].conv2.stride = (2, 2), (1, 1)
    dilate(resnet.layer3, 2)
    dilate(resnet.layer4, 4)
    return resnet


def _initialise(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.normal_(part.weight, std=0.01)
        if isinstance(part, nn.BatchNorm2d):
            part.requires_grad_(False)  # scale and offset alone: running statistics are no parameters


def official_deeplab_key(key: str) -> str | None:
    """A key of the official state dicts (of ClassMix, DACS, AdaptSegNet) to ours: `encoder....` of the network, `classifier....` of
    what `make_classifier` gives. The first weights of that family, of COCO, have `Scale.` in front. None for other keys."""
    key = key.removeprefix("Scale.")
    if key.startswith("layer5.conv2d_list."):
        return key.replace("layer5.conv2d_list.", "classifier.branches.")
    return f"encoder.{key}" if key.startswith(("conv1.", "bn1.", "layer")) else None
