"""Label spaces: the native labels of a dataset, and the views that a job trains or evaluates on.

Shards hold native ids. A view is a 256-entry table from native ids to class indices that is applied on the
device, so that one set of shards serves every experiment.
"""

import colorsys
import difflib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import cv2
import numpy as np
import yaml

from data.errors import InputError

IGNORE_INDEX = 255
"""Class index of pixels that take part in no loss and no metric."""

ALL_CLASSES = "all"
"""Name of the view that every label space has: each label that is no ignored id is a class, in the order of the ids."""

KEYS = ("name", "classes", "ignore_ids", "supervision", "task", "views", "default_view")
CATEGORIES = "categories"
"""Name of the view that the categories of classes make."""
CLASS_KEYS = ("id", "name", "color", "category")
VIEW_CLASS_KEYS = ("name", "ids", "color")
"""What is read of a meta.yaml. Whatever else it says is for people, unless it looks like one of these mistyped."""

MAX_META_BYTES = 2**20

Supervision = Literal["pixels", "boxes", "none"]


@dataclass(frozen=True, kw_only=True)
class Label:
    """One native label: `id` as stored in label images (0..255), `name`, RGB `color`."""

    id: int
    name: str
    color: tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class ViewClass:
    """One class of a view: pixels of any of the native `ids` are of it, and it is written as the first of them."""

    name: str
    color: tuple[int, int, int]
    ids: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class ViewSpec:
    """A named choice of classes of a label space, such as the 19 of Cityscapes; class index i is `classes[i]`."""

    name: str
    classes: tuple[ViewClass, ...]


@dataclass(frozen=True, kw_only=True)
class View:
    """What a job sees of a label space: class index i has `names[i]` and `colors[i]`; `name` is the name of the view.

    `table` is (256,) uint8: native id -> class index, IGNORE_INDEX where the view has no class. `native_ids[i]` is the
    native id that class i is written as. `supervision` is the label space's: labels may be exact or whole boxes.
    """

    name: str
    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    native_ids: tuple[int, ...]
    table: np.ndarray
    supervision: Supervision = "pixels"

    def count(self, by_id: np.ndarray) -> np.ndarray:
        """Pixels by native id (256,) to pixels by class (num_classes,) int64."""
        return np.bincount(self.table, weights=by_id, minlength=256)[: self.num_classes].astype(np.int64)

    @property
    def num_classes(self) -> int:
        return len(self.names)

    def without(self, names: Collection[str]) -> "View":
        """The same class indices, but pixels of these classes are ignored."""
        gone = [number for number, name in enumerate(self.names) if name in names]
        return replace(self, table=np.where(np.isin(self.table, gone), IGNORE_INDEX, self.table).astype(np.uint8))

    @cached_property
    def palette(self) -> np.ndarray:
        """(256, 3) uint8 colours of class indices; black for IGNORE_INDEX."""
        palette = np.zeros((256, 3), np.uint8)
        palette[: self.num_classes] = self.colors
        return palette


