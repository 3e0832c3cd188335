"""One training step, whole. Tests and benchmarks call this very function."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from data.types import Batch
from models.outputs.base import LossTerm
from trainers.ranks import Ranks
from trainers.update import OnTheWay, Update

GRADIENT = "the gradient"


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What became of one step, the same on all ranks."""

    losses: dict[str, float]
    """Value of each loss term over the global batch, the mean of those of several; without the terms that no pixel taught."""
    grad_norm: float | None
    """Before clipping; None where nobody asked for it."""
    spoiled: tuple[tuple[int, str], ...] = ()
    """Number of a global batch of the step, from 0, and what of it is not finite: a term of the loss, or `GRADIENT`. Where there is
    one, the step was skipped."""


def train_step(losses: Callable[[Batch], dict[str, LossTerm]], batches: Iterable[Batch], update: Update, ranks: Ranks) -> StepResult:
    """Forward, backward and update on this rank's share of a global batch, or of `update.accumulate` of them.

    `losses` is a trainer, wrapped by DistributedDataParallel where there are several ranks. Several batches count alike: each is
    normalised by its own counts, and their gradients are averaged. The host waits for the values of the losses, to see whether they
    are finite; a GPU works on the backward pass meanwhile.
    """
    update.begin()
    on_the_way = []
    for number, batch in enumerate(batches, start=1):
        with update.gathering(losses, is_last=number == update.accumulate):
            with update.autocast():
                terms = losses(batch)
            sums = ranks.sum(local_sums(terms))
            on_the_way.append(OnTheWay(sums))
            update.backward(objective(terms, sums[1], ranks.world_size))
    values = torch.stack([sums.get() for sums in on_the_way])  # (batches, 2, terms)
    means = values[:, 0] / values[:, 1].clamp(min=1)
    spoiled = [(number, list(terms)[term]) for number, term in (~means.isfinite()).nonzero().tolist()]
    norm = None
    if not spoiled:
        norm, is_well = update.apply()
        spoiled = [] if is_well else [(number, GRADIENT) for number in range(len(means))]
    if spoiled:
        update.take_back()
    return StepResult(losses=_taught_means(list(terms), means, values[:, 1]), grad_norm=norm, spoiled=tuple(spoiled))


def _taught_means(names: Sequence[str], means: Tensor, counts: Tensor) -> dict[str, float]:
    """Of means and counts (batches, terms): the mean of each term over the batches that have a pixel of it."""
    columns = zip(names, means.unbind(dim=1), counts.unbind(dim=1), strict=True)
    return {name: float(mean[count > 0].mean()) for name, mean, count in columns if (count > 0).any()}


def local_sums(terms: Mapping[str, LossTerm]) -> Tensor:
    """(2, terms) float64: this rank's totals, and its counts of pixels."""
    totals = torch.stack([term.total for term in terms.values()])
    return torch.stack([totals.detach().double(), torch.stack([term.count for term in terms.values()]).double()])


def objective(terms: Mapping[str, LossTerm], global_counts: Tensor, world_size: int) -> Tensor:
    """This rank's part of what is minimised: each term's mean over the pixels of the global batch, times its weight, and what a learned
    weight adds.

    DistributedDataParallel averages gradients over the ranks; times `world_size`, it sums them. What is added is the same on all.
    """
    weighted = torch.stack([term.weighted for term in terms.values()])  # no tensor of the weights: its copy would be waited for
    added = torch.stack([term.offset(count) for term, count in zip(terms.values(), global_counts, strict=True)])
    counts = global_counts.clamp(min=1)  # a term without a valid pixel in the whole batch: its total is 0
    return (weighted * (world_size / counts).to(weighted.dtype) + added).sum()
