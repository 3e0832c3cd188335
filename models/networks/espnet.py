"""ESPNet (Mehta et al. 2018; one of the six networks of paper 002), as the authors' PyTorch code has it.

    part       layers                                                                   channels  stride
    stem       3x3 with stride 2                                                        16        2
    join1      stem, image pooled once                                                  19        2
    down2      ESP with stride 2                                                        64        4
    blocks2    p ESP                                                                    64        4
    join2      last of blocks2, down2, image pooled twice                               131       4
    down3      ESP with stride 2                                                        128       8
    blocks3    q ESP                                                                    128       8
    join3      down3, last of blocks3                                                   256       8
    score3     1x1, BN, transposed 2x2                                                  D         4
    score2     1x1 of join2                                                             D         4
    fuse2      score2, score3; BN, PReLU; ESP without shortcut; transposed 2x2          D         2
    fuse1      fuse2, join1; 3x3                                                        D         2
    classifier transposed 2x2                                                           C         1

An ESP (efficient spatial pyramid) reduces its channels to a fifth, sees them through five 3x3 convolutions dilated 1, 2, 4, 8 and 16,
and concatenates the first with the sums of the second to the second, third, fourth and fifth. BN and PReLU follow every sum and every
concatenation. No convolution has a bias.

The original has D = C: the decoder is as wide as there are classes. Here D is the number of classes that the decoder is made for,
the most of them where several classifiers share it, unless `decoder_width` says otherwise; and at least 5, of which the official
code needs as many for its last pyramid to have any channel (with 4 classes it fails). So one dataset of 5 or more classes has the
official network, and more datasets add 4 D C parameters each, where the last layer alone is repeated.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.errors import FieldError
from models.networks.base import IMAGENET, Features, FirstMap, Network, NetworkConfigBase, Normalisation

BN_EPS = 1e-3
DILATIONS = (1, 2, 4, 8, 16)
MIN_WIDTH = len(DILATIONS)

# The official code reads BGR, subtracts the mean, divides by the deviation and then by 255 once more. These are RGB.
NORMALISATIONS = {
    "cityscapes": Normalisation(
        mean=(73.15840149, 82.90893555, 72.3923111), std=(255 * 44.91483307, 255 * 46.15289307, 255 * 45.3192215), bgr=True
    ),
    "camvid": Normalisation(mean=(104.955, 108.372, 110.205), std=(255 * 78.241, 255 * 79.364, 255 * 78.249), bgr=True),
    "imagenet": IMAGENET,
}


@dataclass(frozen=True, kw_only=True)
class ESPNetConfig(NetworkConfigBase):
    """ESPNet."""

    name: Literal["espnet"]

    p: int = 2
    """Blocks at a quarter of the size."""

    q: int = 8
    """Blocks at an eighth of the size; the published numbers are of p=2, q=8."""

    decoder_width: int | None = None
    """Channels of a decoder; null: as many as it has classes, the most of them where classifiers share it, as the official network.
    A decoder of few classes is very narrow, and learns slowly: of drawn pictures with 3 classes 19 channels learn more in 20 steps
    than 5 in 60."""

    normalise: Literal["cityscapes", "camvid", "imagenet"] = "cityscapes"
    """`cityscapes`, `camvid`: the statistics of these datasets, BGR, as the official weights; `imagenet`: as paper 002."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, value, least in (("p", self.p, 1), ("q", self.q, 1), ("decoder_width", self.decoder_width, MIN_WIDTH)):
            if value is not None and value < least:
                raise FieldError(key, f"{value} found, expected at least {least}; raise it")


def _norm(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels, eps=BN_EPS), nn.PReLU(channels))


def _double(in_channels: int, out_channels: int) -> nn.Module:
    return nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2, bias=False)


