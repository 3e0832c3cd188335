"""Masks of what is taken from one picture and pasted onto another: classes, boxes, or fields of noise.

All that is random is drawn on the host from the samples' own seeds, and reaches the device as plain numbers. Nothing waits for the device:
how many classes a picture shows never leaves it.
"""

from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data.labels import IGNORE_INDEX

Rounding = Literal["down", "up"]
NUM_LABELS = 256

COW_SIGMAS = (8.0, 32.0)
"""Range of the Gaussian's standard deviation in pixels, uniform in its logarithm (facts of ClassMix's code)."""


def _generator(seed: int, what: str) -> np.random.Generator:
    """numpy's for one sample; what is drawn for one purpose does not move what is drawn for another."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, len(what)], np.uint64), counter=int.from_bytes(what.encode(), "big")))


def priorities(seeds: Sequence[int]) -> Tensor:
    """(B, 256) float32, a number in 0..1 for each label of each sample: of the labels that a picture shows, those with the least are
    taken."""
    return torch.from_numpy(np.stack([_generator(seed, "classes").random(NUM_LABELS, np.float32) for seed in seeds]))


def class_masks(labels: Tensor, priority: Tensor, *, rounding: Rounding = "down", paste_ignored: bool = False) -> Tensor:
    """ClassMix (paper 004, algorithm 1): the pixels (B, H, W) bool of half of the labels that each picture shows.

    `labels` (B, H, W) are integers in 0..255, `priority` (B, 256) says which come first. Half of an odd number is rounded. IGNORE_INDEX
    is no label, unless `paste_ignored`, which takes it for one as DACS' code does.
    """
    shown = _labels_shown(labels)
    if not paste_ignored:
        shown[:, IGNORE_INDEX] = False
    number = shown.sum(dim=1, keepdim=True)
    half = (number + (rounding == "up")) // 2
    place = priority.masked_fill(~shown, torch.inf).argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    return _looked_up(shown & (place < half), labels)


def _labels_shown(labels: Tensor) -> Tensor:
    """(B, 256) bool: which labels each picture has."""
    if _is_for_opencv(labels):
        counts = [cv2.calcHist([label.numpy()], [0], None, [NUM_LABELS], [0, NUM_LABELS]).ravel() for label in labels]
        return torch.from_numpy(np.stack(counts) > 0)
    return torch.zeros(len(labels), NUM_LABELS, dtype=torch.bool, device=labels.device).scatter_(1, labels.flatten(1).long(), True)


def _looked_up(table: Tensor, labels: Tensor) -> Tensor:
    """What `table` (B, 256) bool has for each of the labels (B, H, W)."""
    if _is_for_opencv(labels):
        looked = [cv2.LUT(label.numpy(), row.numpy()) for label, row in zip(labels, table.byte(), strict=True)]
        return torch.from_numpy(np.stack(looked)).bool()
    return table.gather(1, labels.flatten(1).long()).view(labels.shape)


def _is_for_opencv(values: Tensor) -> bool:
    """On a CPU its loops over bytes are several times as fast as torch's."""
    return values.device.type == "cpu" and values.dtype == torch.uint8 and type(values) is Tensor and len(values) > 0


def box_masks(seeds: Sequence[int], size: tuple[int, int], device: torch.device) -> Tensor:
    """CutMix as ClassMix's code has it: all pixels (B, *size) bool but those of a box of half the area, whose width is uniform in half to
    all of the picture's."""
    height, width = size
    bounds = []
    for seed in seeds:
        across, left, top = _generator(seed, "box").random(3)
        columns = (1 + across) / 2
        rows = 0.5 / columns
        first = (round(top * (1 - rows) * height), round(left * (1 - columns) * width))
        bounds.append((first[0], first[0] + round(rows * height), first[1], first[1] + round(columns * width)))
    top_, bottom, left_, right = sent(torch.tensor(bounds), device).view(-1, 4, 1, 1).unbind(dim=1)
    y, x = torch.arange(height, device=device)[:, None], torch.arange(width, device=device)
    return ~((y >= top_) & (y < bottom) & (x >= left_) & (x < right))


def cow_masks(seeds: Sequence[int], size: tuple[int, int], device: torch.device) -> Tensor:
    """CowMix (French et al. 2019): about half of the pixels (B, *size) bool, where noise, smoothed by a Gaussian, is above its mean."""
    return torch.stack([_cow_mask(_generator(seed, "cow"), size, device) for seed in seeds])


def _cow_mask(generator: np.random.Generator, size: tuple[int, int], device: torch.device) -> Tensor:
    sigma = float(np.exp(generator.uniform(*np.log(COW_SIGMAS))))
    radius = round(3 * sigma)
    # Noise beyond the border too, so that nothing is padded.
    noise = generator.standard_normal((size[0] + 2 * radius, size[1] + 2 * radius), np.float32)
    smooth = sent(torch.from_numpy(noise), device)
    weights = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, device=device) / sigma) ** 2).view(1, 1, -1)
    with torch.autocast(device.type, enabled=False):
        for _ in range(2):  # along one side, then along the other
            smooth = F.conv1d(smooth.unsqueeze(1), weights).squeeze(1).T
    return smooth > smooth.mean()


def sent(values: Tensor, device: torch.device) -> Tensor:
    """To the device, without waiting for it."""
    return values if device.type == "cpu" else values.pin_memory().to(device, non_blocking=True)


def blend(mask: Tensor, pasted: Tensor, base: Tensor) -> Tensor:
    """`pasted` where `mask` (B, H, W) is, else `base`: (B, ..., H, W) of any type. In the memory format of `base`."""
    if pasted.ndim == 3:
        return torch.where(mask, pasted, base)
    pixels, out = pasted.permute(0, 2, 3, 1), base.permute(0, 2, 3, 1)
    if not (_is_for_opencv(pasted) and pixels.is_contiguous() and out.is_contiguous()):
        return torch.where(mask.unsqueeze(1), pasted, base)
    out = out.clone()
    for picture, where, target in zip(pixels, mask.byte(), out, strict=True):
        cv2.copyTo(picture.numpy(), where.numpy(), target.numpy())
    return out.permute(0, 3, 1, 2)
