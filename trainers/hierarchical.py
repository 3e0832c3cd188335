"""The hierarchical trainer (paper 001): every classifier of a tree on the pixels of all datasets that teach it.

Boxes become pixels while training (its figure 3): in each classifier that boxes teach, a pixel of a box counts where the decision one
level up now is that it shows what the classifier divides. That is so for every dataset with boxes, in every tree.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from data.labels import View
from models.model import SegmentationModel
from models.networks.base import Features
from models.outputs import OutputsConfig
from models.outputs.base import LevelRule
from trainers.base import Trainer, TrainerConfigBase


@dataclass(frozen=True, kw_only=True)
class HierarchicalConfig(TrainerConfigBase):
    name: Literal["hierarchical"]
    refine: Literal["parent", "path", "none"] = "parent"
    """What decides that a pixel of a box counts in a classifier. parent: the classifier one level up, whatever those above it say
    (paper 001); path: all from the root down; none: boxes count whole. In the root they always do."""

    def problems(self, outputs: OutputsConfig, views: Mapping[str, View], hidden: Collection[str] = ()) -> Iterator[str]:
        if not outputs.has_levels:
            yield (
                f"trainer=hierarchical: outputs={outputs.name} found, whose classifiers are not below one another, expected "
                "outputs=hierarchy; choose it, or trainer=flat"
            )
        yield from super().problems(outputs, views, hidden)


class HierarchicalTrainer(Trainer):
    """Every classifier of a tree; the weights of their losses are the tree's."""

    def __init__(self, model: SegmentationModel, config: HierarchicalConfig) -> None:
        boxes = tuple(name for name, view in model.outputs.views.items() if view.supervision == "boxes")
        super().__init__(model, config, refined=() if config.refine == "none" else boxes)
        self._rule: LevelRule = "path" if config.refine == "path" else "parent"

    def where_boxes_count(
        self, dataset: str, logits: Tensor, decoded: Features, index: Tensor, shown: tuple[int, int]
    ) -> dict[str, Tensor]:
        return self.model.outputs.decided(logits, dataset, self._rule)
