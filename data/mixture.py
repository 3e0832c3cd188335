"""The mixture: which samples make up each global batch, as a pure function of integers.

Sample j of stream s at global step t is number t * quota + j of that stream's endless sequence, whose epochs are
permutations seeded by (seed, stream, epoch). Nothing depends on the number of workers and nothing is remembered, so that
1, 2 and 8 workers see the same global batches and a resumed run goes on at once.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from data.errors import InputError

Role = Literal["labelled", "unlabelled", "source", "target"]


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """One stream of the mixture; `{camvid11: 4}` is short for `{camvid11: {samples: 4}}`."""

    samples: int
    """Samples in each global batch."""
    dataset: str | None = None
    """Folder of the dataset below data.root; by default the name of the stream."""
    split: str = "train"
    role: Role = "labelled"

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise InputError(f"data.mix: {self.samples} samples found, expected at least 1 per global batch; remove the stream or raise it")


@dataclass(frozen=True, kw_only=True)
class Stream:
    """One named stream: `num_samples` samples, of which each global batch takes `quota`."""

    name: str
    num_samples: int
    quota: int
    role: Role = "labelled"


@dataclass(frozen=True)
class Draw:
    """One sample of the mixture: the `offset`-th of `epoch` of stream number `stream`, which is `sample` of its dataset."""

    stream: int
    epoch: int
    offset: int
    sample: int


class Mixture:
    """Streams, dealt into global batches and from there to ranks.

    Raises InputError for an empty mixture and for a stream without samples.
    """

    def __init__(self, streams: Sequence[Stream], *, seed: int) -> None:
        if not streams:
            raise InputError("data.mix: empty, expected at least one stream; give for example 'data.mix={mydata: 8}'")
        for stream in streams:
            if stream.num_samples < 1:
                raise InputError(f"data.mix.{stream.name}: no samples found, expected at least one; prepare the split again")
        self.streams = tuple(streams)
        self.seed = seed
        self.slots = tuple((number, j) for number, stream in enumerate(streams) for j in range(stream.quota))
        """(stream, j) of every sample of a global batch. Grouped by stream, so that dealing them out in turn spreads each stream."""

    @property
    def global_batch_size(self) -> int:
        return len(self.slots)

    def check_world_size(self, world_size: int) -> None:
        """Raise InputError unless `world_size` ranks divide the global batch."""
        if self.global_batch_size % world_size:
            shares = " + ".join(f"{stream.quota} {stream.name}" for stream in self.streams)
            raise InputError(
                f"data.mix: a global batch of {self.global_batch_size} ({shares}) found, which {world_size} workers do not divide; "
                f"change the samples to a multiple of {world_size} or cluster.workers"
            )

    def draws(self, step: int, *, rank: int = 0, world_size: int = 1) -> list[Draw]:
        """The samples of one rank at global step `step` (from 0): each stream's share is even over the ranks, to within one."""
        return [self._draw(number, step, j) for number, j in self.slots[rank::world_size]]

    def _draw(self, number: int, step: int, j: int) -> Draw:
        stream = self.streams[number]
        epoch, offset = divmod(step * stream.quota + j, stream.num_samples)
        sample = int(permutation(self.seed, stream.name, epoch, stream.num_samples)[offset])
        return Draw(stream=number, epoch=epoch, offset=offset, sample=sample)

    def generator(self, draw: Draw) -> np.random.Generator:
        """The generator from which all that is random about this draw is taken: one per (seed, stream, epoch, offset)."""
        return np.random.default_rng([self.seed, name_key(self.streams[draw.stream].name), draw.epoch, draw.offset])

    def seed_of(self, draw: Draw) -> int:
        """A number in 0..2**63-1 for all that is drawn about this draw on the device, independent of `generator`."""
        text = f"{self.seed}/{self.streams[draw.stream].name}/{draw.epoch}/{draw.offset}/device"
        return int.from_bytes(_digest(text), "big") >> 1


@lru_cache(maxsize=64)
def permutation(seed: int, stream: str, epoch: int, num_samples: int) -> np.ndarray:
    """(num_samples,) int64, a permutation of 0..num_samples-1 given by the arguments alone.

    It sorts hashes rather than asking numpy for a permutation: numpy does not promise that its shuffles stay the same from
    version to version, and a run may go on under another one.
    """
    key = np.uint64(int.from_bytes(_digest(f"{seed}/{stream}/{epoch}"), "big"))
    order = np.argsort(_splitmix64(np.arange(num_samples, dtype=np.uint64), key), kind="stable")
    order.setflags(write=False)  # the cache hands the same array to all
    return order


def name_key(name: str) -> int:
    """A 64-bit number for a name, the same in every process (Python's own hash is not)."""
    return int.from_bytes(_digest(name), "big")


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def _splitmix64(counter: np.ndarray, key: np.uint64) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele et al. 2014) over key + counter * golden gamma; wraps around at 64 bits."""
    z = key + (counter + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
