"""`taxomix evaluate`: a run's checkpoint on a split of its datasets. And the model of a run, for all that use one."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

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


def _open_splits(config: DataConfig, datasets: Sequence[str], split: str) -> dict[str, ShardSplit]:
    """The split of each dataset that has it; the others, which were trained on alone, are named in a warning."""
    splits = {}
    for name in datasets:
        try:
            splits[name] = ShardSplit(config.location(name), split, cache=config.cache)
        except NoSuchSplitError as error:
            if name == datasets[-1] and not splits:
                raise
            log.warning("not evaluated: %s", error)
    return splits


def evaluate_run(run: Path, *, checkpoint: str, split: str, root: str | None, num_overlays: int) -> Path:
    """Evaluate a run on `split` of each of its datasets, below `root` or where it was trained; returns evaluation.json."""
    model, job, state = open_run(run, checkpoint)
    config = replace(job.data, root=root or job.data.root)
    splits = _open_splits(config, list(model.outputs.views), split)
    for name, opened in splits.items():
        if opened.label_space.to_dict() != state["label_spaces"][name]:
            raise InputError(
                f"{opened.location}: other classes than the run was trained with found; give the shards of that dataset as root="
            )
    matrices = evaluate(model, splits, config.crops, Ranks(device=default_device()), progress=track)
    folder = RunFolder(run)
    images = {name: len(opened) for name, opened in splits.items()}
    write_evaluation(folder.evaluation, matrices, all_scores(model, matrices), step=state["step"], split=split, images=images)
    for _ in write_panels(model, splits, config.crops, folder.overlays, num_overlays):
        pass
    return folder.evaluation
