"""The Guided Upsampling Module of GUNet (Mazzini, BMVC 2018) and, improved, of iGUM-Net (Mazzini and Schettini, CVPRW 2019).

A low-resolution map U of h x w cells is enlarged to V of H x W pixels. Pixel (X, Y) lies at x = (X + 1/2) w / W - 1/2 and
y = (Y + 1/2) h / H - 1/2 of the map. Bilinear interpolation reads U there; the module reads it nearby instead, at offsets p and q that
a network learns to predict, so that pixels beside an edge can look away from it:

    V[Y, X] = sum over n, m of  U[n, m] max(0, 1 - |x + p - m|) max(0, 1 - |y + q - n|)

Offsets are in cells of the map. Positions outside of it count as its nearest border, so that with offsets of 0 the module is bilinear
interpolation, borders included; and with these it begins, the last layer that predicts them being initialised with zeros.

No official code is published. The formula is the papers'; borders, units and the layers of `guidance` are reconstructed.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.base import Features, FirstMap, Network, resize


def guided_upsample(maps: Tensor, offsets: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (N, K, h, w) to (N, K, *size) by offsets (N, 2, any, any) along x and along y in cells of `maps`, in at least float32.

    Offsets of another size than `size` are first enlarged bilinearly themselves.
    """
    dtype = torch.promote_types(maps.dtype, torch.float32)
    cells_x, cells_y = resize(offsets.to(dtype), size).unbind(dim=1)
    (height, width), (rows, columns) = size, maps.shape[2:]
    # The sampler counts from -1, the left edge of the first cell, to 1, the right edge of the last.
    x = (2 * torch.arange(width, device=maps.device, dtype=dtype) + 1) / width - 1
    y = (2 * torch.arange(height, device=maps.device, dtype=dtype) + 1) / height - 1
    grid = torch.stack([x + cells_x * (2 / columns), y[:, None] + cells_y * (2 / rows)], dim=-1)
    return F.grid_sample(maps.to(dtype), grid, mode="bilinear", padding_mode="border", align_corners=False)


def guidance(in_channels: int, *, doublings: int) -> nn.Sequential:
    """Predicts offsets (N, 2, h, w) from features (N, in_channels, h, w); each of up to two `doublings` of the size is followed by
    a convolution."""
    layers: list[nn.Module] = []
    channels = in_channels
    for step in range(2):
        layers += [nn.Conv2d(channels, channels // 2, 3, padding=1, bias=False), nn.BatchNorm2d(channels // 2), nn.ReLU()]
        channels //= 2
        if step < doublings:
            layers.append(nn.Upsample(scale_factor=2, mode="bilinear"))
    last = nn.Conv2d(channels, 2, 3, padding=1)
    nn.init.zeros_(last.weight)
    assert last.bias is not None
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)


class GuidedNetwork(Network):
    """A network without a decoder: logits of its first map are enlarged by the offsets that are its second."""

    feature_channels: int
    """Of the first map."""

    def make_classifier(self, decoder: nn.Module, num_classes: int) -> nn.Module:
        return FirstMap(nn.Conv2d(self.feature_channels, num_classes, 1))

    @staticmethod
    def upsample(logits: Tensor, decoded: Features, size: tuple[int, int]) -> Tensor:
        return guided_upsample(logits, decoded[1], size)