class Esp(nn.Module):
    """An efficient spatial pyramid; with `stride` 2 its reduction is a strided 3x3 in place of a 1x1."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1, shortcut: bool = False) -> None:
        super().__init__()
        inner = out_channels // len(DILATIONS)
        kernel = 1 if stride == 1 else 3
        widths = (out_channels - inner * (len(DILATIONS) - 1), *[inner] * (len(DILATIONS) - 1))
        self.reduce = nn.Conv2d(in_channels, inner, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.branches = nn.ModuleList(
            nn.Conv2d(inner, width, 3, padding=dilation, dilation=dilation, bias=False)
            for width, dilation in zip(widths, DILATIONS, strict=True)
        )
        self.norm = _norm(out_channels)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        reduced = self.reduce(x)
        first, *wider = [branch(reduced) for branch in self.branches]
        # Sums in place of the wide branches themselves, whose grids of dilated kernels would show.
        out = torch.cat([first, *accumulate(wider)], dim=1)
        # Maps of a single channel are in either memory format, and `cat` makes of them what it likes.
        channels_last = x.is_contiguous(memory_format=torch.channels_last)
        out = out.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        normed: Tensor = self.norm(out + x if self.shortcut else out)
        return normed


class Encoder(nn.Module):
    def __init__(self, p: int, q: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False), *_norm(16))
        self.join1 = _norm(19)
        self.down2 = Esp(19, 64, stride=2)
        self.blocks2 = nn.Sequential(*(Esp(64, 64, shortcut=True) for _ in range(p)))
        self.join2 = _norm(131)
        self.down3 = Esp(131, 128, stride=2)
        self.blocks3 = nn.Sequential(*(Esp(128, 128, shortcut=True) for _ in range(q)))
        self.join3 = _norm(256)

    def forward(self, images: Tensor) -> Features:
        half = F.avg_pool2d(images, 3, stride=2, padding=1)
        quarter = F.avg_pool2d(half, 3, stride=2, padding=1)
        x1 = self.join1(torch.cat([self.stem(images), half], dim=1))
        down2 = self.down2(x1)
        x2 = self.join2(torch.cat([self.blocks2(down2), down2, quarter], dim=1))
        down3 = self.down3(x2)
        x3 = self.join3(torch.cat([down3, self.blocks3(down3)], dim=1))
        return x3, x2, x1


class Decoder(nn.Module):
    """Up to the last map before the logits: (N, `width`, H/2, W/2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.score3 = nn.Sequential(nn.Conv2d(256, width, 1, bias=False), nn.BatchNorm2d(width, eps=BN_EPS), _double(width, width))
        self.score2 = nn.Conv2d(131, width, 1, bias=False)
        self.fuse2 = nn.Sequential(_norm(2 * width), Esp(2 * width, width), _double(width, width), _norm(width))
        # 19 are the channels of join1, not classes.
        self.fuse1 = nn.Sequential(nn.Conv2d(19 + width, width, 3, padding=1, bias=False), *_norm(width))

    def forward(self, features: Features) -> Features:
        x3, x2, x1 = features
        x2 = self.fuse2(torch.cat([self.score2(x2), self.score3(x3)], dim=1))
        return (self.fuse1(torch.cat([x2, x1], dim=1)),)


class ESPNet(Network):
    """With one classifier of 19 classes it has 363,462 parameters, of 20 classes 365,109."""

    divisor = 8

    def __init__(self, config: ESPNetConfig) -> None:
        super().__init__()
        self.encoder = Encoder(config.p, config.q)
        self.normalisation = NORMALISATIONS[config.normalise]
        self.decoder_width = config.decoder_width

    def forward(self, images: Tensor) -> Features:
        """(N, 256, H/8, W/8), (N, 131, H/4, W/4) and (N, 19, H/2, W/2)."""
        features: Features = self.encoder(images)
        return features

    def make_decoder(self, num_classes: int) -> nn.Module:
        return Decoder(self.decoder_width or max(num_classes, MIN_WIDTH))

    def make_classifier(self, decoder: nn.Module, num_classes: int) -> nn.Module:
        assert isinstance(decoder, Decoder)
        return FirstMap(_double(decoder.width, num_classes))


_PARTS = {
    "encoder.level1.conv.": "encoder.stem.0.",
    "encoder.level1.bn.": "encoder.stem.1.",
    "encoder.level1.act.": "encoder.stem.2.",
    "encoder.b": "encoder.join",
    "encoder.level2_0.": "encoder.down2.",
    "encoder.level2.": "encoder.blocks2.",
    "encoder.level3_0.": "encoder.down3.",
    "encoder.level3.": "encoder.blocks3.",
    "encoder.classifier.conv.": "decoder.score3.0.",
    "br.": "decoder.score3.1.",
    "up_l3.0.": "decoder.score3.2.",
    "level3_C.conv.": "decoder.score2.",
    "combine_l2_l3.": "decoder.fuse2.",
    "up_l2.0.": "decoder.fuse2.2.",
    "up_l2.1.": "decoder.fuse2.3.",
    "conv.conv.": "decoder.fuse1.0.",
    "conv.bn.": "decoder.fuse1.1.",
    "conv.act.": "decoder.fuse1.2.",
    "classifier.": "classifier.module.",
}
"""Beginnings of official keys; none of them is that of another."""

_INSIDE: Sequence[tuple[str, str]] = (
    (r"\.c1\.conv\.", ".reduce."),
    *((rf"\.d{dilation}\.conv\.", f".branches.{branch}.") for branch, dilation in enumerate(DILATIONS)),
    # BN and PReLU: of an ESP with stride, of one without, of a join.
    (r"(down\d)\.bn\.", r"\1.norm.0."),
    (r"(down\d)\.act\.", r"\1.norm.1."),
    (r"((?:blocks\d|fuse2)\.\d+)\.bn\.bn\.", r"\1.norm.0."),
    (r"((?:blocks\d|fuse2)\.\d+)\.bn\.act\.", r"\1.norm.1."),
    (r"(join\d|fuse2\.\d)\.bn\.", r"\1.0."),
    (r"(join\d|fuse2\.\d)\.act\.", r"\1.1."),
)


def official_espnet_key(key: str) -> str | None:
    """A key of the official state dicts (sacmehta/ESPNet, pretrained/decoder) to ours: `encoder....` of the network, `decoder....`
    of what `make_decoder` gives and `classifier....` of what `make_classifier` gives. None for a key that they do not have."""
    key = key.removeprefix("module.")
    part = next((part for part in _PARTS if key.startswith(part)), None)
    if part is None:
        return None
    key = _PARTS[part] + key.removeprefix(part)
    for pattern, ours in _INSIDE:
        key = re.sub(pattern, ours, key)
    return key
