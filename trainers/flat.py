"""The flat trainer (papers 000 and 002): every dataset's samples against that dataset's own labels, the losses added up.

Boxes count whole, or, by `boxes`, where another dataset's classes say that there is what the boxes are around (paper 002, figure 3).
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from data.errors import InputError
from data.labels import View
from models.model import SegmentationModel
from models.networks.base import Features
from models.outputs import OutputsConfig
from trainers.base import Trainer, TrainerConfigBase


@dataclass(frozen=True, kw_only=True)
class FlatConfig(TrainerConfigBase):
    name: Literal["flat"]
    boxes: dict[str, str | tuple[str, ...]] = field(default_factory=dict)
    """Dataset of boxes -> DATASET/CLASS or several: a pixel in a box counts where the model now predicts one of these for it, in the
    view of that other dataset, such as {gtsdb: cityscapes/traffic sign}. Boxes of a dataset that is not given count whole."""

    def references(self, dataset: str) -> list[tuple[str, str]]:
        """Dataset and class of each of what is given for a dataset of boxes."""
        given = self.boxes[dataset]
        split = [text.partition("/") for text in ([given] if isinstance(given, str) else given)]
        return [(other, label) for other, _, label in split]

    def problems(self, outputs: OutputsConfig, views: Mapping[str, View], hidden: Collection[str] = ()) -> Iterator[str]:
        yield from super().problems(outputs, views, hidden)
        yield from self.box_problems(views)

    def box_problems(self, views: Mapping[str, View]) -> Iterator[str]:
        for dataset in self.boxes:
            yield from (f"trainer.boxes.{dataset}: {text}" for text in self._problems_of(dataset, views))

    def _problems_of(self, dataset: str, views: Mapping[str, View]) -> Iterator[str]:
        if dataset not in views:
            yield f"no such dataset in data.mix, expected one of {', '.join(views)}; mend the name"
        elif views[dataset].supervision != "boxes":
            yield f"a dataset with {views[dataset].supervision} found, expected one with boxes; remove it"
        if not self.references(dataset):
            yield "nothing found, expected DATASET/CLASS or a list of these; give one, or remove the dataset"
        for other, label in self.references(dataset):
            if other not in views or other == dataset:
                others = ", ".join(name for name in views if name != dataset)
                yield f"{other}/{label} found, expected DATASET/CLASS with another dataset of data.mix ({others}); mend it"
            elif label not in views[other].names:
                names = ", ".join(views[other].names)
                yield f"{other}/{label} found, expected a class of view {views[other].name} of {other} ({names}); mend it"


class FlatTrainer(Trainer):
    """Every dataset against its own labels."""

    def __init__(self, model: SegmentationModel, config: FlatConfig) -> None:
        super().__init__(model, config, refined=tuple(config.boxes))
        self.asks_other_datasets = bool(config.boxes)
        for problem in config.box_problems(model.outputs.views):
            raise InputError(problem)
        self._classes: dict[str, dict[str, list[int]]] = {dataset: {} for dataset in config.boxes}
        """Dataset of boxes -> other dataset -> the classes of its view that are asked for."""
        for dataset in config.boxes:
            for other, label in config.references(dataset):
                self._classes[dataset].setdefault(other, []).append(model.outputs.views[other].names.index(label))

    def where_boxes_count(
        self, dataset: str, logits: Tensor, decoded: Features, index: Tensor, shown: tuple[int, int]
    ) -> dict[str, Tensor]:
        found = torch.zeros(len(index), *shown, dtype=torch.bool, device=logits.device)
        for other, classes in self._classes[dataset].items():
            answer = self.model.answer(decoded, index, shown, other, logits)
            for number in classes:
                found |= answer == number
        return dict.fromkeys(self.model.outputs.terms, found)
