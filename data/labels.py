"""Label spaces: the native labels of a dataset, and the views that a job trains or evaluates on.

Shards hold native ids. A view is a 256-entry table from native ids to class indices that is applied on the
device, so that one set of shards serves every experiment.
"""

import colorsys
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np

from data.errors import InputError

IGNORE_INDEX = 255
"""Class index of pixels that take part in no loss and no metric."""

Supervision = Literal["pixels", "boxes", "none"]


@dataclass(frozen=True, kw_only=True)
class Label:
    """One native label: `id` as stored in label images (0..255), `name`, RGB `color`."""

    id: int
    name: str
    color: tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class View:
    """What a job sees of a label space: class index i has `names[i]` and `colors[i]`.

    `table` is (256,) uint8: native id -> class index, IGNORE_INDEX where the view has no class. `native_ids[i]` is the
    native id that class i is written as.
    """

    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    native_ids: tuple[int, ...]
    table: np.ndarray

    @property
    def num_classes(self) -> int:
        return len(self.names)

    @cached_property
    def palette(self) -> np.ndarray:
        """(256, 3) uint8 colours of class indices; black for IGNORE_INDEX."""
        palette = np.zeros((256, 3), np.uint8)
        palette[: self.num_classes] = self.colors
        return palette


@dataclass(frozen=True, kw_only=True)
class LabelSpace:
    """The native labels of one dataset.

    Raises InputError for ids outside 0..255, ids or names given twice, and a space without a class.
    """

    name: str
    labels: tuple[Label, ...]
    ignore_ids: tuple[int, ...] = ()
    """Native ids that may occur in label images and are never a class."""
    supervision: Supervision = "pixels"

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not re.fullmatch(r"[\w-][\w.-]*", self.name):
            raise InputError(f"name: {self.name!r} found, expected letters, digits, '.', '_' and '-': it names a folder; mend it")
        for what, values in (("id", [str(label.id) for label in self.labels]), ("name", [label.name for label in self.labels])):
            twice = sorted({value for value in values if values.count(value) > 1})
            if twice:
                raise InputError(f"label space {self.name}: {what} {twice[0]} is given to several classes; give each its own")
        wrong = [i for i in (*self.ids, *self.ignore_ids) if not 0 <= i <= 255]
        if wrong:
            raise InputError(f"label space {self.name}: id {wrong[0]} found, expected 0..255; label images are 8-bit")
        if self.supervision not in get_args(Supervision):
            raise InputError(
                f"label space {self.name}: supervision {self.supervision!r} found, expected one of {', '.join(get_args(Supervision))}"
            )
        if not 1 <= len(self.classes) <= 255:
            raise InputError(
                f"label space {self.name}: {len(self.classes)} classes besides the ignored ids found, expected 1..255; mend the list"
            )

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(label.id for label in self.labels)

    @property
    def classes(self) -> tuple[Label, ...]:
        """The labels that are no ignored id, by id."""
        return tuple(sorted((label for label in self.labels if label.id not in self.ignore_ids), key=lambda label: label.id))

    @cached_property
    def known_ids(self) -> np.ndarray:
        """(256,) bool: which values may occur in a label image."""
        known = np.zeros(256, bool)
        known[[*self.ids, *self.ignore_ids]] = True
        return known

    @cached_property
    def void_id(self) -> int:
        """A native id that is no class, for padding and for pixels without a label: 255 where that is free."""
        classes = {label.id for label in self.classes}
        return max(i for i in range(256) if i not in classes)

    def view(self) -> View:
        """All classes in the order of their ids, the ignored ids left out."""
        classes = self.classes
        table = np.full(256, IGNORE_INDEX, np.uint8)
        table[[label.id for label in classes]] = np.arange(len(classes), dtype=np.uint8)
        return View(
            names=tuple(label.name for label in classes),
            colors=tuple(label.color for label in classes),
            native_ids=tuple(label.id for label in classes),
            table=table,
        )

    @cached_property
    def palette(self) -> np.ndarray:
        """(256, 3) uint8 colours of native ids."""
        palette = np.zeros((256, 3), np.uint8)
        for label in self.labels:
            palette[label.id] = label.color
        return palette

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "supervision": self.supervision,
            "ignore_ids": list(self.ignore_ids),
            "classes": [{"id": label.id, "name": label.name, "color": list(label.color)} for label in self.labels],
        }

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any], *, origin: str) -> "LabelSpace":
        """Read what `to_dict` wrote, or a dataset's meta.yaml; `origin` is the file that errors name.

        `color` may be absent: the label then gets a colour of its own.
        """
        try:
            labels = tuple(
                Label(id=_whole(c["id"]), name=str(c["name"]), color=_color(c.get("color"), position))
                for position, c in enumerate(entry["classes"])
            )
            return cls(
                name=entry["name"],
                labels=labels,
                ignore_ids=tuple(_whole(i) for i in entry.get("ignore_ids") or ()),
                supervision=entry.get("supervision") or ("boxes" if entry.get("task") == "boxes" else "pixels"),
            )
        except InputError as error:
            raise InputError(f"{origin}: {error}") from None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"{origin}: {type(error).__name__} {error}; expected `name`, `classes` (a list of {{id, name, color?}}) and `ignore_ids`"
            ) from error


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise ValueError(f"id {value!r} is not a whole number")
    return value


def _color(value: Any, position: int) -> tuple[int, int, int]:
    if value is None:
        # The golden-ratio step keeps neighbours in the list apart in hue.
        hue = (position * 0.61803398875) % 1.0
        red, green, blue = colorsys.hsv_to_rgb(hue, 0.55 + 0.4 * (position % 2), 0.95 - 0.35 * (position % 3) / 2)
        return round(255 * red), round(255 * green), round(255 * blue)
    red, green, blue = (int(channel) for channel in value)
    if not all(0 <= channel <= 255 for channel in (red, green, blue)):
        raise ValueError(f"color {value} is not three numbers in 0..255")
    return red, green, blue
