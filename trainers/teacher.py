"""The mean teacher: a model whose weights are the moving average of a student's (paper 004, section 2.5.1)."""

import copy
from dataclasses import dataclass
from typing import Literal

from torch import nn

from data.errors import FieldError
from models.model import SegmentationModel
from trainers.ema import move_towards


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    decay: float = 0.99
    """Share of the average that stays at a step; at step i no more than 1 - 1 / (i + 1), so that the first one copies the student."""
    batchnorm: Literal["batch", "averaged"] = "batch"
    """batch: it normalises by the statistics of the pictures that it is shown, as the papers' code, and keeps statistics of its own of them
    for evaluation; averaged: by the average of the student's statistics."""

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise FieldError("decay", f"{self.decay:g} found, expected at least 0 and below 1; mend it")

    def at(self, step: int) -> float:
        """The decay of step `step`, counted from 0."""
        return min(1 - 1 / (step + 1), self.decay)


class Teacher(nn.Module):
    """It never gets a gradient. As long as the student is the same on all ranks, so is the teacher."""

    def __init__(self, student: SegmentationModel, config: TeacherConfig) -> None:
        super().__init__()
        self.config = config
        self.model = copy.deepcopy(student).requires_grad_(False)

    def start(self, student: SegmentationModel) -> None:
        """Begin with the student as it is. With `batch` the teacher's own statistics begin as new ones do."""
        self._move(student, 0.0)

    def follow(self, student: SegmentationModel, step: int) -> None:
        """After the update of step `step`."""
        self._move(student, self.config.at(step))

    def _move(self, student: SegmentationModel, decay: float) -> None:
        if self.config.batchnorm == "averaged":
            move_towards(self.model.state_dict(), student.state_dict(), decay)
        else:
            move_towards(dict(self.model.named_parameters()), dict(student.named_parameters()), decay)

    def set_mode(self) -> None:
        """Evaluation, but for batch normalisation where it goes by the batch: dropout is for students."""
        self.model.eval()
        if self.config.batchnorm == "batch":
            for module in self.model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.train()
