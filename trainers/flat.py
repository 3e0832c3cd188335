"""The flat trainer (papers 000 and 002): every dataset's samples against that dataset's own labels, the losses added up."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from data.types import Batch
from models.model import SegmentationModel


@dataclass(frozen=True, kw_only=True)
class FlatConfig:
    name: Literal["flat"]
    weights: dict[str, float] = field(default_factory=dict)
    """Dataset -> weight of its loss; 1 where not given."""


@dataclass(frozen=True)
class LossTerm:
    """One term of a loss on one rank: `total` summed over `count` pixels (scalars on the device), and its weight.

    The step divides by the count of all ranks, so that the gradient does not depend on how samples were dealt.
    """

    total: Tensor
    count: Tensor
    weight: float = 1.0


class FlatTrainer(nn.Module):
    """A trainer: `losses(batch, step)`, `after_step(step)`, and its state in the state dict.

    `forward` is `losses`, so that DistributedDataParallel can wrap a trainer as it wraps a network.
    """

    def __init__(self, model: SegmentationModel, config: FlatConfig) -> None:
        super().__init__()
        self.model = model
        self.weights = {name: config.weights.get(name, 1.0) for name in model.outputs.views}
        for number, view in enumerate(model.outputs.views.values()):
            self.register_buffer(f"table_{number}", torch.from_numpy(view.table).long(), persistent=False)

    def table(self, dataset: str) -> Tensor:
        """(256,) int64 on the device: native id -> class index."""
        return self.get_buffer(f"table_{list(self.model.outputs.views).index(dataset)}")

    def losses(self, batch: Batch) -> dict[str, LossTerm]:
        """One term per dataset of the job, those without a sample on this rank included."""
        logits = self.model(batch.images, batch.rows)
        terms = {}
        for dataset, index in batch.rows.items():
            labels = self.table(dataset)[batch.labels[index].long()]
            total, count = self.model.outputs.loss(logits[dataset], labels, dataset)
            terms[dataset] = LossTerm(total, count, self.weights[dataset])
        return terms

    forward = losses

    def after_step(self, step: int) -> None:
        """Nothing: the flat trainer has no state besides the model."""
