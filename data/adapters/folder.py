"""Folders of one's own.

meta.yaml            name, classes (id, name, color?, category?), ignore_ids?, task: boxes? or supervision: pixels|boxes|none,
                     views? (name: a list of ids, or of {name, ids, color?}), default_view?
images/SPLIT/        JPEG or PNG
labels/SPLIT/        8-bit PNG of native ids, the image's name with .png (pixel labels)
boxes_SPLIT.csv      image,x1,y1,x2,y2,class_id: pixels, inclusive (boxes); an image without a row has no object
"""

import csv
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data.errors import InputError
from data.labels import read_space
from data.order import digest
from data.sources import IMAGE_SUFFIXES, FileEntry, FileSource, check_name, is_image


@dataclass(frozen=True, kw_only=True)
class FolderConfig:
    """A folder of one's own; the head of data/adapters/folder.py describes its layout."""

    name: Literal["folder"]
    val_share: float | None = None
    """Share of the images of train that become val, where the folder has no images/val; drawn by their names, the same each time."""

    def __post_init__(self) -> None:
        if self.val_share is not None and not 0 < self.val_share < 1:
            raise InputError(f"dataset.val_share: {self.val_share:g} found, expected a share between 0 and 1; mend it")


class FolderSource(FileSource):
    """The folder `root`, read as described at the top of this file."""

    def __init__(self, root: Path, config: FolderConfig) -> None:
        self.root = root
        if not root.is_dir():
            raise InputError(f"source={root}: no such folder, expected one with meta.yaml and images/SPLIT/; check the path")
        for name in ("meta.yaml", "images"):
            if not (root / name).exists():
                raise InputError(f"{root / name}: not found, expected a folder with meta.yaml and images/SPLIT/; add it or check source=")
        self.label_space = read_space(root / "meta.yaml")
        self.val_share = config.val_share

    def entries(self) -> dict[str, Sequence[FileEntry]]:
        for path in (self.root / "images").iterdir():
            if is_image(path):
                raise InputError(f"{path}: an image beside the splits found, expected it in a folder such as images/train; move it")
        splits = sorted(path.name for path in (self.root / "images").iterdir() if path.is_dir() and not path.name.startswith("."))
        if not splits:
            raise InputError(
                f"{self.root / 'images'}: no folder found, expected one folder per split such as images/train; move the images"
            )
        found: dict[str, Sequence[FileEntry]] = {split: self._entries_of(split) for split in splits}
        return found if self.val_share is None else self._with_val(found, self.val_share)

    def _with_val(self, found: dict[str, Sequence[FileEntry]], share: float) -> dict[str, Sequence[FileEntry]]:
        number = round(share * len(found.get("train", ())))
        if "val" in found or not 0 < number < len(found.get("train", ())):
            raise InputError(
                f"dataset.val_share: {self.root / 'images'} with {', '.join(found)} found, expected train without val, and enough images "
                "for both; remove dataset.val_share"
            )
        chosen = {entry.key for entry in sorted(found["train"], key=lambda entry: digest(f"val/{entry.key}"))[:number]}
        train = [entry for entry in found["train"] if entry.key not in chosen]
        return {**found, "train": train, "val": [entry for entry in found["train"] if entry.key in chosen]}

    def _entries_of(self, split: str) -> list[FileEntry]:
        images = self._images_of(split)
        if self.label_space.supervision == "none":
            return [FileEntry(key=key, image=image, label=None) for key, image in images.items()]
        if self.label_space.supervision == "boxes":
            boxes = self._boxes_of(split, {image.name for image in images.values()})
            return [FileEntry(key=key, image=image, label=None, boxes=tuple(boxes[image.name])) for key, image in images.items()]
        return [FileEntry(key=key, image=image, label=self._label_of(image, split)) for key, image in images.items()]

    def _images_of(self, split: str) -> dict[str, Path]:
        folder = self.root / "images" / split
        images: dict[str, Path] = {}
        for path in sorted(folder.iterdir()):
            if path.is_dir() and any(is_image(below) for below in path.rglob("*")):
                raise InputError(f"{path}: a folder of images found, expected the images directly in {folder}; move them up")
            if not is_image(path):
                continue
            check_name(path)
            key = path.stem.replace(".", "_")  # webdataset ends the key at the first dot
            if key in images:
                raise InputError(f"{path}: same key {key} as {images[key].name}, expected names that differ before the suffix; rename one")
            images[key] = path
        if not images:
            raise InputError(
                f"{folder}: no image found, expected files ending in {', '.join(IMAGE_SUFFIXES)}; add images or remove the folder"
            )
        return images

    def _label_of(self, image: Path, split: str) -> Path:
        label = self.root / "labels" / split / f"{image.stem}.png"
        if not label.is_file():
            raise InputError(f"{image}: no label found, expected {label}; add the label or remove the image")
        return label

    def _boxes_of(self, split: str, image_names: set[str]) -> dict[str, list[tuple[int, int, int, int, int]]]:
        path = self.root / f"boxes_{split}.csv"
        if not path.is_file():
            raise InputError(f"{path}: not found, expected the boxes of split {split} (image,x1,y1,x2,y2,class_id); add the file")
        boxes: dict[str, list[tuple[int, int, int, int, int]]] = defaultdict(list)
        with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:  # spreadsheets begin a file with a mark
            for line, row in enumerate(csv.DictReader(file), start=2):
                try:
                    name = Path(row["image"]).name
                    box = (int(row["x1"]), int(row["y1"]), int(row["x2"]), int(row["y2"]), int(row["class_id"]))
                except (KeyError, TypeError, ValueError) as error:
                    raise InputError(
                        f"{path}:{line}: {type(error).__name__} {error}, expected integers in image,x1,y1,x2,y2,class_id; mend the row"
                    ) from None
                if name not in image_names:
                    raise InputError(f"{path}:{line}: image {row['image']} not found in images/{split}; add it or remove the row")
                boxes[name].append(box)
        return boxes
