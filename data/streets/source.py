"""The drawn streets as datasets for `taxomix prepare`: every label space has pictures of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from data.errors import InputError
from data.images import encode_jpeg
from data.labels import LabelSpace
from data.shards import NO_BOXES, Sample
from data.streets.labels import label_space, native_ids, street_space
from data.streets.scene import render

DRAWING_VERSION = 1
"""Raised whenever the same seed gives other pictures, so that prepared shards are known to be old."""


@dataclass(frozen=True, kw_only=True)
class StreetsConfig:
    """The embedded streets: streets_coarse, streets_fine, streets_extended and streets_rendered (pixels), streets_signs (boxes)."""

    name: Literal["streets"]
    size: tuple[int, int] = (192, 384)
    """Height and width of the pictures, in pixels."""
    train: int = 240
    """Pictures in each dataset's train split."""
    val: int = 40
    test: int = 0
    """Pictures of a third split, for what was chosen by val; 0: there is none."""
    seed: int = 0
    spaces: tuple[str, ...] = ("streets_coarse", "streets_fine", "streets_signs")
    """The label spaces to draw, each with pictures of its own."""

    def __post_init__(self) -> None:
        if min(self.size) < 64:
            raise InputError(f"dataset.size: {list(self.size)} found, expected [height, width] of at least 64 pixels; raise it")
        if self.train < 1 or self.val < 1:
            raise InputError(f"dataset.train, dataset.val: {self.train} and {self.val} found, expected at least 1 picture each; raise them")
        if self.test < 0:
            raise InputError(f"dataset.test: {self.test} found, expected 0 or more; raise it")
        for name in self.spaces:
            street_space(name)  # tells of one that is none

    @property
    def names(self) -> tuple[str, ...]:
        return self.spaces


@dataclass(frozen=True)
class StreetEntry:
    """The picture number `index` of a split; `split` also names the dataset, so that no two datasets share a picture."""

    split: str
    index: int


class StreetsSource:
    """One of the drawn datasets."""

    def __init__(self, name: str, config: StreetsConfig) -> None:
        self.name, self.config = name, config

    @property
    def label_space(self) -> LabelSpace:
        return label_space(self.name)

    def entries(self) -> dict[str, Sequence[StreetEntry]]:
        counts = {"train": self.config.train, "val": self.config.val, "test": self.config.test}
        return {split: [StreetEntry(split, index) for index in range(count)] for split, count in counts.items() if count}

    def fingerprint(self, entry: StreetEntry) -> str:
        config = self.config  # whatever other spaces are drawn, and however many pictures
        return f"{DRAWING_VERSION} {self.name} {entry} {config.size} {config.seed}"

    def load(self, entry: StreetEntry, *, jpeg_quality: int) -> Sample:
        look = street_space(self.name).look
        scene = render(self.config.seed, entry.index, f"{self.name}/{entry.split}", size=self.config.size, look=look)
        has_pixels = self.label_space.supervision == "pixels"
        return Sample(
            key=f"{entry.index:06d}",
            jpeg=encode_jpeg(scene.image, quality=jpeg_quality),
            height=self.config.size[0],
            width=self.config.size[1],
            label=native_ids(self.name)[scene.atoms] if has_pixels else None,
            boxes=NO_BOXES if has_pixels else self._boxes(scene.boxes),
            source=f"streets {self.config.seed}/{self.name}/{entry.split}/{entry.index}",
        )

    def _boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes of atoms (N, 5) to boxes of native ids."""
        boxes = np.asarray(boxes, np.int32).reshape(-1, 5).copy()
        boxes[:, 4] = native_ids(self.name)[boxes[:, 4]]
        return boxes
