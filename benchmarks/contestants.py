"""The same task done in several ways: decode image and label, scale them at random by 0.5 to 2, cut a square crop, flip half of
them, and hand over batches of 8 with images and labels of 8 bits.

Each is written as its community writes it, with what is no part of the task left out: no normalisation (here it is done on the
device), no limit on how much of a crop one class may fill. A contestant is a function of the drawn set and a number of cores and
gives its batches for ever; on one core the others work in the process itself, on two in two worker processes, ours in threads.
"""

import importlib.util
import random
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from queue import Queue
from threading import Event, Thread
from typing import Any

import cv2
import numpy as np
import simplejpeg
import torch
import webdataset
from PIL import Image
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision import transforms
from torchvision.transforms import functional

from benchmarks.drawn import Drawn
from data.loader import BatchLoader, StreamSource
from data.shards import ShardSplit
from data.streams import StreamConfig, build_mixture
from data.transforms import CropConfig

BATCH = 8
SCALE = (0.5, 2.0)
PAD, VOID = 127, 255

FOR_EVER = 10**9
"""Samples or steps: more than any benchmark takes."""


def ours(drawn: Drawn, cores: int) -> Iterator[int]:
    split = ShardSplit(drawn.shards, "train")
    mixture = build_mixture(
        {drawn.pictures.name: StreamConfig(samples=BATCH)},
        {drawn.pictures.name: split},
        {drawn.pictures.name: split.label_space.view()},
        seed=0,
    )
    crop = CropConfig(size=(drawn.pictures.crop, drawn.pictures.crop), scale=SCALE)
    loader = BatchLoader(mixture, [StreamSource(dataset=drawn.pictures.name, split=split, crop=crop)], num_threads=cores)
    for batch in loader.batches(0, FOR_EVER):
        yield len(batch.images)


def jpeg_limit(drawn: Drawn, cores: int) -> Iterator[int]:
    """The images alone, from memory, decoded by the fastest decoder there is: more than this cannot be had."""
    contents = [path.read_bytes() for path in drawn.images]
    done: Queue[int] = Queue(maxsize=1)
    stop = Event()

    def decode() -> None:
        order = random.Random()
        while not stop.is_set():
            for content in order.choices(contents, k=BATCH):
                simplejpeg.decode_jpeg(content, colorspace="RGB")
            done.put(BATCH)

    threads = [Thread(target=decode, daemon=True) for _ in range(cores)]
    for thread in threads:
        thread.start()
    try:
        while True:
            yield done.get()
    finally:
        stop.set()


class Files(Dataset[Any]):
    """Image and label files, transformed: a map-style dataset as torch's DataLoader takes it."""

    def __init__(self, drawn: Drawn, load: Callable[[Path, Path, int], tuple[torch.Tensor, torch.Tensor]]) -> None:
        self.files = list(zip(drawn.images, drawn.labels, strict=True))
        self.load, self.crop = load, drawn.pictures.crop

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        image, label = self.files[number]
        return self.load(image, label, self.crop)


def from_files(drawn: Drawn, cores: int, load: Callable[[Path, Path, int], tuple[torch.Tensor, torch.Tensor]]) -> Iterator[int]:
    files = Files(drawn, load)
    sampler = RandomSampler(files, replacement=True, num_samples=FOR_EVER)
    for images, _ in DataLoader(files, batch_size=BATCH, sampler=sampler, num_workers=_processes(cores), worker_init_fn=_set_up_worker):
        yield len(images)


def _processes(cores: int) -> int:
    """Worker processes of a DataLoader: none on one core, where they would only get in each other's way."""
    return 0 if cores == 1 else cores


def _set_up_worker(_: int) -> None:
    cv2.setNumThreads(0)
    random.seed(torch.initial_seed() % 2**32)
    np.random.seed(torch.initial_seed() % 2**32)


def torchvision_reference(drawn: Drawn, cores: int) -> Iterator[int]:
    """As the segmentation references of torchvision: PIL images, each transform on the whole image."""
    return from_files(drawn, cores, _load_torchvision)


def _load_torchvision(image_path: Path, label_path: Path, crop: int) -> tuple[torch.Tensor, torch.Tensor]:
    image, label = Image.open(image_path).convert("RGB"), Image.open(label_path)
    scale = random.uniform(*SCALE)
    size = [round(image.height * scale), round(image.width * scale)]
    image = functional.resize(image, size)
    label = functional.resize(label, size, interpolation=functional.InterpolationMode.NEAREST)
    if random.random() < 0.5:
        image, label = functional.hflip(image), functional.hflip(label)
    bottom, right = max(0, crop - size[0]), max(0, crop - size[1])
    if bottom or right:
        image = functional.pad(image, [0, 0, right, bottom], fill=PAD)
        label = functional.pad(label, [0, 0, right, bottom], fill=VOID)
    box = transforms.RandomCrop.get_params(image, (crop, crop))
    image, label = functional.crop(image, *box), functional.crop(label, *box)
    return functional.pil_to_tensor(image), torch.as_tensor(np.array(label))


def mmseg_style(drawn: Drawn, cores: int) -> Iterator[int]:
    """As the pipelines of mmsegmentation: OpenCV decodes and resizes whole images, labels are decoded by Pillow and end as int64."""
    return from_files(drawn, cores, _load_mmseg)


