"""GTA5, "Playing for Data" (download.visinf.tu-darmstadt.de/data/from_games): rendered streets with the ids of Cityscapes.

images/00001.png .. 24966.png
labels/00001.png .. 24966.png     palette PNG whose index is the id
split.mat                         the official lists of train, val and test; read only with splits: official

A few images have a label of another size: the label is then brought to the size of its image, each pixel from the label's pixel at
the same relative place.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from data.adapters.common import check_splits, find_root, list_files, load_mat, pair, read_table
from data.errors import InputError
from data.images import read_label_image
from data.labels import LabelSpace
from data.sources import FileEntry, FileSource
from data.transforms import nearest_pixels

LICENCE_PLATE = 34
MAX_STRETCH = 1.05
"""So much may width over height of a label differ from that of its image; more, and it is the label of another one."""
OFFICIAL = {
    "all": {"train": 24966},
    "official": {"train": 12403, "val": 6382, "test": 6181},
}


@dataclass(frozen=True, kw_only=True)
class Gta5Config:
    """GTA5. The papers train on all of it, which is one split, train."""

    name: Literal["gta5"]
    splits: Literal["all", "official"] = "all"
    """all: every image is in train; official: train, val and test as split.mat lists them."""


class Gta5Source(FileSource):
    """GTA5 as described at the top of this file."""

    def __init__(self, root: Path, config: Gta5Config) -> None:
        self.expected = "images/00001.png and so on, and labels alike"
        self.root = find_root(root, [""], "images", expected=self.expected)
        self.splits = config.splits
        self.label_space = gta5_space()

    def entries(self) -> dict[str, list[FileEntry]]:
        images = list_files(self.root / "images", ".png")
        entries = pair(images, lambda key: self.root / "labels" / images[key].name)
        splits = {"train": entries} if self.splits == "all" else self._official(entries)
        check_splits(splits, OFFICIAL[self.splits], name="gta5", expected=self.expected, root=self.root)
        return splits

    def read_label(self, path: Path, *, height: int, width: int) -> np.ndarray:
        label = read_label_image(path)
        if label.shape != (height, width):
            stretch = label.shape[1] * height / (label.shape[0] * width)
            if not 1 / MAX_STRETCH <= stretch <= MAX_STRETCH:
                raise InputError(
                    f"{path}: size {label.shape[1]}x{label.shape[0]} found, expected the shape of its image, {width}x{height}; "
                    "restore the file, or remove it with its image"
                )
            self.warnings["whose label was brought to the size of its image"] += 1
        return resize_label(label, height=height, width=width)

    def _official(self, entries: list[FileEntry]) -> dict[str, list[FileEntry]]:
        path = self.root / "split.mat"
        if not path.is_file():
            raise InputError(f"{path}: no such file, expected the official splits; put it there or leave dataset.splits=all")
        numbers = load_mat(path, ["trainIds", "valIds", "testIds"])
        wanted = {split: {f"{int(number):05d}" for number in np.ravel(numbers[f"{split}Ids"])} for split in ("train", "val", "test")}
        return {split: [entry for entry in entries if entry.key in keys] for split, keys in wanted.items()}


def gta5_space() -> LabelSpace:
    """The labels of Cityscapes; the licence plate has an id of its own here, and is ignored."""
    space = read_table("cityscapes")
    views = tuple(view for view in space.views if view.name == "19")
    return replace(space, name="gta5", ignore_ids=(*space.ignore_ids, LICENCE_PLATE), views=views)


def resize_label(label: np.ndarray, *, height: int, width: int) -> np.ndarray:
    """(h, w) ids to (height, width): each pixel is the one that its centre falls on. The array itself where it fits already."""
    if label.shape == (height, width):
        return label
    return label[np.ix_(nearest_pixels(label.shape[0], height), nearest_pixels(label.shape[1], width))]
