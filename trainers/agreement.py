"""Whether an exported model does what the model does: on pictures, pixel by pixel."""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from data.errors import InputError
from data.transforms import CropConfig
from models.deploy import DeployedModel, Shown, resize_pictures
from models.formats import Run
from models.model import SegmentationModel
from models.outputs.base import OutputSpace
from trainers.evaluation import predict_image

TOLERANCE = 1e-4
"""By which logits may differ, as a share of the largest one of their picture. Rounding makes 1e-7 to 1e-5."""

OWN_ROUNDING = 4.0
"""Pixels beyond the tolerance may be so many times those that are when the model is computed in float64. That is none, but for networks
that jump: ENet unpools to where the largest of four values was, and the last bit of two equal ones decides which that is."""

MAX_PIXELS = 2**20
"""Of a picture that is compared; of larger ones the middle is cut out."""

NUM_NUDGES = 64
MAX_UNDECIDED = 10_000


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """What a comparison that was passed found."""

    images: int
    sizes: tuple[str, ...]
    largest_difference: float
    """Of the logits, as a share of the largest one of their picture; of the pixels that are within the tolerance."""
    beyond: float
    """Share of pixels that are not, as many as rounding alone makes."""
    equal_labels: float
    """Share of pixels."""


def make_batches(pictures: Sequence[np.ndarray], size: tuple[int, int] | None) -> list[Tensor]:
    """Pictures (H, W, 3) uint8 to batches (N, 3, h, w): of `size` where that is given; else as they are, and parts of odd sizes, one
    upright. The last is a batch of two."""
    pictures = [_cut(picture) for picture in pictures]
    if size is not None:
        cut = [cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA) for picture in pictures]
        return [*(_batch(picture) for picture in cut), _batch(cut[0], cut[-1][:, ::-1])]
    first, last = pictures[0], pictures[-1]
    height, width = first.shape[:2]
    lying, upright = first[: height // 2 | 1, : 2 * width // 3 | 1], last[: last.shape[0] | 1, : last.shape[1] // 3 | 1]
    corner = first[height // 4 :, width // 5 :][: height // 2 | 1, : width // 2 | 1]
    return [*(_batch(picture) for picture in (*pictures, lying, upright)), _batch(corner, corner[:, ::-1])]


def _cut(picture: np.ndarray) -> np.ndarray:
    height, width = picture.shape[:2]
    factor = min(1.0, math.sqrt(MAX_PIXELS / (height * width)))
    rows, columns = max(1, int(height * factor)), max(1, int(width * factor))
    top, left = (height - rows) // 2, (width - columns) // 2
    return picture[top : top + rows, left : left + columns]


def _batch(*pictures: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.stack(pictures).transpose(0, 3, 1, 2)))


@torch.no_grad()
def reference_logits(model: SegmentationModel, shown: Mapping[str, Shown], images: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Logits (N, K, H, W) of each dataset by the model itself, as evaluation computes them."""
    rows = torch.arange(len(images))
    size = (images.shape[2], images.shape[3])
    for way in dict.fromkeys(shown.values()):
        names = [name for name, other in shown.items() if other == way]
        pixels = images if way.is_identity else resize_pictures(images, way.size(*size), way.interpolation)
        yield from model(pixels, dict.fromkeys(names, rows), size).items()


def compare(run: Run, model: SegmentationModel, deployed: DeployedModel, batches: Sequence[Tensor]) -> Agreement:
    """Compare `run`, an exported `deployed` with its logits, with `model`, both on the CPU. Raises InputError, with the numbers, where
    they differ by more than rounding."""
    largest, beyond, equal, pixels = 0.0, 0, 0, 0
    for images in batches:
        out = run(images)
        for name, logits in reference_logits(model, deployed.shown, images):
            where = f"{name}, pictures of {_size(images)}"
            scale = float(logits.abs().max().clamp(min=torch.finfo(logits.dtype).tiny))
            near, difference = _near(out[f"logits_{name}"], logits, TOLERANCE * scale, where)
            if not near.all():
                _check_own_rounding(model, deployed, images, name, logits, near, where)
            labels, native = out[f"labels_{name}"], deployed.native(name)
            wrong = (labels != native[model.outputs.predict(logits, name)]) & near
            if wrong.any() and not _is_undecided(model.outputs, name, logits, wrong, labels, native, TOLERANCE * scale):
                raise _differs(where, f"other labels at {int(wrong.sum())} pixels whose logits are the same found")
            if deployed.scores:
                _check_scores(out[f"scores_{name}"], model.outputs.class_log_probabilities(out[f"logits_{name}"], name).exp(), where)
            largest = max(largest, float(difference[near].max()) / scale if near.any() else 0.0)
            beyond, pixels = beyond + int((~near).sum()), pixels + near.numel()
            equal += int((labels == native[model.outputs.predict(logits, name)]).sum())
    return Agreement(
        images=sum(len(images) for images in batches),
        sizes=tuple(dict.fromkeys(_size(images) for images in batches)),
        largest_difference=largest,
        beyond=beyond / pixels,
        equal_labels=equal / pixels,
    )


def _near(got: Tensor, wanted: Tensor, tolerance: float, where: str) -> tuple[Tensor, Tensor]:
    """Which pixels (N, H, W) have all of their logits within `tolerance`, and the largest difference of each."""
    if got.shape != wanted.shape:
        raise _differs(where, f"logits of {tuple(got.shape)} in place of {tuple(wanted.shape)} found")
    difference = (got - wanted).abs().amax(dim=1)
    return difference <= tolerance, difference  # a NaN is near to nothing


def _check_own_rounding(
    model: SegmentationModel, deployed: DeployedModel, images: Tensor, name: str, logits: Tensor, near: Tensor, where: str
) -> None:
    exact = dict(reference_logits(copy.deepcopy(model).double(), {name: deployed.shown[name]}, images))[name]
    own = (exact - logits).abs().amax(dim=1) > TOLERANCE * float(logits.abs().max())
    found, allowed = float((~near).double().mean()), OWN_ROUNDING * float(own.double().mean())
    if found > allowed:
        raise _differs(
            where,
            f"logits that differ by more than {TOLERANCE:g} of the largest at {100 * found:.3g} % of pixels found, where rounding makes "
            f"{100 * allowed:.3g} %",
        )


def _is_undecided(outputs: OutputSpace, name: str, logits: Tensor, wrong: Tensor, labels: Tensor, native: Tensor, tolerance: float) -> bool:
    """Whether each `wrong` pixel gets the label that was found once its logits are nudged by no more than `tolerance`."""
    pixels, found = logits.permute(0, 2, 3, 1)[wrong], labels[wrong]
    if len(pixels) > MAX_UNDECIDED:
        return False
    generator = torch.Generator().manual_seed(0)
    explained = torch.zeros(len(pixels), dtype=torch.bool)
    for _ in range(NUM_NUDGES):
        nudge = torch.randint(0, 2, pixels.shape, generator=generator) * 2 - 1
        explained |= native[outputs.predict((pixels + tolerance * nudge)[:, :, None, None], name)[:, 0, 0]] == found
    return bool(explained.all())


def _check_scores(got: Tensor, wanted: Tensor, where: str) -> None:
    difference = float((got - wanted).abs().max())
    if not difference <= TOLERANCE:
        raise _differs(where, f"scores that differ by {difference:.3g} found")


def equal_to_predict(
    run: Run, model: SegmentationModel, deployed: DeployedModel, crops: Mapping[str, CropConfig], batches: Sequence[Tensor]
) -> float:
    """Share of pixels that `taxomix predict` labels as the file does. They differ where pictures are resized, which it rounds."""
    equal, pixels = 0, 0
    for images in batches:
        out = run(images)
        for number, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
            for name, classes in predict_image(model, image, crops).items():
                same = deployed.native(name)[classes.long()] == out[f"labels_{name}"][number]
                equal, pixels = equal + int(same.sum()), pixels + same.numel()
    return equal / pixels


def check_same(run: Run, other: Run, batches: Sequence[Tensor]) -> None:
    """That the file itself gives what was compared, bit by bit."""
    for images in batches:
        wanted = run(images)
        for key, value in other(images).items():
            if not torch.equal(value, wanted[key]):
                raise _differs(f"{key}, pictures of {_size(images)}", "another answer of the file than of what was compared found")


def _size(images: Tensor) -> str:
    return f"{images.shape[3]}x{images.shape[2]}"


def _differs(where: str, what: str) -> InputError:
    return InputError(f"{where}: {what}, expected those of the model; nothing is written, give another format=, opset= or size=")
