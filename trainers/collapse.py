"""Classes that a model has unlearnt, or never says: what learning from its own answers may end in."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from trainers.metrics import Scores

COLLAPSED = "classes that have collapsed (IoU above 10 % before and 0 now) or are never predicted, though learnt without labels"

WAS_KNOWN = 0.1
"""The IoU above which a class counts as known."""


@dataclass
class Peaks:
    """The highest IoU of each class so far, by dataset; part of a checkpoint."""

    iou: dict[str, dict[str, float]] = field(default_factory=dict)

    def collapsed(self, dataset: str, result: Scores) -> list[str]:
        """Classes whose IoU was above 10 % and is 0 now."""
        before = self.iou.get(dataset, {})
        return [name for name, iou in zip(result.names, result.iou, strict=True) if iou == 0 and before.get(name, 0) > WAS_KNOWN]

    def update(self, dataset: str, result: Scores) -> None:
        before = self.iou.setdefault(dataset, {})
        for name, iou in zip(result.names, result.iou, strict=True):
            if not np.isnan(iou):
                before[name] = max(before.get(name, 0.0), iou)


def never_said(matrix: np.ndarray, names: Sequence[str]) -> list[str]:
    """Classes that have pixels and are predicted nowhere, of a confusion matrix (true, predicted)."""
    return [name for name, true, predicted in zip(names, matrix.sum(axis=1), matrix.sum(axis=0), strict=False) if true and not predicted]


def find_collapsed(
    peaks: Peaks, hidden: Collection[str], matrices: Mapping[str, np.ndarray], results: Mapping[str, Scores]
) -> dict[str, list[str]]:
    """Classes of each dataset that were known and are no longer; and those never predicted, of datasets whose labels are `hidden`."""
    found = {}
    for name, result in results.items():
        never = never_said(matrices[name], result.names) if name in hidden else []
        found[name] = list(dict.fromkeys([*peaks.collapsed(name, result), *never]))
    return {name: classes for name, classes in found.items() if classes}


def describe(collapsed: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{dataset}: {', '.join(names)}" for dataset, names in collapsed.items() if names)
