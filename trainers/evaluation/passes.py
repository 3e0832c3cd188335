"""Several looks of the model at one picture (mirrored, at several scales, in windows), and the mean of what they say.

What is averaged are the probabilities of leaves, the one space that all output spaces share: a mean of raw logits would depend on how
large they are, which differs from one look to the next and means nothing. The mean is given back as logits that say the same, so that
every rule of every output space works on it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from data.errors import FieldError
from data.transforms import CropConfig, Interpolation, resize_image, whole_size
from models.model import SegmentationModel
from models.outputs.base import OutputSpace, at_least_float32
from models.outputs.set_loss import bands


@dataclass(frozen=True, kw_only=True)
class PassesConfig:
    """How often the model looks at each picture; by default once, at all of it."""

    flip: bool = False
    """Also at its mirror image."""
    scales: tuple[float, ...] = (1.0,)
    """Factors of the size that the network sees; one look at each."""
    window: tuple[int, int] | None = None
    """Height and width of the windows that each picture is cut into, in pixels as the network sees them at the scale of 1; null: it is
    shown as a whole. Each window is a picture of its own, mirrored and scaled."""
    stride: tuple[int, int] | None = None
    """From one window to the next, in the same pixels; null: half a window."""
    average: Literal["probabilities", "logits"] = "probabilities"
    """What the mean of several looks is taken of."""

    def __post_init__(self) -> None:
        if not self.scales or not all(0.05 <= scale <= 20 for scale in self.scales):
            raise FieldError("scales", f"{list(self.scales)} found, expected factors in 0.05..20, one or more; mend them")
        if self.window is not None and min(self.window) < 32:
            raise FieldError("window", f"{list(self.window)} found, expected [height, width] of at least 32 pixels; raise it")
        if self.stride is not None and self.window is None:
            raise FieldError("stride", f"{list(self.stride)} found without a window, expected both; give window=[height, width]")
        steps = zip(self.stride or (), self.window or (), strict=False)
        if not all(1 <= step <= length for step, length in steps):
            raise FieldError(
                "stride", f"{list(self.stride or ())} found, expected steps in 1..{list(self.window or ())}, the window; mend it"
            )

    @property
    def num_looks(self) -> int:
        """At each window."""
        return len(self.scales) * (2 if self.flip else 1)


ONE_PASS = PassesConfig()


@torch.no_grad()
def read_logits(
    model: SegmentationModel, image: np.ndarray, crops: Mapping[str, CropConfig], passes: PassesConfig = ONE_PASS
) -> Iterator[tuple[str, slice, Tensor]]:
    """What `model` says about one image (H, W, 3) uint8 for each dataset of `crops`: logits (1, K, h, W) of some rows at a time, which
    together are all rows.

    The image is shown as large as training with that dataset's crop saw it, once to all datasets that see it alike.
    """
    alike: dict[tuple[tuple[int, int], Interpolation], list[str]] = {}
    for name, crop in crops.items():
        size = whole_size(crop, *image.shape[:2], input_scale=model.input_scale)
        alike.setdefault((size, crop.interpolation), []).append(name)
    for (size, interpolation), names in alike.items():
        for rows, logits in _Looks(model, names, interpolation, passes).over(image, size):
            yield from ((name, rows, values) for name, values in logits.items())


@torch.no_grad()
def predict_image(
    model: SegmentationModel, image: np.ndarray, crops: Mapping[str, CropConfig], passes: PassesConfig = ONE_PASS
) -> dict[str, Tensor]:
    """What `model` predicts for one image (H, W, 3) uint8 in the view of each dataset of `crops`: (H, W) uint8 class indices."""
    predicted = {name: torch.empty(image.shape[:2], dtype=torch.uint8, device=model.mean.device) for name in crops}
    for name, rows, logits in read_logits(model, image, crops, passes):
        predicted[name][rows] = model.outputs.predict(logits, name)[0].byte()
    return predicted


class _Looks:
    """All looks at one picture for datasets that see it alike."""

    def __init__(self, model: SegmentationModel, datasets: Sequence[str], interpolation: Interpolation, passes: PassesConfig) -> None:
        self.model, self.datasets, self.interpolation, self.passes = model, datasets, interpolation, passes
        self.row = torch.zeros(1, dtype=torch.int64, device=model.mean.device)

    def over(self, image: np.ndarray, size: tuple[int, int]) -> Iterator[tuple[slice, dict[str, Tensor]]]:
        """Rows of an image (H, W, 3) that is shown at `size`, and the logits (1, K, h, W) of each dataset; no more rows are held at a
        time than a window has."""
        window = self.passes.window or size
        stride = self.passes.stride or (max(1, window[0] // 2), max(1, window[1] // 2))
        rows, columns = (_Places(*entry) for entry in zip(image.shape[:2], size, window, stride, strict=True))
        if len(rows.starts) * len(columns.starts) * self.passes.num_looks == 1:
            yield slice(0, image.shape[0]), self._look(image, (rows.shown, columns.shown), self.passes.scales[0], mirrored=False)
            return
        totals: dict[str, Tensor] = {}
        counts = np.zeros((rows.length, image.shape[1]))
        for top, next_top in zip(rows.starts, [*rows.starts[1:], image.shape[0]], strict=True):
            for left in columns.starts:
                place = slice(left, left + columns.length)
                for logits in self._looks(image[top : top + rows.length, place], (rows.shown, columns.shown)):
                    for name, values in logits.items():
                        self._add(totals, name, values, (counts.shape[0], counts.shape[1]), place)
                    counts[:, place] += 1
            done = next_top - top
            weights = torch.from_numpy(counts[:done]).to(self.row.device)
            yield slice(top, next_top), {name: self._mean(total[:, :, :done], weights, name) for name, total in totals.items()}
            if next_top == image.shape[0]:
                return
            totals = {name: _moved_up(total, done) for name, total in totals.items()}
            counts = np.concatenate([counts[done:], np.zeros((done, counts.shape[1]))])

    def _looks(self, part: np.ndarray, shown: tuple[int, int]) -> Iterator[dict[str, Tensor]]:
        for scale in self.passes.scales:
            for mirrored in (False, True)[: 2 if self.passes.flip else 1]:
                yield self._look(part, shown, scale, mirrored=mirrored)

    def _look(self, part: np.ndarray, shown: tuple[int, int], scale: float, *, mirrored: bool) -> dict[str, Tensor]:
        """Logits (1, K, h, w) of a part (h, w, 3) that is shown at `shown` times `scale`."""
        size = (max(1, round(shown[0] * scale)), max(1, round(shown[1] * scale)))
        pixels = np.ascontiguousarray(part) if size == part.shape[:2] else resize_image(part, size, self.interpolation)
        images = torch.from_numpy(pixels).to(self.row.device).permute(2, 0, 1)[None]
        logits = self.model(images.flip(3) if mirrored else images, dict.fromkeys(self.datasets, self.row), size=part.shape[:2])
        return {name: values.flip(3) if mirrored else values for name, values in logits.items()}

    def _add(self, totals: dict[str, Tensor], name: str, logits: Tensor, size: tuple[int, int], columns: slice) -> None:
        """Add what is averaged to the total (1, L, *size) of a dataset, some rows at a time."""
        for rows in bands(logits):
            said = self._said(self.model.outputs, logits[:, :, rows], name)
            if name not in totals:
                totals[name] = said.new_zeros(1, said.shape[1], *size)
            totals[name][:, :, rows, columns] += said

    def _said(self, outputs: OutputSpace, logits: Tensor, name: str) -> Tensor:
        if self.passes.average == "logits" or self.model.outputs.averages_logits:
            return at_least_float32(logits)
        return outputs.leaf_log_probabilities(logits, name).exp()

    def _mean(self, total: Tensor, counts: Tensor, name: str) -> Tensor:
        """Logits that say what all looks together said, of a total (1, L, h, W) of `counts` (h, W) of them, which is overwritten."""
        mean = total.div_(counts.to(total.dtype))
        if self.passes.average == "logits" or self.model.outputs.averages_logits:
            return mean
        # What is 0 by rounding must not be -inf: of a node all of whose leaves are, no child would be the most probable.
        return self.model.outputs.as_logits(mean.clamp_(min=torch.finfo(mean.dtype).tiny).log_(), name)


class _Places:
    """Where windows lie along one side of a picture: `starts` and `length` in its own pixels, `shown` as the network sees them."""

    def __init__(self, length: int, shown: int, window: int, stride: int) -> None:
        self.shown = min(window, shown)
        self.length = max(1, min(length, round(self.shown * length / shown)))
        step = max(1, min(self.length, round(stride * length / shown)))
        last = length - self.length
        self.starts = [*range(0, last, step), last]


def _moved_up(total: Tensor, rows: int) -> Tensor:
    """A total (1, L, h, W) without its first rows, and zeros after the last."""
    return torch.cat([total[:, :, rows:], torch.zeros_like(total[:, :, :rows])], dim=2)
