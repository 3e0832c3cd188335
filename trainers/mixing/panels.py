"""A picture of how a picture was mixed."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from data.drawing import blend, legend_strip
from data.labels import IGNORE_INDEX, View

GAP = 4


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One mixed picture and what it is made of, on whatever device."""

    pasted: Tensor
    """(3, H, W) uint8, as `base` and `mixed`."""
    base: Tensor
    mixed: Tensor
    mask: Tensor
    """(H, W) bool: what is pasted."""
    pasted_labels: Tensor
    """(H, W) uint8: classes of the view of each one's dataset, as `base_labels`."""
    base_labels: Tensor
    confidence: Tensor
    """(H, W) float, as `weights`."""
    weights: Tensor
    datasets: tuple[str, str]
    """Of the pasted picture and of the one below."""


def mixed_panel(shown: Shown, views: Mapping[str, View]) -> Image.Image:
    """The two pictures with their labels, the mask, the mixed picture with its labels, how sure these are, and what they count for."""
    pasted, base, mixed = (_image(tensor) for tensor in (shown.pasted, shown.base, shown.mixed))
    mask = shown.mask.cpu().numpy()
    maps = [tensor.cpu().numpy() for tensor in (shown.pasted_labels, shown.base_labels)]
    of_pasted, of_base = (views[name] for name in shown.datasets)
    labels = [blend(mixed, classes, view) for classes, view in zip(maps, (of_pasted, of_base), strict=True)]
    parts = {
        f"pasted: {shown.datasets[0]}": blend(pasted, maps[0], of_pasted),
        f"onto: {shown.datasets[1]}": blend(base, maps[1], of_base),
        "mask": _grey(mask.astype(np.float32)),
        "mixed": mixed,
        "its labels": np.where(mask[..., None], *labels),
        "confidence": _grey(shown.confidence.float().cpu().numpy()),
        "weight": _grey(shown.weights.float().cpu().numpy()),
    }
    font = ImageFont.load_default(size=13)
    height, width = mixed.shape[0], max(mixed.shape[1], *(int(font.getlength(title)) + 5 for title in parts))
    known = {(view.names[c], view.colors[c]) for view, classes in zip((of_pasted, of_base), maps, strict=True) for c in _occurring(classes)}
    legend = legend_strip(sorted(known), len(parts) * (width + GAP), font)
    sheet = Image.new("RGB", (len(parts) * (width + GAP), 20 + height + GAP + legend.height), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (title, picture) in enumerate(parts.items()):
        draw.text((number * (width + GAP) + 2, 2), title, fill="black", font=font)
        sheet.paste(Image.fromarray(picture), (number * (width + GAP), 20))
    sheet.paste(legend, (0, 20 + height + GAP))
    return sheet


def _image(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.permute(1, 2, 0).cpu().numpy())


def _grey(values: np.ndarray) -> np.ndarray:
    return np.repeat((255 * values.clip(0, 1)).astype(np.uint8)[..., None], 3, axis=2)


def _occurring(classes: np.ndarray) -> list[int]:
    return sorted({int(c) for c in np.unique(classes)} - {IGNORE_INDEX})
