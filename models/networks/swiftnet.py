"""SwiftNet, single scale (Oršić et al. 2019; the network of paper 000, section 2.5), as in the authors' code."""

import re
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.errors import FieldError
from models.networks.base import IMAGENET, Features, FirstMap, Network, NetworkConfigBase, Normalisation, resize
from models.networks.encoders import ResNetEncoder, build_encoder, check_encoder

DECODER_CHANNELS = 128
SPP_BN_MOMENTUM = 0.005
NORMALISATIONS = {"imagenet": IMAGENET, "cityscapes": Normalisation(mean=(73.15, 82.90, 72.3), std=(47.67, 48.49, 47.73))}


@dataclass(frozen=True, kw_only=True)
class SwiftNetConfig(NetworkConfigBase):
    """SwiftNet on any torchvision ResNet or ConvNeXt."""

    name: Literal["swiftnet"]

    encoder: str = "resnet18"
    """torchvision's name of the encoder: resnet18 and resnet34 are the published ones; also resnet50..152, resnext*, wide_resnet*,
    convnext_*."""

    spp_grids: tuple[int, ...] = (8, 4, 2)
    """Rows of the grids of the pyramid's levels. The text has four levels, 8, 4, 2 and 1; the code declares those and uses the
    first three, and the published 11.8 M parameters and scores are of three."""

    normalise: Literal["imagenet", "cityscapes"] = "imagenet"
    """Statistics that images are normalised by: of ImageNet, or of Cityscapes, as the official configs have it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_encoder(self.encoder)
        if not 1 <= len(self.spp_grids) <= DECODER_CHANNELS or min(self.spp_grids) < 1:
            raise FieldError("spp_grids", f"{list(self.spp_grids)} found, expected numbers of rows such as [8, 4, 2]; mend them")


def _unit(in_channels: int, out_channels: int, kernel: int, *, momentum: float = 0.1) -> nn.Sequential:
    """BN, ReLU, convolution without bias: the pre-activation unit that the whole decoder is made of."""
    return nn.Sequential(
        nn.BatchNorm2d(in_channels, momentum=momentum),
        nn.ReLU(),
        nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False),
    )


class SpatialPyramidPooling(nn.Module):
    """Pools on grids of so many rows, as many columns as the shape of the map asks for, and fuses them with the map."""

    def __init__(self, in_channels: int, grids: tuple[int, ...]) -> None:
        super().__init__()
        self.grids = grids
        level_channels = DECODER_CHANNELS // len(grids)
        self.reduce = _unit(in_channels, DECODER_CHANNELS, 1, momentum=SPP_BN_MOMENTUM)
        self.levels = nn.ModuleList(_unit(DECODER_CHANNELS, level_channels, 1, momentum=SPP_BN_MOMENTUM) for _ in grids)
        fused = DECODER_CHANNELS + len(grids) * level_channels
        self.fuse = _unit(fused, DECODER_CHANNELS, 1, momentum=SPP_BN_MOMENTUM)

    def forward(self, x: Tensor) -> Tensor:
        x = self.reduce(x)
        height, width = x.shape[2:]
        maps = [x]
        for rows, level in zip(self.grids, self.levels, strict=True):
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

    def __init__(self, channels: tuple[int, ...], grids: tuple[int, ...]) -> None:
        super().__init__()
        *skips, deepest = channels
        self.pyramid = SpatialPyramidPooling(deepest, grids)
        self.ladder = nn.ModuleList(Upsample(skip) for skip in reversed(skips))
        self.last = nn.Sequential(nn.BatchNorm2d(DECODER_CHANNELS), nn.ReLU())
        _initialise(self)

    def forward(self, features: Features) -> Features:
        *skips, deepest = features
        x = self.pyramid(deepest)
        for upsample, skip in zip(self.ladder, reversed(skips), strict=True):
            x = upsample(x, skip)
        return (self.last(x),)


class SwiftNet(Network):
    """With a ResNet-18 and one classifier of 19 classes it has 11,797,071 parameters, 11,176,512 of them in the encoder."""

    def __init__(self, config: SwiftNetConfig) -> None:
        super().__init__()
        self.encoder = build_encoder(config.encoder)
        if isinstance(self.encoder, ResNetEncoder):
            _initialise(self.encoder)  # a ConvNeXt keeps torchvision's own: its depthwise convolutions want another
        self.spp_grids = config.spp_grids
        self.normalisation = NORMALISATIONS[config.normalise]
        self.divisor = self.encoder.divisor

    def forward(self, images: Tensor) -> Features:
        """Four maps of 1/4, 1/8, 1/16 and 1/32, before their ReLU; of a ResNet-18 with 64, 128, 256 and 512 channels."""
        features: Features = self.encoder(images)
        return features

    def make_decoder(self, num_classes: int) -> nn.Module:
        return Decoder(self.encoder.channels, self.spp_grids)

    def make_classifier(self, decoder: nn.Module, num_classes: int) -> nn.Module:
        # With torch's initialising: the official code's own ends before the logits.
        return FirstMap(nn.Conv2d(DECODER_CHANNELS, num_classes, 1))


def _initialise(module: nn.Module) -> None:
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")


_OFFICIAL_PARTS: tuple[tuple[str, str], ...] = (
    (r"backbone\.((?:conv1|bn1|layer\d)\..+)", r"encoder.\1"),
    (r"backbone\.spp\.spp\.spp_bn\.(.+)", r"decoder.pyramid.reduce.\1"),
    (r"backbone\.spp\.spp\.spp(\d+)\.(.+)", r"decoder.pyramid.levels.\1.\2"),
    (r"backbone\.spp\.spp\.spp_fuse\.(.+)", r"decoder.pyramid.fuse.\1"),
    (r"backbone\.upsample\.(\d+)\.bottleneck\.(.+)", r"decoder.ladder.\1.skip.\2"),
    (r"backbone\.upsample\.(\d+)\.blend_conv\.(.+)", r"decoder.ladder.\1.blend.\2"),
    (r"logits\.norm\.(.+)", r"decoder.last.0.\1"),
    (r"logits\.conv\.(.+)", r"classifier.module.\1"),
)


def official_swiftnet_key(key: str) -> str | None:
    """A key of the official state dicts (orsic/swiftnet, single scale) to ours: `encoder....` of the network, `decoder....` of what
    `make_decoder` gives and `classifier....` of what `make_classifier` gives. None for a key that they do not have."""
    for pattern, ours in _OFFICIAL_PARTS:
        if match := re.fullmatch(pattern, key):
            # A unit is BN, ReLU, convolution, in that order.
            return re.sub(r"\.conv\.(\w+)$", r".2.\1", match.expand(ours).replace(".norm.", ".0."))
    return None
