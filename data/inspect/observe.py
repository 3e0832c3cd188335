"""One sample as the few numbers by which it is judged once its pixels are dropped."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from data.inspect.findings import Flaw
from data.labels import LabelSpace, count_ids

GRID = (36, 48)
"""Rows and columns of the map of where a class lies in the picture."""
STEPS = 4
"""The map is sampled at STEPS x STEPS places in each cell."""
THUMB = 16
"""Side of the grey thumbnail by which pictures are compared."""
LABEL_THUMB = 24
"""The same of label images: the ids at so many places across and down."""
TINY_BOX, TINY_PICTURE, LONG = 6, 64, 4.0
LITTLE = 0.05
GREY_LEVELS = 6
"""JPEG moves the three channels of a grey picture apart by a few levels."""


@dataclass(frozen=True, kw_only=True)
class RawSample:
    """One sample as it was found: what could not be read is None, and `flaws` says why.

    image (H, W, 3) uint8, label (H, W) uint8 of the picture's size, boxes (N, 5) int32; `where` names the file or shard.
    """

    key: str
    where: str
    image: np.ndarray | None = None
    label: np.ndarray | None = None
    boxes: np.ndarray
    flaws: tuple[Flaw, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What is kept of one sample.

    `ids` (K,) uint8 are the values of its label image (of boxes: their classes) with `pixels` (K,) int64 each; `positions`
    (K, *GRID) uint8 counts, of the STEPS * STEPS places of each cell, those with that id.
    """

    key: str
    where: str
    flaws: tuple[Flaw, ...]
    size: tuple[int, int] | None
    image_hash: bytes | None
    thumb: np.ndarray | None
    is_grey: bool
    label_hash: bytes | None
    label_thumb: np.ndarray | None
    ids: np.ndarray
    pixels: np.ndarray
    positions: np.ndarray


def observe(raw: RawSample, space: LabelSpace) -> Observation:
    """Look at one sample alone: its own flaws, and what comparing it with the others needs."""
    flaws, image, label = list(raw.flaws), raw.image, raw.label
    ids, pixels, positions = np.zeros(0, np.uint8), np.zeros(0, np.int64), np.zeros((0, *GRID), np.uint8)
    is_boxed = space.supervision == "boxes"
    if image is not None:
        flaws += picture_flaws(image)
    if label is not None:
        counts = count_ids(label)
        flaws += label_flaws(counts, space)
        ids = np.flatnonzero(counts).astype(np.uint8)
        pixels, positions = counts[ids], label_positions(label, ids)
    elif is_boxed and image is not None:
        flaws += box_flaws(raw.boxes, space, image.shape[:2])
        ids, pixels, positions = cover_of_boxes(raw.boxes, space, image.shape[:2])
    return Observation(
        key=raw.key,
        where=raw.where,
        flaws=tuple(flaws),
        size=None if image is None else image.shape[:2],
        image_hash=None if image is None else digest(image),
        thumb=None if image is None else thumbnail(image),
        is_grey=image is not None and is_grey(image),
        label_hash=None if label is None else digest(label),
        label_thumb=None if label is None else sampled(label, (LABEL_THUMB, LABEL_THUMB)).ravel(),
        ids=ids,
        pixels=pixels,
        positions=positions,
    )


def digest(pixels: np.ndarray) -> bytes:
    """16 bytes that differ when shape or content do."""
    return hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=16, person=str(pixels.shape).encode()[:16]).digest()


