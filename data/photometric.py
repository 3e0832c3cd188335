"""Colour jitter and Gaussian blur of a batch on its device.

Everything random is drawn on the host from the samples' own seeds and reaches the device as plain numbers, so that nothing
waits for the device, and a sample comes out the same to the bit whatever else is in its batch.

Inside, a picture is (3, H, W) float32 on the scale 0..255.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data.chance import Chance
from data.errors import FieldError, InputError


@dataclass(frozen=True, kw_only=True)
class JitterConfig:
    """Brightness, contrast, saturation and hue, in random order."""

    semantics: Literal["torchvision", "kornia", "tensorflow"] = "torchvision"
    """torchvision: factors for brightness, for contrast around the mean grey, and for saturation as a blend with grey. kornia: those
    of kornia 0.3.0, which ClassMix and DACS used: an addition for brightness, a factor for all values for contrast, a factor for
    the saturation of HSV. tensorflow: as kornia, but contrast is a factor around each channel's mean, as in tf.image; unlike there,
    values are cut to 0..1 after each step. Hue is turned in HSV in all."""
    probability: float = 0.8
    """Probability that a sample is changed."""
    brightness: float = 0.25
    """Greatest change of the factor, from 1, or of the value that is added, on a scale of 0..1."""
    contrast: float = 0.25
    """Greatest change of the factor, from 1."""
    saturation: float = 0.25
    """Greatest change of the factor, from 1."""
    hue: float = 0.05
    """Greatest change of the hue, in turns: 0.5 is the opposite colour."""

    def __post_init__(self) -> None:
        _check_probability("probability", self.probability)
        for name, limit in (("brightness", 1.0), ("contrast", 1.0), ("saturation", 1.0), ("hue", 0.5)):
            if not 0 <= getattr(self, name) <= limit:
                raise FieldError(name, f"{getattr(self, name)} found, expected 0..{limit:g}; mend it")


@dataclass(frozen=True, kw_only=True)
class BlurConfig:
    """Gaussian blur, with the picture mirrored at its border."""

    probability: float = 0.5
    """Probability that a sample is blurred."""
    sigma: tuple[float, float] = (0.15, 1.15)
    """Range of the Gaussian's standard deviation in pixels, drawn uniformly."""
    kernel: float = 0.1
    """Length of the kernel as a share of the picture's height and width; it is made odd."""

    def __post_init__(self) -> None:
        _check_probability("probability", self.probability)
        if not 0 < self.sigma[0] <= self.sigma[1]:
            raise FieldError("sigma", f"{list(self.sigma)} found, expected [low, high] with 0 < low <= high; mend it")
        if not 0 < self.kernel <= 1:
            raise FieldError("kernel", f"{self.kernel} found, expected a share of the picture in 0..1; mend it")


