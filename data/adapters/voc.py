"""PASCAL VOC 2012 segmentation (host.robots.ox.ac.uk), and the further labels of SBD (Semantic Boundaries Dataset).

VOCdevkit/VOC2012/JPEGImages/NAME.jpg
VOCdevkit/VOC2012/SegmentationClass/NAME.png           palette PNG: the index is the id, 255 borders and the difficult
VOCdevkit/VOC2012/ImageSets/Segmentation/SPLIT.txt     names of train and val
sbd: a folder with SegmentationClassAug/NAME.png (8-bit ids; may be VOC2012 itself), or that folder; or SBD as it is downloaded,
with dataset/cls/NAME.mat

trainaug is VOC's train and all of SBD but VOC's val, 10582 names; where both have a label, VOC's with its borders is taken.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from data.adapters.common import check_splits, find_root, list_files, load_mat, pair, read_table
from data.errors import InputError
from data.images import read_label_image
from data.sources import FileEntry, FileSource

OFFICIAL = {"train": 1464, "val": 1449, "trainaug": 10582}


@dataclass(frozen=True, kw_only=True)
class VocConfig:
    """PASCAL VOC 2012: splits train and val, and trainaug where `sbd` is given."""

    name: Literal["voc"]
    sbd: Path | None = None
    """Folder of SBD in either of its forms."""


class VocSource(FileSource):
    """VOC as described at the top of this file."""

    def __init__(self, root: Path, config: VocConfig) -> None:
        self.expected = "the folder VOCdevkit/VOC2012 with JPEGImages, SegmentationClass and ImageSets/Segmentation"
        self.root = find_root(root, ["", "VOC2012", "VOCdevkit/VOC2012"], "ImageSets/Segmentation", expected=self.expected)
        self.sbd = config.sbd.absolute() if config.sbd else None
        self.label_space = read_table("voc")

    def entries(self) -> dict[str, list[FileEntry]]:
        images = list_files(self.root / "JPEGImages", ".jpg")
        labels = {split: self._voc_labels(split) for split in ("train", "val")}
        if self.sbd is not None:
            further = {name: path for name, path in find_sbd(self.sbd).items() if name not in labels["val"]}
            labels["trainaug"] = further | labels["train"]
        splits = {split: self._entries_of(split, images, paths) for split, paths in labels.items()}
        check_splits(splits, OFFICIAL, name="voc", expected=self.expected, root=self.root)
        return splits

    def read_label(self, path: Path, *, height: int, width: int) -> np.ndarray:
        return read_sbd_label(path) if path.suffix == ".mat" else read_label_image(path)

    def _voc_labels(self, split: str) -> dict[str, Path]:
        path = self.root / "ImageSets" / "Segmentation" / f"{split}.txt"
        if not path.is_file():
            raise InputError(f"{path}: no such file, expected the names of split {split}; unpack the archive again")
        return {name: self.root / "SegmentationClass" / f"{name}.png" for name in path.read_text().split()}

    def _entries_of(self, split: str, images: dict[str, Path], labels: dict[str, Path]) -> list[FileEntry]:
        missing = sorted(labels.keys() - images.keys())
        if missing:
            path = self.root / "JPEGImages" / f"{missing[0]}.jpg"
            raise InputError(f"{path}: not found, as one of {len(missing)} images of split {split}; unpack the images again")
        return pair({name: images[name] for name in labels}, labels.get)


def find_sbd(folder: Path) -> dict[str, Path]:
    """Name -> label file of all of SBD, train and val."""
    for place in ("SegmentationClassAug", "."):
        if (folder / place).is_dir() and (files := list_files(folder / place, ".png")):
            return files
    for place in ("dataset/cls", "benchmark_RELEASE/dataset/cls", "cls", "."):
        if (folder / place).is_dir() and (files := list_files(folder / place, ".mat")):
            return files
    raise InputError(f"dataset.sbd={folder}: no label found, expected SegmentationClassAug/*.png or dataset/cls/*.mat; check the path")


def read_sbd_label(path: Path) -> np.ndarray:
    """(H, W) uint8 ids of one file of SBD's dataset/cls."""
    label = getattr(load_mat(path, ["GTcls"])["GTcls"], "Segmentation", None)
    if not isinstance(label, np.ndarray) or label.ndim != 2 or label.dtype != np.uint8:
        raise InputError(f"{path}: no 8-bit image GTcls.Segmentation found, expected that of SBD's dataset/cls; restore the file")
    return label