def thumbnail(image: np.ndarray) -> np.ndarray:
    """(THUMB * THUMB,) uint8: mean brightness of each part of the picture, whatever its size."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(grey, (THUMB, THUMB), interpolation=cv2.INTER_AREA), np.uint8).ravel()


def is_grey(image: np.ndarray) -> bool:
    few = image[:: max(1, image.shape[0] // 64), :: max(1, image.shape[1] // 64)].astype(np.int16)
    return bool((few.max(axis=2) - few.min(axis=2)).max() <= GREY_LEVELS)


def picture_flaws(image: np.ndarray) -> Iterator[Flaw]:
    height, width = image.shape[:2]
    if min(height, width) < TINY_PICTURE:
        yield Flaw("tiny-picture", f"{width}x{height}")
    if max(height, width) > LONG * min(height, width):
        yield Flaw("long-picture", f"{width}x{height}")
    if (image[::16, ::16] == image[0, 0]).all() and (image == image[0, 0]).all():
        yield Flaw("constant-picture", f"RGB {','.join(map(str, image[0, 0]))}")


def label_flaws(counts: np.ndarray, space: LabelSpace) -> Iterator[Flaw]:
    """The flaws of a label image whose values occur `counts` (256,) times."""
    unknown = np.flatnonzero((counts > 0) & ~space.known_ids)
    if len(unknown):
        yield Flaw("unknown-id", f"{'ids' if len(unknown) > 1 else 'id'} {some(unknown)}")
    classes = np.array([label.id for label in space.classes])
    labelled, total = counts[classes].sum(), counts.sum()
    if not labelled and not len(unknown):
        yield Flaw("all-ignored")
    elif labelled and labelled < LITTLE * total:
        yield Flaw("little-labelled", f"{100 * labelled / total:.2g} %")
    if np.count_nonzero(counts[classes]) == 1 and not len(unknown):
        names = {label.id: label.name for label in space.classes}
        yield Flaw("one-class", names[int(classes[counts[classes] > 0][0])])


def box_flaws(boxes: np.ndarray, space: LabelSpace, size: tuple[int, int]) -> Iterator[Flaw]:
    """The flaws of each box (x1, y1, x2, y2 inclusive, native id) of a picture of `size` (height, width)."""
    height, width = size
    seen: set[tuple[int, ...]] = set()
    if not len(boxes):
        yield Flaw("no-box")
    for box in boxes.tolist():
        x1, y1, x2, y2, native_id = box
        place = f"{x1},{y1},{x2},{y2}"
        if x2 < x1 or y2 < y1:
            yield Flaw("box-no-area", place)
        elif not (x1 >= 0 and y1 >= 0 and x2 < width and y2 < height):
            yield Flaw("box-outside", f"{place} in {width}x{height}")
        elif min(x2 - x1, y2 - y1) + 1 < TINY_BOX:
            yield Flaw("box-tiny", f"{x2 - x1 + 1}x{y2 - y1 + 1}")
        if native_id not in space.ids:
            yield Flaw("box-unknown-class", f"class {native_id}")
        if tuple(box) in seen:
            yield Flaw("box-twice", place)
        seen.add(tuple(box))


def label_positions(label: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """(K, *GRID) uint8: at how many of the STEPS * STEPS places of each cell of the picture the label is ids[k]."""
    few = sampled(label, (GRID[0] * STEPS, GRID[1] * STEPS))
    cells = few.reshape(GRID[0], STEPS, GRID[1], STEPS)
    return np.stack([(cells == i).sum(axis=(1, 3), dtype=np.uint8) for i in ids]) if len(ids) else np.zeros((0, *GRID), np.uint8)


def sampled(label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The label image (H, W) at `size` (rows, columns) places spread evenly over it."""
    rows, columns = ((np.arange(few) * 2 + 1) * all_of // (2 * few) for few, all_of in zip(size, label.shape, strict=True))
    return label[rows[:, None], columns]


def cover_of_boxes(boxes: np.ndarray, space: LabelSpace, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ids, pixels and positions of boxes as of a label image; each class on its own, so that overlaps count for both."""
    height, width = size
    good = [box for box in boxes.tolist() if 0 <= box[0] <= box[2] < width and 0 <= box[1] <= box[3] < height and box[4] in space.ids]
    ids = np.array(sorted({box[4] for box in good}), np.uint8)
    pixels = np.zeros(len(ids), np.int64)
    positions = np.zeros((len(ids), *GRID), np.uint8)
    for number, native_id in enumerate(ids):
        mask = np.zeros(size, np.uint8)
        for x1, y1, x2, y2, box_id in good:
            if box_id == native_id:
                mask[y1 : y2 + 1, x1 : x2 + 1] = 1
        pixels[number] = np.count_nonzero(mask)
        positions[number] = label_positions(mask, np.array([1], np.uint8))[0]
    return ids, pixels, positions


def some(values: np.ndarray, *, most: int = 8) -> str:
    """The first of `values` as a text."""
    return ", ".join(str(int(value)) for value in values[:most]) + (f" and {len(values) - most} more" if len(values) > most else "")
