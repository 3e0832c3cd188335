"""Pictures for the benchmarks: drawn streets, with JPEGs and label PNGs of the size that real ones have."""

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import simplejpeg
import yaml
from PIL import Image

from data.files import atomic_write
from data.images import encode_label
from data.streets import ATOMS, atom_palette, render
from taxomix import main as taxomix


@dataclass(frozen=True, kw_only=True)
class PictureSet:
    """Pictures of one size, and the crops that are taken from them."""

    name: str
    height: int
    width: int
    quality: int
    """Of the JPEGs (4:2:0), such that they are as large as those of the dataset that the set stands for."""
    grey_labels: bool
    """Label files are grey PNGs with filtered rows, as those of Cityscapes, and not palette PNGs without, as those of VOC."""
    crop: int


SETS = {
    "city": PictureSet(name="city", height=1024, width=2048, quality=88, crop=512, grey_labels=True),
    "voc": PictureSet(name="voc", height=375, width=500, quality=94, crop=448, grey_labels=False),
}
"""Like Cityscapes (305 KB a JPEG, 27 KB a label) and like PASCAL VOC (57 KB and 6 KB)."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A set on disk: as files, and prepared as shards."""

    pictures: PictureSet
    source: Path
    shards: Path

    @property
    def images(self) -> list[Path]:
        return sorted((self.source / "images" / "train").iterdir())

    @property
    def labels(self) -> list[Path]:
        return sorted((self.source / "labels" / "train").iterdir())

    @property
    def tars(self) -> list[Path]:
        return sorted(self.shards.glob("train-*.tar"))

    def describe(self) -> str:
        image_kb, label_kb = (sum(path.stat().st_size for path in paths) / len(paths) / 1e3 for paths in (self.images, self.labels))
        size = f"{self.pictures.width}x{self.pictures.height}"
        return f"{len(self.images)} pictures of {size}, JPEGs of {image_kb:.0f} KB and labels of {label_kb:.0f} KB on average"


def draw_set(name: str, folder: Path, num_images: int) -> Drawn:
    """Draw and prepare a set below `folder`; what is there from an earlier call is kept."""
    pictures = SETS[name]
    source = folder / "source" / name
    write_meta(source, name)
    missing = [number for number in range(num_images) if not label_path(source, number).is_file()]
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("forkserver")) as pool:
        list(pool.map(partial(draw_picture, pictures, source), missing))
    if taxomix(["prepare", "dataset=folder", f"source={source}", f"out={folder / 'shards'}", "samples_per_shard=16", "overwrite=true"]):
        raise SystemExit("the pictures could not be prepared")
    return Drawn(pictures=pictures, source=source, shards=folder / "shards" / name)


def write_meta(source: Path, name: str) -> None:
    source.mkdir(parents=True, exist_ok=True)
    colors = atom_palette().tolist()
    classes = [{"id": number, "name": str(atom), "color": colors[number]} for number, atom in enumerate(ATOMS)]
    (source / "meta.yaml").write_text(yaml.safe_dump({"name": name, "classes": classes, "ignore_ids": [255]}))


def label_path(source: Path, number: int) -> Path:
    return source / "labels" / "train" / f"{number:05}.png"


def draw_picture(pictures: PictureSet, source: Path, number: int, *, suffix: str = ".jpg") -> None:
    scene = render(0, number, f"benchmark/{pictures.name}", size=(pictures.height, pictures.width))
    image = source / "images" / "train" / f"{number:05}{suffix}"
    image.parent.mkdir(parents=True, exist_ok=True)
    if suffix == ".jpg":
        image.write_bytes(simplejpeg.encode_jpeg(scene.image, quality=pictures.quality, colorsubsampling="420"))
    else:
        Image.fromarray(scene.image).save(image)
    with atomic_write(label_path(source, number)) as file:
        if pictures.grey_labels:
            Image.fromarray(scene.atoms).save(file, format="PNG")
        else:
            file.write(encode_label(scene.atoms, atom_palette()))


@contextmanager
def folder_for(path: Path | None) -> Iterator[Path]:
    """`path`, to be kept, or a folder that is removed in the end."""
    if path is not None:
        path.mkdir(parents=True, exist_ok=True)
        yield path
        return
    with TemporaryDirectory(prefix="taxomix-benchmark-") as temporary:
        yield Path(temporary)


def hardware() -> str:
    """The machine and the libraries, in one line."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    cpu = next(
        (line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), ""
    )
    versions = []
    for name in ("simplejpeg", "deflate", "opencv-python-headless", "pillow", "torch", "torchvision", "webdataset", "mosaicml-streaming"):
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            versions.append(f"no {name}")
    return f"{cpu or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {', '.join(versions)}"