@dataclass(frozen=True, kw_only=True)
class LabelSpace:
    """The native labels of one dataset.

    Raises InputError for ids outside 0..255, ids or names given twice, a space without a class, and a view that is empty
    or gives a class an id that is unknown, ignored or of another of its classes. So no view has more than 255 classes.
    """

    name: str
    labels: tuple[Label, ...]
    ignore_ids: tuple[int, ...] = ()
    """Native ids that may occur in label images and are never a class."""
    supervision: Supervision = "pixels"
    views: tuple[ViewSpec, ...] = ()
    """Choices of classes besides `ALL_CLASSES`."""
    default_view: str | None = None
    """What `view()` gives; None: all classes."""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not re.fullmatch(r"[\w-][\w.-]*", self.name):
            raise InputError(f"name: {_shown(self.name)} found, expected letters, digits, '.', '_' and '-': it names a folder; mend it")
        for what, values in (("id", [str(label.id) for label in self.labels]), ("name", [label.name for label in self.labels])):
            twice = sorted({value for value in values if values.count(value) > 1})
            if twice:
                raise InputError(f"label space {self.name}: {what} {twice[0]} is given to several classes; give each its own")
        wrong = [i for i in (*self.ids, *self.ignore_ids) if not 0 <= i <= 255]
        if wrong:
            raise InputError(f"label space {self.name}: id {wrong[0]} found, expected 0..255; label images are 8-bit")
        if self.supervision not in get_args(Supervision):
            raise InputError(
                f"label space {self.name}: supervision {_shown(self.supervision)} found, expected one of {', '.join(get_args(Supervision))}"
            )
        if not 1 <= len(self.classes) <= 255:
            raise InputError(
                f"label space {self.name}: {len(self.classes)} classes besides the ignored ids found, expected 1..255; mend the list"
            )
        self._check_views()

    def _check_views(self) -> None:
        names = [view.name for view in self.views]
        for view in self.views:
            if not re.fullmatch(r"[\w.-]+", view.name) or view.name == ALL_CLASSES or names.count(view.name) > 1:
                raise InputError(
                    f"label space {self.name}: view {view.name!r} found, expected a name of its own of letters, digits, '.', '_' and '-', "
                    f"other than {ALL_CLASSES!r}; rename it"
                )
            _check_view(view, {label.id for label in self.classes}, f"label space {self.name}, view {view.name}")
        if self.default_view is not None and self.default_view not in self.view_names:
            raise InputError(
                f"label space {self.name}: default_view {self.default_view!r} found, expected one of {', '.join(self.view_names)}"
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

    @property
    def view_names(self) -> tuple[str, ...]:
        """The names that `view` takes."""
        return ALL_CLASSES, *(view.name for view in self.views)

    def view(self, name: str | None = None) -> View:
        """The view of that name; without a name the default view, and where there is none all classes.

        Raises InputError for a name that the label space has no view of.
        """
        name = name if name is not None else self.default_view if self.default_view is not None else ALL_CLASSES
        if name not in self.view_names:
            raise InputError(f"view {name!r} of label space {self.name}: no such view, expected one of {', '.join(self.view_names)}")
        classes = _as_classes(self.classes) if name == ALL_CLASSES else next(view.classes for view in self.views if view.name == name)
        table = np.full(256, IGNORE_INDEX, np.uint8)
        for index, c in enumerate(classes):
            table[list(c.ids)] = index
        return View(
            name=name,
            names=tuple(c.name for c in classes),
            colors=tuple(c.color for c in classes),
            native_ids=tuple(c.ids[0] for c in classes),
            table=table,
            supervision=self.supervision,
        )

    @cached_property
    def palette(self) -> np.ndarray:
        """(256, 3) uint8 colours of native ids."""
        palette = np.zeros((256, 3), np.uint8)
        for label in self.labels:
            palette[label.id] = label.color
        return palette

    def to_dict(self) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "name": self.name,
            "supervision": self.supervision,
            "ignore_ids": list(self.ignore_ids),
            "classes": [{"id": label.id, "name": label.name, "color": list(label.color)} for label in self.labels],
        }
        if self.views:
            entry["views"] = {
                view.name: [{"name": c.name, "color": list(c.color), "ids": list(c.ids)} for c in view.classes] for view in self.views
            }
        if self.default_view is not None:
            entry["default_view"] = self.default_view
        return entry

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any], *, origin: str) -> "LabelSpace":
        """Read what `to_dict` wrote, or a dataset's meta.yaml; `origin` is the file that errors name.

        `color` may be absent: a label then gets a colour of its own, a class of a view that of its first id. A view may name
        native ids in place of classes: each is then a class as it is. Where classes have a `category`, these are a view, too.
        """
        try:
            _check_keys(entry, KEYS)
            for c in entry["classes"]:
                _check_keys(c, CLASS_KEYS)
            labels = tuple(
                Label(id=_whole(c["id"]), name=_text(c["name"]), color=_color(c.get("color"), position))
                for position, c in enumerate(entry["classes"])
            )
            default_view = entry.get("default_view")
            ignore_ids = tuple(_whole(i) for i in _given(entry, "ignore_ids", ()))
            views = {**_categories(entry["classes"], ignore_ids), **_given(entry, "views", {})}
            return cls(
                name=entry["name"],
                labels=labels,
                ignore_ids=ignore_ids,
                supervision=_given(entry, "supervision", _task(entry)),
                views=tuple(_view_spec(_text(name), classes, labels) for name, classes in views.items()),
                default_view=None if default_view is None else _text(default_view),
            )
        except InputError as error:
            raise InputError(f"{origin}: {error}") from None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"{origin}: {type(error).__name__} {error}; expected `name`, `classes` (a list of {{id, name, color?, category?}}), "
                "`ignore_ids` and `views` (name: a list of ids or of {name, ids, color?})"
            ) from error


def _check_view(view: ViewSpec, class_ids: set[int], what: str) -> None:
    if not view.classes:
        raise InputError(f"{what}: no class found, expected at least one; add classes or remove the view")
    names, seen = [c.name for c in view.classes], set[int]()
    for c in view.classes:
        if names.count(c.name) > 1:
            raise InputError(f"{what}: name {c.name} is given to several classes; give each its own")
        if not c.ids:
            raise InputError(f"{what}: class {c.name} without ids found, expected at least one native id; add it or remove the class")
        for i in c.ids:
            if i not in class_ids:
                raise InputError(f"{what}: id {i} of class {c.name} found, expected the id of a class that is not ignored; mend the view")
            if i in seen:
                raise InputError(f"{what}: id {i} is given to several classes, or twice; a pixel is of one class")
            seen.add(i)


def _as_classes(labels: Sequence[Label]) -> tuple[ViewClass, ...]:
    return tuple(ViewClass(name=label.name, color=label.color, ids=(label.id,)) for label in labels)


