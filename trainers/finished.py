"""A finished run: its model, as the answers of `evaluate`, `predict` and `export` need it."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from data.config import build
from data.errors import InputError
from models.model import SegmentationModel
from models.outputs import OutputsConfig
from models.outputs.concat import ConcatConfig
from models.outputs.hierarchy import HierarchyConfig
from trainers.config import JobConfig
from trainers.job import model_from_checkpoint
from trainers.mixing.config import ClassMixConfig, DacsConfig
from trainers.run_folder import RunFolder

Rule = Literal["joint", "greedy"]
Among = Literal["own", "all"]


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def open_run(
    run: Path,
    checkpoint: str,
    *,
    rule: Rule | None = None,
    among: Among | None = None,
    averaged: bool | None = None,
    teacher: bool = False,
    device: torch.device | None = None,
) -> tuple[SegmentationModel, JobConfig, dict[str, Any]]:
    """The model of the `best` or `last` checkpoint of the run in folder `run`, in evaluation mode on `device`, by default the GPU where
    there is one; its config; the checkpoint.

    `rule` and `among` replace what the run's config says of how a tree and a concatenation predict. `averaged`: whether to take the
    averaged weights; None: where the run keeps some. `teacher`: the model that labelled pictures for it, in its place.
    """
    if not run.is_dir():
        raise InputError(f"run={run}: no such folder, expected that of a trained run; check the path")
    state = RunFolder(run).checkpoints.load(checkpoint)
    if averaged and "ema" not in state:
        raise InputError("averaged=true: no averaged weights in this checkpoint, expected a run that keeps some; remove averaged=")
    if averaged is False:
        state.pop("ema", None)
    job = build(JobConfig, state["job"])
    job = replace(job, outputs=_answering(job.outputs, rule, among))
    if teacher and not isinstance(job.trainer, ClassMixConfig | DacsConfig):
        raise InputError(f"teacher=true: a run with trainer={job.trainer.name} found, expected classmix or dacs; remove teacher=")
    return model_from_checkpoint(state, job, device or default_device(), teacher=teacher), job, state


def _answering(outputs: OutputsConfig, rule: Rule | None, among: Among | None) -> OutputsConfig:
    """The config of an output space with another way to predict."""
    if rule is not None:
        if not isinstance(outputs, HierarchyConfig):
            raise InputError(f"rule={rule}: a run with outputs={outputs.name} found, expected a hierarchy; remove rule=")
        outputs = replace(outputs, rule=rule)
    if among is not None:
        if not isinstance(outputs, ConcatConfig):
            raise InputError(f"predict={among}: a run with outputs={outputs.name} found, expected concat; remove predict=")
        outputs = replace(outputs, predict=among)
    return outputs