def _load_mmseg(image_path: Path, label_path: Path, crop: int) -> tuple[torch.Tensor, torch.Tensor]:
    image = cv2.imdecode(np.frombuffer(image_path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    label = np.array(Image.open(BytesIO(label_path.read_bytes())))
    assert image is not None
    scale = np.random.uniform(*SCALE)
    size = round(image.shape[1] * scale), round(image.shape[0] * scale)
    image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    label = cv2.resize(label, size, interpolation=cv2.INTER_NEAREST)
    top = np.random.randint(max(image.shape[0] - crop, 0) + 1)
    left = np.random.randint(max(image.shape[1] - crop, 0) + 1)
    image, label = image[top : top + crop, left : left + crop], label[top : top + crop, left : left + crop]
    if np.random.rand() < 0.5:
        image, label = cv2.flip(image, 1), cv2.flip(label, 1)
    bottom, right = crop - image.shape[0], crop - image.shape[1]
    if bottom or right:
        image = cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_CONSTANT, value=(PAD, PAD, PAD))
        label = cv2.copyMakeBorder(label, 0, bottom, 0, right, cv2.BORDER_CONSTANT, value=VOID)
    pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    return pixels, torch.from_numpy(label.astype(np.int64))


def plain_webdataset(drawn: Drawn, cores: int) -> Iterator[int]:
    """webdataset's own reader over the tars that `prepare` wrote, decode("pil") and Pillow.

    Labels have a decoder of their own: decode("pil") would make colours of their ids.
    """
    open_label = webdataset.handle_extension("png", lambda content: Image.open(BytesIO(content)))
    tars = [str(path) for path in drawn.tars]
    dataset = webdataset.WebDataset(tars, resampled=True, shardshuffle=False).shuffle(64).decode(open_label, "pil")
    dataset = dataset.to_tuple("jpg", "png").map(lambda pair: crop_by_pillow(pair[0], pair[1], crop=drawn.pictures.crop)).batched(BATCH)
    for images, _ in webdataset.WebLoader(dataset, batch_size=None, num_workers=_processes(cores), worker_init_fn=_set_up_worker):
        yield len(images)


def crop_by_pillow(image: Image.Image, label: Image.Image, *, crop: int) -> tuple[torch.Tensor, torch.Tensor]:
    scale = random.uniform(*SCALE)
    size = round(image.width * scale), round(image.height * scale)
    image = image.resize(size, Image.Resampling.BILINEAR)
    label = label.resize(size, Image.Resampling.NEAREST)
    left, top = (random.randint(0, max(0, length - crop)) for length in size)
    pixels = np.full((crop, crop, 3), PAD, np.uint8)
    ids = np.full((crop, crop), VOID, np.uint8)
    box = left, top, min(left + crop, size[0]), min(top + crop, size[1])
    pixels[: box[3] - top, : box[2] - left] = np.asarray(image.crop(box))
    ids[: box[3] - top, : box[2] - left] = np.asarray(label.crop(box))
    if random.random() < 0.5:
        pixels, ids = pixels[:, ::-1], ids[:, ::-1]
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy()), torch.from_numpy(ids.copy())


def mosaic_streaming(drawn: Drawn, cores: int) -> Iterator[int]:
    """mosaicml-streaming over MDS shards of the same bytes, decoded and cropped by Pillow."""
    from streaming import StreamingDataset  # type: ignore[import-not-found, unused-ignore]

    class Samples(StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
            sample = super().__getitem__(number)
            image, label = Image.open(BytesIO(sample["image"])).convert("RGB"), Image.open(BytesIO(sample["label"]))
            return crop_by_pillow(image, label, crop=drawn.pictures.crop)

    dataset = Samples(local=str(_write_mds(drawn, epoch=512)), shuffle=True, batch_size=BATCH)
    workers = _processes(cores)
    loader: DataLoader[Any] = DataLoader(
        dataset, batch_size=BATCH, drop_last=True, num_workers=workers, persistent_workers=workers > 0, worker_init_fn=_set_up_worker
    )
    while True:
        for images, _ in loader:
            yield len(images)


def _write_mds(drawn: Drawn, *, epoch: int) -> Path:
    """MDS shards of the files, repeated to at least `epoch` samples: the start of an epoch is no part of the task."""
    from streaming import MDSWriter  # type: ignore[import-not-found, unused-ignore]

    folder = drawn.shards.parent.parent / "mds" / drawn.pictures.name
    if not (folder / "index.json").is_file():
        with MDSWriter(out=str(folder), columns={"image": "bytes", "label": "bytes"}) as writer:
            for _ in range(-(-epoch // len(drawn.images))):
                for image, label in zip(drawn.images, drawn.labels, strict=True):
                    writer.write({"image": image.read_bytes(), "label": label.read_bytes()})
    return folder


CONTESTANTS: dict[str, Callable[[Drawn, int], Iterator[int]]] = {
    "limit: JPEG decode alone": jpeg_limit,
    "ours": ours,
    "torchvision reference": torchvision_reference,
    "mmseg style (OpenCV)": mmseg_style,
    'webdataset decode("pil")': plain_webdataset,
    "mosaicml-streaming": mosaic_streaming,
}
LIMIT, OURS, MMSEG = "limit: JPEG decode alone", "ours", "mmseg style (OpenCV)"


def why_missing(name: str) -> str | None:
    """Why a contestant cannot take part; None where it can."""
    if name == "mosaicml-streaming" and importlib.util.find_spec("streaming") is None:
        return "not installed (pip install mosaicml-streaming)"
    return None
