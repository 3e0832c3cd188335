"""Cityscapes (cityscapes-dataset.com), fine and coarse, and Cityscapes Extended with its 43 classes of traffic signs.

leftImg8bit/SPLIT/CITY/CITY_SEQ_FRAME_leftImg8bit.png        SPLIT: train, val, test, train_extra
gtFine/SPLIT/CITY/CITY_SEQ_FRAME_gtFine_labelIds.png
gtCoarse/SPLIT/CITY/CITY_SEQ_FRAME_gtCoarse_labelIds.png
extended: gtFine/SPLIT/CITY/CITY_SEQ_FRAME_gtFine_labelIds.png, 8 or 16 bits: Cityscapes ids, 2000 + c for a sign of GTSDB's
class c, 2043 for a sign of another class. Ids and names of the files are those that the published annotation tool writes; the tree
is assumed to be that of gtFine.

The public label images of test are blank, so test is prepared without labels.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from data.adapters.common import check_splits, find_root, list_files, no_label, pair, read_deep_png, read_table
from data.errors import InputError
from data.images import read_label_image
from data.labels import Label, LabelSpace, ViewClass, ViewSpec
from data.sources import FileEntry, FileSource

OFFICIAL = {"train": 2975, "val": 500, "test": 1525, "train_extra": 19998}

SIGN_ID = 20
FIRST_SIGN_ID = 100
"""Sign class c of Cityscapes Extended has id 2000 + c in the files, which does not fit 8 bits, and 100 + c in shards."""


@dataclass(frozen=True, kw_only=True)
class CityscapesConfig:
    """Cityscapes. The dataset is named cityscapes, cityscapes_coarse or cityscapes_extended, after its labels."""

    name: Literal["cityscapes"]
    labels: Literal["fine", "coarse"] = "fine"
    """fine: train, val, and test without labels; coarse: train_extra, train and val, whichever are there."""
    extended: Path | None = None
    """Folder of Cityscapes Extended; train and val then have its labels."""

    def __post_init__(self) -> None:
        if self.extended is not None and self.labels != "fine":
            raise InputError("dataset.extended: given with dataset.labels=coarse, but extends the fine labels; remove one of the two")


class CityscapesSource(FileSource):
    """Cityscapes as described at the top of this file; all splits that are there."""

    def __init__(self, root: Path, config: CityscapesConfig) -> None:
        self.expected = "leftImg8bit/SPLIT/CITY/*_leftImg8bit.png and gtFine or gtCoarse alike"
        self.root = find_root(root, [""], "leftImg8bit", expected=self.expected)
        self.is_extended = config.extended is not None
        self.labels_root = config.extended.absolute() if config.extended else self.root
        self.kind = "gtCoarse" if config.labels == "coarse" else "gtFine"
        if not (self.labels_root / self.kind).is_dir():
            raise InputError(
                f"{self.labels_root / self.kind}: no such folder, expected the labels; unpack {self.kind} there or mend the path"
            )
        space = read_table("cityscapes")
        if self.is_extended:
            space = extended_space(space)
        self.label_space = replace(space, name="cityscapes_coarse") if config.labels == "coarse" else space

    def entries(self) -> dict[str, list[FileEntry]]:
        wanted = {"gtCoarse": ["train_extra", "train", "val"], "gtFine": ["train", "val"] if self.is_extended else ["train", "val", "test"]}
        splits = {split: self._entries_of(split) for split in wanted[self.kind] if self._has(split)}
        check_splits(splits, OFFICIAL, name=self.label_space.name, expected=self.expected, root=self.root)
        return splits

    def read_label(self, path: Path, *, height: int, width: int) -> np.ndarray:
        return read_extended_label(path) if self.is_extended else read_label_image(path)

    def _has(self, split: str) -> bool:
        # Fine labels that lack where there are images are told; the coarse ones come with splits that one may not want.
        there = (self.root / "leftImg8bit" / split).is_dir()
        return there and (self.kind == "gtFine" or (self.labels_root / self.kind / split).is_dir())

    def _entries_of(self, split: str) -> list[FileEntry]:
        entries: list[FileEntry] = []
        for city in sorted(path for path in (self.root / "leftImg8bit" / split).iterdir() if path.is_dir()):
            label_of = partial(self._label_of, split, city.name) if split != "test" else no_label
            entries += pair(list_files(city, "_leftImg8bit.png"), label_of)
        return sorted(entries, key=lambda entry: entry.key)

    def _label_of(self, split: str, city: str, key: str) -> Path:
        return self.labels_root / self.kind / split / city / f"{key}_{self.kind}_labelIds.png"


def extended_space(space: LabelSpace) -> LabelSpace:
    """The label space of Cityscapes with GTSDB's classes besides. In the views of Cityscapes they are traffic signs, `signs43` is them
    alone, and `61` and `69` are those of the 19 and 27 that are no traffic signs, and them: two levels in one (paper 001, table IV)."""
    signs = tuple(replace(label, id=FIRST_SIGN_ID + label.id) for label in read_table("gtsdb").labels)

    def with_signs(c: ViewClass) -> ViewClass:
        return replace(c, ids=(*c.ids, *(sign.id for sign in signs))) if SIGN_ID in c.ids else c

    views = tuple(replace(view, classes=tuple(map(with_signs, view.classes))) for view in space.views if view.name in ("19", "27"))
    types = tuple(map(_as_class, signs))
    others = {view.name: tuple(c for c in view.classes if SIGN_ID not in c.ids) for view in views}
    split = tuple(ViewSpec(name=name, classes=(*others[of], *types)) for name, of in (("61", "19"), ("69", "27")))
    own = (*views, *split, ViewSpec(name="signs43", classes=types))
    return replace(space, name="cityscapes_extended", labels=(*space.labels, *signs), views=own)


def _as_class(label: Label) -> ViewClass:
    return ViewClass(name=label.name, color=label.color, ids=(label.id,))


def read_extended_label(path: Path) -> np.ndarray:
    """(H, W) uint8 native ids of a label image of Cityscapes Extended."""
    file_ids = read_deep_png(path)
    if file_ids.ndim != 2:
        raise InputError(f"{path}: {file_ids.shape[2]} channels found, expected a grey image of ids; write ids, not colours")
    ids = EXTENDED_IDS[file_ids]
    wrong = ids < 0
    if wrong.any():
        raise InputError(
            f"{path}: id {int(file_ids[wrong][0])} found in {int(wrong.sum())} pixels, expected 0..33 or 2000..2043; restore the file"
        )
    return ids.astype(np.uint8)


def _extended_ids() -> np.ndarray:
    """(65536,) int16: id in a file of Cityscapes Extended -> native id, -1 where there is none."""
    table = np.full(65536, -1, np.int16)
    table[[*range(34), 255]] = [*range(34), 255]
    table[2000:2043] = np.arange(FIRST_SIGN_ID, FIRST_SIGN_ID + 43)
    table[2043] = SIGN_ID
    return table


EXTENDED_IDS = _extended_ids()
