"""One training step, whole. Tests and benchmarks call this very function."""

from collections.abc import Callable

import torch
from torch import Tensor

from data.types import Batch
from models.outputs.base import LossTerm
from trainers.ranks import Ranks


def train_step(
    losses: Callable[[Batch], dict[str, LossTerm]], batch: Batch, optimizer: torch.optim.Optimizer, ranks: Ranks
) -> dict[str, Tensor]:
    """Forward, backward and update on this rank's share of a global batch.

    `losses` is a trainer, wrapped by DistributedDataParallel where there are several ranks. Returns the value of each loss
    term over the global batch, detached scalars on the device; nothing here waits for the device.
    """
    optimizer.zero_grad(set_to_none=True)
    terms = losses(batch)
    totals = torch.stack([term.total for term in terms.values()])
    sums = ranks.sum(torch.stack([totals.detach().double(), torch.stack([term.count for term in terms.values()]).double()]))
    global_counts = sums[1].clamp(min=1)  # a term without a valid pixel in the whole batch: its total is 0
    weighted = torch.stack([term.total * term.weight for term in terms.values()])  # no tensor of the weights: its copy would be waited for
    # DistributedDataParallel averages gradients over the ranks; times world_size, it sums them.
    (weighted * (ranks.world_size / global_counts).to(totals.dtype)).sum().backward()
    optimizer.step()
    return dict(zip(terms, sums[0] / global_counts, strict=True))
