"""Samples of a split, decoded ahead of need."""

import logging
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from itertools import count
from threading import Event

import numpy as np

from data.errors import UnreadableError
from data.loader import DOWNLOADS, read_whole
from data.prefetch import Prefetcher
from data.shards import ShardSplit

log = logging.getLogger(__name__)

SAMPLES_AHEAD = 4

SHARDS_AHEAD = 8
"""Remote shards of a split that each rank fetches ahead, as far as the cache has room."""

NUM_NAMED = 10
"""Samples that cannot be read and are named one by one; of a shard that is gone the rest is only counted."""

Sample = tuple[int, np.ndarray, np.ndarray]
"""Number, image (H, W, 3) uint8, label (H, W) uint8 native ids."""

Progress = Callable[..., Iterator[Sample]]
"""`data.progress.track`, or what takes its arguments."""


def read_samples(split: ShardSplit, samples: Sequence[int]) -> Generator[Sample, None, None]:
    """Decode `samples` ahead of need, and fetch the remote shards of those to come; close it to stop both.

    One that cannot be read is left out with a warning: it should not end a run that has trained for hours.
    """
    failures, stop = count(), Event()

    def load(number: int) -> Sample | None:
        try:
            return number, *read_whole(split, number, stop=stop)
        except UnreadableError as error:
            if next(failures) < NUM_NAMED:
                log.warning("left out of the evaluation: %s", error)
            return None

    pending: deque[Future[Sample | None]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="evaluation") as pool, _prefetcher(split, samples) as prefetcher:
        try:
            for place in range(len(samples)):
                if prefetcher:
                    prefetcher.advance(place)
                ahead = samples[place + len(pending) : place + 1 + SAMPLES_AHEAD]
                pending.extend(pool.submit(load, number) for number in ahead)
                loaded = pending.popleft().result()
                if loaded is not None:
                    yield loaded
        finally:
            stop.set()
            for unfinished in pending:
                unfinished.cancel()


def _prefetcher(split: ShardSplit, samples: Sequence[int]) -> "Prefetcher | nullcontext[None]":
    """What fetches the remote shards of `samples`, each of which is a step; nothing where the split is local."""
    if not split.is_remote:
        return nullcontext()
    bounds = {"first_step": 0, "last_step": len(samples), "steps_ahead": len(samples)}
    return Prefetcher(lambda place: filter(None, [split.shard(samples[place])]), num_ahead=SHARDS_AHEAD, num_parallel=DOWNLOADS, **bounds)
