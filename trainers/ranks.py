"""Which of the job's processes this is, and the few collectives that training needs. One process needs no process group."""

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process among the `world_size` of its job, and the device it computes on."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = CPU

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """The sum of `values` over all ranks, in place, on every rank."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def text_of_main(self, text: str) -> str:
        """The main rank's `text`, on every rank."""
        box = [text]
        if self.world_size > 1:
            dist.broadcast_object_list(box, device=self.device)
        return box[0]

    def texts(self, text: str) -> list[str]:
        """The `text` of every rank, in their order, on every rank."""
        box = [text] * self.world_size
        if self.world_size > 1:
            dist.all_gather_object(box, text)
        return box

    def copy_from_main(self, values: Tensor) -> None:
        """Make `values` those of the main rank, in place, on every rank."""
        if self.world_size > 1:
            dense = values.contiguous()  # of whatever memory format it is
            dist.broadcast(dense, src=0)
            values.copy_(dense)

    def barrier(self) -> None:
        if self.world_size > 1:
            dist.barrier()

    def agree(self, value: int, what: str) -> int:
        """`value`, if it is the same on all ranks; RuntimeError naming `what` where it is not."""
        extremes = torch.tensor([value, -value], dtype=torch.int64, device=self.device)
        if self.world_size > 1:
            dist.all_reduce(extremes, op=dist.ReduceOp.MAX)
        highest, lowest = int(extremes[0]), -int(extremes[1])
        if highest != lowest:
            raise RuntimeError(f"{what}: {lowest} on one worker and {highest} on another; is run.dir a folder that all of them share?")
        return value


def sum_over_ranks(values: Tensor) -> Tensor:
    """The sum of `values` over the ranks of the process group, in place; where there is none, themselves. For trainers, which know no
    `Ranks`."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(values)
    return values


def ranks_from_environment() -> Ranks:
    """The ranks that torchrun started, or a single process; the process group is set up where there are several."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if torch.cuda.is_available():
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
    if world_size > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Ranks(rank=int(os.environ.get("RANK", "0")), world_size=world_size, device=device)
