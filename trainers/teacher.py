"""The mean teacher: a model whose weights are the moving average of a student's (paper 004, section 2.5.1)."""

import copy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from data.errors import FieldError
from models.model import SegmentationModel


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

    @torch.no_grad()
    def start(self, student: SegmentationModel) -> None:
        """Begin with the student as it is. With `batch` the teacher's own statistics begin as new ones do."""
        self._move(student, 0.0)

    @torch.no_grad()
    def follow(self, student: SegmentationModel, step: int) -> None:
        """After the update of step `step`."""
        self._move(student, self.config.at(step))

    def _move(self, student: SegmentationModel, decay: float) -> None:
        with_statistics = self.config.batchnorm == "averaged"
        own, other = (dict(module.state_dict() if with_statistics else module.named_parameters()) for module in (self.model, student))
        floats = [name for name, value in own.items() if value.is_floating_point()]
        torch._foreach_lerp_([own[name].data for name in floats], [other[name].data for name in floats], 1 - decay)
        for name in own.keys() - set(floats):
            own[name].copy_(other[name])

    def set_mode(self) -> None:
        """Evaluation, but for batch normalisation where it goes by the batch: dropout is for students."""
        self.model.eval()
        if self.config.batchnorm == "batch":
            for module in self.model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.train()
