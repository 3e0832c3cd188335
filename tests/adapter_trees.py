"""Look-alikes of the official downloads, a few small files each: names, bit depths, palettes, and what lies beside them.

Every writer fills a folder and returns what `prepare` has to make of it.
"""

import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

SIZE = (18, 24)


@dataclass(frozen=True)
class Expected:
    """One sample as it has to be read back: native ids (None: no label image), boxes, and a colour all over the image."""

    color: tuple[int, int, int]
    label: np.ndarray | None = None
    boxes: tuple[tuple[int, ...], ...] = ()
    size: tuple[int, int] = SIZE


Splits = dict[str, dict[str, Expected]]


class Tree:
    """Writes files below `root`, every picture in a colour and every label with ids of its own."""

    def __init__(self, root: Path, seed: int = 0) -> None:
        self.root = root
        self.generator = np.random.default_rng(seed)

    def path(self, name: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def image(self, name: str, size: tuple[int, int] = SIZE) -> tuple[int, int, int]:
        red, green, blue = (int(value) for value in self.generator.integers(30, 220, 3))
        image = Image.new("RGB", size[::-1], (red, green, blue))
        image.save(self.path(name), **({"quality": 95} if name.endswith(".jpg") else {}))
        return red, green, blue

    def ids(self, known: list[int], size: tuple[int, int] = SIZE) -> np.ndarray:
        return self.generator.choice(np.array(known), size).astype(np.uint16)

    def grey(self, name: str, ids: np.ndarray) -> np.ndarray:
        """8-bit grey for ids below 256, else 16-bit."""
        Image.fromarray(ids.astype(np.uint8) if ids.max() < 256 else ids).save(self.path(name))
        return ids.astype(np.uint8)

    def palette(self, name: str, ids: np.ndarray) -> np.ndarray:
        """A palette PNG whose colours are not the ids."""
        image = Image.fromarray(ids.astype(np.uint8), mode="P")
        image.putpalette([(7 * value + channel) % 256 for value in range(256) for channel in (90, 20, 5)])
        image.save(self.path(name))
        return ids.astype(np.uint8)

    def junk(self, *names: str) -> None:
        """Files that lie in such folders and are none of the dataset's."""
        for name in names:
            self.path(name).write_bytes(b"junk")


def write_cityscapes(root: Path) -> Splits:
    tree, splits = Tree(root), Splits()
    known = [*range(34), 255]
    for split, city, number in (
        ("train", "zurich", 0),
        ("train", "aachen", 19),
        ("train", "aachen", 2),
        ("val", "lindau", 5),
        ("test", "bonn", 1),
    ):
        key = f"{city}_000000_{number:06d}"
        color = tree.image(f"leftImg8bit/{split}/{city}/{key}_leftImg8bit.png")
        stem = f"gtFine/{split}/{city}/{key}_gtFine"
        label = tree.grey(f"{stem}_labelIds.png", tree.ids(known) if split != "test" else np.full(SIZE, 3, np.uint16))
        tree.grey(f"{stem}_instanceIds.png", tree.ids([7, 26001]))
        tree.image(f"{stem}_color.png")
        tree.grey(f"{stem}_labelTrainIds.png", tree.ids([0, 18, 255]))
        tree.junk(f"{stem}_polygons.json", f"leftImg8bit/{split}/{city}/._{key}_leftImg8bit.png")
        splits.setdefault(split, {})[key] = Expected(color, None if split == "test" else label)
    tree.junk("README", "leftImg8bit/train/aachen/Thumbs.db", "leftImg8bit/train/.DS_Store")
    return splits


def write_cityscapes_coarse(root: Path) -> Splits:
    """Images and coarse labels of train_extra, images of train without coarse labels."""
    tree, splits = Tree(root, 1), Splits(train_extra={})
    write_cityscapes(root)
    for city, number in (("troisdorf", 73), ("augsburg", 4)):
        key = f"{city}_000000_{number:06d}"
        color = tree.image(f"leftImg8bit/train_extra/{city}/{key}_leftImg8bit.png")
        label = tree.grey(f"gtCoarse/train_extra/{city}/{key}_gtCoarse_labelIds.png", tree.ids([0, 7, 11, 26]))
        tree.junk(f"gtCoarse/train_extra/{city}/{key}_gtCoarse_polygons.json")
        splits["train_extra"][key] = Expected(color, label)
    return splits


def write_cityscapes_extended(root: Path) -> Splits:
    """Cityscapes in `root`, the extended labels in root/extended; the first of them has no sign, so that it fits 8 bits."""
    tree, fine = Tree(root / "extended", 2), write_cityscapes(root)
    splits: Splits = {"train": {}, "val": {}}
    for split, samples in ((split, fine[split]) for split in splits):
        for number, (key, sample) in enumerate(samples.items()):
            file_ids = tree.ids([*range(34)] if number == 0 else [*range(34), *range(2000, 2044)])
            tree.grey(f"gtFine/{split}/{key.split('_')[0]}/{key}_gtFine_labelIds.png", file_ids)
            expected = np.array(
                [[100 + i - 2000 if 2000 <= i < 2043 else 20 if i == 2043 else i for i in row] for row in file_ids.tolist()]
            )
            splits[split][key] = Expected(sample.color, expected.astype(np.uint8))
    return splits


def write_voc(root: Path) -> Splits:
    """VOC with two images of train and one of val, and 2008_000001, which has a label in SBD alone."""
    folder = "VOCdevkit/VOC2012"
    tree, splits = Tree(root), Splits(train={}, val={})
    for split, key in (("train", "2007_000032"), ("train", "2007_000039"), ("val", "2007_000033")):
        color = tree.image(f"{folder}/JPEGImages/{key}.jpg")
        splits[split][key] = Expected(color, tree.palette(f"{folder}/SegmentationClass/{key}.png", tree.ids([*range(21), 255])))
        tree.palette(f"{folder}/SegmentationObject/{key}.png", tree.ids([0, 1, 255]))
    tree.image(f"{folder}/JPEGImages/2008_000001.jpg")
    for split, names in (("train", splits["train"]), ("val", splits["val"]), ("trainval", splits["train"] | splits["val"])):
        tree.path(f"{folder}/ImageSets/Segmentation/{split}.txt").write_text("".join(f"{name}\n" for name in names))
    tree.junk(f"{folder}/JPEGImages/Thumbs.db", f"{folder}/Annotations/2007_000032.xml")
    return splits


SBD_NAMES = ("2007_000032", "2007_000033", "2008_000001")
"""One of VOC's train, one of its val, one of neither."""


def write_voc_sbd(root: Path, write_label: Callable[[Path, str, np.ndarray], None]) -> Splits:
    """VOC, and the labels of SBD as `write_label` (root, name, ids) writes them."""
    splits, tree = write_voc(root), Tree(root, 3)
    labels = {name: tree.ids([*range(21)]).astype(np.uint8) for name in SBD_NAMES}
    for name, label in labels.items():
        write_label(root, name, label)
    with Image.open(root / "VOCdevkit/VOC2012/JPEGImages/2008_000001.jpg") as image:
        red, green, blue = np.array(image)[0, 0].tolist()
    return {**splits, "trainaug": {**splits["train"], "2008_000001": Expected((red, green, blue), labels["2008_000001"])}}


def write_sbd_png(root: Path, name: str, label: np.ndarray) -> None:
    path = root / "VOCdevkit/VOC2012/SegmentationClassAug" / f"{name}.png"
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(label).save(path)


def write_vistas(root: Path, *, release: str = "1.2") -> Splits:
    """Pictures of several sizes; `release` 2.0 has the labels one folder further down, besides its own of 124 classes."""
    tree, splits = Tree(root), Splits()
    sizes = {"train": [(24, 18), (15, 40)], "val": [(20, 20)], "test": [(17, 19)]}
    labels = "labels" if release == "1.2" else "v1.2/labels"
    for split, folder in (("train", "training"), ("val", "validation"), ("test", "testing")):
        splits[split] = {}
        for number, size in enumerate(sizes[split]):
            key = f"{9 - number}Zk-{split}_x"
            color = tree.image(f"{folder}/images/{key}.jpg", size)
            label = None if split == "test" else tree.palette(f"{folder}/{labels}/{key}.png", tree.ids([*range(66)], size))
            splits[split][key] = Expected(color, label, size=size)
            if split != "test":
                tree.grey(f"{folder}/instances/{key}.png", tree.ids([256, 14000], size))
                if release != "1.2":
                    tree.palette(f"{folder}/v2.0/labels/{key}.png", tree.ids([123], size))
    tree.junk("training/images/Thumbs.db", "LICENSE")
    return splits


def write_vistas_config(path: Path, entries: list[tuple[str, str]]) -> None:
    path.write_text(json.dumps({"version": "1.1", "labels": [{"name": key, "readable": name} for key, name in entries]}))


def write_gtsdb(root: Path, folder: str = "FullIJCNN2013", numbers: tuple[int, ...] = (0, 7, 599, 600, 899)) -> Splits:
    """Images 7 and 899 have no sign, the first has two."""
    tree = Tree(root)
    signs = {0: ((3, 4, 9, 10, 11), (0, 0, 23, 17, 42)), 599: ((2, 2, 2, 2, 0),), 600: ((1, 3, 8, 5, 38),)}
    splits: Splits = {"train": {}} if max(numbers) < 600 else {"train": {}, "test": {}}
    for number in numbers:
        color = tree.image(f"{folder}/{number:05d}.ppm")
        splits["train" if number < 600 else "test"][f"{number:05d}"] = Expected(color, boxes=signs.get(number, ()))
    lines = [f"{number:05d}.ppm;{';'.join(map(str, box))}" for number in numbers for box in signs.get(number, ())]
    tree.path(f"{folder}/gt.txt").write_bytes("\r\n".join([*lines, ""]).encode())
    tree.image(f"{folder}/00/00000.ppm")
    tree.junk(f"{folder}/ReadMe.txt", f"{folder}/ex.txt")
    return splits


def write_gta5(root: Path) -> Splits:
    """The label of 00002 is of another size than its image: 9x12, so each of its pixels becomes 2x2."""
    tree, splits = Tree(root), Splits(train={})
    for number in (1, 2, 3, 24966):
        key = f"{number:05d}"
        color = tree.image(f"images/{key}.png")
        label = tree.palette(f"labels/{key}.png", tree.ids([*range(35)], (9, 12) if number == 2 else SIZE))
        splits["train"][key] = Expected(color, label.repeat(2, axis=0).repeat(2, axis=1) if number == 2 else label)
    tree.junk("images/Thumbs.db", "labels/.DS_Store", "split.txt")
    return splits


def write_synthia(root: Path) -> Splits:
    """The first label has three channels, the second two, as an object's number follows the class."""
    tree, splits = Tree(root), Splits(train={})
    for number, num_channels in ((0, 3), (9399, 2)):
        key = f"{number:07d}"
        color = tree.image(f"RAND_CITYSCAPES/RGB/{key}.png")
        channels = np.stack([tree.ids([*range(23)]), tree.ids([0, 1, 700]), tree.ids([0])], axis=-1)[..., :num_channels]
        write_png16(tree.path(f"RAND_CITYSCAPES/GT/LABELS/{key}.png"), channels)
        tree.image(f"RAND_CITYSCAPES/GT/COLOR/{key}.png")
        splits["train"][key] = Expected(color, channels[..., 0].astype(np.uint8))
    tree.junk("RAND_CITYSCAPES/RGB/Thumbs.db", "RAND_CITYSCAPES/README.txt")
    return splits


def write_png16(path: Path, channels: np.ndarray) -> None:
    """(H, W, C) uint16 to a PNG of grey, grey and alpha, or colour. No library at hand writes the second of these at 16 bits."""
    if channels.shape[-1] == 3:
        cv2.imwrite(str(path), channels[..., ::-1])
        return

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, num_channels = channels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4}[num_channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in channels)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
