"""A picture of how a picture was mixed."""

from collections.abc import Mapping

import numpy as np
from PIL import Image
from torch import Tensor

from data.drawing import blend, legend_of, side_by_side
from data.labels import View
from trainers.mixing.mixed import Mixed


def mixed_panel(mixed: Mixed, views: Mapping[str, View]) -> Image.Image:
    """Of the first mixed picture: the two with their labels, the mask, it and its labels, how sure these are, and what they count for."""
    names = mixed.pasted_datasets[0], mixed.base_datasets[0]
    of_pasted, of_base = views[names[0]], views[names[1]]
    pasted, base = mixed.pasted.labels[0].cpu().numpy(), mixed.base.labels[0].cpu().numpy()
    image, mask = _image(mixed.images[0]), mixed.mask[0].cpu().numpy()
    labels = np.where(mask[..., None], blend(image, pasted, of_pasted), blend(image, base, of_base))
    parts = [
        (f"pasted: {names[0]}", blend(_image(mixed.pasted.images[0]), pasted, of_pasted)),
        (f"onto: {names[1]}", blend(_image(mixed.base.images[0]), base, of_base)),
        ("mask", _grey(mixed.mask[0].float())),
        ("mixed", image),
        ("its labels", labels),
        ("confidence", _grey(mixed.confidence[0])),
        ("weight", _grey(mixed.weights[0])),
    ]
    return side_by_side(parts, list(dict.fromkeys([*legend_of(of_pasted, pasted), *legend_of(of_base, base)])))


def _image(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.permute(1, 2, 0).cpu().numpy())


def _grey(values: Tensor) -> np.ndarray:
    """(H, W) in 0..1 to (H, W, 3) uint8."""
    return np.repeat((255 * values.cpu().numpy().clip(0, 1)).astype(np.uint8)[..., None], 3, axis=2)
