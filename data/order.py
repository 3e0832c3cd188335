"""The order in which a stream gives its samples: a pure function of (seed, stream, epoch, offset), and of nothing else.

Every epoch the shards are put in a new random order and dealt into windows of about `window` samples; within a window all
samples are shuffled together. So a reader of remote shards needs one window's shards at a time, and memory depends on the
window and not on the data set. A data set no larger than a window is one window: its epoch is a uniform permutation.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from math import ceil

import numpy as np

from data.errors import InputError

WINDOW = 16384
"""Samples that are shuffled together by default: with shards of 128, those of 128 shards in random order."""


class WindowedOrder:
    """The endless sequence of one stream over samples that lie in shards of `shard_sizes` samples, one shard after another.

    `rows` numbers the samples that take part (sorted; all by default), `window` is how many are shuffled together (None: all).
    """

    def __init__(
        self, seed: int, stream: str, shard_sizes: Sequence[int], *, rows: np.ndarray | None = None, window: int | None = WINDOW
    ) -> None:
        self.seed, self.stream, self.rows = seed, stream, rows
        ends = np.cumsum(np.array(shard_sizes, np.int64))
        if rows is not None:
            # From here on a shard's samples are its rows that take part, numbered through.
            ends = np.searchsorted(rows, ends.astype(rows.dtype))  # of another type, all rows would be copied
        sizes = np.diff(ends, prepend=0)
        self._shards = np.flatnonzero(sizes)
        self._starts, self._sizes = (ends - sizes)[self._shards], sizes[self._shards]
        self.num_samples = int(sizes.sum())
        num_windows = 1 if window is None else round(self.num_samples / window)
        self.num_windows = min(max(1, num_windows), max(1, len(self._shards)))
        self._plan = lru_cache(maxsize=2)(self._make_plan)

    def sample(self, epoch: int, offset: int) -> int:
        """Number of the sample at `offset` (0 <= offset < num_samples) of `epoch`."""
        plan = self._plan(epoch)
        window = int(np.searchsorted(plan.window_starts, offset, side="right")) - 1
        begin, end = int(plan.window_starts[window]), int(plan.window_starts[window + 1])
        place = begin + int(permutation(self.seed, f"{self.stream}/{window}", epoch, end - begin)[offset - begin])
        shard = int(np.searchsorted(plan.shard_starts, place, side="right")) - 1
        number = int(self._starts[plan.shards[shard]]) + place - int(plan.shard_starts[shard])
        return number if self.rows is None else int(self.rows[number])

    def _make_plan(self, epoch: int) -> "_EpochPlan":
        num_shards = len(self._shards)
        shards = permutation(self.seed, f"{self.stream}/shards", epoch, num_shards)
        shard_starts = np.concatenate([[0], np.cumsum(self._sizes[shards])])
        window_shards = np.arange(self.num_windows + 1) * num_shards // self.num_windows
        return _EpochPlan(shards, shard_starts[:-1], window_shards, shard_starts[window_shards])


@dataclass(frozen=True)
class _EpochPlan:
    """One epoch: its shards in their order, the place that each begins at, and where its windows begin, by shard and by place."""

    shards: np.ndarray
    shard_starts: np.ndarray
    window_shards: np.ndarray
    window_starts: np.ndarray


@lru_cache(maxsize=64)
def permutation(seed: int, name: str, epoch: int, num_samples: int) -> np.ndarray:
    """(num_samples,) int32, a permutation of 0..num_samples-1 given by the arguments alone.

    It sorts hashes rather than asking numpy for a permutation: numpy does not promise that its shuffles stay the same from
    version to version, and a run may go on under another one.
    """
    key = np.uint64(int.from_bytes(digest(f"{seed}/{name}/{epoch}"), "big"))
    order = np.argsort(_splitmix64(np.arange(num_samples, dtype=np.uint64), key), kind="stable").astype(np.int32)
    order.setflags(write=False)  # the cache hands the same array to all
    return order


def digest(text: str, size: int = 8) -> bytes:
    """`size` bytes that are a hash of `text`, the same in every process and on every machine."""
    return hashlib.blake2b(text.encode(), digest_size=size).digest()


def _splitmix64(counter: np.ndarray, key: np.uint64) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele et al. 2014) over key + counter * golden gamma; wraps around at 64 bits."""
    z = counter + np.uint64(1)
    z *= np.uint64(0x9E3779B97F4A7C15)
    z += key
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


def subset_rows(in_order: np.ndarray, share: str, *, seed: int, rest: bool = False) -> np.ndarray:
    """Rows of the seeded subset that `share` names ("1/8", or a count such as "100"), sorted; with `rest` the others.

    `in_order` holds all rows in the order of their keys, so that the subset does not depend on how the data were prepared; of the
    same seed the smaller subset is part of the larger. Counts are rounded up: 100, 372, 744 and 1488 of Cityscapes' 2975 for 1/30,
    1/8, 1/4 and 1/2, as in ClassMix' code.
    """
    count = subset_size(share, len(in_order))
    places = permutation.__wrapped__(seed, "subset", 0, len(in_order))  # needed once: nothing for the cache
    rows = in_order[places[count:] if rest else places[:count]]
    rows.sort()
    return rows


def subset_size(share: str, num_samples: int) -> int:
    """How many of `num_samples` samples `share` names; raises InputError where that is none or more than there are."""
    try:
        number = Fraction(share)
    except (ValueError, ZeroDivisionError):
        raise InputError(f"subset: {share!r} found, expected a share such as 1/8 or a count such as 100; mend it") from None
    count = ceil(number * num_samples) if "/" in share or number < 1 else ceil(number)
    if not 0 < count <= num_samples:
        raise InputError(f"subset: {share!r} of {num_samples} samples is {count}, expected 1..{num_samples}; mend it")
    return count


def step_number(seed: int, batch: int, name: str) -> int:
    """A number in 0..2**56-1 for what is drawn at one global batch."""
    return int.from_bytes(digest(f"{seed}/{batch}/{name}", 7), "big")
