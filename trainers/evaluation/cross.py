"""How models answer on the images of each other's datasets: the evidence that taxonomies are found from (paper 000, 4.3.2)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from data.cache import CacheConfig
from data.errors import InputError
from data.labels import View
from data.progress import track
from data.shards import ShardSplit
from data.taxonomy.evidence import VERSION
from data.universe import Color
from models.model import SegmentationModel
from trainers.config import JobConfig
from trainers.evaluation.readings import cross_reading
from trainers.evaluation.results import pair_content
from trainers.evaluation.tally import Task, count_readings
from trainers.finished import RunChoice, default_device
from trainers.ranks import Ranks


@dataclass(frozen=True, kw_only=True)
class CrossConfig:
    """Which runs are asked about which images."""

    runs: tuple[Path, ...] = ()
    """Runs of one dataset each, or of several (a concatenation: paper 000, 4.3.4); no dataset is in two of them."""
    checkpoint: Literal["best", "last"] = "best"
    root: str | None = None
    """Of the shards; null: where the run of each dataset was trained."""
    split: str | None = None
    """null: the val_split of the run of each dataset."""
    cache: CacheConfig


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """A run, and what is known of its datasets."""

    model: SegmentationModel
    job: JobConfig
    where: Path

    @property
    def views(self) -> Mapping[str, View]:
        return self.model.outputs.views


def collect(config: CrossConfig) -> tuple[dict[str, Any], dict[str, Color]]:
    """Ask the model of each dataset about the images of each one, as if they were of its own: the content of confusions.json, and
    the colour of each DATASET/LABEL. Pictures are shown as `taxomix evaluate cross=true` shows them.

    Raises InputError, before anything is asked, for runs or shards that do not fit.
    """
    device = default_device()
    asked = [_open(config, run, device) for run in config.runs]
    owner: dict[str, Asked] = {}
    for one in asked:
        for name in one.views:
            if name in owner:
                raise InputError(f"runs: {name} found in {owner[name].where} and in {one.where}, expected each dataset once; leave out one")
            owner[name] = one
    if len(owner) < 2:
        raise InputError(f"runs: {', '.join(owner) or 'no dataset'} found, expected two datasets or more; give more runs")
    splits = {name: _split(config, name, one) for name, one in owner.items()}
    pairs = [entry for one in asked for name, split in splits.items() for entry in _ask(one, name, split, owner[name].views[name], device)]
    views = {name: one.views[name] for name, one in owner.items()}
    colors = {f"{name}/{label}": color for name, view in views.items() for label, color in zip(view.names, view.colors, strict=True)}
    return {"version": VERSION, "pairs": pairs}, colors


def _open(config: CrossConfig, run: Path, device: torch.device) -> Asked:
    try:
        model, job, _ = RunChoice(run=run, checkpoint=config.checkpoint).open(device)
    except InputError as error:
        raise InputError(f"runs: {run}: {error}") from None
    return Asked(model=model, job=job, where=run)


def _split(config: CrossConfig, name: str, owner: Asked) -> ShardSplit:
    data = replace(owner.job.data, root=config.root or owner.job.data.root)
    split = ShardSplit(data.location(name), config.split or owner.job.data.val_split, cache=config.cache)
    if split.label_space.supervision != "pixels":
        raise InputError(f"{split.location}: labels of kind {split.label_space.supervision} found, expected pixels; leave out the run")
    return split


def _ask(asked: Asked, name: str, split: ShardSplit, view: View, device: torch.device) -> Iterator[dict[str, Any]]:
    """The entries of confusions.json of one run's datasets about the images of dataset `name`, its own included."""
    crops = asked.job.data.crops
    for head in asked.views:
        reading = cross_reading(asked.model.outputs, head, view)
        task = Task(split=split, readings={head: reading}, crop=crops[name if name in crops else head])
        found = count_readings(asked.model, task, Ranks(device=device), what=f"{head} on {name}", progress=track)
        yield pair_content(name, reading, found[head])
