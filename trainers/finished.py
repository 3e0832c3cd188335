"""A finished run: its model, as the answers of `evaluate`, `predict` and `export` need it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from data.config import build
from data.errors import FieldError, InputError
from data.taxonomy.hypotheses import Among
from models.model import SegmentationModel
from models.outputs import OutputsConfig
from models.outputs.concat import ConcatConfig, Merge
from models.outputs.hierarchy import HierarchyConfig
from trainers.config import JobConfig
from trainers.job import model_from_checkpoint
from trainers.run_folder import RunFolder

Rule = Literal["joint", "greedy"]


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True, kw_only=True)
class RunChoice:
    """Which model of which run, and how it predicts: the keys that `evaluate`, `predict` and `export` have in common."""

    run: Path
    checkpoint: Literal["best", "last"] = "best"
    averaged: bool | None = None
    """Whether to take the averaged weights; null: where the run keeps some."""
    teacher: bool = False
    """Whether to take the teacher of a run of `classmix` or `dacs` in place of its student."""
    rule: Rule | None = None
    """How a tree predicts; null: as the run's config says."""
    predict: Among | None = None
    """Among which labels a concatenation predicts; null: as the run's config says."""
    taxonomy: Path | None = None
    """By which a concatenation counts other datasets' labels for those that they are a part of; null: as the run's config says."""
    merge: Merge | None = None
    """How it counts them; null: as the run's config says."""

    def open(self, device: torch.device | None = None) -> tuple[SegmentationModel, JobConfig, dict[str, Any]]:
        """The model, in evaluation mode on `device`, by default the GPU where there is one; its run's config; the checkpoint."""
        if not self.run.is_dir():
            raise InputError(f"run={self.run}: no such folder, expected that of a trained run; check the path")
        state = RunFolder(self.run).checkpoints.load(self.checkpoint)
        if self.averaged and "ema" not in state:
            raise InputError("averaged=true: no averaged weights in this checkpoint, expected a run that keeps some; remove averaged=")
        if self.averaged is False:
            state.pop("ema", None)
        job = build(JobConfig, state["job"])
        job = replace(job, outputs=self._answering(job.outputs))
        return model_from_checkpoint(state, job, device or default_device(), teacher=self.teacher), job, state

    def _answering(self, outputs: OutputsConfig) -> OutputsConfig:
        """The config of an output space, with what the keys say of how it predicts."""
        if self.rule is not None:
            if not isinstance(outputs, HierarchyConfig):
                raise InputError(f"rule={self.rule}: a run with outputs={outputs.name} found, expected a hierarchy; remove rule=")
            outputs = replace(outputs, rule=self.rule)
        given: dict[str, Any] = {"predict": self.predict, "taxonomy": self.taxonomy and str(self.taxonomy), "merge": self.merge}
        changes = {key: value for key, value in given.items() if value is not None}
        for key, value in changes.items():
            if not isinstance(outputs, ConcatConfig):
                raise InputError(f"{key}={value}: a run with outputs={outputs.name} found, expected concat; remove {key}=")
        if isinstance(outputs, ConcatConfig):
            try:
                outputs = replace(outputs, **changes)
            except FieldError as error:
                raise InputError(str(error)) from None
        return outputs
