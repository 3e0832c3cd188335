"""Protocols: over which classes of a dataset the means are taken, and by which rule. Those of the papers have names.

Which classes a dataset has is a matter of its view (data/labels.py); a protocol chooses among these.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from data.adapters.common import read_table
from data.errors import FieldError, InputError
from data.labels import View
from trainers.evaluation.tally import Tally
from trainers.metrics import scores


@dataclass(frozen=True, kw_only=True)
class ProtocolConfig:
    """What of a dataset is averaged."""

    classes: str | tuple[str, ...] | None = None
    """Names of classes of the view that is evaluated, or DATASET/VIEW for those of a view that comes with the package; null: all."""
    others: Literal["counted", "ignored"] = "counted"
    """Pixels of the view's other classes. counted: they take part, so that one of them that is taken for a class of the protocol is a
    false alarm of it; ignored: as if they had no label. Predictions of the other classes are misses either way."""
    min_pixels: int | None = None
    """Classes with fewer pixels than this, at the size of the labels as they are stored, are not averaged: fewer in the split that is
    evaluated, or in the split `train`."""
    pixels_of: str | None = None
    """The dataset whose split `train` that is, with classes of the same names; null: the dataset itself."""
    second_choice: tuple[str, ...] = ()
    """Leaves of a flat run, such as cityscapes/traffic sign. Where one of them is the most probable of all and the second most probable
    is the true label, that counts as true (paper 001, section V-B)."""

    def __post_init__(self) -> None:
        if self.min_pixels is not None and self.min_pixels < 1:
            raise FieldError("min_pixels", f"{self.min_pixels} found, expected at least 1; raise it")
        if isinstance(self.classes, tuple) and (not self.classes or len(set(self.classes)) < len(self.classes)):
            raise FieldError("classes", f"{list(self.classes)} found, expected one class or several, each once; mend the list")
        if isinstance(self.classes, str) and "/" not in self.classes:
            raise FieldError("classes", f"{self.classes} found, expected a list of classes, or DATASET/VIEW such as cityscapes/16; mend it")

    def names(self, view: View) -> tuple[str, ...]:
        """The classes of `view` that are averaged, but for those with too few pixels. Raises InputError where the view lacks one."""
        if self.classes is None:
            return view.names
        wanted = shipped_classes(self.classes) if isinstance(self.classes, str) else self.classes
        missing = [name for name in wanted if name not in view.names]
        if missing:
            raise InputError(
                f"protocols: class {missing[0]!r} found, expected classes of view {view.name} ({', '.join(view.names)}); give the protocol "
                "to another dataset, or evaluate a run that was trained on the view"
            )
        return tuple(wanted)


PROTOCOLS: dict[str, ProtocolConfig] = {
    # The benchmark; and for a run of the 27 classes: pixels of the other eight have no label in it.
    "cityscapes19": ProtocolConfig(classes="cityscapes/19", others="ignored"),
    # Paper 001, section V-B: the 19 and eight more that Vistas has too.
    "cityscapes27": ProtocolConfig(classes="cityscapes/27", others="ignored"),
    "voc21": ProtocolConfig(classes="voc/all"),
    "vistas65": ProtocolConfig(classes="vistas/65", others="ignored"),
    # Paper 004, by the code of DACS: a head of 19 classes, of which 16 or 13 are averaged; the others stay false alarms and misses.
    "synthia16": ProtocolConfig(classes="cityscapes/16"),
    "synthia13": ProtocolConfig(classes="cityscapes/13"),
    # Paper 001, section V-B. It writes that it keeps the signs with "less than" 1000 pixels in train or validation; what makes sense, and
    # fits its 28 of 43, is that these are the ones left out.
    "gtsdb_signs": ProtocolConfig(classes="gtsdb/all", min_pixels=1000, pixels_of="gtsdb"),
    # Paper 001, section V-C: the same classes for a flat classifier trained on Cityscapes and GTSDB.
    "gtsdb_signs_flat": ProtocolConfig(classes="gtsdb/all", min_pixels=1000, pixels_of="gtsdb", second_choice=("cityscapes/traffic sign",)),
}


def protocol_of(protocol: str | ProtocolConfig) -> ProtocolConfig:
    """A protocol, or that of this name. Raises InputError that lists the names."""
    if isinstance(protocol, ProtocolConfig):
        return protocol
    if protocol not in PROTOCOLS:
        raise InputError(f"protocols: no preset {protocol!r}, expected one of {', '.join(PROTOCOLS)}; choose one, or give its classes")
    return PROTOCOLS[protocol]


def shipped_classes(name: str) -> tuple[str, ...]:
    """The classes of DATASET/VIEW."""
    dataset, _, view = name.partition("/")
    try:
        return read_table(dataset).view(view).names
    except OSError:
        raise InputError(f"protocols: classes={name} found, expected a dataset of the package such as cityscapes/16; mend it") from None


def protocol_result(protocol: ProtocolConfig, name: str, tally: Tally, view: View, pixels: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Means by a protocol of what was counted, over which classes they are, and which are left out and why. `pixels` are those of the
    classes of the view wherever there have to be enough, at the size of the stored labels."""
    chosen = protocol.names(view)
    matrix, ignored = tally.matrix, tally.ignored
    if protocol.others == "ignored":
        matrix, ignored = without_others(tally, [view.names.index(label) for label in chosen])
    result = scores(matrix, chosen if protocol.others == "ignored" else view.names)
    left_out = _too_rare(protocol, chosen, view, pixels)
    averaged = [label for label in chosen if label not in left_out]
    miou, mpa = result.means(averaged)
    return {
        "name": name,
        "miou": miou,
        "mpa": mpa,
        "classes": averaged,
        "too_few_pixels": left_out,
        "absent": [label for label in averaged if label in result.absent],
        "only_predicted": [label for label in averaged if label in result.only_predicted],
        "other_classes": [label for label in view.names if label not in chosen],
        "others": protocol.others,
        "min_pixels": protocol.min_pixels,
        "second_choice": list(protocol.second_choice),
        "iou": {label: result.iou[result.names.index(label)] for label in averaged},
        "accuracy": {label: result.accuracy[result.names.index(label)] for label in averaged},
        "pixels": int(matrix.sum()),
        "ignored_pixels": ignored,
    }


def without_others(tally: Tally, chosen: list[int]) -> tuple[np.ndarray, int]:
    """The matrix of the classes `chosen` alone, and the pixels ignored: those of other classes are, and predictions of these are misses."""
    rows = tally.matrix[chosen]
    matrix = np.column_stack([rows[:, chosen], rows.sum(axis=1) - rows[:, chosen].sum(axis=1)])
    return matrix, tally.ignored + int(tally.matrix.sum() - rows.sum())


def _too_rare(protocol: ProtocolConfig, chosen: tuple[str, ...], view: View, pixels: Mapping[str, np.ndarray]) -> dict[str, dict[str, int]]:
    """Classes with too few pixels, and how many these are by where they were counted."""
    rare = {}
    for label in chosen:
        counts = {where: int(of_view[view.names.index(label)]) for where, of_view in pixels.items()}
        if protocol.min_pixels is not None and min(counts.values()) < protocol.min_pixels:
            rare[label] = counts
    return rare
