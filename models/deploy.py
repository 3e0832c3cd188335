"""A model as it is deployed: one module from pictures to label images, whose sizes are all arithmetic of the input's.

What is exported must compute every size from that of the input: the Python numbers of one example would stay in the file. So here all
sizes come of +, -, *, // and minima, which tracers follow, and parts of networks that count otherwise are replaced by equals.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.errors import InputError
from data.transforms import Interpolation, ResizeConfig
from models.model import SegmentationModel
from models.networks.base import resize
from models.networks.swiftnet import SpatialPyramidPooling

INPUT = "images"


@dataclass(frozen=True)
class Shown:
    """How pictures are brought to the size at which the network learnt, as `data.transforms.whole_size` has it."""

    resize: ResizeConfig | None = None
    scale: float = 1.0
    interpolation: Interpolation = "linear"

    def __post_init__(self) -> None:
        if self.interpolation == "area" and not self.is_identity and (self.resize is not None or self.scale > 1):
            raise InputError(
                "data.crop.interpolation: area found with a resize, expected another one, whose result does not depend on whether a "
                "picture grows or shrinks; the run can be trained with it, not exported"
            )

    @property
    def is_identity(self) -> bool:
        return self.resize is None and self.scale == 1

    def size(self, height: int, width: int) -> tuple[int, int]:
        if self.resize is not None:
            height, width = _resized(self.resize, height, width)
        scale = Fraction(str(self.scale))
        return _scaled(height, scale), _scaled(width, scale)


def _resized(config: ResizeConfig, height: int, width: int) -> tuple[int, int]:
    """`config.resized`, in whole numbers."""
    to_height, to_width = config.size
    if config.mode == "exact":
        return config.size
    choose = _least if config.mode == "fit" else _most
    return choose(to_height, _at_least_1(round_div(to_width * height, width))), choose(
        to_width, _at_least_1(round_div(to_height * width, height))
    )


def _scaled(length: int, scale: Fraction) -> int:
    return length if scale == 1 else _at_least_1(round_div(length * scale.numerator, scale.denominator))


def round_div(a: int, b: int) -> int:
    """`round(a / b)`, halves to even as Python has it, of a >= 0 and b > 0, in operations that every tracer follows."""
    quotient, rest = (2 * a + b) // (2 * b), (2 * a + b) % (2 * b)
    is_half = 1 - (rest + 2 * b - 1) // (2 * b)
    return quotient - is_half * (quotient % 2)


def round_up(a: int, b: int) -> int:
    """The least multiple of b that is not below a."""
    return (a + b - 1) // b * b


def _least(a: Any, b: Any) -> Any:
    return torch.minimum(torch.as_tensor(a), torch.as_tensor(b)) if isinstance(a, Tensor) or isinstance(b, Tensor) else torch.sym_min(a, b)


def _most(a: Any, b: Any) -> Any:
    return torch.maximum(torch.as_tensor(a), torch.as_tensor(b)) if isinstance(a, Tensor) or isinstance(b, Tensor) else torch.sym_max(a, b)


def _at_least_1(a: int) -> int:
    return _most(a, 1)


class DeployedModel(nn.Module):
    """Images (N, 3, H, W) uint8 RGB of any size to `labels_DATASET` (N, H, W) uint8, native ids of each dataset of `shown`.

    With `scores` also `scores_DATASET` (N, K, H, W) float32, the probabilities of the classes of the dataset's view.
    """

    def __init__(self, model: SegmentationModel, shown: Mapping[str, Shown], void_ids: Mapping[str, int], *, scores: bool = False) -> None:
        super().__init__()
        self.model = exportable(model)
        self.shown = dict(shown)
        self.scores = scores
        # A buffer's name may hold no dot, a dataset's may.
        for number, name in enumerate(shown):
            self.register_buffer(f"native_{number}", native_ids(model, name, void_ids[name]))
        self.eval()

    def native(self, dataset: str) -> Tensor:
        """(256,) uint8: what is written for a class index of the dataset's view."""
        return self.get_buffer(f"native_{list(self.shown).index(dataset)}")

    def output_names(self, *, logits: bool = False) -> list[str]:
        kinds = ["labels", *["scores"] * self.scores, *["logits"] * logits]
        return [f"{kind}_{name}" for kind in kinds for name in self.shown]

    def forward(self, images: Tensor, *, logits: bool = False) -> dict[str, Tensor]:
        """With `logits` also `logits_DATASET`, what the output space decides by."""
        out = {}
        outputs = self.model.outputs
        for name, values in self.all_logits(images).items():
            # Of all rows at once: of bands, a tracer would keep as many as the example has.
            out[f"labels_{name}"] = self.native(name)[outputs.predict_band(values, name)]
            if self.scores:
                out[f"scores_{name}"] = outputs.class_log_probabilities(values, name).exp()
            if logits:
                out[f"logits_{name}"] = values
        return out

    def all_logits(self, images: Tensor) -> dict[str, Tensor]:
        """Logits (N, K, H, W) of each dataset, from one pass of the network for all that see their pictures alike."""
        found: dict[str, Tensor] = {}
        for shown in dict.fromkeys(self.shown.values()):
            names = [name for name, other in self.shown.items() if other == shown]
            found |= _logits(self.model, images, names, shown)
        return {name: found[name] for name in self.shown}


