"""`taxomix evaluate`: a run's checkpoint on a split of its datasets. And the model of a run, for all that use one."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from data.cache import CacheConfig
from data.config import build
from data.errors import InputError, NoSuchSplitError
from data.progress import track
from data.shards import ShardSplit
from models.model import SegmentationModel
from trainers.config import DataConfig, JobConfig
from trainers.evaluation import all_scores, evaluate, write_evaluation
from trainers.job import model_from_checkpoint
from trainers.overlay import write_panels
from trainers.ranks import Ranks
from trainers.run_folder import RunFolder

log = logging.getLogger(__name__)


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def open_run(run: Path, checkpoint: str) -> tuple[SegmentationModel, JobConfig, dict[str, Any]]:
    """The model of the `best` or `last` checkpoint of the run in folder `run`, in evaluation mode on the GPU where there
    is one; its config; the checkpoint."""
    if not run.is_dir():
        raise InputError(f"run={run}: no such folder, expected that of a trained run; check the path")
    state = RunFolder(run).checkpoints.load(checkpoint)
    job = build(JobConfig, state["job"])
    return model_from_checkpoint(state, job, default_device()), job, state


def _open_splits(config: DataConfig, datasets: Sequence[str]) -> dict[str, ShardSplit]:
    """The split `config.val_split` of each dataset that has it with labels; the others are named in a warning.

    Raises InputError where that is none of them.
    """
    splits, missing = dict[str, ShardSplit](), list[str]()
    for name in datasets:
        try:
            split = ShardSplit(config.location(name), config.val_split, cache=config.cache)
        except NoSuchSplitError as error:
            missing.append(str(error))
        else:
            if split.label_space.supervision == "none":
                missing.append(f"{split.location}: split '{config.val_split}' has no labels")
            else:
                splits[name] = split
    if not splits:
        raise InputError(f"split={config.val_split}: no dataset of the run has it with labels, expected at least one ({missing[0]})")
    for reason in missing:
        log.warning("not evaluated: %s", reason)
    return splits


def evaluate_run(run: Path, *, checkpoint: str, split: str | None, root: str | None, cache: CacheConfig, num_overlays: int) -> Path:
    """Evaluate a run on `split` of each of its datasets, or on that which it was evaluated on in training; the datasets are below
    `root`, or where it was trained. Returns evaluation.json."""
    model, job, state = open_run(run, checkpoint)
    config = replace(job.data, root=root or job.data.root, val_split=split or job.data.val_split, cache=cache)
    splits = _open_splits(config, list(model.outputs.views))
    for name, opened in splits.items():
        if opened.label_space.to_dict() != state["label_spaces"][name]:
            raise InputError(
                f"{opened.location}: other classes than the run was trained with found; give the shards of that dataset as root="
            )
    tallies = evaluate(model, splits, config.crops, Ranks(device=default_device()), progress=track)
    folder = RunFolder(run)
    write_evaluation(folder.evaluation, tallies, all_scores(model, tallies), step=state["step"], split=config.val_split)
    for _ in write_panels(model, splits, config.crops, folder.overlays, num_overlays):
        pass
    return folder.evaluation
