"""What a rank needs of the samples of others: pictures are mixed along the global batch, however it was dealt."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from data.types import Batch


@dataclass(frozen=True)
class Group:
    """The samples of some roles in the global batch, in its order: `slots` are their places there, `datasets` what they are of."""

    slots: tuple[int, ...]
    datasets: tuple[str, ...]
    rank: int
    world_size: int

    @classmethod
    def of(cls, batch: Batch, *roles: str) -> "Group":
        slots = tuple(slot for slot, (_, role) in enumerate(batch.slots) if role in roles)
        return cls(slots, tuple(batch.slots[slot][0] for slot in slots), batch.rank, batch.world_size)

    def __len__(self) -> int:
        return len(self.slots)

    @property
    def own(self) -> tuple[int, ...]:
        """The numbers, within the group, of the samples of this rank."""
        return tuple(number for number, slot in enumerate(self.slots) if slot % self.world_size == self.rank)

    @property
    def local(self) -> tuple[int, ...]:
        """Their places in this rank's batch."""
        return tuple(self.slots[number] // self.world_size for number in self.own)

    def gather(self, values: Tensor) -> Tensor:
        """Values (len(own), ...) of each rank's samples to those of the whole group (len(self), ...), the same on every rank. Nothing in it
        has a gradient."""
        if self.world_size == 1 or not self.slots:
            return values
        owners = [slot % self.world_size for slot in self.slots]
        most = max(owners.count(rank) for rank in range(self.world_size))
        padded = values.new_zeros(most, *values.shape[1:])
        padded[: len(values)] = values
        parts = [torch.empty_like(padded) for _ in range(self.world_size)]
        dist.all_gather(parts, padded.contiguous())
        places = [owners[:number].count(owner) for number, owner in enumerate(owners)]
        return torch.stack([parts[owner][place] for owner, place in zip(owners, places, strict=True)])
