"""From pixels to scores: int64 counts of (label, prediction), summed over images and ranks before anything is divided."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from data.labels import IGNORE_INDEX

EXACT = 2**24
"""OpenCV counts in float32, which is exact up to there."""


def joint_counts(labels: Tensor, predictions: Tensor) -> Tensor:
    """Values (H, W) uint8 of both to the number of pixels of each pair, (256, 256) int64, rows by label.

    Labels may be native ids: `fold` makes their rows classes afterwards, so that no pixel is looked up in a table.
    """
    if labels.device.type != "cpu":
        return torch.bincount((labels.flatten().int() << 8) | predictions.flatten().int(), minlength=1 << 16).view(256, 256)
    truth, found = labels.numpy().reshape(1, -1), predictions.numpy().reshape(1, -1)
    counts = np.zeros(1 << 16, np.int64)
    for first in range(0, truth.size, EXACT):
        part = slice(first, first + EXACT)
        # Two bytes side by side are one 16-bit key; the histogram of these is twice as fast as numpy's, which widens them to 64 bits.
        key = cv2.merge([found[:, part], truth[:, part]]).view("<u2")[..., 0]
        counts += cv2.calcHist([key], [0], None, [1 << 16], [0, 1 << 16]).ravel().astype(np.int64)
    return torch.from_numpy(counts).view(256, 256)


def fold(counts: np.ndarray, table: np.ndarray, num_rows: int, num_columns: int) -> tuple[np.ndarray, int]:
    """Counts (256, 256) by native id and predicted class to a confusion matrix (num_rows, num_columns + 1) int64, and the pixels that
    are ignored, since `table` (256,) uint8 has no class for their id.

    The last column counts pixels for which no class is predicted, misses of their own.
    """
    by_class = np.zeros((256, 256), np.int64)
    for native in np.flatnonzero(counts.any(axis=1)):
        by_class[table[native]] += counts[native]
    rows = by_class[:num_rows]
    matrix = np.column_stack([rows[:, :num_columns], rows[:, num_columns:].sum(axis=1)])
    return matrix, int(by_class[IGNORE_INDEX].sum())


def confusion_matrix(labels: Tensor, predictions: Tensor, num_classes: int) -> Tensor:
    """Class indices of the same shape, uint8, IGNORE_INDEX where unknown, to int64 counts (num_classes, num_classes + 1).

    Rows are true, columns predicted classes; the last column counts pixels for which none is predicted. Pixels whose label is no class
    are left out.
    """
    rows = joint_counts(labels, predictions)[:num_classes]
    return torch.cat([rows[:, :num_classes], rows[:, num_classes:].sum(dim=1, keepdim=True)], dim=1)


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores of one dataset, all in 0..1; NaN where there is nothing to divide by."""

    names: tuple[str, ...]
    iou: tuple[float, ...]
    """NaN for a class with neither a true nor a predicted pixel; 0 for one that is only predicted."""
    accuracy: tuple[float, ...]
    """The share of the pixels of each class that is found; NaN for a class without a true pixel."""
    pixels: tuple[int, ...]
    """True pixels of each class."""
    miou: float
    mpa: float
    """Mean over the classes that occur of the share of their pixels that is found (mean pixel accuracy)."""
    pixel_accuracy: float
    constant_miou: float
    """mIoU of always predicting the most frequent class, over the classes that occur: what no model should stay below."""
    num_pixels: int

    @property
    def absent(self) -> tuple[str, ...]:
        """Classes with neither a true nor a predicted pixel: in no mean."""
        return tuple(name for name, iou in zip(self.names, self.iou, strict=True) if np.isnan(iou))

    @property
    def only_predicted(self) -> tuple[str, ...]:
        """Classes without a true pixel that are predicted: 0 in the mean of the IoUs, and not in that of the accuracies."""
        entries = zip(self.names, self.iou, self.pixels, strict=True)
        return tuple(name for name, iou, pixels in entries if not pixels and not np.isnan(iou))

    def means(self, names: Sequence[str]) -> tuple[float, float]:
        """mIoU and mPA over the classes `names` that have any."""
        chosen = [self.names.index(name) for name in names]
        return _mean(np.array(self.iou)[chosen]), _mean(np.array(self.accuracy)[chosen])


def scores(matrix: np.ndarray, names: Sequence[str]) -> Scores:
    """Scores of a confusion matrix (true, predicted) of int64 counts; a column after those of the classes counts predictions of none."""
    true, predicted, hit = matrix.sum(axis=1), matrix[:, : len(matrix)].sum(axis=0), np.diag(matrix)
    iou, accuracy = _share(hit, true + predicted - hit), _share(hit, true)
    total = int(true.sum())
    return Scores(
        names=tuple(names),
        iou=tuple(iou.tolist()),
        accuracy=tuple(accuracy.tolist()),
        pixels=tuple(true.tolist()),
        miou=_mean(iou),
        mpa=_mean(accuracy),
        pixel_accuracy=float(hit.sum() / total) if total else float("nan"),
        constant_miou=float(true.max() / total / (true > 0).sum()) if total else float("nan"),
        num_pixels=total,
    )


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)


def _mean(values: np.ndarray) -> float:
    """Of those that are numbers."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float("nan")