def _logits(model: SegmentationModel, images: Tensor, names: Sequence[str], shown: Shown) -> dict[str, Tensor]:
    size = (images.shape[2], images.shape[3])
    if shown.is_identity:
        seen, seen_size = images, size
    else:
        seen_size = shown.size(*size)
        seen = resize_pictures(images, seen_size, shown.interpolation)
    divisor = model.network.divisor
    height, width = (round_up(length, divisor) for length in seen_size)
    x = model.normalise(seen)
    if divisor > 1:
        x = _pad(x, height - seen_size[0], width - seen_size[1])
    # As in SegmentationModel.forward: the padding is enlarged with the rest, and cut off at the end.
    padded = (height, width)
    if not shown.is_identity:
        padded = (round_div(size[0] * height, seen_size[0]), round_div(size[1] * width, seen_size[1]))
    rows = torch.arange(images.shape[0], device=images.device)
    logits = model.outputs(model.network(x), dict.fromkeys(names, rows), padded)
    return {name: values[:, :, : size[0], : size[1]] if divisor > 1 else values for name, values in logits.items()}


def _pad(x: Tensor, down: int, right: int) -> Tensor:
    """With zeros. Not by `F.pad`, which ONNX Runtime fuses into a pooling behind it, where it is no longer the same, or an error."""
    x = torch.cat([x, x.new_zeros(x.shape[0], x.shape[1], down, x.shape[3])], dim=2)
    return torch.cat([x, x.new_zeros(x.shape[0], x.shape[1], x.shape[2], right)], dim=3)


def resize_pictures(images: Tensor, size: tuple[int, int], interpolation: Interpolation) -> Tensor:
    """(N, 3, H, W) uint8 to (N, 3, *size) float32 in 0..255: as `data.transforms.resize_image`, which then rounds to whole numbers.

    Rounding would make a jump out of the last bit, which no two runtimes have in common.
    """
    pixels = images.float()
    if interpolation == "area":
        sides = zip(images.shape[2:], size, strict=True)
        down, across = (_interval_means(length, cells, pixels, is_fraction=True) for length, cells in sides)
        resized = down @ pixels @ across.transpose(0, 1)
    else:
        mode = "bicubic" if interpolation in ("cubic", "pil_cubic") else "bilinear"
        resized = F.interpolate(pixels, size, mode=mode, align_corners=False, antialias=interpolation in ("pil_linear", "pil_cubic"))
    return resized.clamp(0, 255)


def native_ids(model: SegmentationModel, dataset: str, void_id: int) -> Tensor:
    """(256,) uint8: what is written for each class index that the output space predicts; void where it is none."""
    view = model.outputs.views[dataset]
    table = torch.full((256,), void_id, dtype=torch.uint8)
    table[: view.num_classes] = torch.tensor(view.native_ids, dtype=torch.uint8)
    return table


def exportable(model: SegmentationModel) -> SegmentationModel:
    """A copy in evaluation mode, on the CPU, whose parts compute the same in operations that can be exported."""
    model = copy.deepcopy(model).cpu().eval().requires_grad_(False)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, SpatialPyramidPooling):
                setattr(parent, name, ExportablePyramid(child))
    return model


class ExportablePyramid(nn.Module):
    """`SpatialPyramidPooling`, whose grids are as wide as the shape of the map asks for: pooling by products with matrices."""

    def __init__(self, pyramid: SpatialPyramidPooling) -> None:
        super().__init__()
        self.grids = pyramid.grids
        self.reduce, self.levels, self.fuse = pyramid.reduce, pyramid.levels, pyramid.fuse

    def forward(self, x: Tensor) -> Tensor:
        x = self.reduce(x)
        height, width = x.shape[2:]
        maps = [x]
        for rows, level in zip(self.grids, self.levels, strict=True):
            columns = _at_least_1(round_div(width * rows, height))
            maps.append(resize(level(adaptive_mean(x, (rows, columns))), (height, width)))
        out: Tensor = self.fuse(torch.cat(maps, dim=1))
        return out


def adaptive_mean(x: Tensor, size: tuple[int, int]) -> Tensor:
    """`F.adaptive_avg_pool2d`: (N, C, h, w) to (N, C, *size)."""
    down, across = (_interval_means(length, cells, x) for length, cells in zip(x.shape[2:], size, strict=True))
    return down @ x @ across.transpose(0, 1)


def _interval_means(length: int, cells: int, like: Tensor, *, is_fraction: bool = False) -> Tensor:
    """(cells, length): row i takes the mean of the entries that lie between i length / cells and (i + 1) length / cells.

    An entry that lies there in part counts in full, or with `is_fraction` by that part.
    """
    # In units of 1 / cells of an entry, so that all is whole numbers.
    first = torch.arange(cells, device=like.device)[:, None] * length
    entry = torch.arange(length, device=like.device)[None] * cells
    overlap = (torch.minimum(first + length, entry + cells) - torch.maximum(first, entry)).clamp(min=0)
    weight = (overlap if is_fraction else overlap > 0).to(like.dtype)
    return weight / weight.sum(dim=1, keepdim=True)
