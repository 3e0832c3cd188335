"""SYNTHIA-RAND-CITYSCAPES (synthia-dataset.net): rendered streets with 22 classes.

RAND_CITYSCAPES/RGB/NAME.png
RAND_CITYSCAPES/GT/LABELS/NAME.png     16 bits, two or three channels: the first (red) is the class, the second an object's number
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from data.adapters.common import check_splits, find_root, list_files, pair, read_deep_png, read_table
from data.errors import InputError
from data.sources import FileEntry, FileSource

MAX_ID = 22
RED = 2
"""Place of the first channel in what OpenCV reads: it gives B, G, R, and two channels as B = G = R and alpha."""


@dataclass(frozen=True, kw_only=True)
class SynthiaConfig:
    """SYNTHIA-RAND-CITYSCAPES; all of it is one split, train."""

    name: Literal["synthia"]


class SynthiaSource(FileSource):
    """SYNTHIA-RAND-CITYSCAPES as described at the top of this file."""

    def __init__(self, root: Path, config: SynthiaConfig) -> None:
        self.expected = "RAND_CITYSCAPES with RGB and GT/LABELS"
        self.root = find_root(root, ["", "RAND_CITYSCAPES"], "RGB", expected=self.expected)
        self.label_space = read_table("synthia")

    def entries(self) -> dict[str, list[FileEntry]]:
        images = list_files(self.root / "RGB", ".png")
        splits = {"train": pair(images, lambda key: self.root / "GT" / "LABELS" / images[key].name)}
        check_splits(splits, {"train": 9400}, name="synthia", expected=self.expected, root=self.root)
        return splits

    def read_label(self, path: Path, *, height: int, width: int) -> np.ndarray:
        return read_synthia_label(path)


def read_synthia_label(path: Path) -> np.ndarray:
    """(H, W) uint8 native ids. Raises InputError for anything but the original: a map to other ids would pass for these."""
    image = read_deep_png(path)
    if image.ndim != 3 or image.dtype != np.uint16:
        what = f"{image.shape[2] if image.ndim == 3 else 1} channels of {8 * image.itemsize} bits"
        raise InputError(f"{path}: {what} found, expected 2 or 3 of 16 bits as in the original GT/LABELS; take the original file")
    ids = image[..., RED]
    if ids.max() > MAX_ID:
        raise InputError(f"{path}: class {ids.max()} found, expected 0..{MAX_ID} in the first channel; take the original file")
    return ids.astype(np.uint8)
