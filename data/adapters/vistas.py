"""Mapillary Vistas (mapillary.com/dataset/vistas), the 66 labels of releases 1.1 and 1.2.

training/images/NAME.jpg         and validation, and testing, which has no labels
training/labels/NAME.png         palette PNG whose index is the id; in release 2.0 these labels are in training/v1.2/labels
config.json                      the labels in the order of their ids; in release 2.0 config_v1.2.json
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data.adapters.common import check_splits, list_files, no_label, pair, read_entries, read_table
from data.errors import InputError
from data.sources import FileEntry, FileSource

FOLDERS = {"train": "training", "val": "validation", "test": "testing"}
OFFICIAL = {"train": 18000, "val": 2000, "test": 5000}


@dataclass(frozen=True, kw_only=True)
class VistasConfig:
    """Mapillary Vistas: splits train and val, and test without labels."""

    name: Literal["vistas"]


class VistasSource(FileSource):
    """Vistas as described at the top of this file; all splits that are there."""

    def __init__(self, root: Path, config: VistasConfig) -> None:
        self.expected = "training, validation or testing, each with images and labels"
        if not root.is_dir():
            raise InputError(f"source={root}: no such folder, expected {self.expected}; check the path")
        self.root = root
        self.label_space = read_table("vistas")

    def entries(self) -> dict[str, list[FileEntry]]:
        for name in ("config_v1.2.json", "config.json"):
            if (self.root / name).is_file():
                check_config(self.root / name)
                break
        splits = {split: self._entries_of(split) for split, folder in FOLDERS.items() if (self.root / folder / "images").is_dir()}
        check_splits(splits, OFFICIAL, name="vistas", expected=self.expected, root=self.root)
        return splits

    def _entries_of(self, split: str) -> list[FileEntry]:
        folder = self.root / FOLDERS[split]
        images = list_files(folder / "images", ".jpg")
        if split == "test":
            return pair(images, no_label)
        labels = folder / "v1.2" / "labels" if (folder / "v1.2").is_dir() else folder / "labels"
        return pair(images, lambda key: labels / f"{images[key].stem}.png")


def check_config(path: Path) -> None:
    """Raise InputError where the config of the release has not our 66 labels in our order: its ids would mean something else."""
    try:
        found = [(str(label["name"]), str(label["readable"])) for label in json.loads(path.read_text())["labels"]]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: {type(error).__name__} {error}; expected the `labels` of the release; restore the file") from None
    ours = [(label["key"], label["name"]) for label in read_entries("vistas")["classes"]]
    if len(found) != len(ours):
        raise InputError(f"{path}: {len(found)} labels found, expected {len(ours)}; take release 1.2, or the v1.2 labels of 2.0")
    for position, (theirs, expected) in enumerate(zip(found, ours, strict=True)):
        if theirs[0] != expected[0] and theirs[1] != expected[1]:
            raise InputError(
                f"{path}: label {position} is {theirs[0]}, expected {expected[0]}; take release 1.2, or the v1.2 labels of 2.0"
            )