def _categories(classes: Sequence[Mapping[str, Any]], ignore_ids: Sequence[int]) -> dict[str, Any]:
    """The view of the classes' categories, in the order in which they come; classes without one are ignored in it."""
    ids: dict[str, list[int]] = {}
    for c in classes:
        if c.get("category") is not None and c["id"] not in ignore_ids:
            ids.setdefault(_text(c["category"]), []).append(_whole(c["id"]))
    return {CATEGORIES: [{"name": name, "ids": members} for name, members in ids.items()]} if ids else {}


def _view_spec(name: str, entries: Any, labels: Sequence[Label]) -> ViewSpec:
    """A view as it is written in a file: a list of native ids, of {name, ids, color?}, or of both."""
    if not isinstance(entries, list):
        raise ValueError(f"view {name}: {_shown(entries)} is not a list")
    known = {label.id: label for label in labels}

    def view_class(entry: Any) -> ViewClass:
        _check_keys(entry, VIEW_CLASS_KEYS)
        ids = tuple(_whole(i) for i in (entry["ids"] if isinstance(entry, Mapping) else [entry]))
        first = known.get(ids[0]) if ids else None
        if first is None:  # told by the checks of the label space, which name the id
            return ViewClass(name=_text(entry["name"]) if isinstance(entry, Mapping) else str(ids[0]), color=(0, 0, 0), ids=ids)
        if not isinstance(entry, Mapping):
            return ViewClass(name=first.name, color=first.color, ids=ids)
        color = first.color if entry.get("color") is None else _color(entry["color"], 0)
        return ViewClass(name=_text(entry["name"]), color=color, ids=ids)

    return ViewSpec(name=name, classes=tuple(view_class(entry) for entry in entries))


def count_ids(label: np.ndarray) -> np.ndarray:
    """(256,) int64 pixels of each id in a label image (H, W) uint8."""
    if label.size >= 2**24:  # OpenCV counts in float32, which is exact up to there
        return np.bincount(label.ravel(), minlength=256)
    return cv2.calcHist([np.ascontiguousarray(label)], [0], None, [256], [0, 256]).ravel().astype(np.int64)


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise ValueError(f"id {_shown(value)} is not a whole number")
    return value


def _text(value: Any) -> str:
    """A name, which YAML may have taken for a number."""
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise ValueError(f"name {_shown(value)} is no text")
    return str(value)


def _shown(value: Any) -> str:
    """`value` for an error, in short: what lists of lists hold may be far longer than the file that they come from."""
    if value is None or isinstance(value, str | bytes | bool | int | float):
        text = repr(value[:100] if isinstance(value, str | bytes) else value)
        return text[:120]
    return f"a {type(value).__name__}"


def _given(entry: Mapping[str, Any], key: str, default: Any) -> Any:
    value = entry.get(key)
    return default if value is None else value


def _task(entry: Mapping[str, Any]) -> str:
    task = entry.get("task")
    if task not in (None, "pixels", "boxes"):
        raise InputError(f"task: {_shown(task)} found, expected boxes or pixels; mend it")
    return task or "pixels"


def _check_keys(entry: Any, known: Sequence[str]) -> None:
    """Raise InputError for a key that is none of `known` and looks like one of them; without it a typo would be a silent default."""
    for key in entry if isinstance(entry, Mapping) else ():
        close = difflib.get_close_matches(str(key)[:50].lower().replace("-", "_"), known, n=1, cutoff=0.8) if key not in known else []
        if close:
            raise InputError(f"{_shown(key)}: unknown key found, expected {close[0]}; rename it")


class _MetaLoader(yaml.SafeLoader):
    """Without merge keys: a few lines of them can stand for more entries than memory holds."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, "merge keys (<<) are not read", key.start_mark)


def read_space(path: Path) -> LabelSpace:
    """The label space of a meta.yaml that anyone may have written. Raises InputError."""
    with path.open("rb") as file:
        content = file.read(MAX_META_BYTES + 1)
    if len(content) > MAX_META_BYTES:
        raise InputError(f"{path}: more than {MAX_META_BYTES} bytes found, expected a list of classes; check the path")
    try:
        entry = yaml.load(content.decode(), _MetaLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not YAML ({' '.join(str(error).split())}); mend the file") from None
    return LabelSpace.from_dict(entry if isinstance(entry, dict) else {}, origin=str(path))


def _color(value: Any, position: int) -> tuple[int, int, int]:
    if value is None:
        # The golden-ratio step keeps neighbours in the list apart in hue.
        hue = (position * 0.61803398875) % 1.0
        red, green, blue = colorsys.hsv_to_rgb(hue, 0.55 + 0.4 * (position % 2), 0.95 - 0.35 * (position % 3) / 2)
        return round(255 * red), round(255 * green), round(255 * blue)
    red, green, blue = (int(channel) for channel in value)
    if not all(0 <= channel <= 255 for channel in (red, green, blue)):
        raise ValueError(f"color {red},{green},{blue} is not three numbers in 0..255")
    return red, green, blue
