"""Small things for tests: folders of drawn disks, a job of some seconds, what a run logged."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import yaml
from PIL import Image
from torch import nn

from data.labels import Label, LabelSpace, View
from data.shards import ShardSplit
from models.networks.base import Network

FolderMaker = Callable[..., Path]

DISKS = {
    "name": "disks",
    "ignore_ids": [255],
    "classes": [{"id": 0, "name": "ground"}, {"id": 1, "name": "red"}, {"id": 2, "name": "blue"}],
}
TONES = {
    "name": "tones",
    "ignore_ids": [9],
    "classes": [{"id": 3, "name": "dark", "color": [10, 10, 10]}, {"id": 7, "name": "colourful", "color": [250, 120, 0]}],
}
BOXES = {"name": "boxed", "task": "boxes", "classes": [{"id": 0, "name": "red thing"}, {"id": 5, "name": "blue thing"}]}


def draw_disks(generator: np.random.Generator, size: tuple[int, int] = (72, 96)) -> tuple[np.ndarray, np.ndarray, list[tuple[int, ...]]]:
    """A noisy grey picture with a red and a blue disk: image, ids of DISKS, and a box x1, y1, x2, y2, class of BOXES for each."""
    height, width = size
    image = generator.integers(60, 100, (height, width, 3)).astype(np.uint8)
    label = np.zeros(size, np.uint8)
    boxes = []
    rows, columns = np.mgrid[:height, :width]
    for class_id, color, box_class in ((1, (220, 30, 30), 0), (2, (30, 30, 220), 5)):
        radius = int(generator.integers(8, 16))
        y, x = int(generator.integers(radius, height - radius)), int(generator.integers(radius, width - radius))
        disk = (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
        image[disk] = color
        label[disk] = class_id
        boxes.append((x - radius, y - radius, x + radius, y + radius, box_class))
    label[:2] = 255
    return image, label, boxes


def write_folder(kind: str, root: Path, *, train: int, val: int, seed: int) -> Path:
    folder = root / kind
    (folder / "images").mkdir(parents=True)
    (folder / "meta.yaml").write_text(yaml.safe_dump({"disks": DISKS, "tones": TONES, "boxed": BOXES}[kind]))
    generator = np.random.default_rng(seed)
    for split, count in (("train", train), ("val", val)):
        rows = ["image,x1,y1,x2,y2,class_id"]
        for number in range(count):
            image, label, boxes = draw_disks(generator)
            name = f"{split}_{number:02}"
            write_image(folder / "images" / split / f"{name}.jpg", image)
            rows += [f"{split}/{name}.jpg,{','.join(map(str, box))}" for box in boxes]
            if kind == "disks":
                write_image(folder / "labels" / split / f"{name}.png", label)
            if kind == "tones":
                write_image(folder / "labels" / split / f"{name}.png", np.array([3, 7, 7, *[9] * 253], np.uint8)[label])
        if kind == "boxed":
            (folder / f"boxes_{split}.csv").write_text("\n".join(rows) + "\n")
    return folder


def write_image(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **({"quality": 95} if path.suffix == ".jpg" else {}))


TINY_JOB = (
    "data=mine",
    "data.mix={disks: 2, tones: 2, boxed: 2}",
    "data.crop.size=[64, 64]",
    "loop.steps=6",
    "loop.log_every=1",
    "loop.evaluate_every=6",
    "loop.checkpoint_every=2",
    "loop.overlays=1",
    "cluster=none",
    "cluster.threads_per_worker=1",
)
"""A job of some seconds over `shards`; add data.root, run.dir and run.name."""


def damage(split: ShardSplit, *samples: int) -> None:
    """Overwrite the pictures of `samples` of a local split where they lie: they are there, and do not decode."""
    for sample in samples:
        shard = split.shard(sample)
        with (Path(split.location) / shard.name).open("r+b") as file:
            file.seek(split.index["image_offset"][sample].as_py())
            file.write(bytes(64))


def read_metrics(run: Path, name: str) -> list[float]:
    """All values of one scalar of a run, in order of the steps."""
    lines = (json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines())
    return [line[name] for line in lines if name in line]


def head_of(network: Network, num_classes: int) -> tuple[nn.Module, nn.Module]:
    """A new decoder of a network, and a classifier on it."""
    decoder = network.make_decoder(num_classes)
    return decoder, network.make_classifier(decoder, num_classes)


def view_of(num_classes: int) -> View:
    """A view of so many classes, called "class 0" and on."""
    return LabelSpace(name="some", labels=tuple(Label(id=i, name=f"class {i}", color=(i, i, i)) for i in range(num_classes))).view()