def _check_probability(field: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise FieldError(field, f"{value} found, expected a probability in 0..1; mend it")


@dataclass(frozen=True, kw_only=True)
class PhotometricConfig:
    """What is done to the colours and the sharpness of samples, jitter before blur."""

    jitter: JitterConfig | None = None
    blur: BlurConfig | None = None
    shared: Literal["nothing", "decision", "call"] = "nothing"
    """What all samples of a global step have in common. nothing: each has all of its own; decision: whether they are changed;
    call: that, and the order of the jitter and the sigma of the blur. The strengths of the jitter are always a sample's own."""


PHOTOMETRIC: dict[str, PhotometricConfig] = {
    "none": PhotometricConfig(),
    # A mild jitter for supervised training.
    "torchvision": PhotometricConfig(jitter=JitterConfig(), blur=BlurConfig()),
    # Paper 004, semi-supervised (ClassMix, trainSSL.py): one call for the whole batch. The code jitters with probability 0.8,
    # where the text says 0.5. It takes BGR for RGB, which only turns the hue the other way.
    "classmix": PhotometricConfig(jitter=JitterConfig(semantics="kornia", hue=0.25), blur=BlurConfig(), shared="call"),
    # Paper 004, adaptation (DACS, trainUDA.py): decided once per step, but called for every mixed picture by itself.
    "dacs": PhotometricConfig(jitter=JitterConfig(semantics="kornia", hue=0.25), blur=BlurConfig(), shared="decision"),
    # Paper 001, in its code for Cityscapes and GTSDB, none for Vistas. The code knows 4 orders of the jitter's steps, here all 24 occur.
    # It also blurs with probability 0.5, by a median or bilateral filter of 1 or 3 pixels, which is not offered.
    "paper001": PhotometricConfig(
        jitter=JitterConfig(semantics="tensorflow", probability=0.5, brightness=16 / 255, contrast=0.2, saturation=0.2, hue=0.1)
    ),
}


def named_photometric(name: str) -> PhotometricConfig:
    """The preset of that name. Raises InputError that lists the names."""
    if name not in PHOTOMETRIC:
        raise InputError(
            f"data.photometric: no preset {name!r}, expected one of {', '.join(PHOTOMETRIC)}; choose one, or give jitter and blur"
        )
    return PHOTOMETRIC[name]


@dataclass(frozen=True, kw_only=True)
class Change:
    """What was drawn for one sample."""

    factors: tuple[float, float, float, float] | None
    """Of brightness, contrast, saturation and hue; None: no jitter."""
    order: tuple[int, ...]
    """The order in which these are applied."""
    sigma: float | None
    """None: no blur."""


def augment(images: Tensor, seeds: Tensor | Sequence[int], configs: Sequence[PhotometricConfig], call_seed: int) -> Tensor:
    """Jitter and blur `images` (N, 3, H, W) uint8; the result has their type and memory format, and they stay as they are.

    `seeds` (N,), int64 on the CPU or plain numbers, and `configs` are the samples' own. `call_seed` must be the same on all ranks and
    differ from step to step: what samples share is drawn from it.
    """
    assert images.dtype == torch.uint8, "colours are those of pictures, not of whatever else has three channels"
    numbers = seeds
    if isinstance(seeds, Tensor):
        assert seeds.device.type == "cpu", "reading seeds from a device would wait for it"
        numbers = seeds.tolist()
    if all(config.jitter is None and config.blur is None for config in configs):
        return images
    out = images.clone()
    for image, target, seed, config in zip(images, out, numbers, configs, strict=True):
        change = draw_change(config, seed, call_seed)
        if change.factors is not None or change.sigma is not None:
            _put(_changed(_planes(image), config, change), target)
    return out


def draw_change(config: PhotometricConfig, seed: int, call_seed: int) -> Change:
    """Draw what happens to the sample with `seed`. The same numbers are drawn whatever `config` is: its parts do not move each other."""
    own, common = _draws(f"photometric/sample/{seed}"), _draws(f"photometric/call/{call_seed}")
    decisions = (own if config.shared == "nothing" else common)[:2]
    order, sigma = np.split((common if config.shared == "call" else own)[2:7], [4])
    jitter, blur = config.jitter, config.blur
    return Change(
        factors=_factors(jitter, own[7:]) if jitter is not None and decisions[0] < jitter.probability else None,
        order=tuple(int(place) for place in np.argsort(order, kind="stable")),
        sigma=_between(*blur.sigma, sigma[0]) if blur is not None and decisions[1] < blur.probability else None,
    )


def _draws(name: str) -> np.ndarray:
    chance = Chance(name)
    return np.array([chance.random() for _ in range(11)])


def _factors(config: JitterConfig, draws: np.ndarray) -> tuple[float, float, float, float]:
    centre = 1.0 if config.semantics == "torchvision" else 0.0
    return (
        _between(centre - config.brightness, centre + config.brightness, draws[0]),
        _between(1 - config.contrast, 1 + config.contrast, draws[1]),
        _between(1 - config.saturation, 1 + config.saturation, draws[2]),
        _between(-config.hue, config.hue, draws[3]),
    )


def _between(low: float, high: float, draw: float) -> float:
    return float(low + (high - low) * draw)


def _planes(image: Tensor) -> Tensor:
    """A picture (3, H, W) uint8 as float32 with a plane of memory for each channel, as most of what follows runs over single
    channels. Reordering bytes first is quicker than reordering floats."""
    return image.contiguous().float()


def _put(picture: Tensor, target: Tensor) -> None:
    """Round `picture` (3, H, W) float32 into `target` uint8, in whatever order that lies. Stacking whole channels is quicker than
    the general copy."""
    torch.stack(picture.add_(0.5).byte().unbind(0), dim=-1, out=target.permute(1, 2, 0))


def _changed(picture: Tensor, config: PhotometricConfig, change: Change) -> Tensor:
    """Jitter and blur `picture`, which is overwritten."""
    if change.factors is not None:
        assert config.jitter is not None
        operations = JITTER[config.jitter.semantics]
        for place in change.order:
            picture = operations[place](picture, change.factors[place])
    if change.sigma is not None:
        assert config.blur is not None
        picture = blur(picture, change.sigma, config.blur.kernel)
    return picture


def blur(picture: Tensor, sigma: float, kernel: float) -> Tensor:
    """Convolve a picture (3, H, W) with a Gaussian of `sigma` pixels, cut to `kernel` of each side."""
    # Shifted sums, not convolutions: on a CPU these take four times as long, on a GPU they may round to TensorFloat-32's 10 bits.
    for dim in (1, 2):
        picture = _blur_along(picture, dim, _gaussian(sigma, kernel_length(picture.shape[dim], kernel)))
    return picture


def kernel_length(length: int, share: float) -> int:
    """`share` of `length`, rounded up, and then down to an odd number."""
    taps = int(np.ceil(share * length))
    return taps - 1 + taps % 2


def _gaussian(sigma: float, taps: int) -> list[float]:
    """The weights at the distances 0, 1, ... of a kernel of `taps`, without those that float32 would lose (exp(-18) at 6 sigma)."""
    distances = np.arange(min(taps // 2, int(np.ceil(6 * sigma))) + 1)
    weights = np.exp(-0.5 * (distances / sigma) ** 2)
    return list(map(float, weights / (weights[0] + 2 * weights[1:].sum())))


def _blur_along(picture: Tensor, dim: int, weights: list[float]) -> Tensor:
    radius, length = len(weights) - 1, picture.shape[dim]
    padded = F.pad(picture, (0, 0, radius, radius) if dim == 1 else (radius, radius, 0, 0), mode="reflect")
    out = padded.narrow(dim, radius, length) * weights[0]
    for distance, weight in enumerate(weights[1:], start=1):
        out.add_(padded.narrow(dim, radius - distance, length), alpha=weight)
        out.add_(padded.narrow(dim, radius + distance, length), alpha=weight)
    return out


def scale_values(picture: Tensor, factor: float) -> Tensor:
    return picture.mul_(factor).clamp_(0, 255)


def shift_values(picture: Tensor, shift: float) -> Tensor:
    """Add `shift`, which is on a scale of 0..1."""
    return picture.add_(shift * 255).clamp_(0, 255)


def scale_contrast_around_mean(picture: Tensor, factor: float) -> Tensor:
    """Blend with the mean of the grey picture."""
    mean = _grey(picture).mean()
    return picture.mul_(factor).add_(mean, alpha=1 - factor).clamp_(0, 255)


def scale_contrast_around_means(picture: Tensor, factor: float) -> Tensor:
    """Blend each channel with its own mean."""
    means = picture.mean(dim=(1, 2), keepdim=True)
    return picture.mul_(factor).add_(means, alpha=1 - factor).clamp_(0, 255)


def scale_saturation_by_grey(picture: Tensor, factor: float) -> Tensor:
    """Blend with the grey picture."""
    grey = _grey(picture).mul_(1 - factor)
    return picture.mul_(factor).add_(grey).clamp_(0, 255)


def _grey(picture: Tensor) -> Tensor:
    """Luma of ITU-R BT.601, (H, W)."""
    return (picture[0] * 0.2989).add_(picture[1], alpha=0.587).add_(picture[2], alpha=0.114)


def scale_hsv_saturation(picture: Tensor, factor: float) -> Tensor:
    """Multiply S of HSV, at most to 1; H and V stay, so that every channel moves away from the greatest in proportion."""
    top = picture.amax(0)
    # S is (top - bottom) / top, and the factor stops where S is 1. Grey stays grey: its distances are 0.
    limit = top / (top - picture.amin(0)).clamp_min_(1e-6)
    return picture.sub_(top).mul_(limit.clamp_max_(factor)).add_(top)


def turn_hue(picture: Tensor, turns: float) -> Tensor:
    """Add to H of HSV; S and V stay."""
    red, green, blue = picture
    top, bottom = picture.amax(0), picture.amin(0)
    chroma = top - bottom
    # The hue in sixths of a turn, times the chroma. Grey has none, and its chroma of 0 leaves it grey below.
    green_or_blue = torch.where(top == green, (blue - red).add_(chroma, alpha=2), (red - green).add_(chroma, alpha=4))
    hue = torch.where(top == red, green - blue, green_or_blue).div_(chroma.clamp_min(1e-6)).add_(6 * turns)
    hue.sub_((hue / 6).floor_(), alpha=6)  # remainder_(6) takes four times as long
    weights = ((hue - 3).abs_().sub_(1), 2 - (hue - 2).abs_(), 2 - (hue - 4).abs_())
    for channel, weight in zip(picture, weights, strict=True):
        torch.addcmul(bottom, chroma, weight.clamp_(0, 1), out=channel)
    return picture


JITTER: dict[str, tuple[Callable[[Tensor, float], Tensor], ...]] = {
    "torchvision": (scale_values, scale_contrast_around_mean, scale_saturation_by_grey, turn_hue),
    "kornia": (shift_values, scale_values, scale_hsv_saturation, turn_hue),
    "tensorflow": (shift_values, scale_contrast_around_means, scale_hsv_saturation, turn_hue),
}
"""Brightness, contrast, saturation, hue. Each changes a picture (3, H, W) float32 in place."""
