"""What the adapters of official downloads share: label tables, lists of files, and words for what is missing."""

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from data.errors import InputError
from data.labels import LabelSpace
from data.sources import FileEntry, check_name

log = logging.getLogger(__name__)


def read_entries(name: str) -> dict[str, Any]:
    """NAME.yaml beside this file."""
    entries = yaml.safe_load(Path(__file__).with_name(f"{name}.yaml").read_text())
    assert isinstance(entries, dict)
    return entries


def read_table(name: str) -> LabelSpace:
    """The label space of NAME.yaml beside this file."""
    return LabelSpace.from_dict(read_entries(name), origin=f"{name}.yaml")


def find_root(source: Path, places: Sequence[str], marker: str, *, expected: str) -> Path:
    """The first of `places` below `source` that holds `marker`, so that a download may be named by any of its upper folders."""
    if not source.is_dir():
        raise InputError(f"source={source}: no such folder, expected {expected}; check the path")
    for place in places:
        if (source / place / marker).exists():
            return source / place
    raise InputError(f"source={source}: no {marker} found, expected {expected}; unpack the archives there or mend source=")


def list_files(folder: Path, ending: str) -> dict[str, Path]:
    """Sample key -> file, sorted, of the files of `folder` whose names end in `ending`; other files lie there in many copies.

    The key is the name without the ending. Raises InputError where two files have one key.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder, expected files ending in {ending}; unpack the archive there or mend source=")
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if not path.name.lower().endswith(ending.lower()) or path.name.startswith(".") or not path.is_file():
            continue
        check_name(path)
        key = path.name[: -len(ending)].replace(".", "_")  # webdataset ends the key at the first dot
        if key in files:
            raise InputError(f"{path}: same key {key} as {files[key].name}, expected names that differ before {ending}; rename one")
        files[key] = path
    return files


def pair(images: dict[str, Path], label_of: Callable[[str], Path | None]) -> list[FileEntry]:
    """One entry for each image, by key, with the label that `label_of` its key; None: the split has no labels.

    Raises InputError where a label file is missing.
    """
    entries = []
    for key, image in sorted(images.items()):
        label = label_of(key)
        if label is not None and not label.is_file():
            raise InputError(f"{image}: no label found, expected {label}; unpack the labels there or remove the image")
        entries.append(FileEntry(key=key, image=image, label=label))
    return entries


def no_label(key: str) -> None:
    """The `label_of` of `pair` for a split without labels."""


def check_splits(splits: dict[str, list[FileEntry]], official: dict[str, int], *, name: str, expected: str, root: Path) -> None:
    """Raise InputError where nothing was found, and warn where a split has not the number of images of the official release."""
    if not splits:
        raise InputError(f"{root}: no split found, expected {expected}; unpack the archives there or mend source=")
    for split, entries in splits.items():
        if not entries:
            raise InputError(f"{root}: no image of split {split} found, expected {expected}; unpack the images there or remove the folder")
        if len(entries) != official.get(split, len(entries)):
            log.warning("%s %s: %d images found, expected the %d of the official release", name, split, len(entries), official[split])


def read_deep_png(path: Path) -> np.ndarray:
    """A PNG as it is stored: (H, W) or (H, W, C) of 8 or 16 bits, channels in the order B, G, R, A. Pillow has no 16-bit colour."""
    content = np.fromfile(path, np.uint8)
    image = cv2.imdecode(content, cv2.IMREAD_UNCHANGED) if len(content) else None
    if image is None:
        raise InputError(f"{path}: the image does not decode; restore the file, or remove it with its image")
    return image


def load_mat(path: Path, variables: Iterable[str]) -> dict[str, Any]:
    """The variables of a MATLAB file, arrays squeezed, structs as objects."""
    from scipy import io as scipy_io  # of use for few datasets, and slow to import

    names = list(variables)
    try:
        content = scipy_io.loadmat(path, squeeze_me=True, struct_as_record=False, variable_names=names)
        return {name: content[name] for name in names}
    except (OSError, ValueError, TypeError, KeyError, NotImplementedError) as error:
        raise InputError(f"{path}: {type(error).__name__} {error}; expected the variables {', '.join(names)}; restore the file") from None
