"""German Traffic Sign Detection Benchmark (benchmark.ini.rub.de): boxes of 43 classes of signs.

FullIJCNN2013/00000.ppm .. 00899.ppm     00000 to 00599 are train, the rest test
FullIJCNN2013/gt.txt                     file;left;top;right;bottom;class: pixels, inclusive; an image without a sign has no line
TrainIJCNN2013/                          the same for train alone, gt.txt in it or beside it

TestIJCNN2013 has no boxes and numbers its images from 00000 anew, so test is prepared from FullIJCNN2013 only. The folders 00 to 42
beside the images hold cut-out signs and are left alone.
"""

import logging
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data.adapters.common import check_splits, find_root, list_files, read_table
from data.errors import InputError
from data.sources import FileEntry, FileSource

log = logging.getLogger(__name__)

OFFICIAL = {"train": 600, "test": 300}
FIRST_TEST = "00600"
Box = tuple[int, int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class GtsdbConfig:
    """GTSDB: splits train and test, both with boxes."""

    name: Literal["gtsdb"]


class GtsdbSource(FileSource):
    """GTSDB as described at the top of this file."""

    def __init__(self, root: Path, config: GtsdbConfig) -> None:
        self.expected = "FullIJCNN2013 or TrainIJCNN2013 with 00000.ppm and gt.txt"
        places = ["FullIJCNN2013", "", "TrainIJCNN2013", "TrainIJCNN2013/TrainIJCNN2013"]
        self.root = find_root(root, places, "00000.ppm", expected=self.expected)
        self.label_space = read_table("gtsdb")

    def entries(self) -> dict[str, list[FileEntry]]:
        images, boxes = list_files(self.root, ".ppm"), self._boxes()
        entries = [FileEntry(key=key, image=image, label=None, boxes=tuple(boxes.get(key, ()))) for key, image in images.items()]
        splits = {"train": [e for e in entries if e.key < FIRST_TEST], "test": [e for e in entries if e.key >= FIRST_TEST]}
        # Beside TrainIJCNN2013 may lie the gt.txt of all images; a line of a train image that is not there is a fault in any case.
        for key in boxes:
            if key not in images and (splits["test"] or key < FIRST_TEST):
                raise InputError(f"{self.root / key}.ppm: no such file, expected the image of a line of gt.txt; unpack the images again")
        if not splits["test"]:
            log.warning("gtsdb: no image from %s on found in %s, so no test split; FullIJCNN2013 has it", FIRST_TEST, self.root)
            del splits["test"]
        check_splits(splits, OFFICIAL, name="gtsdb", expected=self.expected, root=self.root)
        return splits

    def _boxes(self) -> dict[str, list[Box]]:
        for path in (self.root / "gt.txt", self.root.parent / "gt.txt"):
            if path.is_file():
                return read_boxes(path)
        raise InputError(f"{self.root / 'gt.txt'}: no such file, expected the boxes of the images; put it there")


def read_boxes(path: Path) -> dict[str, list[Box]]:
    """Key of an image -> its boxes in the order of the lines; a key without a line has none."""
    boxes: dict[str, list[Box]] = defaultdict(list)
    for number, line in enumerate(path.read_text(encoding="utf-8-sig", errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            file, *values = line.strip().split(";")
            left, top, right, bottom, class_id = map(int, values)
        except ValueError as error:
            raise InputError(
                f"{path}:{number}: {error}, expected file;left;top;right;bottom;class in whole pixels; mend the line"
            ) from None
        boxes[Path(file).stem].append((left, top, right, bottom, class_id))
    return boxes
