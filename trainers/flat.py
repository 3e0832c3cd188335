"""The flat trainer (papers 000 and 002): every dataset's samples against that dataset's own labels, the losses added up."""

from dataclasses import dataclass, field, replace
from math import inf
from typing import Literal

import torch
from torch import Tensor, nn

from data.errors import FieldError
from data.types import Batch
from models.model import SegmentationModel
from models.outputs.base import LossTerm


@dataclass(frozen=True, kw_only=True)
class FlatConfig:
    name: Literal["flat"]
    weights: dict[str, float] = field(default_factory=dict)
    """Term of the loss -> its weight; 1 where not given. A term is a dataset; with `outputs=hierarchy` a classifier of the tree."""

    def __post_init__(self) -> None:
        for name, weight in self.weights.items():
            if not 0 <= weight < inf:
                raise FieldError(f"weights.{name}", f"{weight:g} found, expected a number of 0 or more; mend it")


class FlatTrainer(nn.Module):
    """A trainer: `losses(batch, step)`, `after_step(step)`, and its state in the state dict.

    `forward` is `losses`, so that DistributedDataParallel can wrap a trainer as it wraps a network.
    """

    def __init__(self, model: SegmentationModel, config: FlatConfig) -> None:
        super().__init__()
        self.model = model
        self.weights = config.weights
        for number, view in enumerate(model.outputs.views.values()):
            self.register_buffer(f"table_{number}", torch.from_numpy(view.table).long(), persistent=False)

    def table(self, dataset: str) -> Tensor:
        """(256,) int64 on the device: native id -> class index."""
        return self.get_buffer(f"table_{list(self.model.outputs.views).index(dataset)}")

    def losses(self, batch: Batch) -> dict[str, LossTerm]:
        """The terms of the output space, weighted; datasets without a sample on this rank take part in them."""
        logits = self.model(batch.images, batch.rows)
        labels = {dataset: self.table(dataset)[batch.labels[index].long()] for dataset, index in batch.rows.items()}
        terms = self.model.outputs.losses(logits, labels)
        return {name: replace(term, weight=term.weight * self.weights.get(name, 1.0)) for name, term in terms.items()}

    forward = losses

    def after_step(self, step: int) -> None:
        """Nothing: the flat trainer has no state besides the model."""
