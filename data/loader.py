"""The loader: threads that read, decode and crop samples straight into the arrays of the next batches.

Threads in one process, not processes: decoding and resizing release the interpreter lock, and nothing has to be copied
between processes. Which sample is in which batch is the mixture's to say; the loader only fetches, and passes over what
cannot be read.
"""

import logging
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import count
from threading import Event, Lock

import numpy as np
import torch

from data.errors import InputError, UnreadableError
from data.images import decode_image, decode_label
from data.mixture import WITH_LABELS, Draw, Mixture
from data.prefetch import Prefetcher, Shard
from data.shards import EncodedSample, ShardSplit
from data.transforms import CropConfig, crop_boxes, crop_image, crop_label, draw_crop, rasterise_boxes
from data.types import Batch

BATCHES_AHEAD = 2

SHARDS_AHEAD = 256
"""Different remote shards, of all streams together, that are fetched ahead as far as the cache has room."""

DOWNLOADS = 4
"""Remote shards that are fetched at the same time."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StreamSource:
    """Where the samples of one stream come from and how they are cropped."""

    dataset: str
    split: ShardSplit
    crop: CropConfig


@dataclass(frozen=True)
class _Pending:
    """A batch whose samples are being loaded."""

    step: int
    draws: list[Draw]
    images: torch.Tensor
    labels: torch.Tensor
    futures: "list[Future[_Loaded]]"


@dataclass(frozen=True)
class _Loaded:
    """What a thread has put into one row of a batch: which draw, and its key."""

    draw: Draw
    key: str


class BatchLoader:
    """One rank's batches of a mixture, in order, from any step on.

    `sources[i]` goes with `mixture.streams[i]`; all crops have the same size. In every epoch of a stream up to `max_skipped`
    samples that cannot be read are passed over: their place is taken by the next samples of the stream, which depends on the
    samples alone. One more, and `batches` raises InputError. With `pin_memory` batches lie where a GPU copies them from while
    others compute.
    """

    def __init__(
        self,
        mixture: Mixture,
        sources: Sequence[StreamSource],
        *,
        rank: int = 0,
        world_size: int = 1,
        num_threads: int = 2,
        max_skipped: int = 0,
        pin_memory: bool = False,
    ) -> None:
        mixture.check_world_size(world_size)
        sizes = {source.crop.size for source in sources}
        if len(sizes) != 1:
            raise InputError(f"data.crop.size: {' and '.join(map(str, sorted(sizes)))} found, expected one size for all streams; mend it")
        self.mixture, self.sources, self.size = mixture, tuple(sources), sizes.pop()
        self.rank, self.world_size, self.num_threads = rank, world_size, num_threads
        self.pin_memory = pin_memory
        self._skips = _Skips(mixture, max_skipped)

    def batches(self, first_step: int, last_step: int) -> Generator[Batch, None, None]:
        """The batches of steps first_step <= step < last_step. An error in a thread is raised here.

        Close it where it is left early: its threads then end at once, though they wait for a server.
        """
        with (
            ThreadPoolExecutor(self.num_threads, thread_name_prefix="loader") as pool,
            self._prefetcher(first_step, last_step) as prefetcher,
        ):
            pending: deque[_Pending] = deque()
            stop = Event()  # one who waits for a server should not wait on when nobody wants the sample
            try:
                ahead = first_step
                for step in range(first_step, last_step):
                    if prefetcher:
                        prefetcher.advance(step)
                    while ahead < min(last_step, step + 1 + BATCHES_AHEAD):
                        pending.append(self._submit(pool, ahead, stop))
                        ahead += 1
                    batch = self._collect(pending[0])  # still pending, so that an error cancels the rest of it
                    pending.popleft()
                    yield batch
            finally:
                stop.set()
                for unfinished in pending:
                    for future in unfinished.futures:
                        future.cancel()

    def _prefetcher(self, first_step: int, last_step: int) -> "Prefetcher | nullcontext[None]":
        """What fetches the remote shards of the coming steps; nothing where all are local."""
        if not any(source.split.is_remote for source in self.sources):
            return nullcontext()

        def shards_of_step(step: int) -> Iterator[Shard]:
            for draw in self.mixture.draws(step, rank=self.rank, world_size=self.world_size):
                split = self.sources[draw.stream].split
                if split.is_remote and (shard := split.shard(draw.sample)):
                    yield shard

        return Prefetcher(shards_of_step, first_step=first_step, last_step=last_step, num_ahead=SHARDS_AHEAD, num_parallel=DOWNLOADS)

    def _submit(self, pool: ThreadPoolExecutor, step: int, stop: Event) -> _Pending:
        draws = self.mixture.draws(step, rank=self.rank, world_size=self.world_size)
        images = torch.empty((len(draws), *self.size, 3), dtype=torch.uint8, pin_memory=self.pin_memory)
        labels = torch.empty((len(draws), *self.size), dtype=torch.uint8, pin_memory=self.pin_memory)
        rows = zip(draws, images.numpy(), labels.numpy(), strict=True)
        futures = [pool.submit(self._load, draw, image, label, stop) for draw, image, label in rows]
        return _Pending(step, draws, images, labels, futures)

    def _collect(self, pending: _Pending) -> Batch:
        loaded = [future.result() for future in pending.futures]
        streams = [draw.stream for draw in pending.draws]
        names = [self.sources[stream].dataset for stream in streams]
        roles = [self.mixture.streams[stream].role for stream in streams]
        return Batch(
            # The view as NCHW of an NHWC array is what torch calls channels-last: no copy is made.
            images=pending.images.permute(0, 3, 1, 2),
            labels=pending.labels,
            rows=_rows_of(names, dict.fromkeys(source.dataset for source in self.sources)),
            roles=_rows_of(roles, dict.fromkeys(stream.role for stream in self.mixture.streams)),
            seeds=torch.tensor([self.mixture.seed_of(draw) for draw in pending.draws], dtype=torch.int64),
            sample_ids=tuple(f"{self.mixture.streams[one.draw.stream].name}/{one.draw.epoch}/{one.key}" for one in loaded),
            streams=torch.tensor(streams, dtype=torch.int64),
            step=pending.step,
            slots=self._slots(pending.step),
            rank=self.rank,
            world_size=self.world_size,
        )

    def _slots(self, step: int) -> tuple[tuple[str, str], ...]:
        """Dataset and role of each sample of the global batch."""
        quotas = zip(self.sources, self.mixture.streams, self.mixture.quotas(step), strict=True)
        return tuple((source.dataset, stream.role) for source, stream, quota in quotas for _ in range(quota))

    def _load(self, draw: Draw, image_out: np.ndarray, label_out: np.ndarray, stop: Event) -> _Loaded:
        source = self.sources[draw.stream]
        drawn, sample, image, label = self._read(draw, stop)
        crop = draw_crop(source.crop, image.shape[0], image.shape[1], self.mixture.chance(draw))
        crop_image(image, crop, image_out)
        void = source.split.label_space.void_id
        if self.mixture.streams[draw.stream].role not in WITH_LABELS:
            label_out[:] = void
        elif label is not None:
            crop_label(label, crop, label_out, pad=void)
        else:
            rasterise_boxes(crop_boxes(sample.boxes, crop, self.size), label_out, background=void)
        return _Loaded(drawn, sample.key)

    def _read(self, draw: Draw, stop: Event) -> tuple[Draw, EncodedSample, np.ndarray, np.ndarray | None]:
        """The sample of `draw`, or of the next of its stream that can be read."""
        for tried in count(1):
            try:
                return draw, *decode(self.sources[draw.stream].split, draw.sample, reuse=True, stop=stop)
            except UnreadableError as error:
                self._skips.note(draw, error, tried=tried)
                draw = self.mixture.draw(draw.stream, draw.number + 1)
        raise AssertionError("a count without end")


class _Skips:
    """Counts the samples of each stream and epoch that were passed over, for all threads."""

    def __init__(self, mixture: Mixture, limit: int) -> None:
        self.mixture, self.limit = mixture, limit
        self._samples: dict[tuple[int, int], set[int]] = {}
        self._lock = Lock()
        self._end: InputError | None = None

    def note(self, draw: Draw, error: UnreadableError, *, tried: int) -> None:
        """Log one that is passed over; raises InputError, the same to all threads, when it is one too many.

        `tried` is how many draws in a row could not be read to fill one place.
        """
        stream = self.mixture.streams[draw.stream]
        with self._lock:
            samples = self._samples.setdefault((draw.stream, draw.epoch), set())
            is_new = draw.sample not in samples
            samples.add(draw.sample)
            number = len(samples)
            if self._end is None and number > self.limit:
                self._end = InputError(
                    f"data.mix.{stream.name}: {number} of {stream.order.num_samples} samples of epoch {draw.epoch} cannot be read, "
                    f"data.max_skipped={self.limit} are passed over; the last: {error}; restore the shards, or raise data.max_skipped"
                )
            elif self._end is None and tried >= stream.order.num_samples:
                self._end = InputError(
                    f"data.mix.{stream.name}: {tried} samples in a row cannot be read, expected one that takes their place; "
                    f"the last: {error}; restore the shards"
                )
            if self._end is not None:
                raise self._end
        if is_new:
            log.warning("stream %s, epoch %d: passed over (%d of at most %d): %s", stream.name, draw.epoch, number, self.limit, error)


def _rows_of(names: Sequence[str], all_names: dict[str, None]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor([row for row, found in enumerate(names) if found == name], dtype=torch.int64) for name in all_names}


def decode(
    split: ShardSplit, number: int, *, reuse: bool = False, stop: Event | None = None
) -> tuple[EncodedSample, np.ndarray, np.ndarray | None]:
    """Sample `number` with its image (H, W, 3) uint8 and its label image (H, W) uint8, None where it has none.

    With `reuse` the image is valid until this thread decodes the next one. Raises UnreadableError that names shard and sample
    where its bytes cannot be had or do not decode, StoppedError once `stop` is set and its shard is still awaited.
    """
    sample = split.read(number, stop=stop)
    try:
        image = decode_image(sample.image, size=sample.size, reuse=reuse)
        label = None if sample.label is None else decode_label(sample.label, size=sample.size)
    except ValueError as error:
        raise split.unreadable(number, f"does not decode: {error}") from error
    return sample, image, label


def read_whole(split: ShardSplit, number: int, *, stop: Event | None = None) -> tuple[np.ndarray, np.ndarray]:
    """One sample at its own size: image (H, W, 3) uint8, label (H, W) uint8 native ids, boxes rasterised."""
    sample, image, label = decode(split, number, stop=stop)
    if label is None:
        label = np.empty(image.shape[:2], np.uint8)
        boxes = sample.boxes.astype(np.float32)
        boxes[:, 2:4] += 1  # inclusive corners to half-open intervals
        rasterise_boxes(boxes, label, background=split.label_space.void_id)
    return image, label
