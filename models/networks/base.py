"""The interface of networks: an encoder that all datasets share, and the parts behind it, made anew for each that needs its own."""

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.errors import FieldError

Features = tuple[Tensor, ...]
"""Maps (N, C_i, h_i, w_i) of the same N images."""


@dataclass(frozen=True, kw_only=True)
class Normalisation:
    """What is subtracted from and divided out of RGB values in 0..255, channel by channel; `bgr` then turns the channels around."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    bgr: bool = False


IMAGENET = Normalisation(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
"""What torchvision's weights were trained with."""


def names_imagenet(weights: str) -> bool:
    """Whether `weights` is `imagenet` or a name that torchvision could have for weights, and not a path."""
    return re.fullmatch(r"imagenet\w*", weights, re.IGNORECASE) is not None


@dataclass(frozen=True, kw_only=True)
class NetworkConfigBase:
    """The keys that every network has."""

    input_scale: float = 1.0
    """Factor by which pictures are resized before the network sees them, in training and afterwards; logits are brought back
    to the size of the picture. Below 1 a crop holds more of the scene, and everything is faster."""

    weights: str | None = None
    """What a fresh training starts from: `imagenet`, or torchvision's name of its weights of the encoder such as IMAGENET1K_V2; a file
    of weights; the folder of a run, whose best checkpoint is taken, or else its last. null: from scratch. docs/models.md says more."""

    def __post_init__(self) -> None:
        if self.weights is not None and "://" in self.weights:
            raise FieldError("weights", f"{self.weights} found, expected a name, a file or the folder of a run; download it, give the file")
        if self.weights is not None and not names_imagenet(self.weights):
            object.__setattr__(self, "weights", str(Path(self.weights).expanduser().absolute()))  # workers run in folders of their own
        if not 0.1 <= self.input_scale <= 4:
            raise FieldError("input_scale", f"{self.input_scale} found, expected a factor in 0.1..4; mend it")


class Network(nn.Module, ABC):
    """The encoder, called with normalised images; and a factory of decoders and classifiers, which belong to the output space.

    So an output space may share a decoder between datasets or give each its own, and put any number of classifiers on it.
    """

    normalisation: Normalisation = IMAGENET

    divisor: int = 1
    """Height and width that the encoder is given are multiples of this; the model pads the images."""

    @abstractmethod
    def forward(self, images: Tensor) -> Features:
        """(N, 3, H, W) float, normalised, H and W multiples of `divisor`, to the features that decoders take."""

    def make_decoder(self, num_classes: int) -> nn.Module:
        """A new decoder, `Features` to `Features`; the first map is what classifiers read. `num_classes` is of the classifiers
        that will follow, the most of them where they differ: of use to networks whose width depends on it. None by default."""
        return nn.Identity()

    @abstractmethod
    def make_classifier(self, decoder: nn.Module, num_classes: int) -> nn.Module:
        """A new last layer on `decoder`, whose `Features` it takes to logits (N, num_classes, h, w)."""

    @staticmethod
    def upsample(logits: Tensor, decoded: Features, size: tuple[int, int]) -> Tensor:
        """Logits (N, K, h, w) to (N, K, *size); `decoded` are the decoder's features of the same images."""
        return resize_logits(logits, size)


def resize_logits(logits: Tensor, size: tuple[int, int], *, align_corners: bool = False) -> Tensor:
    """As `resize`, in float32 under autocast too: a loss takes float32 anyway, and equal roundings blur where classes meet."""
    return resize(logits.to(torch.promote_types(logits.dtype, torch.float32)), size, align_corners=align_corners)


def resize(x: Tensor, size: tuple[int, int], *, align_corners: bool = False) -> Tensor:
    """(N, C, h, w) to (N, C, *size), bilinearly; of that size already, `x` itself."""
    if x.shape[2:] == size:
        return x
    return F.interpolate(x, size, mode="bilinear", align_corners=align_corners)


class FirstMap(nn.Module):
    """A module of one map as a decoder or classifier: applied to the first of the features."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, features: Features) -> Tensor:
        out: Tensor = self.module(features[0])
        return out
