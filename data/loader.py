"""The loader: threads that read, decode and crop samples straight into the arrays of the next batches.

Threads in one process, not processes: decoding and resizing release the interpreter lock, and nothing has to be copied
between processes. Which sample is in which batch is the mixture's to say; the loader only fetches.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch

from data.images import decode_jpeg, decode_label
from data.mixture import Draw, Mixture
from data.shards import EncodedSample, ShardSplit
from data.transforms import CropConfig, crop_boxes, crop_image, crop_label, draw_crop, rasterise_boxes
from data.types import Batch

BATCHES_AHEAD = 2


class BatchLoader:
    """One rank's batches of a mixture, in order, from any step on.

    `splits[i]` holds the samples of `mixture.streams[i]`, `datasets[i]` is the name of its dataset.
    """

    def __init__(
        self,
        mixture: Mixture,
        splits: Sequence[ShardSplit],
        datasets: Sequence[str],
        crop: CropConfig,
        *,
        rank: int = 0,
        world_size: int = 1,
        num_threads: int = 2,
    ) -> None:
        mixture.check_world_size(world_size)
        self.mixture, self.splits, self.datasets, self.crop = mixture, splits, datasets, crop
        self.rank, self.world_size, self.num_threads = rank, world_size, num_threads
        draws = mixture.draws(0, rank=rank, world_size=world_size)
        # The place of each stream in a batch is the same at every step, and so are the rows of each dataset.
        self._rows = {
            name: torch.tensor([row for row, draw in enumerate(draws) if datasets[draw.stream] == name], dtype=torch.int64)
            for name in dict.fromkeys(datasets)
        }

    def batches(self, first_step: int, last_step: int) -> Iterator[Batch]:
        """The batches of steps first_step <= step < last_step. An error in a thread is raised here."""
        with ThreadPoolExecutor(self.num_threads, thread_name_prefix="loader") as pool:
            pending: deque[tuple[int, list[Draw], np.ndarray, np.ndarray, list[Future[str]]]] = deque()
            try:
                ahead = first_step
                for step in range(first_step, last_step):
                    while ahead < min(last_step, step + 1 + BATCHES_AHEAD):
                        pending.append(self._submit(pool, ahead))
                        ahead += 1
                    yield self._collect(*pending.popleft())
            finally:
                for *_, futures in pending:
                    for future in futures:
                        future.cancel()

    def _submit(self, pool: ThreadPoolExecutor, step: int) -> tuple[int, list[Draw], np.ndarray, np.ndarray, list[Future[str]]]:
        draws = self.mixture.draws(step, rank=self.rank, world_size=self.world_size)
        images = np.empty((len(draws), *self.crop.size, 3), np.uint8)
        labels = np.empty((len(draws), *self.crop.size), np.uint8)
        futures = [pool.submit(self._load, draw, images[row], labels[row]) for row, draw in enumerate(draws)]
        return step, draws, images, labels, futures

    def _collect(self, step: int, draws: list[Draw], images: np.ndarray, labels: np.ndarray, futures: list[Future[str]]) -> Batch:
        keys = [future.result() for future in futures]
        ids = tuple(f"{self.mixture.streams[draw.stream].name}/{draw.epoch}/{key}" for draw, key in zip(draws, keys, strict=True))
        seeds = torch.tensor([self.mixture.seed_of(draw) for draw in draws], dtype=torch.int64)
        # The view as NCHW of an NHWC array is what torch calls channels-last: no copy is made.
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
        return Batch(images=pixels, labels=torch.from_numpy(labels), rows=self._rows, seeds=seeds, sample_ids=ids, step=step)

    def _load(self, draw: Draw, image_out: np.ndarray, label_out: np.ndarray) -> str:
        split = self.splits[draw.stream]
        sample, image, label = decode(split, draw.sample)
        crop = draw_crop(self.crop, image.shape[0], image.shape[1], self.mixture.generator(draw))
        crop_image(image, crop, image_out)
        void = split.label_space.void_id
        if label is not None:
            crop_label(label, crop, label_out, pad=void)
        else:
            rasterise_boxes(crop_boxes(sample.boxes, crop, self.crop.size), label_out, background=void)
        return sample.key


def decode(split: ShardSplit, number: int) -> tuple[EncodedSample, np.ndarray, np.ndarray | None]:
    """Sample `number` with its image (H, W, 3) uint8 and its label image (H, W) uint8, None where it has none.

    Raises UnreadableError that names shard and sample where its bytes cannot be had or do not decode.
    """
    sample = split.read(number)
    try:
        image = decode_jpeg(sample.image)
        label = None if sample.label is None else decode_label(sample.label)
        for found in (image, label):
            if found is not None and found.shape[:2] != sample.size:
                raise ValueError(f"size {found.shape[1]}x{found.shape[0]} found, expected {sample.size[1]}x{sample.size[0]}")
    except (ValueError, OSError, SyntaxError) as error:
        raise split.unreadable(number, f"does not decode: {error}") from error
    return sample, image, label


def read_whole(split: ShardSplit, number: int) -> tuple[np.ndarray, np.ndarray]:
    """One sample at its own size: image (H, W, 3) uint8, label (H, W) uint8 native ids, boxes rasterised."""
    sample, image, label = decode(split, number)
    if label is None:
        label = np.empty(image.shape[:2], np.uint8)
        boxes = sample.boxes.astype(np.float32)
        boxes[:, 2:4] += 1  # inclusive corners to half-open intervals
        rasterise_boxes(boxes, label, background=split.label_space.void_id)
    return image, label
