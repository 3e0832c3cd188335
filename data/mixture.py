"""The mixture: which samples make up each global batch, as a pure function of integers.

The streams' shares say how many samples of each come before global step t; sample number n of a stream is `n mod epoch
length` of the epoch `n div epoch length` of its order (data/order.py). Nothing depends on the number of workers and nothing is
remembered, so that 1, 2 and 8 workers see the same global batches and a resumed run goes on at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from data.chance import Chance
from data.errors import InputError
from data.order import digest

Role = Literal["labelled", "unlabelled", "source", "target"]
WITH_LABELS: tuple[Role, ...] = ("labelled", "source")
"""Roles whose labels are given to the trainer; those of the others are void, whatever the shards hold."""


class Order(Protocol):
    """An endless sequence of samples in epochs of `num_samples`."""

    num_samples: int

    def sample(self, epoch: int, offset: int) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Stream:
    """One named stream: samples in `order`, of which the global batches hold `share` parts."""

    name: str
    order: Order
    share: int
    role: Role = "labelled"


@dataclass(frozen=True)
class Draw:
    """Sample `number` of stream number `stream`: the `offset`-th of `epoch`, which is `sample` of its split."""

    stream: int
    number: int
    epoch: int
    offset: int
    sample: int


class Mixture:
    """Streams, dealt into global batches of `batch_size` samples in proportion to their shares, and from there to ranks.

    Raises InputError for an empty mixture, a stream without samples and a share below 1.
    """

    def __init__(self, streams: Sequence[Stream], *, seed: int, batch_size: int) -> None:
        if not streams:
            raise InputError("data.mix: empty, expected at least one stream; give for example 'data.mix={mydata: 8}'")
        for stream in streams:
            if stream.order.num_samples < 1:
                raise InputError(f"data.mix.{stream.name}: no samples found, expected at least one; prepare the split again")
            if stream.share < 1:
                raise InputError(f"data.mix.{stream.name}: a share of {stream.share} found, expected at least 1; remove the stream")
        self.streams = tuple(streams)
        self.seed = seed
        self.batch_size = batch_size

    def check_world_size(self, world_size: int) -> None:
        """Raise InputError unless `world_size` ranks divide the global batch."""
        if self.batch_size % world_size:
            what = f"data.quota.batch: {self.batch_size}"
            if self.batch_size == sum(stream.share for stream in self.streams):  # a fixed quota
                parts = " + ".join(f"{stream.share} {stream.name}" for stream in self.streams)
                what = f"data.mix: a global batch of {self.batch_size} ({parts})"
            raise InputError(
                f"{what} found, which {world_size} workers do not divide; change it to a multiple of {world_size}, or cluster.workers"
            )

    def consumed(self, step: int) -> list[int]:
        """Samples of each stream in the global batches before `step`.

        Stream after stream takes its part of what is left, rounded down. Each of these roundings is monotone in `step`, so
        no stream ever takes back a sample; the sum is exact, and a stream is off its exact share by less than the number of
        streams. Shares that add up to the batch are met exactly in every batch.
        """
        left, shares_left = step * self.batch_size, sum(stream.share for stream in self.streams)
        taken = []
        for stream in self.streams:
            taken.append(left * stream.share // shares_left)
            left -= taken[-1]
            shares_left -= stream.share
        return taken

    def quotas(self, step: int) -> list[int]:
        """Samples of each stream in the global batch of `step`; they add up to the batch."""
        return [after - before for before, after in zip(self.consumed(step), self.consumed(step + 1), strict=True)]

    def draws(self, step: int, *, rank: int = 0, world_size: int = 1) -> list[Draw]:
        """The samples of one rank at global step `step` (from 0): each stream's share is even over the ranks, to within one.

        The global batch is grouped by stream, so that dealing it out in turn spreads every stream.
        """
        numbers = zip(self.consumed(step), self.consumed(step + 1), strict=True)
        slots = [(stream, number) for stream, (first, end) in enumerate(numbers) for number in range(first, end)]
        return [self.draw(*slot) for slot in slots[rank::world_size]]

    def draw(self, stream: int, number: int) -> Draw:
        """Sample `number` of the endless sequence of a stream."""
        order = self.streams[stream].order
        epoch, offset = divmod(number, order.num_samples)
        return Draw(stream=stream, number=number, epoch=epoch, offset=offset, sample=order.sample(epoch, offset))

    def chance(self, draw: Draw) -> Chance:
        """From which all that is random about this draw on the host is taken: one per (seed, stream, epoch, offset)."""
        return Chance(f"{self.seed}/{self.streams[draw.stream].name}/{draw.epoch}/{draw.offset}")

    def seed_of(self, draw: Draw) -> int:
        """A number in 0..2**63-1 for all that is drawn about this draw on the device, independent of `chance`."""
        text = f"{self.seed}/{self.streams[draw.stream].name}/{draw.epoch}/{draw.offset}/device"
        return int.from_bytes(digest(text), "big") >> 1
