"""Dataset adapters: from a dataset as it is downloaded to samples for shards.

An adapter lists the entries of each split cheaply and in a fixed order, and loads one entry at a time, in any process.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from data.errors import InputError
from data.images import jpeg_for_shard, read_label_image
from data.labels import LabelSpace, count_ids
from data.shards import Sample

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".ppm")


class Source(Protocol):
    """One dataset. Instances travel to the processes of `prepare`, so they hold no open files."""

    @property
    def label_space(self) -> LabelSpace: ...

    def entries(self) -> Mapping[str, Sequence[Any]]:
        """Split name -> its entries, sorted. Checks all that can be checked without opening every file."""
        ...

    def fingerprint(self, entry: Any) -> str:
        """A text that changes when the entry's files change, found without reading them."""
        ...

    def load(self, entry: Any, *, jpeg_quality: int) -> Sample:
        """Read and check one entry."""
        ...


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """One image file with its label file (None without pixel labels) and its boxes."""

    key: str
    image: Path
    label: Path | None
    boxes: tuple[tuple[int, int, int, int, int], ...] = ()


class FileSource:
    """Base of the adapters whose entries are files below the folder `root`; each adds `entries`.

    An adapter whose label files are not 8-bit images of native ids at the size of their image overrides `read_label`.
    """

    root: Path
    label_space: LabelSpace

    @cached_property
    def warnings(self) -> Counter[str]:
        """What `load` has had to do to samples -> to how many."""
        return Counter()

    def fingerprint(self, entry: FileEntry) -> str:
        stats = [path.stat() for path in (entry.image, entry.label) if path is not None]
        return f"{entry.key} {[(stat.st_size, stat.st_mtime_ns) for stat in stats]} {entry.boxes}"

    def load(self, entry: FileEntry, *, jpeg_quality: int) -> Sample:
        """Read one image and its annotation, and check them against each other and the label space."""
        jpeg, height, width = jpeg_for_shard(entry.image, quality=jpeg_quality)
        label = None
        if entry.label is not None:
            label = self.read_label(entry.label, height=height, width=width)
            if label.shape != (height, width):
                raise InputError(
                    f"{entry.label}: size {label.shape[1]}x{label.shape[0]} found, expected that of its image {entry.image.name}, "
                    f"{width}x{height}; write the label at the size of the image"
                )
            check_ids(label, self.label_space, entry.label)
        check_boxes(entry.boxes, self.label_space, entry.image, height=height, width=width)
        boxes = np.array(entry.boxes, np.int32).reshape(-1, 5)
        source = entry.image.relative_to(self.root).as_posix()
        return Sample(key=entry.key, jpeg=jpeg, height=height, width=width, label=label, boxes=boxes, source=source)

    def read_label(self, path: Path, *, height: int, width: int) -> np.ndarray:
        """(H, W) uint8 native ids of one label file, whose image has this height and width."""
        return read_label_image(path)


def is_image(path: Path) -> bool:
    """Whether `path` is a file that is taken for a picture; hidden ones, such as those macOS leaves, are not."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def check_name(path: Path) -> None:
    """Raise InputError for a name that is no text: shards and index hold names as UTF-8."""
    try:
        path.name.encode()
    except UnicodeEncodeError:
        shown = path.name.encode(errors="surrogateescape").decode(errors="replace")
        raise InputError(f"{path.parent}/{shown}: a name that is not UTF-8 found, expected one that is; rename the file") from None


def check_ids(label: np.ndarray, space: LabelSpace, path: Path) -> None:
    """Raise InputError where a label image holds an id that the label space does not know."""
    counts = count_ids(label)
    unknown = np.flatnonzero((counts > 0) & ~space.known_ids)
    if len(unknown):
        first = int(unknown[0])
        more = f" and {len(unknown) - 1} other unknown ids" if len(unknown) > 1 else ""
        known = [*space.ids, *space.ignore_ids]
        raise InputError(
            f"{path}: id {first} found in {counts[first]} pixels{more}, expected the ids of label space {space.name} "
            f"({min(known)}..{max(known)}, {len(set(known))} in all); add it to the classes or to ignore_ids"
        )


def check_boxes(boxes: Sequence[Sequence[int]], space: LabelSpace, path: Path, *, height: int, width: int) -> None:
    """Raise InputError for a box outside its image, of no area, or of an unknown class."""
    for x1, y1, x2, y2, native_id in boxes:
        if not (0 <= x1 <= x2 < width and 0 <= y1 <= y2 < height):
            raise InputError(
                f"{path}: box {x1},{y1},{x2},{y2} found, expected 0 <= x1 <= x2 < {width} and 0 <= y1 <= y2 < {height} "
                "(pixels, inclusive); mend or remove the box"
            )
        if native_id not in space.ids:
            raise InputError(f"{path}: box of class {native_id} found, expected an id of label space {space.name}; mend the box")
