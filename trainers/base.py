"""What all trainers have in common: tables of the labels, weights of the terms of the loss, boxes that count in part."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import inf
from typing import ClassVar, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from data.errors import FieldError, InputError
from data.labels import View
from data.mixture import WITH_LABELS, Role
from data.types import Batch
from models.model import SegmentationModel
from models.networks.base import Features
from models.outputs import OutputsConfig
from models.outputs.base import LossTerm
from trainers.ranks import sum_over_ranks

KEPT = 0.99
"""Share of the counts of box pixels that a step leaves of those before: what is logged is about the last hundred steps."""


@dataclass(frozen=True, kw_only=True)
class TrainerConfigBase:
    """The keys that every trainer has."""

    roles: ClassVar[tuple[Role, ...]] = WITH_LABELS
    """Of the streams that it can use."""

    weights: dict[str, float] = field(default_factory=dict)
    """Term of the loss -> its weight; 1 where not given. A term is a dataset; with `outputs=hierarchy` a classifier of the tree."""
    weighting: Literal["fixed", "learned"] = "fixed"
    """learned: each term L has a parameter s, 0 at first, and counts exp(-s) * L + s (Kendall et al. 2018; paper 002 says "a learned
    variable parameter"); a weight multiplies the whole of it."""

    def __post_init__(self) -> None:
        for name, weight in self.weights.items():
            if not 0 <= weight < inf:
                raise FieldError(f"weights.{name}", f"{weight:g} found, expected a number of 0 or more; mend it")

    def terms(self, outputs: OutputsConfig, views: Mapping[str, View]) -> tuple[str, ...]:
        """The names of the terms of the loss."""
        return outputs.terms(views)

    def problems(self, outputs: OutputsConfig, views: Mapping[str, View], hidden: Collection[str] = ()) -> Iterator[str]:
        """All that keeps a trainer of this config from training these outputs on these datasets, each a line with its remedy. Of the
        datasets `hidden` there are streams whose labels the trainer does not see."""
        try:
            terms = self.terms(outputs, views)
        except InputError as error:
            yield str(error)
            return
        for name in sorted(self.weights.keys() - set(terms)):
            yield f"trainer.weights.{name}: no such term of the loss, expected one of {', '.join(sorted(terms))}; mend the name"


class Trainer(nn.Module):
    """A trainer: `losses(batch)`, `after_step(step)`, `scalars()`, and its state in the state dict.

    `forward` is `losses`, so that DistributedDataParallel can wrap a trainer as it wraps a network.
    """

    box_pixels: Tensor | None

    seed: int = 0
    """Of the job, for what is drawn by the trainer itself."""

    averages: ClassVar[tuple[str, ...]] = ()
    """Beginnings of the names, in its state, of what is a moving average already."""

    asks_other_datasets: bool = False
    """Whether `where_boxes_count` needs what `SegmentationModel.encode` gives, besides the logits of the boxes' own dataset."""

    def __init__(self, model: SegmentationModel, config: TrainerConfigBase, refined: tuple[str, ...] = ()) -> None:
        """Of the datasets `refined`, which have boxes, a pixel of a box counts where `where_boxes_count` says so."""
        super().__init__()
        self.model = model
        self.weights = config.weights
        self.refined = refined
        for number, view in enumerate(model.outputs.views.values()):
            self.register_buffer(f"table_{number}", torch.from_numpy(view.table).long(), persistent=False)
        is_learned = config.weighting == "learned"
        self.log_variances = nn.Parameter(torch.zeros(len(model.outputs.terms))) if is_learned else None
        """(T,): s of each term, in the order of `model.outputs.terms`."""
        num_terms = len(model.outputs.terms)
        self.register_buffer("box_pixels", torch.zeros(len(refined), num_terms, 2, dtype=torch.float64) if refined else None)
        """Of each refined dataset and term the pixels that counted and those that are labelled, over the last steps of all ranks."""

    def table(self, dataset: str) -> Tensor:
        """(256,) int64 on the device: native id -> class index."""
        return self.get_buffer(f"table_{list(self.model.outputs.views).index(dataset)}")

    def losses(self, batch: Batch) -> dict[str, LossTerm]:
        """The terms of the output space, weighted; datasets without a sample on this rank take part in them."""
        outputs, shown = self.model.outputs, (batch.images.shape[2], batch.images.shape[3])
        decoded: Features = ()
        if self.asks_other_datasets:
            decoded = self.model.encode(batch.images)
            logits = self.model.decode(decoded, batch.rows, shown)
        else:  # the same, in one call: it may be compiled
            logits = self.model(batch.images, batch.rows)
        labels = {dataset: self.table(dataset)[batch.labels[index].long()] for dataset, index in batch.rows.items()}
        with torch.no_grad():
            asked = [(dataset, logits[dataset], decoded, batch.rows[dataset], shown) for dataset in self.refined]
            where = {about[0]: self.where_boxes_count(*about) for about in asked}
            if self.box_pixels is not None:
                self._count(where, labels, self.box_pixels)
        return {name: self._weighed(name, term) for name, term in outputs.losses(logits, labels, where).items()}

    forward = losses

    def where_boxes_count(
        self, dataset: str, logits: Tensor, decoded: Features, index: Tensor, shown: tuple[int, int]
    ) -> dict[str, Tensor]:
        """For samples `index` (N_d,) of a refined dataset, whose logits are (N_d, K, *shown): term -> where (N_d, *shown) bool the model
        as it is now sees what the boxes are around; in a term without an entry they count whole. Nothing in it has a gradient."""
        return {}

    def _weighed(self, name: str, term: LossTerm) -> LossTerm:
        log_variance = None if self.log_variances is None else self.log_variances[self.model.outputs.terms.index(name)]
        return replace(term, weight=term.weight * self.weights.get(name, 1.0), log_variance=log_variance)

    def _count(self, where: Mapping[str, Mapping[str, Tensor]], labels: Mapping[str, Tensor], counts: Tensor) -> None:
        """Add to `counts` what of the boxes counts now. The sum over the ranks is made here, so that `scalars` waits for none."""
        terms = self.model.outputs.terms
        now = torch.zeros_like(counts)
        for number, (dataset, masks) in enumerate(where.items()):
            for term, taught in self.model.outputs.taught(labels[dataset], dataset).items():
                if term in masks:
                    now[number, terms.index(term)] = torch.stack([(taught & masks[term]).sum(), taught.sum()]).to(now.dtype)
        counts.mul_(KEPT).add_(sum_over_ranks(now))

    @torch.no_grad()
    def scalars(self) -> dict[str, Tensor]:
        """What is worth logging besides the losses, the same on all ranks, on the device: `weight/TERM`, what a learned weight is now;
        `box_share/DATASET`, the share of the labelled pixels that counted, the least one where boxes teach several classifiers."""
        found: dict[str, Tensor] = {}
        if self.log_variances is not None:
            weights = torch.exp(-self.log_variances).unbind()
            found |= {f"weight/{name}": weight for name, weight in zip(self.model.outputs.terms, weights, strict=True)}
        if self.box_pixels is not None:
            counted, labelled = self.box_pixels.unbind(dim=2)
            shares = (counted / labelled.clamp(min=1e-9)).masked_fill(labelled == 0, 1).amin(dim=1)
            found |= {f"box_share/{dataset}": share for dataset, share in zip(self.refined, shares.unbind(), strict=True)}
        return found

    def prepare(self, class_pixels: Callable[[str], np.ndarray]) -> None:
        """Called before a training starts or goes on; `class_pixels` gives a dataset's train pixels of each class of its view, of streams
        whose labels the trainer does not see, too."""

    def start(self) -> None:
        """Called once the weights are those that a fresh training starts from."""

    def after_step(self, step: int) -> None:
        """Called after the update of step `step`, counted from 0. Nothing here: a trainer of labels has no state that a step changes."""

    @property
    def companions(self) -> dict[str, SegmentationModel]:
        """Models that are evaluated beside the one that is trained, by name."""
        return {}

    def panels(self) -> dict[str, Image.Image]:
        """Pictures of what the last step did, by name."""
        return {}
