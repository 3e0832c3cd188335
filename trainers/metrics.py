"""From pixels to scores: int64 confusion matrices, summed over images and ranks before anything is divided."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


def confusion_matrix(labels: Tensor, predictions: Tensor, num_classes: int) -> Tensor:
    """Class indices of the same shape, uint8, IGNORE_INDEX where unknown, to int64 counts (num_classes, num_classes + 1).

    Rows are true, columns predicted classes; the last column counts pixels for which none is predicted, misses of their class.
    Pixels whose label is no class are left out.
    """
    if labels.device.type == "cpu":
        # One bincount over 16-bit keys is some six times as fast as over int64 ones.
        key = (labels.numpy().ravel().astype(np.uint16) << 8) | predictions.numpy().ravel()
        counts = torch.from_numpy(np.bincount(key, minlength=1 << 16))
    else:
        counts = torch.bincount((labels.flatten().int() << 8) | predictions.flatten().int(), minlength=1 << 16)
    rows = counts.view(256, 256)[:num_classes]
    return torch.cat([rows[:, :num_classes], rows[:, num_classes:].sum(dim=1, keepdim=True)], dim=1)


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores of one dataset, all in 0..1. A class with neither a true nor a predicted pixel has no IoU (NaN)."""

    names: tuple[str, ...]
    iou: tuple[float, ...]
    miou: float
    mpa: float
    """Mean over the classes that occur of the share of their pixels that is found (mean pixel accuracy)."""
    pixel_accuracy: float
    constant_miou: float
    """mIoU of always predicting the most frequent class, over the classes that occur: what no model should stay below."""
    num_pixels: int


def scores(matrix: np.ndarray, names: Sequence[str]) -> Scores:
    """Scores of a confusion matrix (true, predicted) of int64 counts; a column after those of the classes counts predictions of none."""
    true, predicted, hit = matrix.sum(axis=1), matrix[:, : len(matrix)].sum(axis=0), np.diag(matrix)
    union = true + predicted - hit
    iou = np.divide(hit, union, out=np.full(len(hit), np.nan), where=union > 0)
    occurring = true > 0
    total = int(true.sum())
    return Scores(
        names=tuple(names),
        iou=tuple(iou.tolist()),
        miou=_mean(iou[union > 0]),
        mpa=_mean(hit[occurring] / true[occurring]),
        pixel_accuracy=float(hit.sum() / total) if total else float("nan"),
        constant_miou=float(true.max() / total / occurring.sum()) if total else float("nan"),
        num_pixels=total,
    )


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
